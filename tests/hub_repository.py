"""What the tests' Hub keeps: repositories of commits that never change, and contents by their hashes.

A commit is a whole listing of files, so an old revision is there for good; branches and tags are names of
commits. Nothing here knows HTTP: that is `hub_server`.
"""

from __future__ import annotations

import base64
import fnmatch
import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from tests.hub_http import HubError

GIT_ATTRIBUTES = b"".join(
    b"*.%s filter=lfs diff=lfs merge=lfs -text\n" % kind
    for kind in (b"bin", b"npz", b"onnx", b"parquet", b"pt", b"safetensors", b"tar", b"zip")
)
# The Hub takes larger files through LFS only.
LARGEST_REGULAR_FILE = 10 * 1024 * 1024


@dataclass(frozen=True)
class StoredFile:
    """A file of a commit.

    Args:
        size: of the content, in bytes.
        blob_id: SHA-1 as git computes it, of the content or of the LFS pointer.
        lfs_oid: SHA-256 of the content of an LFS file, None for a regular one.
    """

    size: int
    blob_id: str
    lfs_oid: str | None = None

    @property
    def key(self) -> str:
        """Where the content lies, and the ETag that a download shows."""
        return self.lfs_oid or self.blob_id


@dataclass(frozen=True)
class Commit:
    """A revision: every file by its path, and what it came after."""

    oid: str
    parent: str | None
    title: str
    date: str
    files: Mapping[str, StoredFile]


def git_hash(content: bytes) -> str:
    """SHA-1 of a content as git names it."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def lfs_file(oid: str, size: int) -> StoredFile:
    """A file that its commit knows by an LFS pointer."""
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{oid}\nsize {size}\n"
    return StoredFile(size, git_hash(pointer.encode()), oid)


@dataclass
class Repository:
    """A repository of one owner: commits, the names of some, and contents by hash."""

    repo_type: str
    repo_id: str
    private: bool
    sdk: str | None = None
    contents: dict[str, bytes] = field(default_factory=dict)
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """As on the Hub, a new repository has a first commit with the rules of what goes through LFS."""
        attributes = {".gitattributes": self.keep(GIT_ATTRIBUTES)}
        self.branches["main"] = self._add("initial commit", None, attributes).oid

    @property
    def owner(self) -> str:
        """The user or organisation."""
        return self.repo_id.split("/")[0]

    @property
    def url_path(self) -> str:
        """The path of the repository's page, which other paths begin with."""
        return self.repo_id if self.repo_type == "model" else f"{self.repo_type}s/{self.repo_id}"

    def keep(self, content: bytes) -> StoredFile:
        """Store a regular file's content."""
        file = StoredFile(len(content), git_hash(content))
        self.contents[file.key] = content
        return file

    def commit_of(self, revision: str) -> Commit:
        """The commit that a branch, a tag or a commit's own name means."""
        oid = self.branches.get(revision) or self.tags.get(revision) or revision
        if oid not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[oid]

    def log(self, revision: str = "main") -> list[Commit]:
        """A revision and all before it, the newest first."""
        commits = [self.commit_of(revision)]
        while (parent := commits[-1].parent) is not None:
            commits.append(self.commits[parent])
        return commits

    def commit(self, branch: str, lines: Iterable[Mapping[str, Any]]) -> Commit:
        """Move a branch by the lines of a commit request, or refuse the request whole."""
        if branch not in self.branches:
            raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
        head = self.commit_of(branch)
        files, (header, *operations) = dict(head.files), [(line["key"], line["value"]) for line in lines]
        if header[1].get("parentCommit", head.oid) != head.oid:
            raise HubError(412, "A commit has happened since. Please refresh and try again.")
        for key, value in operations:
            self._apply(files, key, value)
        folders = {path[:end] for path in files for end, letter in enumerate(path) if letter == "/"}
        if folders & set(files):
            raise HubError(400, f"Both files and folders: {sorted(folders & set(files))}")
        commit = self._add(header[1]["summary"], head.oid, files)
        self.branches[branch] = commit.oid
        return commit

    def _apply(self, files: dict[str, StoredFile], key: str, value: Mapping[str, Any]) -> None:
        """Do one operation of a commit request to the files of a commit that is being made."""
        path = value["path"]
        if key == "file":
            files[path] = self.keep(base64.b64decode(value["content"]))
        elif key == "lfsFile":
            if value["oid"] not in self.contents:
                raise HubError(400, f"LFS object {value['oid']} of {path} was not uploaded")
            files[path] = lfs_file(value["oid"], len(self.contents[value["oid"]]))
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise HubError(404, "A file with this name doesn't exist", "EntryNotFound")
        elif key == "deletedFolder":
            for inside in [name for name in files if name.startswith(path.rstrip("/") + "/")]:
                del files[inside]
        else:
            raise HubError(400, f"Unknown operation {key}")

    def name_commit(self, names: dict[str, str], name: str, revision: str) -> None:
        """Make a branch or a tag (`names` is either) at a revision."""
        if name in names:
            raise HubError(409, f"Reference {name} already exists")
        if name.startswith("refs/"):
            raise HubError(400, f"Invalid reference {name}")
        names[name] = self.commit_of(revision).oid

    def upload_mode(self, commit: Commit, path: str, size: int, sample: bytes) -> str:
        """How a file has to come, "lfs" or "regular": by the repository's rules, size, and first bytes."""
        attributes = commit.files.get(".gitattributes")
        rules = self.contents[attributes.key].decode().splitlines() if attributes else []
        patterns = [rule.split()[0] for rule in rules if "filter=lfs" in rule]
        name = path.rsplit("/", 1)[-1]
        by_rule = any(fnmatch.fnmatch(name, pattern) for pattern in patterns)
        return "lfs" if by_rule or size > LARGEST_REGULAR_FILE or b"\0" in sample else "regular"

    def entries(self, revision: str, folder: str = "", recursive: bool = False) -> list[dict[str, Any]]:
        """Files and folders below a folder, by path, in the Hub's form."""
        start = folder.rstrip("/") + "/" if folder else ""
        found: dict[str, dict[str, Any]] = {}
        for path, file in self.commit_of(revision).files.items():
            if not path.startswith(start):
                continue
            inside = path[len(start) :].split("/")
            for depth in range(1, len(inside)):
                if depth == 1 or recursive:
                    name = start + "/".join(inside[:depth])
                    oid = hashlib.sha1(name.encode()).hexdigest()
                    found[name] = {"type": "directory", "oid": oid, "size": 0, "path": name}
            if len(inside) == 1 or recursive:
                found[path] = {"type": "file", "oid": file.blob_id, "size": file.size, "path": path}
                if file.lfs_oid:
                    found[path]["lfs"] = {"oid": file.lfs_oid, "size": file.size, "pointerSize": 134}
        if folder and not found:
            raise HubError(404, f"{folder} does not exist on {revision}", "EntryNotFound")
        return [found[path] for path in sorted(found)]

    def info(self, revision: str = "main") -> dict[str, Any]:
        """The repository at a revision, in the Hub's form."""
        commit = self.commit_of(revision)
        return {
            "_id": hashlib.sha1(self.repo_id.encode()).hexdigest()[:24],
            "id": self.repo_id,
            "modelId": self.repo_id,
            "author": self.owner,
            "sha": commit.oid,
            "createdAt": self.log(revision)[-1].date,
            "lastModified": commit.date,
            "private": self.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": [],
            "siblings": [{"rfilename": path} for path in sorted(commit.files)],
            **({"sdk": self.sdk} if self.sdk else {}),
        }

    def _add(self, title: str, parent: str | None, files: Mapping[str, StoredFile]) -> Commit:
        """Write a commit, whose name is a hash of all that it says."""
        date = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        keys = {path: file.key for path, file in files.items()}
        said = json.dumps([parent, title, date, sorted(keys.items())])
        commit = Commit(hashlib.sha1(said.encode()).hexdigest(), parent, title, date, dict(files))
        self.commits[commit.oid] = commit
        return commit
