# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The module with the real git, against a fake hub."""

from __future__ import annotations

import concurrent.futures
import hashlib
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

from ansible_collections.vicuna.fleet.plugins.module_utils._model_info import (
    BLOB_LIMIT,
    File,
    Listing,
    describe,
    look,
    unknown_sizes,
)
from ansible_collections.vicuna.fleet.plugins.modules import model_info

from ..fake_hub import IN_LFS, TOKEN, FakeHub

NAME, GATED = "org/vicuna-test", "gated/vicuna-test"
FIRST, SECOND, OTHER = b"first" * 900, b"second" * 900, b"other" * 900
INDEX = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors", "c": "model-1.safetensors"}}
FILES = {
    "config.json": b'{"model_type": "llama", "hidden_size": 64}\n',
    "model-1.safetensors": FIRST,
    "model-2.safetensors": SECOND,
    "model.safetensors.index.json": json.dumps(INDEX).encode(),
    "pytorch_model.bin": OTHER,
    "tokenizer.model": b"tokens",
    "large.txt": b"in git itself " * (BLOB_LIMIT // 10),
}
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(hub: FakeHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(revision: str = "main", name: str = NAME, **arguments: Any) -> dict[str, Any]:
        args = {
            "repo": f"{hub.url}/{name}",
            "revision": revision,
            "cache_dir": str(tmp_path / "cache"),
            "timeout": 10,
            "_ansible_remote_tmp": str(tmp_path),
            **arguments,
        }
        with patch_module_args(args), pytest.raises(SystemExit):
            model_info.main()
        answer: dict[str, Any] = json.loads(capsys.readouterr().out)
        return answer

    return call


def test_what_a_repository_says(hub: FakeHub, run: Run) -> None:
    commit = hub.commit(NAME, FILES)
    result = run()
    found = result["model"]
    assert (result["changed"], result["cached"], found["commit"]) == (False, False, commit)
    assert found["config"] == {"model_type": "llama", "hidden_size": 64}
    assert found["weights_format"] == "safetensors"
    assert [file["path"] for file in found["files"]] == ["model-1.safetensors", "model-2.safetensors"]
    assert found["weights_bytes"] == len(FIRST) + len(SECOND)
    assert found["download_bytes"] == len(FIRST) + len(SECOND) + len(OTHER) + len(b"tokens")
    assert len(found["objects"]) == 4
    assert found["quantisation"] == ""


@pytest.mark.parametrize("config", ["", "[lfs]\n\turl = {url}/org/vicuna-test.git/info/lfs\n"])
def test_a_config_that_is_itself_in_lfs(hub: FakeHub, run: Run, config: str) -> None:
    hub.in_lfs = (*IN_LFS, ".json")
    files = {**FILES, ".lfsconfig": config.format(url=hub.url).encode()} if config else FILES
    hub.commit(NAME, files)
    found = run()["model"]
    assert found["config"] == {"model_type": "llama", "hidden_size": 64}
    assert [file["path"] for file in found["files"]] == ["model-1.safetensors", "model-2.safetensors"]
    assert len(found["objects"]) == 6
    small = [hashlib.sha256(FILES[name]).hexdigest() for name in ("config.json", "model.safetensors.index.json")]
    assert hub.served == small, "and no byte of the weights"
    assert run()["cached"]


def test_a_config_in_lfs_of_a_gated_repository(hub: FakeHub, run: Run) -> None:
    hub.in_lfs = (*IN_LFS, ".json")
    hub.commit(GATED, FILES)
    assert run(name=GATED, token=TOKEN)["model"]["config"] == {"model_type": "llama", "hidden_size": 64}


def test_a_config_in_lfs_on_a_disk(hub: FakeHub, run: Run) -> None:
    hub.in_lfs = (*IN_LFS, ".json")
    commit = hub.commit(NAME, FILES)
    repo = f"file://{hub.root / NAME}"
    missing = run(commit, repo=repo)
    assert (missing["failed"], missing["cause"]) == (True, "lfs_object_missing")
    assert "config.json" in missing["msg"]
    for content in (FILES["config.json"], FILES["model.safetensors.index.json"]):
        oid = hashlib.sha256(content).hexdigest()
        place = hub.root / NAME / "lfs/objects" / oid[:2] / oid[2:4] / oid
        place.parent.mkdir(parents=True)
        place.write_bytes(content)
    assert run(commit, repo=repo)["model"]["config"] == {"model_type": "llama", "hidden_size": 64}


@pytest.mark.parametrize(("fault", "cause"), [("missing", "lfs_object_missing"), ("damaged", "damaged_transfer")])
def test_a_config_in_lfs_that_cannot_be_had(hub: FakeHub, run: Run, fault: str, cause: str) -> None:
    hub.in_lfs = (*IN_LFS, ".json")
    hub.commit(NAME, FILES)
    oid = hashlib.sha256(FILES["config.json"]).hexdigest()
    if fault == "missing":
        del hub.objects[oid]
    else:
        hub.damaged.add(oid)
    result = run()
    assert (result["failed"], result["cause"]) == (True, cause)


@pytest.mark.parametrize(
    ("pointer", "told"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid md5:0\nsize 5\n", "no line 'oid sha256:'"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize 99999999\n" % (b"a" * 64), "99999999 bytes"),
    ],
)
def test_a_config_that_is_a_pointer_and_no_more(hub: FakeHub, run: Run, pointer: bytes, told: str) -> None:
    hub.commit(NAME, {**FILES, "config.json": pointer})
    result = run()
    assert (result["failed"], result["cause"]) == (True, "lfs_pointer")
    assert all(part in result["msg"] for part in ("Found: config.json", told, "Expected: ", "Remedy: "))


def test_no_byte_of_the_weights_is_fetched(hub: FakeHub, run: Run) -> None:
    hub.commit(NAME, FILES)
    run()
    assert hub.served == []
    assert not any("/objects/" in request for request in hub.requests)


@pytest.mark.parametrize("filtering", ["true", "false"])
def test_with_and_without_a_server_that_leaves_blobs_out(hub: FakeHub, run: Run, filtering: str) -> None:
    hub.commit(NAME, FILES)
    hub.git(NAME, "config", "uploadpack.allowFilter", filtering)
    assert run()["model"]["weights_bytes"] == len(FIRST) + len(SECOND)


def test_include_and_exclude(hub: FakeHub, run: Run) -> None:
    commit = hub.commit(NAME, FILES)
    found = run(commit, exclude=["*.safetensors"])["model"]
    assert (found["weights_format"], found["weights_bytes"]) == ("bin", len(OTHER))
    assert found["download_bytes"] == len(OTHER) + len(b"tokens")
    # The same commit, another selection.
    assert run(commit, include=["*.safetensors"])["model"]["download_bytes"] == len(FIRST) + len(SECOND)


def test_a_commit_is_looked_at_once(hub: FakeHub, run: Run) -> None:
    commit = hub.commit(NAME, FILES)
    first = run(commit)
    asked = len(hub.requests)
    second = run(commit)
    assert (first["cached"], second["cached"]) == (False, True)
    assert second["model"] == first["model"]
    assert len(hub.requests) == asked


def test_a_branch_is_looked_up_every_time(hub: FakeHub, run: Run) -> None:
    hub.commit(NAME, FILES)
    assert run()["cached"] is False
    assert run()["cached"] is True
    moved = hub.commit(NAME, {**FILES, "pytorch_model.bin": b"new"})
    assert run()["model"]["commit"] == moved


def test_many_at_once_fetch_once(hub: FakeHub, tmp_path: Path) -> None:
    commit = hub.commit(NAME, FILES)
    start = threading.Barrier(6)

    def one(_number: int) -> Listing:
        start.wait(10)
        return look(repo=f"{hub.url}/{NAME}", revision=commit, timeout=10, cache_dir=tmp_path / "cache")[0]

    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        found = list(pool.map(one, range(6)))
    assert all(listing == found[0] for listing in found)
    assert len([request for request in hub.requests if request.startswith("GET")]) == 1


def test_a_damaged_cache_is_no_obstacle(hub: FakeHub, run: Run, tmp_path: Path) -> None:
    commit = hub.commit(NAME, FILES)
    run(commit)
    (kept,) = (tmp_path / "cache" / "models").glob("*.json")
    assert kept.stat().st_mode & 0o077 == 0
    kept.write_text('{"version": 1, "comm', encoding="utf-8")
    assert run(commit)["cached"] is False
    assert run(commit)["cached"] is True


def test_a_server_that_hands_out_branches_alone(hub: FakeHub, run: Run) -> None:
    commit = hub.commit(NAME, FILES)
    hub.commit(NAME, {**FILES, "pytorch_model.bin": b"new"})
    hub.git(NAME, "config", "uploadpack.allowAnySHA1InWant", "false")
    assert run(commit)["model"]["commit"] == commit


@pytest.mark.parametrize(("token", "cause"), [("", "token_missing"), ("wrong", "token_rejected")])
def test_a_gated_repository(hub: FakeHub, run: Run, token: str, cause: str) -> None:
    hub.commit(GATED, FILES)
    refused = run(name=GATED, token=token)
    assert refused["failed"] and refused["cause"] == cause
    assert "model_token" in refused["msg"]
    assert TOKEN not in json.dumps(run(name=GATED, token=TOKEN)["model"])


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ({"revision": "nosuch"}, "revision_not_found"),
        ({"revision": "0" * 40}, "revision_not_found"),
        ({"revision": ""}, "revision_not_found"),
        ({"name": "org/nosuch"}, "repository_not_found"),
        ({"repo": "https://user:secret@example.invalid/x"}, "url_with_credentials"),
    ],
)
def test_what_cannot_be_had(hub: FakeHub, run: Run, arguments: dict[str, Any], cause: str) -> None:
    hub.commit(NAME, FILES)
    result = run(**arguments)
    assert result["failed"] and result["cause"] == cause
    assert all(part in result["msg"] for part in ("Found: ", "Expected: ", "Remedy: "))
    assert "secret" not in result["msg"]


def test_no_model_at_all(hub: FakeHub, run: Run) -> None:
    hub.commit(NAME, {"README.md": b"nothing"})
    assert run()["cause"] == "no_config"


def test_weights_in_git_itself_that_were_left_on_the_server() -> None:
    kept = Listing("c", [File("pytorch_model.bin", "", -1), File("large.txt", "", -1)], {})
    found = describe(kept, [], [])
    assert (found["weights_bytes"], found["download_bytes"]) == (0, 0)
    assert unknown_sizes(kept, found) == ["pytorch_model.bin"]


def test_what_is_large_and_no_weights_stays_on_the_server(hub: FakeHub, tmp_path: Path) -> None:
    commit = hub.commit(NAME, FILES)
    hub.git(NAME, "config", "uploadpack.allowFilter", "true")
    files = {file.path: file.size for file in look(repo=f"{hub.url}/{NAME}", revision=commit, timeout=10)[0].files}
    assert files["large.txt"] == -1
    assert files["config.json"] == len(FILES["config.json"])


def listing(*names: str, **contents: Any) -> Listing:
    files = [File(name, f"{number:064x}", 10 * (number + 1)) for number, name in enumerate(names)]
    return Listing("c", files, {key.replace("__", "."): json.dumps(value) for key, value in contents.items()})


@pytest.mark.parametrize(
    ("names", "kind", "loaded"),
    [
        # The order of transformers: one file, then an index, safetensors before bin.
        (["model.safetensors", "pytorch_model.bin"], "safetensors", ["model.safetensors"]),
        (["pytorch_model.bin", "consolidated.00.pth"], "bin", ["pytorch_model.bin"]),
        (["model-1.safetensors", "x.safetensors"], "safetensors", ["model-1.safetensors"]),
        (["pytorch_model-2.bin", "pytorch_model-1.bin"], "bin", ["pytorch_model-1.bin", "pytorch_model-2.bin"]),
        (["original/model.safetensors"], "", []),
        ([], "", []),
    ],
)
def test_which_weights_are_loaded(names: list[str], kind: str, loaded: list[str]) -> None:
    found = describe(listing(*names), [], [])
    assert (found["weights_format"], [file["path"] for file in found["files"]]) == (kind, loaded)


@pytest.mark.parametrize(
    ("contents", "expected"),
    [
        ({"config__json": {}}, ""),
        ({"config__json": {"quantization_config": {"quant_method": "gptq", "bits": 4}}}, "gptq 4-bit"),
        ({"config__json": {"quantization_config": {"quant_method": "awq", "w_bit": 4}}}, "awq 4-bit"),
        (
            {"config__json": {"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}},
            "bitsandbytes 8-bit",
        ),
        ({"config__json": {"quantization_config": {"quant_method": "fp8"}}}, "fp8"),
        ({"config__json": {}, "quantize_config__json": {"bits": 4, "group_size": 128}}, "gptq 4-bit"),
    ],
)
def test_quantisation(contents: dict[str, Any], expected: str) -> None:
    assert describe(listing("model.safetensors", **contents), [], [])["quantisation"] == expected


def test_an_object_under_two_names_is_fetched_once() -> None:
    twice = Listing("c", [File("a.bin", "0" * 64, 7), File("b.bin", "0" * 64, 7)], {})
    assert describe(twice, [], [])["download_bytes"] == 7
