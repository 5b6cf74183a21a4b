"""The gateways themselves: a new configuration, a key that is taken back, and one of two that is lost."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest
import requests
from scenario import GATEWAYS, GRACE, INVENTORY, on, recap, run, wait_for

pytestmark = pytest.mark.usefixtures("calm")

QUESTION = {"model": "vicuna", "max_tokens": 4, "messages": [{"role": "user", "content": "Hello"}]}


def ask(gateway: str, key: str) -> requests.Response:
    with requests.Session() as session:
        session.trust_env = False
        return session.post(
            f"https://127.0.0.1:{GATEWAYS[gateway]}/v1/chat/completions",
            json=QUESTION,
            headers={"Authorization": f"Bearer {key}"},
            verify=str(INVENTORY / f".secrets/gateway_{gateway}.pem"),
            timeout=60,
        )


def key(name: str) -> str:
    return (INVENTORY / f".secrets/{name}").read_text().strip()


def gateways(**variables: Any) -> subprocess.CompletedProcess[str]:
    return run("site.yml", "--tags", "gateway", **variables)


def test_a_reload_with_a_new_configuration_fails_no_request(traffic: Any) -> None:
    with traffic.watch("gateways reloaded, twice") as watch:
        for seconds in (11, 10):
            done = gateways(gateway_request_timeout=seconds)
            assert done.returncode == 0, done.stdout[-3000:]
            assert all(recap(done.stdout)[gateway]["changed"] > 0 for gateway in GATEWAYS), done.stdout[-1500:]
            for gateway in GATEWAYS:
                assert f"timeout http-request {seconds}s" in on(gateway, "cat /etc/haproxy/haproxy.cfg")
        watch.rest(watch.passed() + 3)
    assert watch.figures["failed"] == 0, watch.figures


@pytest.mark.fast
def test_a_revoked_key_is_refused_after_one_reload(traffic: Any) -> None:
    assert {ask(gateway, key("guest")).status_code for gateway in GATEWAYS} == {200}
    with traffic.watch("key revoked, and given back") as watch:
        done = gateways(gateway_keys=[{"name": "load", "key": key("load")}])
        assert done.returncode == 0, done.stdout[-3000:]
        refused = [ask(gateway, key("guest")) for gateway in GATEWAYS]
        assert gateways().returncode == 0
    assert [each.status_code for each in refused] == [401] * len(GATEWAYS)
    assert {each.json()["error"]["code"] for each in refused} == {"invalid_api_key"}
    assert {ask(gateway, key("guest")).status_code for gateway in GATEWAYS} == {200}
    assert key("guest") not in done.stdout
    assert watch.figures["failed"] == 0, watch.figures


def test_one_of_two_gateways_is_lost_and_the_other_serves(traffic: Any) -> None:
    lost = "vicuna-sandbox-gateway-2"
    with traffic.watch("one of two gateways killed") as watch:
        watch.rest(2)
        watch.strike()
        subprocess.run(["docker", "kill", lost], check=True, timeout=30)
        watch.rest(15)
        until = traffic.load.now()
        subprocess.run(["docker", "start", lost], check=True, timeout=60)
        watch.extra["back_after_s"] = round(wait_for(lambda: ask_is_well("gateway-2"), 60, "the gateway is back"), 2)
    assert watch.failures(after=GRACE) == [], watch.figures
    records = [each for each in traffic.load.records if watch.since + 1 < each.start and each.end < until]
    assert {each.url for each in records} == {f"https://127.0.0.1:{GATEWAYS['gateway-1']}"}


def ask_is_well(gateway: str) -> bool:
    try:
        return ask(gateway, key("guest")).status_code == 200
    except requests.RequestException:
        return False
