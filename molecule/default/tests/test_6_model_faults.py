"""The model's fetch against a hub whose downloads fail: what arrives is right, or nothing is put in place."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from test_5_model import DEST, GATED, PUBLIC, TOKEN, clone, on_host

# Unit tests have the same faults, from a server of their own.
pytestmark = pytest.mark.thorough
MIB = 1024 * 1024
WEIGHTS = f"{DEST}/model.safetensors"
HUB = f"curl -sSf -H 'Authorization: Bearer {TOKEN}' -H 'Content-Type: application/json'"
SetFault = Callable[..., None]


def sent(repository: str = "lmsys/vicuna-tiny") -> int:
    """Bytes of large files that the hub has sent since it started."""
    counts = json.loads(on_host(f"{HUB} http://hub/_sent"))
    return sum(count["bytes"] for path, count in counts.items() if path.endswith(f"/{repository}"))


def struck() -> int:
    """How many downloads the fault has harmed."""
    return sum(one["struck"] for one in json.loads(on_host(f"{HUB} http://hub/_faults")))


def weights_are_right() -> bool:
    """Whether the weights have the sha256 that their pointer names."""
    git = f"git -c safe.directory='*' -C {DEST} show HEAD:model.safetensors"
    said = on_host(f"{git} | sed -n 's/^oid sha256://p'; sha256sum < {WEIGHTS} | cut -d ' ' -f 1").split()
    return len(said) == 2 and said[0] == said[1]


@pytest.fixture
def fault() -> Iterator[SetFault]:
    """Sets a fault at the hub; it is gone after the test, and so is what was fetched."""
    empty = f"{HUB} -X DELETE http://hub/_faults && rm -rf /var/tmp/models && mkdir -p /var/tmp/models"

    def order(**fields: Any) -> None:
        fields.setdefault("repo", "lmsys/vicuna-tiny")
        on_host(f"{HUB} -X PUT -d '{json.dumps(fields)}' http://hub/_faults")

    on_host(empty)
    yield order
    on_host(empty)


def test_a_dropped_connection_goes_on_where_it_broke(fault: SetFault) -> None:
    fault(kind="drop", times=3, after=MIB)
    before = sent()
    result = clone()
    assert not result["failed"], result
    assert struck() == 3
    assert weights_are_right()
    assert sent() - before <= result["bytes"] + 3 * MIB  # of each broken connection less than a block comes again


def test_a_stalled_connection_is_given_up(fault: SetFault) -> None:
    fault(kind="stall", after=MIB)
    result = clone(timeout=5)
    assert not result["failed"], result
    assert struck() == 1
    assert weights_are_right()


@pytest.mark.parametrize(("kind", "fields"), [
    ("lie_range", {"times": 2}),
    ("truncate", {"times": 2, "after": 100000}),
    ("status_500", {"times": 2}),
])  # fmt: skip
def test_a_wrong_answer_is_asked_again(fault: SetFault, kind: str, fields: dict[str, int]) -> None:
    fault(kind=kind, **fields)
    result = clone()
    assert not result["failed"], result
    assert struck() == 2
    assert weights_are_right()


def test_an_origin_without_ranges_is_enough(fault: SetFault) -> None:
    fault(kind="ignore_range", times=0)
    result = clone()
    assert not result["failed"], result
    assert weights_are_right()


def test_a_flipped_byte_is_named_and_fetched_again(fault: SetFault) -> None:
    fault(kind="flip", after=3 * MIB)
    result = clone()
    assert not result["failed"], result
    assert struck() == 1
    assert weights_are_right()
    assert "model.safetensors" in json.dumps(result["notes"])


def test_a_byte_that_is_always_flipped_is_never_put_in_place(fault: SetFault) -> None:
    fault(kind="flip", times=0, after=3 * MIB)
    result = clone()
    assert result["failed"], result
    assert "sha256" in result["msg"]
    assert "Remedy: " in result["msg"]
    assert on_host(f"ls {WEIGHTS} 2>/dev/null || true") == ""
    on_host(f"{HUB} -X DELETE http://hub/_faults")
    assert clone()["changed"] is True
    assert weights_are_right()


def test_a_token_that_expires_half_way_is_renewed(fault: SetFault) -> None:
    fault(repo="gated/vicuna-tiny", kind="expire_token", times=1)
    result = clone(repo=GATED, token=TOKEN)
    assert not result["failed"], result
    assert struck() >= 1
    assert weights_are_right()


def test_without_a_fault_nothing_is_sent_twice(fault: SetFault) -> None:
    before = sent()
    result = clone(repo=PUBLIC)
    assert not result["failed"], result
    assert sent() - before <= result["bytes"]
    assert clone(repo=PUBLIC)["changed"] is False
    assert sent() - before <= result["bytes"]
