# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""Hosts that die, hang or lie; hosts that are drained; reloads under load. A real HAProxy before fakes of edges."""

from __future__ import annotations

import http.client
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from fleet import KEYS, QUESTION, Answer, Fleet, fleet_of, needs_haproxy

from ansible_collections.vicuna.fleet.plugins.module_utils._haproxy import Runtime

pytestmark = needs_haproxy
OUT_WITHIN = 10.0  # the figure


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    with fleet_of(tmp_path) as running:
        yield running


def question(**fields: Any) -> str:
    return json.dumps({**json.loads(QUESTION), **fields})


class Load:
    """Clients that ask one after the other until they are told to stop."""

    def __init__(self, fleet: Fleet, clients: int = 4, **fields: Any) -> None:
        self.fleet, self.body = fleet, question(**fields)
        self.answers: list[Answer] = []
        self.stopped = threading.Event()
        self.threads = [threading.Thread(target=self._run, daemon=True) for _client in range(clients)]

    def _run(self) -> None:
        while not self.stopped.is_set():
            self.answers.append(self.fleet.ask(self.body))

    def __enter__(self) -> Load:
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self.stopped.set()
        for thread in self.threads:
            thread.join(30)

    def go_on(self, count: int = 20) -> None:
        """Until so many more have been answered."""
        seen = len(self.answers)
        self.fleet.until(lambda: len(self.answers) > seen + count, 20)

    @property
    def failed(self) -> list[Answer]:
        return [answer for answer in self.answers if answer.status != 200]


@pytest.mark.parametrize("ailment", ["dead", "hung", "lying", "down"])
def test_an_ailing_host_leaves_and_comes_back(fleet: Fleet, ailment: str) -> None:
    ill, well = fleet.edges
    if ailment == "dead":
        ill.stop()
    else:
        ill.mode = ailment
    assert fleet.until_state(ill, "down") < OUT_WITHIN
    asked = len(ill.asked)
    assert {answer.json["host"] for answer in fleet.ask_many(20)} == {well.name}
    assert len(ill.asked) == asked
    ill.recover()
    assert fleet.until_state(ill, "up") < OUT_WITHIN
    assert {answer.json["host"] for answer in fleet.ask_many(20)} == {ill.name, well.name}


def test_a_busy_host_stays(fleet: Fleet) -> None:
    """More requests than it runs at once, for longer than any check would wait; its health answers."""
    busy = fleet.edges[0]
    fleet.configure(gateway_servers=[{**fleet.variables["gateway_servers"][0], "max_requests": 2}])
    states = set()
    with ThreadPoolExecutor(6) as pool:
        asked = [pool.submit(fleet.ask, question(delay=3)) for _number in range(6)]
        while not all(each.done() for each in asked):
            states |= {server["state"] for server in fleet.look()["servers"]}
            time.sleep(0.2)
    assert states == {"up"}
    assert [each.result().status for each in asked] == [200] * 6
    assert busy.most == 2, "the gateway sent more than the host runs at once"


def test_nothing_fails_when_a_host_is_killed(fleet: Fleet) -> None:
    with Load(fleet) as load:
        fleet.until(lambda: len(load.answers) >= 30, 20)
        fleet.edges[0].stop()
        fleet.until(lambda: len(load.answers) >= 130, 20)
    assert load.failed == []
    assert {answer.json["host"] for answer in load.answers[-20:]} == {fleet.edges[1].name}


def test_nothing_fails_when_a_host_vanishes(fleet: Fleet) -> None:
    """Also what waits for its connection to the host at the moment when it is marked down."""
    ill, well = fleet.edges
    with Load(fleet, delay=0.05) as load:
        fleet.until(lambda: len(load.answers) >= 30, 20)
        ill.vanish()
        fleet.until_state(ill, "down")
        fleet.until(lambda: len(load.answers) >= 130, 20)
        load.go_on()
    assert load.failed == []
    assert max(answer.seconds for answer in load.answers) > 0.9, "none was on its way to the host that vanished"
    assert {answer.json["host"] for answer in load.answers[-20:]} == {well.name}


def test_another_host_is_asked_where_a_worker_is_gone(fleet: Fleet) -> None:
    """The check has not found out yet: health is well, and every question gets 503."""
    fleet.edges[0].mode = "worker_gone"
    answers = fleet.ask_many(100)
    assert [answer for answer in answers if answer.status != 200] == []
    assert {answer.json["host"] for answer in answers} == {fleet.edges[1].name}
    assert fleet.edges[0].asked, "the fake was never asked, so nothing was shown"


def test_what_waits_at_a_hung_host_is_answered_by_another(fleet: Fleet) -> None:
    ill, well = fleet.edges
    ill.mode = "hung"
    answers = fleet.ask_many(6, clients=6)
    assert [answer for answer in answers if answer.status != 200] == []
    assert ill.asked, "no request went to the host that hangs"
    assert max(answer.seconds for answer in answers) < OUT_WITHIN
    assert {answer.json["host"] for answer in answers} == {well.name}


def test_a_stream_that_is_cut_ends_in_an_error(fleet: Fleet) -> None:
    fleet.edges[1].stop()
    fleet.until_state(fleet.edges[1], "down")
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    connection.request("POST", "/v1/chat/completions", question(stream=True, delay=0.3), headers(fleet))
    response = connection.getresponse()
    assert response.read1(100).startswith(b"data: ")
    begun = time.monotonic()
    fleet.edges[0].mode = "hung"
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        response.read()
    assert time.monotonic() - begun < OUT_WITHIN
    connection.close()


def headers(_fleet: Fleet) -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS['alice']}", "Content-Type": "application/json"}


def test_a_stream_is_not_buffered(fleet: Fleet) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", fleet.port, timeout=30)
    connection.request("POST", "/v1/chat/completions", question(stream=True, delay=0.2), headers(fleet))
    response = connection.getresponse()
    arrived = []
    for line in response:
        if line.startswith(b"data: "):
            arrived.append(time.monotonic())
    assert len(arrived) == 6
    assert all(later - earlier > 0.1 for earlier, later in zip(arrived[:5], arrived[1:5]))


def test_a_reload_under_load_loses_nothing(fleet: Fleet) -> None:
    with Load(fleet, clients=6, delay=0.05) as load:
        for number in range(5):
            load.go_on()
            applied = fleet.configure(gateway_queue_limit=100 + number)
            assert applied["reloaded"], applied
        load.go_on()
    assert load.failed == []
    assert len(load.answers) > 100


def test_the_same_again_changes_nothing(fleet: Fleet) -> None:
    again = fleet.configure()
    assert (again["changed"], again["reloaded"], again["changed_files"]) == (False, False, [])
    # Killed between writing and reloading: the file is the new one, the old one runs. The next run finishes it.
    path = fleet.folder / "haproxy.cfg"
    fleet.configure(gateway_queue_limit=77)
    fleet.variables["gateway_queue_limit"] = 78
    written = path.read_text(encoding="utf-8")
    command = fleet._module

    def without_reload(module: Any, **arguments: Any) -> dict[str, Any]:
        return command(module, **{**arguments, "reload_command": ["false"]})

    fleet._module = without_reload  # type: ignore[method-assign]
    assert fleet.configure()["failed"]
    assert path.read_text(encoding="utf-8") != written
    fleet._module = command  # type: ignore[method-assign]
    finished = fleet.configure()
    assert (finished["changed"], finished["reloaded"], finished["changed_files"]) == (True, True, [])


def test_a_file_that_was_put_back_under_a_running_process(fleet: Fleet) -> None:
    """A person edits the keys and reloads, a run puts the file back and is killed: the next compares with what runs."""
    keys = fleet.folder / "files" / "keys.map"
    written = keys.read_text(encoding="utf-8")
    keys.write_text("00 nobody\n", encoding="utf-8")
    # By its own socket: a signal is lost on a master that has just begun.
    Runtime(str(fleet.folder / "master.sock")).ask("reload")
    fleet.until(lambda: fleet.ask().status == 401, 10)
    keys.write_text(written, encoding="utf-8")
    applied = fleet.configure()
    assert (applied["changed"], applied["reloaded"], applied["changed_files"]) == (True, True, [])
    assert fleet.ask().status == 200
    again = fleet.configure()
    assert (again["changed"], again["reloaded"]) == (False, False)


def test_a_bad_configuration_is_not_put_in_place(fleet: Fleet) -> None:
    before = (fleet.folder / "haproxy.cfg").read_text(encoding="utf-8")
    refused = fleet.configure(gateway_servers=[{"name": "host-0", "address": "not an address", "port": 1}])
    assert refused["failed"]
    assert "nothing was written" in refused["msg"]
    assert str(fleet.folder / "haproxy.cfg") in refused["msg"], refused["msg"]
    assert (fleet.folder / "haproxy.cfg").read_text(encoding="utf-8") == before
    assert fleet.ask().status == 200


def test_draining_lets_answers_finish(fleet: Fleet) -> None:
    host = fleet.edges[0]
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(fleet.ask, question(delay=2)) for _number in range(4)]
        fleet.until(lambda: len(host.asked) == 2, 5)
        early = fleet.server(host.name, "drained", timeout=0)
        assert (early["changed"], early["state"], early["sessions"], early["drained"]) == (True, "drain", 2, False)
        late = fleet.server(host.name, "drained")
        assert (late["changed"], late["sessions"], late["drained"]) == (False, 0, True)
        assert late["waited"] > 1
        assert [each.result().status for each in asked] == [200] * 4
    assert {answer.json["host"] for answer in fleet.ask_many(10)} == {fleet.edges[1].name}
    back = fleet.server(host.name, "ready")
    assert (back["changed"], back["state"], back["drained"]) == (True, "up", False)
    assert not fleet.server(host.name, "ready")["changed"]
    assert {answer.json["host"] for answer in fleet.ask_many(20)} == {edge.name for edge in fleet.edges}


def test_a_drained_host_stays_drained(fleet: Fleet) -> None:
    """Over a reload, and over a restart; and a reload does not hide what the process before still carries through."""
    host = fleet.edges[0]
    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(fleet.ask, question(delay=10)) for _number in range(4)]
        fleet.until(lambda: len(host.asked) == 2, 5)
        fleet.configure(gateway_queue_limit=99)
        drained = fleet.server(host.name, "drained")
        assert drained["drained"] and drained["waited"] > 1, drained
        assert [each.result().status for each in asked] == [200] * 4
    fleet.configure(gateway_queue_limit=98)
    assert {"name": host.name, "state": "drain"} in fleet.look()["servers"]
    assert fleet.process
    fleet.process.terminate()
    fleet.process.wait(10)
    assert fleet.server(host.name, "probe")["state"] == "absent"
    fleet.process = None
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(fleet, "until", lambda *_arguments: 0.0)
        fleet.start()
    fleet.until(lambda: fleet.look()["running"], 5)
    assert {"name": host.name, "state": "drain"} in fleet.look()["servers"]


def test_a_moved_host_is_found_at_its_new_port(fleet: Fleet) -> None:
    """The state file knows the port of before; the configuration is right."""
    first, second = fleet.edges
    servers = fleet.variables["gateway_servers"]
    fleet.server(first.name, "drained")
    fleet.configure(gateway_servers=[{**servers[0], "port": second.port}])
    fleet.server(first.name, "ready")
    assert fleet.ask().json["host"] == second.name


def test_a_host_that_is_not_well_is_not_put_back(fleet: Fleet) -> None:
    host = fleet.edges[0]
    fleet.server(host.name, "drained")
    host.mode = "down"
    runtime = Runtime(str(fleet.folder / "admin.sock"))
    fleet.until(lambda: not runtime.servers("vicuna")[0].running, 5)
    failed = fleet.server(host.name, "ready", timeout=1)
    assert failed["failed"]
    assert "host-0 down" in failed["msg"] and "503" in failed["msg"]


def test_check_mode_and_strangers(fleet: Fleet, capsys: pytest.CaptureFixture[str]) -> None:
    host = fleet.edges[0]
    predicted = fleet.server(host.name, "drained", _ansible_check_mode=True, _ansible_diff=True)
    assert predicted["changed"] and predicted["diff"]["after"] == "host-0: drain\n"
    assert {"name": host.name, "state": "up"} in fleet.look()["servers"]
    stranger = fleet.server("host-9", "drained")
    assert (stranger["changed"], stranger["state"], stranger["drained"]) == (False, "absent", True)
    assert [server["name"] for server in stranger["servers"]] == ["host-0", "host-1"]


def test_all_down_is_said_at_once(fleet: Fleet) -> None:
    for edge in fleet.edges:
        edge.stop()
    for edge in fleet.edges:
        fleet.until_state(edge, "down")
    answer = fleet.ask()
    assert (answer.status, answer.code, answer.headers["retry-after"]) == (503, "overloaded", "5")
    assert answer.seconds < 1
