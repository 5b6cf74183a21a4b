# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The action plugin: its own steps with the host played, and real runs with a module that only plays a fetch.

A run takes seconds, so that the runs go side by side.
"""

from __future__ import annotations

import json
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import pytest
from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure

from ansible_collections.vicuna.fleet.plugins.action import git_lfs
from ansible_collections.vicuna.fleet.plugins.module_utils._fetch_progress import Entry, Progress
from ansible_collections.vicuna.fleet.plugins.plugin_utils import _fetch_board

ROOT = Path(__file__).resolve().parents[4]
TOKEN = "hf-5up3rs3cr3t"  # gitleaks:allow
JOB = {"pid": 4711, "progress": "/model/.lfs/vicuna-fleet/progress.json"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "vicuna.fleet"


# ---------------------------------------------------------------------------------------------- the host, played


def answer(state="fetching", alive=True, pid=4711, text=None, **values):
    """What the look at the host prints."""
    values = {"total_bytes": 1000, "started": 100.0, "updated": time.monotonic(), **values}
    text = json.dumps({"pid": pid, "state": state, **values}) if text is None else text
    return {"rc": 0, "stdout": f"{git_lfs.MARK} {'alive' if alive else 'gone'}\n{text}", "stderr": ""}


DONE = answer(
    "done", alive=False, done_bytes=1000, from_origin=400, from_peers=600, updated=110.0, notes=["gpu-9 sent rubbish"]
)


class Played:
    """The plugin with a clock that does not wait, a module and a host that play a script."""

    def __init__(self, monkeypatch, results, answers=(), check_mode=False, async_val=0, **args):
        self.now, self.calls, self.commands, self.said = 0.0, [], [], []
        self.results, self.answers = list(results), list(answers)
        args = {"repo": "https://hub.example/v", "revision": "main", "dest": "/model/v", **args}
        task = SimpleNamespace(
            args=args, async_val=async_val, check_mode=check_mode, diff=False, no_log=False, action=git_lfs.MODULE
        )
        shell = SimpleNamespace(tmpdir=None, quote=lambda text: f"'{text}'")
        self.connection = mock.Mock(_shell=shell, has_native_async=False, transport="ssh")
        self.plugin = git_lfs.ActionModule(task, self.connection, mock.Mock(), mock.Mock(), mock.Mock(), mock.Mock())
        self.plugin._execute_module = self._module
        self.plugin._low_level_execute_command = self._command
        self.plugin._clock = lambda: self.now
        self.plugin._sleep = self._sleep
        self.plugin._display = mock.Mock(display=lambda line, **_how: self.said.append(line))
        # The board goes by the time of the day.
        monkeypatch.setattr(_fetch_board, "time", SimpleNamespace(time=lambda: 1e9 + self.now))
        monkeypatch.setattr(git_lfs, "time", SimpleNamespace(time=lambda: 1e9 + self.now))

    def _sleep(self, seconds):
        self.now += seconds

    @staticmethod
    def _next(script):
        entry = script.pop(0) if len(script) > 1 else script[0]
        if isinstance(entry, Exception):
            raise entry
        return dict(entry)

    def _module(self, **call):
        self.calls.append(call)
        return self._next(self.results)

    def _command(self, command):
        self.commands.append(command)
        return self._next(self.answers)

    def run(self):
        return self.plugin.run(task_vars={"inventory_hostname": "gpu-1"})

    def arguments(self):
        return [{name: call["module_args"].get(name) for name in ("wait", "fetch", "verify")} for call in self.calls]


@pytest.fixture
def play(monkeypatch):
    return lambda *args, **kwargs: Played(monkeypatch, *args, **kwargs)


@pytest.mark.parametrize(
    "how", [{"check_mode": True}, {"fetch": False}, {"wait": False}, {"wait": "no"}, {"async_val": 60}]
)
def test_the_module_runs_as_it_is(play, how):
    played = play([{"changed": True, "job": JOB}], **how)
    assert played.run()["job"] == JOB
    options = {name: how[name] for name in ("wait", "fetch") if name in how}
    assert played.calls[0]["module_args"].items() >= options.items()
    assert options.keys() == played.calls[0]["module_args"].keys() & {"wait", "fetch"}
    assert bool(played.calls[0]["wrap_async"]) == ("async_val" in how)
    assert played.commands == []


@pytest.mark.parametrize(
    "result",
    [
        {"changed": False, "revision": "c" * 40},
        {"failed": True, "msg": "Found: no revision.", "job": JOB},
        {"changed": True, "job": None},
    ],
)
def test_without_a_job_the_first_result_is_the_answer(play, result):
    played = play([result])
    assert played.run().items() >= result.items()
    assert played.arguments() == [{"wait": False, "fetch": None, "verify": None}]


def test_a_transfer_is_followed_and_finished(play):
    first = {"changed": True, "job": JOB, "verified": 3, "repaired": ["b"], "warnings": ["plain http"]}
    last = {"changed": False, "revision": "c" * 40, "verified": 1, "repaired": ["a"], "warnings": ["plain http"]}
    last["invocation"] = {"module_args": {"fetch": False, "wait": True, "verify": "changed"}}
    played = play([first, last], [answer(text=""), answer(done_bytes=1, eta=None), DONE], verify="full")
    result = played.run()
    assert played.arguments() == [
        {"wait": False, "fetch": None, "verify": "full"},
        {"wait": None, "fetch": False, "verify": "changed"},
    ]
    assert {call["module_name"] for call in played.calls} == {"vicuna.fleet.git_lfs"}
    assert result["changed"] is True
    assert result["revision"] == "c" * 40
    assert (result["downloaded_bytes"], result["from_origin"], result["from_peers"]) == (1000, 400, 600)
    assert result["seconds"] == 10.0
    assert result["notes"] == ["gpu-9 sent rubbish"]
    assert result["warnings"] == ["plain http", "gpu-9 sent rubbish"]
    assert (result["verified"], result["repaired"]) == (4, ["a", "b"])
    assert "job" not in result
    assert result["invocation"]["module_args"] == {"fetch": True, "wait": True, "verify": "full"}
    assert played.said == [
        "gpu-1: 1.00 kB in 10 s, 100 B/s (40 % origin, 60 % peers), every object verified",
        "gpu-1: restored a, b, damaged or changed on this host",
    ]


@pytest.mark.parametrize(("more", "told"), [({}, True), ({"failed": True}, False), ({"job": JOB}, False)])
def test_what_was_restored_is_told(play, more, told):
    """Also where no_log hides the result."""
    played = play([{"changed": True, "repaired": ["a"], "kept": ["/m/.lfs/bad/1.a"], **more}], fetch=False)
    played.run()
    line = "gpu-1: restored a, damaged or changed on this host; what was changed is in /m/.lfs/bad/1.a"
    assert played.said == ([line] if told else [])


def test_the_host_is_asked_by_the_plain_shell(play):
    played = play([{"job": JOB}, {}], [DONE])
    played.run()
    assert "kill -0 4711" in played.commands[0]
    assert f"cat '{JOB['progress']}'" in played.commands[0]
    # The process may end between the two: its last words would be missed the other way round.
    assert played.commands[0].index("kill -0") < played.commands[0].index("cat ")


def test_lines_come_at_least_every_ten_seconds(play):
    times = []
    played = play([{"job": JOB}, {}], [answer(done_bytes=430, rate=10.0, eta=57.0)] * 30 + [DONE])
    display = played.plugin._display.display
    played.plugin._display.display = lambda line, **how: (times.append(played.now), display(line, **how))
    played.run()
    assert played.said[0] == "gpu-1: 43 % of 1.00 kB, 10 B/s, 57 s left"
    assert times[0] <= 10
    gaps = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
    assert len(gaps) > 8
    assert max(gaps) <= 10
    assert min(gaps[:-1]) >= 5


def test_a_failed_job_fails_the_task(play):
    failed = answer("failed", alive=False, cause="disk_full", msg="Found: full.", detail="ENOSPC", notes=["n"])
    first = {"job": JOB, "warnings": ["w"], "invocation": {"module_args": {"repo": "r", "wait": False}}}
    played = play([first], [failed])
    result = played.run()
    assert (result["failed"], result["msg"], result["cause"], result["detail"]) == (
        *(True, "Found: full.", "disk_full", "ENOSPC"),
    )
    assert result["warnings"] == ["w", "n"]
    assert result["invocation"]["module_args"] == {"repo": "r", "wait": True, "fetch": True}
    assert len(played.calls) == 1


@pytest.mark.parametrize(
    "last",
    [
        answer(alive=False, done_bytes=500),
        answer(alive=False, text=""),
        # What an earlier job has left is not this one's success.
        answer("done", alive=False, pid=4000),
    ],
)
def test_a_job_that_vanished_is_told(play, last):
    played = play([{"job": JOB}], [answer(done_bytes=500), last])
    result = played.run()
    assert result["failed"] and result["cause"] == "job_gone"
    assert "run again" in result["msg"] and "4711" in result["msg"]
    assert len(played.calls) == 1


@pytest.mark.parametrize("job", [{"pid": 0, "progress": "/x"}, {"pid": "x", "progress": "/x"}, {"pid": -1}, {}])
def test_a_job_that_did_not_come_up_is_told(play, job):
    played = play([{"changed": True, "job": job}])
    result = played.run()
    assert result["failed"] and result["cause"] == "job_gone" and "not come up" in result["msg"]
    assert played.commands == []


def test_a_number_that_another_process_has_is_not_waited_for_for_ever(play):
    played = play([{"job": JOB}], [answer(done_bytes=500)])
    assert played.run()["cause"] == "job_gone"
    assert 600 < played.now < 700


def test_verifying_may_take_its_time(play):
    played = play([{"job": JOB}, {"changed": True}], [answer("verifying")] * 400 + [DONE])
    assert not played.run().get("failed")
    assert played.now > 1000


@pytest.mark.parametrize(
    "break_", [AnsibleConnectionFailure("ssh: reset"), {"rc": 127, "stdout": "", "stderr": "no such container"}]
)
def test_a_connection_that_breaks_is_tried_again(play, break_):
    played = play([{"job": JOB}, {}], [answer(), *[break_] * 20, answer(), *[break_] * 20, DONE])
    assert not played.run().get("failed")
    assert played.connection.reset.called


def test_a_connection_that_stays_away_makes_the_host_unreachable(play):
    played = play([{"job": JOB}], [answer(), AnsibleConnectionFailure("ssh: no route")])
    with pytest.raises(AnsibleConnectionFailure, match=r"no route.*The fetch goes on there; run again"):
        played.run()
    assert 120 <= played.now < 150


def test_a_connection_that_breaks_at_the_end_is_tried_again(play):
    played = play([{"job": JOB}, AnsibleConnectionFailure("ssh: reset"), {"revision": "c"}], [DONE])
    assert played.run()["revision"] == "c"


def test_what_is_missing_after_a_good_end_is_a_failure(play):
    played = play([{"job": JOB}, {"missing_bytes": 7}], [DONE])
    result = played.run()
    assert result["failed"] and result["cause"] == "incomplete"
    assert "every object verified" not in "".join(played.said)


def test_a_failure_at_the_end_keeps_the_figures(play):
    played = play([{"job": JOB, "warnings": ["w"]}, {"failed": True, "msg": "m", "missing_bytes": 7}], [DONE])
    result = played.run()
    assert (result["msg"], result["downloaded_bytes"], result["warnings"]) == ("m", 1000, ["w", "gpu-9 sent rubbish"])


# ---------------------------------------------------------------------------------------------- secrets


def key_of(played):
    return played.calls[0]["module_args"]["peers"]["key"]


def test_the_peers_get_a_key_that_the_hosts_of_a_run_share(play, cache):
    peers = {"hosts": {"gpu-2": "10.0.0.2"}}
    one, same, other = (
        play([{}], peers=peers),
        play([{}], peers=json.dumps(peers)),
        play([{}], peers=peers, revision="b"),
    )
    for played in (one, same, other):
        played.run()
    assert re.fullmatch("[0-9a-f]{64}", key_of(one))
    assert key_of(one) == key_of(same) != key_of(other)
    assert stat.S_IMODE((cache / "peer-secret").stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert "key" not in peers


def test_another_run_has_another_key(monkeypatch):
    key = _fetch_board.peer_key("a")
    monkeypatch.setattr(_fetch_board, "run_id", lambda: "another")
    assert _fetch_board.peer_key("a") != key


@pytest.mark.parametrize("peers", [{}, {"hosts": {}}, {"hosts": {"a": 1}, "key": "mine"}, "", "no dictionary", None])
def test_no_key_is_made_where_none_is_wanted(play, cache, peers):
    played = play([{}], peers=peers)
    played.run()
    assert played.calls[0]["module_args"]["peers"] == peers
    assert not cache.exists()


def test_neither_token_nor_key_is_in_a_result(play):
    played = play([], token=TOKEN, peers={"hosts": {"gpu-2": 1}})
    played.results = [{"job": JOB}, {}]
    key = _fetch_board.peer_key("https://hub.example/v", "main")
    played.answers = [answer("failed", alive=False, msg=f"401 for {TOKEN}", notes=[f"{key} refused"])]
    result = played.run()
    assert key_of(played) == key
    assert result["failed"] and git_lfs.MASK in result["msg"]
    assert TOKEN not in str(result) and key not in str(result)
    assert TOKEN not in str(played.commands + played.said)


def test_a_secret_that_others_can_read_is_refused(play, cache):
    _fetch_board.peer_key("a")
    (cache / "peer-secret").chmod(0o644)
    with pytest.raises(AnsibleActionFail, match="can be read by others"):
        play([{}], peers={"hosts": {"a": 1}}).run()


def test_many_processes_make_one_secret(cache):
    program = f"from {_fetch_board.__name__} import peer_key; print(peer_key('a'))"
    started = [
        subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE, text=True) for _ in range(4)
    ]
    assert len({process.communicate()[0] for process in started}) == 1
    assert [path.name for path in cache.iterdir()] == ["peer-secret"]


# ---------------------------------------------------------------------------------------------- the board


def shown(host):
    progress = Progress(total_bytes=10, done_bytes=5, rate=1.0, eta=5.0)
    return Entry(host, progress, time.time(), pid=os.getpid())


@pytest.fixture
def boards(monkeypatch):
    """Two hosts' views of one board, and the clock."""
    clock = SimpleNamespace(now=1e9)
    monkeypatch.setattr(_fetch_board, "time", SimpleNamespace(time=lambda: clock.now))
    return _fetch_board.Board.open("a"), _fetch_board.Board.open("a"), clock


def test_one_process_prints_for_all(boards):
    one, two, clock = boards
    one.tell(shown("gpu-1"))
    two.tell(shown("gpu-2"))
    assert one.due() == two.due() == []
    clock.now += _fetch_board.FIRST_S
    assert [line.partition(":")[0] for line in two.due()] == ["gpu-1", "gpu-2"]
    assert one.due() == two.due() == []
    clock.now += _fetch_board.BLOCK_S
    assert len(one.due()) == 2
    assert two.due() == []


def test_a_clock_that_is_set_back_does_not_end_the_lines(boards):
    one, _two, clock = boards
    one.tell(shown("gpu-1"))
    one.due()
    clock.now -= 3600
    assert len(one.due()) == 1


def test_hosts_whose_process_died_are_not_shown(boards):
    one, two, _clock = boards
    child = subprocess.Popen(["true"])
    child.wait()
    one.tell(Entry("gpu-1", Progress(total_bytes=10), 0.0, pid=child.pid))
    two.tell(shown("gpu-2"))
    assert [entry.host for entry in two.entries()] == ["gpu-2"]


def test_without_a_cache_each_host_tells_its_own(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    clock = SimpleNamespace(now=1e9)
    monkeypatch.setattr(_fetch_board, "time", SimpleNamespace(time=lambda: clock.now))
    board = _fetch_board.Board.open("a")
    board.tell(shown("gpu-1"))
    assert board.due() == []
    clock.now += _fetch_board.FIRST_S
    assert len(board.due()) == 1


def test_a_directory_of_somebody_else_is_not_used(cache, tmp_path):
    cache.parent.mkdir()
    (tmp_path / "elsewhere").mkdir()
    cache.symlink_to(tmp_path / "elsewhere")
    _fetch_board.Board.open("a").tell(shown("gpu-1"))
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_leftovers_of_dead_runs_go(cache):
    _fetch_board.Board.open("a")
    runs = cache / "runs"
    (own,) = runs.iterdir()
    machine = own.name.partition("-")[0]
    child = subprocess.Popen(["true"])
    child.wait()
    for name in (f"{machine}-{child.pid}-1", f"{machine}-{os.getpid()}-1", "deadbeef-1-1", "deadbeef-2-2"):
        (runs / name / "board").mkdir(parents=True)
    os.utime(runs / "deadbeef-1-1", (0, 0))
    _fetch_board.Board.open("a")
    assert {path.name for path in runs.iterdir()} == {own.name, "deadbeef-2-2"}


# ---------------------------------------------------------------------------------------------- real runs

MODULE = r"""
import json, os, subprocess, sys
from ansible.module_utils.basic import AnsibleModule

JOB = '''
import json, os, sys, time
path, seconds, end = sys.argv[1], float(sys.argv[2]), sys.argv[3]
started = time.time()
def tell(state, **more):
    past = min(1.0, (time.time() - started) / seconds)
    done = int(10**9 * past)
    text = {"pid": os.getpid(), "state": state, "done_bytes": done, "total_bytes": 10**9, "rate": 10**9 / seconds,
            "from_origin": done, "eta": seconds * (1 - past), "started": started, "updated": time.time(), **more}
    with open(path + ".tmp", "w") as file:
        file.write(json.dumps(text))
    os.replace(path + ".tmp", path)
while time.time() < started + seconds:
    tell("fetching")
    time.sleep(0.2)
more = {"failed": {"cause": "disk_full", "msg": "Found: full."}, "done": {"notes": ["gpu-9 sent rubbish"]}}
if end in more:
    tell(end, **more[end])
'''
spec = {name: {"type": "str"} for name in ("repo", "revision", "dest")}
spec.update({name: {"type": "bool", "default": True} for name in ("fetch", "wait")})
spec.update(token={"type": "str", "no_log": True})
keys = {"hosts": {"type": "dict"}, "key": {"type": "str", "no_log": True}}
module = AnsibleModule({**spec, "peers": {"type": "dict", "options": keys}}, supports_check_mode=True)
args = module.params
with open(args["dest"] + ".calls", "a") as file:
    call = {"wait": args["wait"], "fetch": args["fetch"], "check": module.check_mode, "key": args["peers"]["key"]}
    file.write(json.dumps(call) + "\n")
end, seconds = args["repo"].split(":")
if module.check_mode or args["wait"] or not args["fetch"] or end == "nothing":
    module.exit_json(changed=False, revision="c" * 40)
progress = args["dest"] + ".progress"
with open(os.devnull, "r+") as null:
    job = subprocess.Popen([sys.executable, "-c", JOB, progress, seconds, end], stdin=null, stdout=null, stderr=null,
                           start_new_session=True)
module.warn("plain http")
module.exit_json(changed=True, job={"pid": job.pid, "progress": progress})
"""
TASK = """
vicuna.fleet.git_lfs:
  repo: "{{ end | default('done') }}:{{ seconds | default(2) }}"
  revision: main
  dest: "{{ playbook_dir }}/{{ inventory_hostname }}"
  token: TOKEN
  peers: {hosts: {gpu-1: 127.0.0.1}}
"""
HOSTS = {"gpu-1": {}, "gpu-2": {"end": "failed"}, "gpu-3": {"end": "gone"}, "gpu-4": {"end": "nothing"}}


def environment(directory):
    # Without PYTHONUNBUFFERED, as in most pipelines: progress has to come through a pipe when it is told.
    left_out = ("ANSIBLE_", "VICUNA_", "PYTHONUNBUFFERED")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(left_out)}
    return {
        **kept,
        "ANSIBLE_CONFIG": str(directory / "ansible.cfg"),
        "ANSIBLE_COLLECTIONS_PATH": str(directory),
        "ANSIBLE_NOCOLOR": "1",
        "ANSIBLE_LOCAL_TEMP": str(directory / "tmp"),
        "ANSIBLE_REMOTE_TEMP": str(directory / "tmp"),
        "XDG_CACHE_HOME": str(directory / "cache"),
    }


def lay_out(directory, hosts, **play):
    """A collection with this plugin and a module that plays a fetch, an inventory and a playbook."""
    plugins = directory / "ansible_collections" / "vicuna" / "fleet" / "plugins"
    (plugins / "modules").mkdir(parents=True)
    (plugins / "modules" / "git_lfs.py").write_text(MODULE)
    for kind in ("action", "plugin_utils", "module_utils"):
        (plugins / kind).symlink_to(ROOT / "plugins" / kind)
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    inventory = {"all": {"hosts": hosts, "vars": local}}
    (directory / "ansible.cfg").write_text("[defaults]\n")
    (directory / "hosts.json").write_text(json.dumps(inventory))
    task = TASK.replace("TOKEN", TOKEN)
    (directory / "task.yml").write_text("- name: Fetch" + task.replace("\n", "\n  ") + "\n")
    tasks = [{"name": "Fetch", "ansible.builtin.include_tasks": "task.yml"}]
    if "strategy" in play:
        # So that the hosts come to the include at different times.
        tasks.insert(0, {"name": "Wait", "ansible.builtin.command": "sleep {{ late | default(0) }}"})
    (directory / "play.yml").write_text(json.dumps([{"hosts": "all", "gather_facts": False, "tasks": tasks, **play}]))
    return directory


def command(program, *arguments):
    return [str(Path(sys.executable).with_name(program)), "-i", "hosts.json", *arguments]


def run(directory, *arguments, program="ansible-playbook", **changes):
    return subprocess.run(
        command(program, *(arguments or ("play.yml",))),
        cwd=directory,
        env={**environment(directory), **changes},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def calls(directory, host):
    return [json.loads(line) for line in (directory / f"{host}.calls").read_text().splitlines()]


def interrupt(directory):
    """Ctrl-C as a terminal sends it, once there is progress."""
    # Where the tests run in the background of a shell, the signal is ignored, and that is inherited.
    heard = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    process = subprocess.Popen(
        [sys.executable, "-c", heard, *command("ansible-playbook", "play.yml")],
        cwd=directory,
        env=environment(directory),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    bound = threading.Timer(60, process.kill)
    bound.start()
    seen = []
    for line in process.stdout:
        seen.append(line)
        if " % of " in line:
            os.killpg(process.pid, signal.SIGINT)
            break
    seen += process.stdout
    bound.cancel()
    return process.wait(60), "".join(seen)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """All runs, side by side."""
    base = tmp_path_factory.mktemp("runs")
    directories = {
        name: lay_out(base / name, hosts, **more)
        for name, hosts, more in (
            ("ends", HOSTS, {}),
            ("check", {"gpu-1": {}}, {}),
            ("free", {"gpu-1": {}, "gpu-2": {"late": 1}}, {"strategy": "free"}),
            ("ctrl_c", {"gpu-1": {"seconds": 40}}, {}),
            ("ad_hoc", {"gpu-1": {}}, {}),
        )
    }
    arguments = {"repo": "done:1", "revision": "main", "dest": "gpu-1", "token": TOKEN, "peers": {"hosts": {"a": "b"}}}
    arguments["dest"] = str(directories["ad_hoc"] / "gpu-1")
    with ThreadPoolExecutor(2) as pool:
        started = {
            "ends": pool.submit(run, directories["ends"], "play.yml", "-vvv"),
            "check": pool.submit(run, directories["check"], "play.yml", "--check"),
            "free": pool.submit(run, directories["free"], ANSIBLE_PIPELINING="1"),
            "ctrl_c": pool.submit(interrupt, directories["ctrl_c"]),
            "ad_hoc": pool.submit(
                *(run, directories["ad_hoc"], "gpu-1", "-m", "vicuna.fleet.git_lfs", "-a", json.dumps(arguments)),
                program="ansible",
            ),
        }
        return {name: (directories[name], future.result()) for name, future in started.items()}


def test_every_end_of_a_transfer_is_told(runs):
    directory, done = runs["ends"]
    recap = dict(re.findall(r"^(gpu-\d) .* (ok=\d .*failed=\d)", done.stdout, re.MULTILINE))
    assert {host: "failed=0" in counts for host, counts in recap.items()} == {
        **{"gpu-1": True, "gpu-2": False, "gpu-3": False, "gpu-4": True},
    }
    assert re.search(r"^gpu-1: 1\.00 GB in 2 s, \d+ MB/s, every object verified$", done.stdout, re.MULTILINE)
    assert "gpu-2: 1.00 GB in" not in done.stdout
    assert '"cause": "disk_full"' in done.stdout and '"cause": "job_gone"' in done.stdout
    assert "plain http" in done.stdout + done.stderr and "gpu-9 sent rubbish" in done.stdout + done.stderr
    assert [(call["wait"], call["fetch"]) for call in calls(directory, "gpu-1")] == [(False, True), (True, False)]
    assert [len(calls(directory, host)) for host in HOSTS] == [2, 1, 1, 1]
    assert "goes on without this run" not in done.stderr


def test_nothing_secret_is_printed(runs):
    directory, done = runs["ends"]
    keys = {call["key"] for host in HOSTS for call in calls(directory, host)}
    assert len(keys) == len(HOSTS) and all(re.fullmatch("[0-9a-f]{64}", key) for key in keys)
    for secret in (TOKEN, *keys):
        assert secret not in done.stdout + done.stderr
    assert f'"key": "{git_lfs.MASK}"' in done.stdout
    names = [path.name for path in (directory / "cache" / "vicuna.fleet").rglob("*")]
    assert sorted(names) == ["peer-secret", "runs"]


def test_check_mode_starts_nothing(runs):
    directory, done = runs["check"]
    assert done.returncode == 0
    assert [(call["wait"], call["check"]) for call in calls(directory, "gpu-1")] == [(True, True)]


def test_hosts_that_include_at_different_times_share_the_key(runs):
    directory, done = runs["free"]
    assert done.returncode == 0, done.stdout + done.stderr
    keys = {call["key"] for host in ("gpu-1", "gpu-2") for call in calls(directory, host)}
    assert len(keys) == 1


def test_ad_hoc(runs):
    directory, done = runs["ad_hoc"]
    assert done.returncode == 0 and "gpu-1 | CHANGED" in done.stdout
    assert len(calls(directory, "gpu-1")) == 2


def test_ctrl_c_leaves_the_transfer_and_says_so(runs):
    directory, (code, output) = runs["ctrl_c"]
    assert code != 0
    assert "gpu-1: " in output
    (pid,) = re.findall(r"The fetch goes on without this run; run again.*'kill (\d+)' on gpu-1\.", output)
    assert json.loads((directory / "gpu-1.progress").read_text())["pid"] == int(pid)
    os.kill(int(pid), signal.SIGTERM)
    assert list((directory / "cache" / "vicuna.fleet" / "runs").iterdir()) == []
