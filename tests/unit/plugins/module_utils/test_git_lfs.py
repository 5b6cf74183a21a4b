# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""The judgement behind the module: pointers, patterns, addresses, and what git's words mean."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import redact_url
from ansible_collections.vicuna.fleet.plugins.module_utils._git_lfs import (
    Entry,
    Pointer,
    blob_id,
    check_git_lfs_version,
    check_mirror,
    check_repo,
    environment,
    fetch_pattern,
    is_commit_id,
    matches,
    parse_ls_remote,
    parse_ls_tree,
    parse_pointer,
    resolve_ref,
    same_repository,
    selected,
    unsafe_paths,
)
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_pointer import (
    holds_pointer,
    parse_gitlinks,
    read_pointer,
)

OID = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"
POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{OID}\nsize 9976578928\n".encode()


def test_a_pointer() -> None:
    assert parse_pointer(POINTER) == Pointer(OID, 9976578928)
    assert parse_pointer(POINTER.replace(b"\nsize", b"\nx-note hello world\nsize")) == Pointer(OID, 9976578928)


def in_other_words(old: bytes, new: bytes) -> bytes:
    assert old in POINTER
    return POINTER.replace(old, new)


OTHER_WORDS = {
    "git-media": in_other_words(b"https://git-lfs.github.com/spec/v1", b"http://git-media.io/v/2"),
    "hawser": in_other_words(b"git-lfs.github", b"hawser.github"),
    "extension": in_other_words(b"oid", b"ext-0-case sha256:" + OID.encode() + b"\noid"),
    "line ends of Windows": in_other_words(b"\n", b"\r\n"),
    "no last line end": POINTER.rstrip(),
    "blank lines": b"\n" + in_other_words(b"\n", b"\n\n"),
    "padded": POINTER + b" " * (1023 - len(POINTER)),
}
# git-lfs leaves these in the place of the file.
THROUGH_AN_EDITOR = {
    "byte-order mark": b"\xef\xbb\xbf" + POINTER,
    "UTF-16": POINTER.decode().encode("utf-16"),
    "upper case": in_other_words(OID.encode(), OID.upper().encode()),
    "another order": b"".join(POINTER.splitlines(True)[n] for n in (0, 2, 1)),
    "another key": POINTER + b"x-note a\n",
    "spaces at the ends": in_other_words(b"\n", b" \n"),
    "http": in_other_words(b"https", b"http"),
}


@pytest.mark.parametrize(
    "blob", [*OTHER_WORDS.values(), *THROUGH_AN_EDITOR.values()], ids=[*OTHER_WORDS, *THROUGH_AN_EDITOR]
)
def test_a_pointer_in_other_words(blob: bytes, tmp_path: Path) -> None:
    assert read_pointer(blob) == parse_pointer(blob) == Pointer(OID, 9976578928)
    (tmp_path / "file").write_bytes(blob)
    assert holds_pointer(tmp_path / "file", (tmp_path / "file").lstat())


@pytest.mark.parametrize("name", [*OTHER_WORDS, *THROUGH_AN_EDITOR])
def test_which_of_them_git_lfs_reads_too(name: str) -> None:
    blob = {**OTHER_WORDS, **THROUGH_AN_EDITOR}[name]
    done = subprocess.run(["git", "lfs", "pointer", "--check", "--stdin"], input=blob, check=False, capture_output=True)
    assert (done.returncode == 0) is (name in OTHER_WORDS)


def test_a_pointer_names_its_extensions() -> None:
    found = parse_pointer(OTHER_WORDS["extension"])
    assert found is not None
    assert found.extensions == ("case",)
    assert parse_pointer(POINTER).extensions == ()  # type: ignore[union-attr]  # a test above holds it


@pytest.mark.parametrize("size", [0, 1, 2**63 - 1])
def test_sizes(size: int) -> None:
    assert parse_pointer(in_other_words(b"9976578928", str(size).encode())) == Pointer(OID, size)


@pytest.mark.parametrize(
    "blob",
    [
        in_other_words(b"spec/v1", b"spec/v2"),
        in_other_words(b"sha256:", b"md5:"),
        in_other_words(OID.encode(), b"../../etc/passwd"),
        in_other_words(OID.encode(), OID.encode() + b"ab"),
        in_other_words(b"9976578928", b"-1"),
        in_other_words(b"9976578928", b"many"),
        in_other_words(b"9976578928", b"1_000"),
        in_other_words(b"9976578928", str(2**63).encode()),
        in_other_words(b"9976578928", b"9" * 800),
        POINTER + b"size 5\n",
        POINTER[:60],
    ],
)
def test_a_pointer_that_names_no_content_is_told(blob: bytes) -> None:
    assert isinstance(read_pointer(blob), str)
    assert parse_pointer(blob) is None


@pytest.mark.parametrize("blob", [b"", b"{}", b"version 1", b"x" + POINTER, POINTER + b" " * 1024, b"\xff\xfe\xff"])
def test_what_is_no_pointer_at_all(blob: bytes) -> None:
    assert read_pointer(blob) is None


@pytest.mark.parametrize(
    "blob",
    [
        b"",
        b"{}",
        POINTER[:60],
        POINTER + b"x" * 1024,
        POINTER.replace(b"sha256:", b"md5:"),
        POINTER.replace(OID.encode(), b"../../etc/passwd"),
        POINTER.replace(b"9976578928", b"-1"),
        POINTER.replace(b"9976578928", b"many"),
        POINTER.replace(b"sha256", b"\xff\xfe"),
        b"x" + POINTER,
    ],
)
def test_what_is_no_pointer(blob: bytes) -> None:
    assert parse_pointer(blob) is None


@given(oid=st.text("0123456789abcdef", min_size=64, max_size=64), size=st.integers(0, 10**15))
def test_every_pointer_is_read_as_it_was_written(oid: str, size: int) -> None:
    blob = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n".encode()
    assert parse_pointer(blob) == Pointer(oid, size)


@given(st.binary(max_size=200).map(lambda tail: b"version https://git-lfs.github.com/spec/v1\n" + tail))
def test_whatever_follows_is_a_pointer_or_none(blob: bytes) -> None:
    found = parse_pointer(blob)
    assert found is None or (len(found.oid) == 64 and found.size >= 0)


def test_ls_tree() -> None:
    listing = (
        b"100644 blob 1111111111111111111111111111111111111111     136\t.gitattributes\0"
        b"100755 blob 2222222222222222222222222222222222222222      10\tbin/a \xc3\xa9\tb\0"
        b"160000 commit 3333333333333333333333333333333333333333       -\tsubmodule\0"
    )
    assert parse_ls_tree(listing) == [
        Entry(".gitattributes", "100644", "1" * 40, 136),
        Entry("bin/a \u00e9\tb", "100755", "2" * 40, 10),
    ]
    assert parse_gitlinks(listing) == [("submodule", "3" * 40)]


def test_a_file_that_holds_a_pointer(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content, expected in ((POINTER, True), (POINTER + b"x" * 1024, False), (b"weights", False), (b"", False)):
        path.write_bytes(content)
        assert holds_pointer(path, path.lstat()) is expected


@pytest.mark.parametrize("path", ["../x", "a/../b", "/etc/passwd", ".git/config", "a/.GIT/hooks/x", "a//b", "."])
def test_paths_that_reach_out(path: str) -> None:
    assert unsafe_paths([Entry("fine.txt", "100644", "1" * 40, 1), Entry(path, "100644", "1" * 40, 1)]) == [path]


def test_links_are_unsafe() -> None:
    assert unsafe_paths([Entry("link", "120000", "1" * 40, 1), Entry(".gitignore", "100644", "1" * 40, 1)]) == ["link"]


def test_refs() -> None:
    refs = parse_ls_remote(
        "a\tHEAD\nb\trefs/heads/main\nc\trefs/tags/v1\nd\trefs/tags/v1^{}\ne\trefs/heads/v1\nf\trefs/heads/topic/v1\n"
    )
    assert resolve_ref(refs, "main") == "b"
    assert resolve_ref(refs, "v1") == "d", "an annotated tag is its commit, and wins over a branch"
    assert resolve_ref(refs, "refs/heads/v1") == "e"
    assert resolve_ref(refs, "HEAD") == "a"
    assert resolve_ref(refs, "topic") is None


@pytest.mark.parametrize(
    ("revision", "expected"),
    [
        ("a" * 40, True),
        ("A" * 40, False),
        ("a" * 39, False),
        ("a" * 64, True),
        ("main", False),
        ("a" * 40 + "\n", False),
    ],
)
def test_commit_ids(revision: str, expected: bool) -> None:
    assert is_commit_id(revision) is expected


PATTERNS = [
    ("model.bin", "*.bin", True),
    ("sub/model.bin", "*.bin", True),
    ("sub/model.bin", "/*.bin", False),
    ("model.bin", "/*.bin", True),
    ("sub/model.bin", "sub/*.bin", True),
    ("a/sub/model.bin", "sub/*.bin", False),
    ("a/sub/model.bin", "**/sub/*.bin", True),
    ("sub/a/b/model.bin", "sub/**/model.bin", True),
    ("sub/model.bin", "sub/**/model.bin", True),
    ("sub/model.bin", "sub", True),
    ("sub/model.bin", "sub/", True),
    ("a/sub/model.bin", "sub", True),
    ("submodel.bin", "sub", False),
    ("model-1.bin", "model-?.bin", True),
    ("model-12.bin", "model-?.bin", False),
    ("model-1.bin", "model-[0-3].bin", True),
    ("model-9.bin", "model-[!0-3].bin", True),
    ("model-1.bin", "model-[!0-3].bin", False),
    ("model.bin", "", False),
    ("model.binary", "*.bin", False),
    ("a.b", "a?b", True),
    ("axb", "a.b", False),
    ("[x].bin", r"\[x\].bin", True),
    ("[x", "[x", True),
]


@pytest.mark.parametrize(("path", "pattern", "expected"), PATTERNS)
def test_patterns(path: str, pattern: str, expected: bool) -> None:
    assert matches(path, pattern) is expected


def test_patterns_are_those_of_gitignore(tmp_path: Path) -> None:
    """The same table, asked of git."""
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    for path, pattern, expected in PATTERNS:
        if pattern == "[x":
            continue  # git takes an unclosed bracket for a pattern that matches nothing
        command = [
            "git",
            "-C",
            str(tmp_path),
            "-c",
            "core.excludesFile=" + str(tmp_path / "ignore"),
            "check-ignore",
            "-q",
        ]
        (tmp_path / "ignore").write_text(pattern + "\n")
        code = subprocess.run([*command, "--no-index", path], check=False).returncode
        assert (code == 0) is expected, (path, pattern)


def test_selection() -> None:
    assert selected("a.bin", (), ())
    assert not selected("a.bin", ("*.safetensors",), ())
    assert not selected("a.bin", ("*.bin",), ("a.*",))


def test_a_path_as_a_pattern_of_git_lfs() -> None:
    assert fetch_pattern("sub/model.bin") == "/sub/model.bin"
    assert fetch_pattern("odd, [name]*.bin") == "/odd? ?name??.bin"


@pytest.mark.parametrize(
    "repo",
    [
        "https://huggingface.co/lmsys/vicuna-7b-v1.5",
        "http://hub:8080/a/b.git",
        "ssh://git@example.org/a/b",
        "git@example.org:a/b",
        "file:///srv/git/a",
        "/srv/git/a",
    ],
)
def test_good_addresses(repo: str) -> None:
    assert check_repo(repo) is None


@pytest.mark.parametrize(
    ("repo", "cause"),
    [
        ("", "url"),
        ("--upload-pack=touch /tmp/x", "url"),
        ("ext::sh -c id", "url"),
        ("ftp://example.org/a", "url"),
        ("https:///a/b", "url"),
        ("https://example.org/a\nb", "url"),
        ("https://user:secret@example.org/a", "url_with_credentials"),
        ("https://hf_secret@example.org/a", "url_with_credentials"),
    ],
)
def test_bad_addresses(repo: str, cause: str) -> None:
    problem = check_repo(repo)
    assert problem is not None
    assert problem.cause == cause
    assert "secret" not in str(problem)


@pytest.mark.parametrize(
    ("mirror", "repo", "good"),
    [
        ("https://mirror.example", "https://huggingface.co/a/b", True),
        ("http://10.0.0.1:8080/hf/", "https://huggingface.co/a/b", True),
        ("mirror.example", "https://huggingface.co/a/b", False),
        ("ssh://mirror.example", "https://huggingface.co/a/b", False),
        ("https://me:secret@mirror.example", "https://huggingface.co/a/b", False),
        ("https://mirror.example/?a=b", "https://huggingface.co/a/b", False),
        ("https://mirror.example", "git@huggingface.co:a/b", False),
        ("https://mirror.example", "/srv/model", False),
    ],
)
def test_mirrors(mirror: str, repo: str, good: bool) -> None:
    problem = check_mirror(mirror, repo)
    assert (problem is None) is good
    assert "secret" not in str(problem)


@pytest.mark.parametrize(
    ("said", "good"),
    [
        ("git-lfs/3.6.1 (GitHub; linux amd64; go 1.23.3)", True),
        ("git-lfs/3.0.0 (GitHub; linux amd64; go 1.17.2)\n", True),
        ("git-lfs/2.13.2 (GitHub; linux amd64; go 1.15.9)", False),
        ("git-lfs/2.3.4 (GitHub; linux amd64; go 1.8.3)", False),
        ("something else", True),
    ],
)
def test_the_version_of_git_lfs(said: str, good: bool) -> None:
    problem = check_git_lfs_version(said)
    assert (problem is None) is good
    if problem:
        assert problem.cause == "git_lfs_old"
        assert said.split("/")[1].split(maxsplit=1)[0] in problem.found


def test_same_repository() -> None:
    one = "https://Example.org/org/name"
    assert same_repository(one, "https://example.org/org/name.git")
    assert same_repository(one, "https://example.org/org/name.git/")
    assert same_repository(one, "https://user:secret@example.org/org/name"), "an old clone may carry credentials"
    assert not same_repository(one, "https://example.org/org/Name")
    assert not same_repository(one, "http://example.org/org/name")
    assert redact_url("https://user:secret@example.org/x") == "https://***@example.org/x"


def test_a_blob_has_gits_own_name(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"hello\n")
    expected = subprocess.run(
        ["git", "hash-object", str(path)], check=True, capture_output=True, text=True
    ).stdout.strip()
    assert blob_id(path, 6) == expected
    assert blob_id(path, 6, 64) == hashlib.sha256(b"blob 6\0hello\n").hexdigest()


def test_the_environment() -> None:
    base = {
        "PATH": "/bin",
        "https_proxy": "http://proxy:3128",
        "GIT_SSL_CAINFO": "/ca.pem",
        "GIT_DIR": "/elsewhere",
        "GIT_TRACE_CURL": "1",
        "GIT_ASKPASS": "/bin/askpass",
        "GIT_CONFIG_COUNT": "1",
        "SSH_ASKPASS": "/bin/askpass",
    }
    env = environment(base, repo="https://h:1/a/b", token="s3cret", username="u", home="/tmp/h", timeout=60)
    assert (env["https_proxy"], env["GIT_SSL_CAINFO"], env["PATH"]) == ("http://proxy:3128", "/ca.pem", "/bin")
    assert not {"GIT_DIR", "GIT_TRACE_CURL", "GIT_ASKPASS", "SSH_ASKPASS"} & set(env)
    assert env["GIT_TERMINAL_PROMPT"] == "0"
    pairs = {env[f"GIT_CONFIG_KEY_{n}"]: env[f"GIT_CONFIG_VALUE_{n}"] for n in range(int(env["GIT_CONFIG_COUNT"]))}
    assert [key for key in pairs if key.endswith("helper")] == ["credential.helper", "credential.https://h:1.helper"]
    assert [key for key, value in env.items() if "s3cret" in value] == ["VICUNA_FLEET_GIT_TOKEN"]
    over_ssh = environment({}, repo="git@h:a/b", token="s3cret", username="u", home="/tmp/h", timeout=60)
    assert "s3cret" not in over_ssh.values()


def pairs(env: dict[str, str]) -> dict[str, str]:
    return {env[f"GIT_CONFIG_KEY_{n}"]: env[f"GIT_CONFIG_VALUE_{n}"] for n in range(int(env["GIT_CONFIG_COUNT"]))}


def test_a_mirror_in_the_environment() -> None:
    more = {"token": "s3cret", "username": "u", "home": "/tmp/h", "timeout": 60}
    env = environment({}, repo="https://h:1/a/b", mirror="http://mirror:8080/hf", storage="/model/.lfs", **more)
    found = pairs(env)
    assert found["url.http://mirror:8080/hf/.insteadOf"] == "https://h:1/"
    assert found["lfs.storage"] == "/model/.lfs"
    assert [key for key in found if key.endswith("helper")][1:] == [
        "credential.https://h:1.helper",
        "credential.http://mirror:8080.helper",
    ]
    assert [key for key, value in env.items() if "s3cret" in value] == ["VICUNA_FLEET_GIT_TOKEN"]
    assert "insteadOf" not in str(pairs(environment({}, repo="/srv/a", **more)))
    assert pairs(environment({}, repo="/srv/a.tar", stand_in="/tmp/x", **more))["url./tmp/x.insteadOf"] == "/srv/a.tar"
