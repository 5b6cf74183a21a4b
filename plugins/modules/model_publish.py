#!/usr/bin/python
# Copyright (c) 2026, The vicuna.fleet authors
# GNU General Public License v3.0+ (see COPYING or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later

from __future__ import annotations

DOCUMENTATION = r"""
---
module: model_publish
short_description: Put a model's files in place, and into a git-LFS repository
version_added: 0.1.0
author: The vicuna.fleet authors
description:
  - Takes the files of a model from a directory, compares each with the sha256 that it should have, and puts them into
    another directory (O(path)), a git-LFS repository (O(repo)), or both.
  - Large files are hard links where the file system has them, so that the disk holds the weights once. The others are
    copies.
  - The commit is made without a work tree. Its time is that of the newest file, so that the same files on the same
    branch give the same commit. Nothing is committed where the branch has these files already.
  - The branch is moved last, and never by force.
requirements:
  - git 2.31 or later (on the host)
  - git-lfs 3.0 or later (on the host), for O(repo) other than a directory
options:
  src:
    description: Directory of the files. Directories in it are left out.
    type: path
    required: true
  digests:
    description: Name of each file and its sha256. One that differs, or is missing, is refused. Empty compares nothing.
    type: dict
    default: {}
  path:
    description:
      - Directory to put them in, with modes V(0755) and V(0644). It appears whole. Other files in it stay.
      - Empty for none.
    type: path
    default: ""
  repo:
    description:
      - Address of a git-LFS repository, or an absolute path. A directory that is not there yet is made, as a bare
        repository.
      - An address with a user name or password in it is refused; use O(token). Empty for none.
    type: str
    default: ""
  branch:
    description: Branch of O(repo).
    type: str
    default: main
  message:
    description: The commit's message.
    type: str
    default: Publish a model
  work_dir:
    description: Directory for the repository that is pushed from. It should be on the file system of O(src).
    type: path
    default: ""
  token:
    description:
      - Token or password for O(repo), with the right to write.
      - It is given to git in the environment, and only for the host of O(repo).
    type: str
    default: ""
  username:
    description: User name that goes with O(token). Hugging Face takes any.
    type: str
    default: token
  ca_path:
    description: PEM file with certificates of authorities to trust for O(repo), those of the host included.
    type: path
    default: ""
  timeout:
    description: Seconds of silence after which a connection counts as dead.
    type: int
    default: 300
  variables:
    description: What to call settings in messages, as with O(vicuna.fleet.git_lfs#module:variables).
    type: dict
    default: {}
attributes:
  check_mode:
    support: full
    description: Looks at O(path), and asks O(repo) for its branch.
  diff_mode:
    support: none
    description: Files of gigabytes are not shown.
  idempotent:
    support: full
    description: The same files are put in place and committed once.
seealso:
  - module: vicuna.fleet.git_lfs
"""

EXAMPLES = r"""
- name: Publish a model
  vicuna.fleet.model_publish:
    src: /var/lib/vicuna/finetune/0123456789ab/result
    path: /model/vicuna-support@run-0123456789ab
    repo: https://git.example/models/vicuna-support
    token: "{{ vault_model_token }}"
  no_log: true
"""

RETURN = r"""
msg:
  description: What was done, in words.
  returned: always
  type: str
path:
  description: The directory of the files; empty where none was asked for.
  returned: success
  type: str
repo:
  description: Address of the repository.
  returned: success
  type: str
commit:
  description: Commit of O(branch) with these files. Empty without O(repo), and in check mode.
  returned: success
  type: str
  sample: 3321f76e3f527bd14065daf69dad9344000a201d
files:
  description: Names of the files.
  returned: success
  type: list
  elements: str
cause:
  description: The kind of failure in one word.
  returned: failure
  type: str
"""

import hashlib
import os
import shutil
import tempfile
import typing as t
from dataclasses import dataclass
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule

from ansible_collections.vicuna.fleet.plugins.module_utils._git_errors import (
    GitLfsError,
    Problem,
    classify_git_error,
)
from ansible_collections.vicuna.fleet.plugins.module_utils._git_process import Git, check_repo, environment
from ansible_collections.vicuna.fleet.plugins.module_utils._lfs_pointer import sha256_file

# Large in Hugging Face's sense: what git itself would make slow.
LFS_SUFFIXES = (".safetensors", ".bin", ".model")
LFS_BYTES = 5_000_000
WHO = ("vicuna.fleet", "vicuna.fleet@localhost.invalid")
ARGUMENT_SPEC: dict[str, dict[str, t.Any]] = {
    "src": {"type": "path", "required": True},
    "digests": {"type": "dict", "default": {}},
    "path": {"type": "path", "default": ""},
    "repo": {"type": "str", "default": ""},
    "branch": {"type": "str", "default": "main"},
    "message": {"type": "str", "default": "Publish a model"},
    "work_dir": {"type": "path", "default": ""},
    "token": {"type": "str", "default": "", "no_log": True},
    "username": {"type": "str", "default": "token"},
    "ca_path": {"type": "path", "default": ""},
    "timeout": {"type": "int", "default": 300},
    "variables": {"type": "dict", "default": {}},
}


@dataclass(frozen=True)
class File:
    """A file of the model."""

    path: Path
    size: int
    modified: float
    sha256: str

    @property
    def name(self) -> str:
        return self.path.name

    @property
    def large(self) -> bool:
        return self.path.suffix in LFS_SUFFIXES or self.size > LFS_BYTES

    @property
    def pointer(self) -> bytes:
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()


def read_files(src: Path, digests: t.Mapping[str, str]) -> list[File]:
    """The files of a directory, each read once and compared."""
    if not src.is_dir():
        raise GitLfsError(Problem("no_source", f"no directory {src}.", "a model's files.", "correct src."))
    found = []
    for path in sorted(src.iterdir()):
        if path.is_file() and not path.is_symlink():
            status = path.stat()
            found.append(File(path, status.st_size, status.st_mtime, sha256_file(path)))
    names = {file.name: file.sha256 for file in found}
    wrong = sorted(name for name, digest in digests.items() if names.get(name) != digest)
    if wrong or not found:
        what = f"{', '.join(wrong)} missing or with another content" if wrong else "no file"
        raise GitLfsError(
            Problem("damaged", f"{what} in {src}.", "what the training wrote.", "remove the result, and run again.")
        )
    return found


def link(source: Path, target: Path, large: bool = True) -> None:
    """A hard link, or a copy of what is small, and may be edited in one place; the target appears whole."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    os.close(handle)
    temporary = Path(name)
    temporary.unlink()
    try:
        try:
            if not large:
                raise OSError
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)
            shutil.copystat(source, temporary)
        temporary.chmod(0o644)
        temporary.replace(target)
        # Where both were the same file already, the rename does nothing and leaves its source.
        temporary.unlink(missing_ok=True)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def is_there(file: File, directory: Path) -> bool:
    """Whether a directory has the file, by name, size and time."""
    try:
        status = (directory / file.name).lstat()
    except OSError:
        return False
    return status.st_size == file.size and abs(status.st_mtime - file.modified) < 0.001


def place(files: t.Sequence[File], directory: Path, check_mode: bool) -> bool:
    """Put the files into a directory; returns whether anything was missing there."""
    missing = [file for file in files if not is_there(file, directory)]
    if not missing or check_mode:
        return bool(missing)
    if directory.is_dir():
        for file in missing:
            link(file.path, directory / file.name, file.large)
        return True
    part = directory.with_name(f".{directory.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    part.chmod(0o755)
    for file in files:
        link(file.path, part / file.name, file.large)
    part.rename(directory)
    return True


def attributes(files: t.Sequence[File]) -> bytes:
    """The .gitattributes that go with the files."""
    patterns = [f"*{suffix}" for suffix in LFS_SUFFIXES]
    patterns += [f"/{file.name}" for file in files if file.large and file.path.suffix not in LFS_SUFFIXES]
    return "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in patterns).encode()


def contents(files: t.Sequence[File]) -> list[tuple[str, bytes]]:
    """What git holds of the files, in its order: pointers in place of the large ones."""
    found = {".gitattributes": attributes(files)}
    found.update((file.name, file.pointer if file.large else file.path.read_bytes()) for file in files)
    return sorted(found.items(), key=lambda item: item[0].encode())


def tree_id(entries: t.Sequence[tuple[str, bytes]]) -> str:
    """The id that git gives to a tree of these files (https://git-scm.com/book/en/v2/Git-Internals-Git-Objects)."""

    def digest(kind: str, content: bytes) -> bytes:
        return hashlib.sha1(f"{kind} {len(content)}\0".encode() + content, usedforsecurity=False).digest()

    return digest(
        "tree", b"".join(f"100644 {name}\0".encode() + digest("blob", content) for name, content in entries)
    ).hex()


class Repository:
    """The repository that the files go to, and the bare one on this host that they come from."""

    def __init__(self, params: dict[str, t.Any], executable: str, home: Path) -> None:
        self.address: str = params["repo"]
        self.branch: str = params["branch"]
        self.remote = not self.address.startswith("/")
        work = Path(params["work_dir"] or params["src"] + ".git")
        self.path = work if self.remote else Path(self.address)
        problem = check_repo(self.address)
        if problem:
            raise GitLfsError(problem)
        self.path.mkdir(parents=True, exist_ok=True)
        env = environment(
            os.environ,
            repo=self.address,
            token=params["token"],
            username=params["username"],
            home=str(home),
            timeout=params["timeout"],
            ca_bundle=params["ca_path"],
            storage="lfs",
        )

        def explain(said: str) -> Problem:
            return classify_git_error(
                said,
                repo=self.address,
                revision=self.branch,
                dest=str(self.path),
                has_token=bool(params["token"]),
                timeout=params["timeout"],
            )

        self.git = Git(executable, self.path, env, explain, timeout=params["timeout"], secret=params["token"])

    def start(self) -> None:
        if any(self.path.iterdir()) and not (self.path / "HEAD").is_file():
            raise GitLfsError(
                Problem(
                    "foreign_directory",
                    f"{self.path} holds something else than a bare repository.",
                    "a bare git repository, or nothing.",
                    "choose another directory.",
                )
            )
        self.git("init", "--quiet", "--bare", "--template=", ".")
        if self.remote:
            self.git("config", "remote.origin.url", self.address)

    def head(self) -> str:
        """The commit that the branch shows now; empty for none."""
        ref = f"refs/heads/{self.branch}"
        if self.remote:
            listed = self.git("ls-remote", "origin", ref).decode("utf-8", "replace").split()
            if not listed:
                return ""
            self.git("fetch", "--quiet", "--no-tags", "--depth=1", "origin", listed[0])
            return listed[0]
        code, out, _said = self.git.run("rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}")
        return out.decode().strip() if code == 0 else ""

    def has(self, commit: str, entries: t.Sequence[tuple[str, bytes]]) -> bool:
        """Whether a commit holds these files and no others."""
        shown = self.git("rev-parse", f"{commit}^{{tree}}").decode().strip()
        return shown == tree_id(entries)

    def tree(self, entries: t.Sequence[tuple[str, bytes]]) -> str:
        lines = []
        for name, content in entries:
            blob = self.git("hash-object", "-w", "--stdin", stdin=content).decode().strip()
            lines.append(f"100644 blob {blob}\t{name}\0")
        return self.git("mktree", "-z", stdin="".join(lines).encode()).decode().strip()

    def commit(self, tree: str, parent: str, message: str, when: int) -> str:
        for role in ("AUTHOR", "COMMITTER"):
            keys = zip(("NAME", "EMAIL", "DATE"), (*WHO, f"@{when} +0000"))
            self.git.env.update({f"GIT_{role}_{key}": value for key, value in keys})
        parents = ["-p", parent] if parent else []
        return self.git("commit-tree", tree, *parents, "-F", "-", stdin=message.encode()).decode().strip()

    def store(self, files: t.Sequence[File]) -> None:
        """The large files as git-lfs keeps them."""
        for file in files:
            target = self.path / "lfs" / "objects" / file.sha256[:2] / file.sha256[2:4] / file.sha256
            target.parent.mkdir(parents=True, exist_ok=True)
            if not is_there(File(target, file.size, file.modified, file.sha256), target.parent):
                link(file.path, target)

    def publish(self, files: t.Sequence[File], message: str, check_mode: bool) -> tuple[str, bool]:
        """The commit with the files, and whether it is a new one; in check mode nothing, for a new one."""
        if self.remote or not check_mode:
            self.start()
        before, entries = self.head(), contents(files)
        if before and self.has(before, entries):
            return before, False
        if check_mode:
            return "", True
        commit = self.commit(self.tree(entries), before, message, int(max(file.modified for file in files)))
        large = [file for file in files if file.large]
        self.store(large)
        if self.remote:
            if large:
                self.git("lfs", "push", "--object-id", "origin", *sorted({file.sha256 for file in large}))
            self.git("push", "--quiet", "origin", f"{commit}:refs/heads/{self.branch}")
            # The objects are elsewhere now; here they would only keep the blocks from being freed later.
            shutil.rmtree(self.path / "lfs", ignore_errors=True)
        else:
            self.git("update-ref", f"refs/heads/{self.branch}", commit, before or "0" * 40)
        return commit, True


def run(params: dict[str, t.Any], executable: str, check_mode: bool) -> dict[str, t.Any]:
    files = read_files(Path(params["src"]), params["digests"])
    answer: dict[str, t.Any] = {
        "changed": False,
        "path": params["path"],
        "repo": params["repo"],
        "commit": "",
        "files": [file.name for file in files],
    }
    said = []
    if params["path"]:
        answer["changed"] = place(files, Path(params["path"]), check_mode)
        said.append(f"{len(files)} files in {params['path']}")
    if (
        params["repo"]
        and check_mode
        and params["repo"].startswith("/")
        and not (Path(params["repo"]) / "HEAD").is_file()
    ):
        answer["changed"] = True
    elif params["repo"]:
        with tempfile.TemporaryDirectory() as home:
            work = {**params, "work_dir": str(Path(home) / "look")} if check_mode else params
            commit, new = Repository(work, executable, Path(home)).publish(files, params["message"], check_mode)
        answer.update(commit=commit, changed=answer["changed"] or new)
        said.append(f"commit {commit[:12]} of {params['repo']}")
    answer["msg"] = ", ".join(said) or "nothing was asked for"
    return answer


def main() -> None:
    module = AnsibleModule(argument_spec=ARGUMENT_SPEC, supports_check_mode=True)
    os.umask(0o022)
    try:
        git = module.get_bin_path("git", required=True) if module.params["repo"] else ""
        result = run(module.params, git, module.check_mode)
    except GitLfsError as error:
        problem = error.problem.renamed(module.params["variables"])
        module.fail_json(msg=str(problem), cause=problem.cause, detail=error.detail)
    except OSError as error:
        module.fail_json(
            msg=f"Found: {error}. Expected: directories that can be written. Remedy: look at its owner, mode and free "
            "space.",
            cause="os",
        )
    module.exit_json(**result)


if __name__ == "__main__":
    main()
