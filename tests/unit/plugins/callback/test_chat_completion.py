# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The callback in real runs of ansible-playbook, against scripted endpoints: exit code, output and report.

A run takes seconds, so that each scenario is one run over many hosts, and the runs go side by side.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[4]
KEY = "sk-5up3rs3cr3t"  # gitleaks:allow
OTHER_MODEL = (400, '{"object":"error","message":"Only llama allowed now, your model vicuna","code":40301}')
NO_MODEL = (400, '{"object":"error","message":"Only  allowed now, your model vicuna","code":40301}')
WRONG_KEY = (401, f'{{"error":{{"message":"not {KEY}","code":"invalid_api_key"}}}}')

PLAY = """
- name: Play
  hosts: all
  gather_facts: false
  collections: [vicuna.fleet]
  tasks:
"""
DEPLOY = """
    - name: Deploy
      ansible.builtin.set_fact:
        fastchat_endpoint:
          url: "{{ url }}"
          model: vicuna
          revision: "{{ revision | default('3321f76e3f527bd14065daf69dad9344000a201d') }}"
          api_key_file: "{{ key_file | default('') }}"
          ca_path: "{{ ca | default('') }}"
          validate_certs: "{{ validate | default(true) }}"
      no_log: "{{ hidden | default(false) }}"
"""
ASK = """
    - name: Ask
      vicuna.fleet.chat_completion:
        url: "{{ url }}"
        model: vicuna
        ca_path: "{{ ca | default(omit) }}"
        validate_certs: "{{ validate | default(true) }}"
        compose_project: ""
        timeout: 1
        interval: 0.1
      when: ask | default(true)
"""
FAIL = """
    - name: Fail
      ansible.builtin.fail:
      when: fails | default(false)
"""


class Run:
    """What a run left behind."""

    def __init__(self, done, directory, endpoints):
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr
        self.directory, self.endpoints = directory, endpoints
        self.report_path = directory / "reports" / "chat_completion.json"

    @property
    def report(self):
        return json.loads(self.report_path.read_text())

    @property
    def entries(self):
        return {entry["host"]: entry for entry in self.report["endpoints"]}

    @property
    def verdicts(self):
        return {entry["host"]: entry["verdict"] for entry in self.report["endpoints"]}

    @property
    def silent(self):
        return "VERDICT" not in self.out + self.err and not self.report_path.exists()

    def sent(self, host):
        return self.endpoints[host].requests[-1]["headers"].get("Authorization")

    def table(self):
        """The table's rows by host."""
        lines = self.out.splitlines()
        head = next(at for at, line in enumerate(lines) if line.startswith("HOST "))
        rows = (line.split(maxsplit=1) for line in lines[head + 1 : lines.index("", head)])
        return dict(rows)


class World:
    """The means of a scenario."""

    def __init__(self, directory, fake, good, authority, tls):
        self.directory, self.fake, self.good, self.authority, self.tls = directory, fake, good, authority, tls

    def run(self, tasks, hosts, *arguments, env=None, ini=""):
        """Runs a play over {host: variables}; the variable `script` is what the host's endpoint answers."""
        endpoints = {}
        for host, variables in hosts.items():
            script = variables.pop("script", None)
            if script:
                context = self.tls if "ca" in variables or "validate" in variables else None
                endpoints[host] = self.fake(script, context)
                variables["url"] = endpoints[host].url
        common = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
        (self.directory / "hosts.json").write_text(json.dumps({"all": {"hosts": hosts, "vars": common}}))
        (self.directory / "play.yml").write_text(PLAY + tasks)
        (self.directory / "ansible.cfg").write_text(
            f"[defaults]\ncollections_path={ROOT}\ncallbacks_enabled=vicuna.fleet.chat_completion\n"
            f"inventory=hosts.json\nlocal_tmp={self.directory}/tmp\nremote_tmp={self.directory}/tmp\npipelining=true\n{ini}"
        )
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.upper().endswith("_PROXY") and not name.startswith(("ANSIBLE_", "VICUNA_"))
        }
        try:
            done = self.call(
                "playbook", "play.yml", *arguments, env={**environment, "ANSIBLE_NOCOLOR": "1", **(env or {})}
            )
        finally:
            for endpoint in endpoints.values():
                endpoint.close()
        return Run(done, self.directory, endpoints)

    def call(self, *words, env=None):
        return subprocess.run(
            [sys.executable, "-m", "ansible", *words],
            cwd=self.directory,
            env=env,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )


def good_fleet(world):
    """Every way to give a key and to trust a certificate, and a second playbook after it."""
    (world.directory / "password").write_text("pw")
    vaulted = world.call("vault", "encrypt_string", "--vault-password-file", "password", KEY).stdout
    block = "\n".join(f"        {line.strip()}" for line in vaulted.splitlines()[1:])
    (world.directory / "host_vars").mkdir()
    (world.directory / "host_vars" / "vaulted.yml").write_text(
        f'secret: !vault |\n{block}\nfastchat_api_keys:\n  - "{{{{ secret }}}}"\n'
    )
    (world.directory / "key").write_text(f"# made by the role\n\n{KEY}\n")
    (world.directory / "netrc").write_text("machine 127.0.0.1 login other password other\n")
    (world.directory / "second.yml").write_text(PLAY + "    - ansible.builtin.debug:\n        msg: second playbook\n")
    hosts = {
        "host1": {"script": [world.good(content="One,\ntwo.\x1b[2J")]},
        "keyfile": {"script": [world.good()], "key_file": str(world.directory / "key")},
        "vaulted": {"script": [world.good()]},
        "keys": {"script": [world.good()], "fastchat_api_keys": [KEY, "second"]},
        "trusted": {"script": [world.good()], "ca": str(world.authority)},
        "unchecked": {"script": [world.good()], "validate": False},
        "short": {"script": [world.good()], "ask": False, "short": True},
    }
    short = ASK.replace("vicuna.fleet.chat_completion", "chat_completion").replace(
        "ask | default(true)", "short is defined"
    )
    return world.run(
        DEPLOY + ASK + short,
        hosts,
        "second.yml",
        "--vault-password-file",
        "password",
        env={"NETRC": str(world.directory / "netrc")},
        ini="[callback_chat_completion]\nprompt=Who are you?\nmax_tokens=9\n",
    )


def bad_fleet(world):
    """Endpoints that go bad between the play's question and the callback's, beside one that stays good."""
    good = world.good()
    hosts = {
        "fine": {"script": [good]},
        "invalid": {"script": [good, world.good(model="llama")]},
        "crashed": {"script": [good, NO_MODEL]},
        "ignored": {"script": [OTHER_MODEL]},
        "closed": {"script": [good, "close"]},
        "hung": {"script": [good, "hang"]},
        "dripping": {"script": [good, "drip"]},
        "nokey": {"script": [good], "key_file": "/nosuch/key"},
        "wrongkey": {"script": [good, WRONG_KEY], "fastchat_api_keys": [KEY]},
        "nourl": {"url": ""},
    }
    return world.run(
        DEPLOY + ASK + "      ignore_errors: true\n",
        hosts,
        env={
            "VICUNA_CHAT_COMPLETION_TIMEOUT": "1",
            "VICUNA_CHAT_COMPLETION_REPORT": "elsewhere/report.json",
            "VICUNA_CHAT_COMPLETION_SHOW_ANSWERS": "false",
        },
    )


def compared(world):
    """A second run over some of the hosts of the first, which another revision has come to."""
    good = world.good()
    reports = world.directory / "reports"
    reports.mkdir()
    entry = {"model": "vicuna", "release": "0" * 12, "image": "sha256:" + "a" * 64, "verdict": "ok"}
    old = "e7a9cc9a1b527bd14065daf69dad9344000a201d"
    last = {
        "endpoints": [{**entry, "host": "changed", "revision": old}, {**entry, "host": "removed", "revision": old}],
        "earlier": [{**entry, "host": "limited", "revision": old}],
    }
    (reports / "chat_completion.json").write_text(json.dumps(last))
    hosts = {
        "changed": {"script": [good]},
        "added": {"script": [good]},
        "limited": {"script": [good]},
        "broken": {"fails_early": True, "ask": False},
    }
    release = {"id": "1" * 12, "image_ids": {"worker": "sha256:" + "b" * 64}}
    record = {"schema": 1, "current": "1" * 12, "pending": None, "good": [], "releases": {"1" * 12: release}}
    (world.directory / "release.json").write_text(json.dumps(record))
    early = (
        FAIL.replace("fails |", "fails_early |")
        + f"""
    - vicuna.fleet.release:
        state: query
        state_dir: {world.directory}
"""
    )
    return world.run(early + DEPLOY + ASK, hosts, "--limit", "changed,added,broken")


def gateways(world):
    """Gateways beside a host; of one only the hashes of its keys are known, and one is on a host that serves, too."""
    key = {"name": "me", "key": KEY}
    hosts = {
        "serving": {"script": [world.good()]},
        "gate": {"script": [world.good()], "gateway_keys": [{"name": "other", "sha256": "0" * 64}, key]},
        "hashed": {"script": [world.good()], "gateway_keys": [{"name": "other", "sha256": "0" * 64}], "ask": False},
        "both": {"script": [world.good()], "gateway_keys": [key]},
        "unasked": {"script": [world.good()], "gateway_keys": [key], "ask": False},
    }
    gateway = DEPLOY.replace("fastchat_endpoint", "gateway_endpoint").replace("key_file | ", "gateway_file | ")
    return world.run(
        DEPLOY
        + "      when: inventory_hostname in ['serving', 'both']\n"
        + gateway
        + "      when: gateway_keys is defined\n"
        + ASK,
        hosts,
    )


def foreign_report(world):
    (world.directory / "reports").mkdir()
    (world.directory / "reports" / "chat_completion.json").write_text('{"hosts": []}')
    return world.run(DEPLOY + ASK, {"host": {"script": [world.good()]}})


def status_play(world, *, unwell, stdout="default"):
    """A fleet's status, whose last task fails where the fleet is not healthy, as playbooks/status.yml has it."""
    serving = {"drift": {"files": []}, "unwell": [], "problems": []}
    hosts = {
        "healthy": {"a": {"serving": serving}},
        "degraded": {"a": {"serving": serving}, "b": {"unreachable": True}},
        "down": {"b": {"unreachable": True}},
    }[unwell]
    tasks = f"""
    - vicuna.fleet.fleet_status:
        hosts: {json.dumps(hosts)}
        json: reports/status.json
      register: fleet
    - ansible.builtin.fail:
      when: fleet.exit_code > 0
"""
    return world.run(tasks, {"host": {}}, env={"ANSIBLE_STDOUT_CALLBACK": stdout})


def status_healthy(world):
    return status_play(world, unwell="healthy")


def status_degraded(world):
    return status_play(world, unwell="degraded")


def status_down(world):
    return status_play(world, unwell="down", stdout="ansible.posix.json")


def failed_play(world):
    hosts = {
        "fine": {"script": [world.good()]},
        "mismatch": {"script": [OTHER_MODEL]},
        "later": {"script": [world.good()], "fails": True},
    }
    return world.run(DEPLOY + ASK + FAIL, hosts)


def forgiven_failure(world):
    tasks = DEPLOY + ASK + "    - ansible.builtin.meta: clear_host_errors\n"
    return world.run(tasks, {"mismatch": {"script": [OTHER_MODEL]}})


def never_asked(world):
    """All answer; what differs is whether, and when, the play asked."""
    good = world.good()
    (world.directory / "second.yml").write_text(PLAY + "    - ansible.builtin.debug:\n        msg: second playbook\n")
    hosts = {
        "asked": {"script": [good]},
        "skipped": {"script": [good], "ask": False},
        "tooearly": {"script": [good], "ask": False, "early": True},
        "hidden": {"script": [good], "ask": False, "hidden": True},
    }
    early = ASK.replace("ask | default(true)", "early | default(false)")
    env = {"ANSIBLE_STDOUT_CALLBACK": "minimal"}
    return world.run(early + DEPLOY + ASK, hosts, "second.yml", env=env)


def unreachable(world):
    lost = """
    - ansible.builtin.set_fact:
        ansible_connection: ssh
        ansible_host: 127.0.0.1
        ansible_port: 1
"""
    return world.run(DEPLOY + lost + ASK, {"lost": {"script": [world.good()]}})


def listing(world):
    return world.run(DEPLOY + ASK, {"host": {"script": [world.good()]}}, "--list-tasks")


def check_mode(world):
    return world.run(DEPLOY, {"host": {"script": [world.good()]}}, "--check")


def other_tags(world):
    return world.run(DEPLOY + "      tags: [deploy]\n" + ASK, {"host": {"script": [world.good()]}}, "--tags", "other")


def nothing_deployed(world):
    """One host is only asked, the other fails first: neither a wrong option nor a missing library matters."""
    (world.directory / "requests.py").write_text("raise ImportError('no requests here')\n")
    env = {"PYTHONPATH": str(world.directory), "VICUNA_CHAT_COMPLETION_TIMEOUT": "soon"}
    deploy = DEPLOY + "      when: deploy | default(false)\n"
    return world.run(
        ASK + FAIL + deploy, {"asked": {"script": [world.good()]}, "failed": {"ask": False, "fails": True}}, env=env
    )


def unwritable_report(world):
    (world.directory / "reports").write_text("a file")
    return world.run(DEPLOY + ASK, {"host": {"script": [world.good()]}})


def wrong_option(world):
    env = {"VICUNA_CHAT_COMPLETION_TIMEOUT": "soon"}
    return world.run(DEPLOY, {"host": {"script": [world.good()]}}, env=env)


def no_requests(world):
    (world.directory / "reports").mkdir()
    (world.directory / "reports" / "chat_completion.json").write_text('{"ok": true}')
    (world.directory / "requests.py").write_text("raise ImportError('no requests here')\n")
    env = {"PYTHONPATH": str(world.directory)}
    return world.run(DEPLOY, {"host": {"script": [world.good()]}}, env=env)


def json_output(world):
    """A failed play whose endpoints are all good, beside a stdout callback that writes JSON."""
    plugins = world.directory / "callback_plugins"
    plugins.mkdir()
    # As ansible.posix.json does it: one document on stdout, at the end.
    (plugins / "plainjson.py").write_text(
        "from ansible.plugins.callback import CallbackBase\n"
        "class CallbackModule(CallbackBase):\n"
        "    CALLBACK_VERSION, CALLBACK_TYPE, CALLBACK_NAME = 2.0, 'stdout', 'plainjson'\n"
        "    def v2_playbook_on_stats(self, stats):\n"
        "        self._display.display('{\"stats\": %d}' % len(stats.processed))\n"
    )
    hosts = {"fine": {"script": [world.good()]}, "later": {"script": [world.good()], "fails": True}}
    return world.run(DEPLOY + ASK + FAIL, hosts, env={"ANSIBLE_STDOUT_CALLBACK": "plainjson"})


SCENARIOS = [
    good_fleet,
    bad_fleet,
    compared,
    gateways,
    foreign_report,
    status_healthy,
    status_degraded,
    status_down,
    failed_play,
    forgiven_failure,
    never_asked,
    unreachable,
    listing,
    check_mode,
    other_tags,
    nothing_deployed,
    unwritable_report,
    wrong_option,
    no_requests,
    json_output,
]


@pytest.fixture(scope="module")
def result_of(tmp_path_factory, fake_endpoint, good, authority, tls):
    """The result of a scenario; all of them start with the first that is asked for."""
    with ThreadPoolExecutor(max_workers=max(2, os.cpu_count() or 2)) as pool:
        futures = {
            scenario: pool.submit(
                scenario, World(tmp_path_factory.mktemp(scenario.__name__), fake_endpoint, good, authority, tls)
            )
            for scenario in SCENARIOS
        }
        yield lambda scenario: futures[scenario].result()


class TestGateways:
    @pytest.fixture
    def run(self, result_of):
        return result_of(gateways)

    def test_every_endpoint_is_in_the_report_and_hosts_come_first(self, run):
        found = [(entry["host"], entry["verdict"]) for entry in run.report["endpoints"]]
        assert found == [
            ("both", "ok"),
            ("serving", "ok"),
            ("both", "ok"),
            ("gate", "ok"),
            ("hashed", "no key"),
            ("unasked", "never asked"),
        ]
        assert run.code == 3, run.out + run.err

    def test_a_gateway_is_asked_with_the_first_key_that_is_known(self, run):
        assert run.sent("gate") == f"Bearer {KEY}"
        # Its host and its gateway are asked at the same time.
        asked = {request["headers"].get("Authorization") for request in run.endpoints["both"].requests[-2:]}
        assert asked == {None, f"Bearer {KEY}"}

    def test_one_whose_keys_are_known_by_their_hashes_is_left_alone(self, run):
        assert run.endpoints["hashed"].requests == []
        assert "hashed" not in "".join(line for line in run.out.splitlines() if "could not be asked" in line)


class TestGoodFleet:
    @pytest.fixture
    def run(self, result_of):
        return result_of(good_fleet)

    def test_exit_code(self, run):
        assert run.code == 0, run.out + run.err

    def test_table(self, run):
        rows = run.table()
        assert list(rows) == ["host1", "keyfile", "keys", "short", "trusted", "unchecked", "vaulted"]
        model, revision, latency, unit, tokens, verdict = rows["host1"].split()
        assert (model, revision, unit, tokens, verdict) == ("vicuna", "3321f76e3f52", "s", "75", "ok")
        assert float(latency) < 10
        assert set(run.verdicts.values()) == {"ok"}

    def test_answers_cannot_steer_the_terminal(self, run):
        assert "host1: One,\n  two.\ufffd[2J\n" in run.out
        assert "keys: 1, 5 and 8.\n" in run.out
        assert "\x1b" not in run.out

    def test_each_endpoint_is_asked_once_by_the_play_and_once_more(self, run):
        assert {host: len(endpoint.requests) for host, endpoint in run.endpoints.items()} == dict.fromkeys(
            run.endpoints, 2
        )

    def test_options_of_the_ini_file(self, run):
        body = json.loads(run.endpoints["host1"].requests[-1]["body"])
        assert (body["messages"][0]["content"], body["max_tokens"]) == ("Who are you?", 9)
        assert "Asked: Who are you?" in run.out

    def test_keys(self, run):
        assert run.sent("host1") is None
        assert [run.sent(host) for host in ("keyfile", "vaulted", "keys")] == [f"Bearer {KEY}"] * 3
        assert KEY not in run.out + run.err + run.report_path.read_text()

    def test_report(self, run):
        report = run.report
        assert report["ok"] is True
        assert report["prompt"] == "Who are you?"
        assert report["generated"].endswith("+00:00")
        assert report["failed_hosts"] == report["unreachable_hosts"] == []
        entry = report["endpoints"][0]
        assert 0 < entry.pop("latency_s") < 10
        assert entry == {
            "host": "host1",
            "url": run.endpoints["host1"].url,
            "model": "vicuna",
            "revision": "3321f76e3f527bd14065daf69dad9344000a201d",
            "release": None,
            "image": None,
            "asked_by_play": True,
            "verdict": "ok",
            "usage": {"prompt_tokens": 72, "completion_tokens": 3, "total_tokens": 75},
            "content": "One,\ntwo.\x1b[2J",
            "violations": [],
            "code": None,
            "cause": None,
            "evidence": [],
            "remedy": None,
        }

    def test_the_report_is_one_readable_file(self, run):
        assert [path.name for path in run.report_path.parent.iterdir()] == ["chat_completion.json"]
        assert stat.S_IMODE(run.report_path.stat().st_mode) == 0o644

    def test_no_noise(self, run):
        assert "Warning" not in run.err
        assert "[WARNING]" not in run.out + run.err

    def test_a_later_playbook_runs_and_has_no_table_of_its_own(self, run):
        assert "second playbook" in run.out
        assert run.out.count("VERDICT") == 1


class TestBadFleet:
    @pytest.fixture
    def run(self, result_of):
        run = result_of(bad_fleet)
        run.report_path = run.directory / "elsewhere" / "report.json"
        return run

    def test_exit_code(self, run):
        assert run.code == 3, run.out + run.err
        assert run.report["ok"] is False

    def test_verdicts(self, run):
        assert {host: row.split()[-1] for host, row in run.table().items()} == run.verdicts
        assert run.verdicts == {**dict.fromkeys(run.entries, "failed"), "fine": "ok"}
        assert len(run.verdicts) == 10
        assert all(entry["asked_by_play"] for entry in run.entries.values())

    def test_causes(self, run):
        assert {host: entry["code"] for host, entry in run.entries.items()} == {
            "fine": None,
            "invalid": "invalid_answer",
            "crashed": "no_worker",
            "ignored": "name_mismatch",
            "closed": "disconnected",
            "hung": "hung",
            "dripping": "hung",
            "nokey": "cannot_ask",
            "nourl": "cannot_ask",
            "wrongkey": "unauthorised",
        }
        assert run.entries["invalid"]["violations"] == ["model is 'llama', expected 'vicuna'"]

    def test_each_failure_is_explained(self, run):
        assert "crashed: no worker is registered" in run.out
        assert "ignored: the worker serves 'llama', and 'vicuna' was asked for" in run.out
        assert "nokey: the endpoint could not be asked: [Errno 2] No such file or directory" in run.out
        assert run.out.count("  Remedy: ") == 9

        assert "nourl: the endpoint could not be asked: fastchat_endpoint holds no url and model" in run.out

    def test_a_key_that_the_server_repeats_stays_hidden(self, run):
        assert KEY not in run.out + run.err + run.report_path.read_text()

    def test_no_answers_when_they_are_not_wanted(self, run):
        assert "Asked: " not in run.out
        assert run.entries["fine"]["content"] == "1, 5 and 8."


class TestComparison:
    @pytest.fixture
    def run(self, result_of):
        return result_of(compared)

    def test_changes(self, run):
        assert run.code == 2, run.out + run.err
        assert [line for line in run.out.splitlines() if line.startswith("since the last report: ")] == [
            "since the last report: added is new",
            "since the last report: changed: release 000000000000 -> 111111111111",
            "since the last report: changed: revision e7a9cc9a1b52 -> 3321f76e3f52",
            "since the last report: changed: image aaaaaaaaaaaa -> bbbbbbbbbbbb",
            "since the last report: removed is gone",
        ]
        assert [(one["host"], one["what"]) for one in run.report["changes"]] == [
            ("added", "new"),
            ("changed", "release"),
            ("changed", "revision"),
            ("changed", "image"),
            ("removed", "gone"),
        ]

    def test_hosts_outside_of_the_run_keep_their_entry(self, run):
        assert [entry["host"] for entry in run.report["earlier"]] == ["limited"]

    def test_the_first_report_has_nothing_to_compare_with(self, result_of):
        run = result_of(good_fleet)
        assert run.report["changes"] == run.report["earlier"] == []
        assert "last report" not in run.out

    def test_a_foreign_report_is_said_in_one_line(self, result_of):
        run = result_of(foreign_report)
        assert run.code == 0, run.out + run.err
        lines = [line for line in run.out.splitlines() if "last report" in line]
        assert len(lines) == 1
        assert "none of this plugin's" in lines[0]
        assert run.report["ok"] is True


class TestFleetStatus:
    """The exit code of a fleet's status is the fleet's, and not that of the task which fails for it."""

    @pytest.mark.parametrize(
        ("scenario", "code"),
        [(status_healthy, 0), (status_degraded, 1), (status_down, 2)],
        ids=["healthy", "degraded", "down"],
    )
    def test_exit_code(self, result_of, scenario, code):
        run = result_of(scenario)
        assert run.code == code, run.out + run.err
        assert not run.report_path.exists()
        report = json.loads((run.directory / "reports" / "status.json").read_text())
        assert report["exit_code"] == code

    def test_json_stays_json(self, result_of):
        assert json.loads(result_of(status_down).out)["stats"]["host"]["failures"] == 1


class TestFailedRuns:
    """A run that failed keeps core's own exit code; nothing makes it good."""

    def test_failed_hosts(self, result_of):
        run = result_of(failed_play)
        assert run.code == 2
        assert run.verdicts == {"fine": "ok", "mismatch": "failed", "later": "ok"}
        assert run.report["ok"] is False
        assert run.report["failed_hosts"] == ["later", "mismatch"]

    def test_failed_hosts_with_good_endpoints(self, result_of):
        run = result_of(json_output)
        assert run.code == 2
        assert run.verdicts == {"fine": "ok", "later": "ok"}
        assert run.report["ok"] is False

    def test_unreachable_hosts(self, result_of):
        run = result_of(unreachable)
        assert run.code == 4
        assert run.verdicts == {"lost": "never asked"}
        assert run.report["unreachable_hosts"] == ["lost"]

    def test_forgiving_a_failure_does_not_hide_a_bad_endpoint(self, result_of):
        run = result_of(forgiven_failure)
        assert run.code == 2
        assert run.verdicts == {"mismatch": "failed"}


class TestNeverAsked:
    @pytest.fixture
    def run(self, result_of):
        return result_of(never_asked)

    def test_exit_code(self, run):
        assert run.code == 3
        assert run.report["ok"] is False
        assert "second playbook" not in run.out

    def test_verdicts(self, run):
        assert run.verdicts == {
            "asked": "ok",
            "skipped": "never asked",
            "tooearly": "never asked",
            "hidden": "never asked",
        }
        entry = run.entries["skipped"]
        assert (entry["asked_by_play"], entry["code"]) == (False, "never_asked")
        assert entry["content"]
        assert "role verify" in entry["remedy"]


@pytest.mark.parametrize("scenario", [listing, check_mode, other_tags], ids=lambda one: one.__name__)
def test_a_run_that_deploys_nothing_is_left_alone(result_of, scenario):
    run = result_of(scenario)
    assert run.code == 0, run.out + run.err
    assert run.silent


def test_so_is_one_that_fails_before_it_deploys(result_of):
    run = result_of(nothing_deployed)
    assert run.code == 2
    assert run.silent


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        (unwritable_report, "reports"),
        (wrong_option, "an option of the callback is wrong"),
        (no_requests, "pip install requests"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
def test_what_cannot_be_done_is_a_failure_with_one_line(result_of, scenario, words):
    run = result_of(scenario)
    assert run.code == 3, run.out + run.err
    lines = [line for line in run.err.splitlines() if line.startswith("vicuna.fleet.chat_completion: ")]
    assert len(lines) == 1
    assert words in lines[0]
    assert "Traceback" not in run.err
    assert "VERDICT" not in run.out or scenario is unwritable_report


def test_an_older_report_does_not_outlive_a_run_that_could_not_ask(result_of):
    report = result_of(no_requests).report
    assert report["ok"] is False
    assert "requests" in report["error"]
    assert report["endpoints"] == []
    assert report["changes"] == []


def test_json_on_stdout_stays_json(result_of):
    run = result_of(json_output)
    assert json.loads(run.out) == {"stats": 2}
    assert "VERDICT" in run.err
