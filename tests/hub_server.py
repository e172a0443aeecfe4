"""A Hub for tests: what `huggingface_hub` and Transformers ask of huggingface.co, answered on this machine.

Repositories of models, datasets and Spaces with commits, branches, tags, private ones and tokens; large files
through LFS, in one piece or many, on a storage host of its own that takes signed addresses and no token, as
the Hub's does. The forms of requests and answers are those that huggingface_hub 2.4 sends and reads. A client
is a process of its own, for the library reads its environment once: `HubServer.environment` gives it.
"""

from __future__ import annotations

import base64
import fnmatch
import json
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from tests.hub_http import Answer, Fault, Host, Logged, Request, Route, answer_by, json_answer, ranged_answer
from tests.hub_repository import HubError, Repository
from tests.hub_storage import LfsStorage

_API = r"/api/(?P<kind>model|dataset|space)s/(?P<id>[^/]+/[^/]+)"
_PAGE = r"/(?:(?P<kind>dataset|space)s/)?(?P<id>[^/]+/[^/]+?)"


@dataclass(frozen=True)
class User:
    """Whom a token stands for, and what it may do ("read" or "write")."""

    name: str
    role: str
    organisations: tuple[str, ...]

    def writes(self, owner: str) -> bool:
        """Whether this token may change what belongs to a user or an organisation."""
        return self.role == "write" and owner in (self.name, *self.organisations)


class HubServer:
    """Both hosts and all that they keep; ends with its `with` block.

    Attributes:
        url: of the Hub, for `HF_ENDPOINT`.
        repositories: by (type, "owner/name").
        faults: put a `Fault` here and it happens.
        storage: where large files lie.
        log: of all requests.
        unknown: requests that this Hub has no answer to; a test that ends with one here tests less than it
            says.
        page_size: entries of a listing that come at once.
        part_size: LFS files larger than this come in parts of this size.
    """

    def __init__(self, page_size: int = 1000, part_size: int = 5 * 1000**3) -> None:
        self.page_size = page_size
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.faults: list[Fault] = []
        self.log: list[Logged] = []
        self.unknown: list[str] = []
        self._users: dict[str, User] = {}
        routes = self._routes()
        self._hub = Host(lambda request: answer_by(routes, request, self.unknown), self.faults, self.log)
        self.storage = LfsStorage(self.repositories, part_size, self.faults, self.log)
        self.url = self._hub.url

    def __enter__(self) -> HubServer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._hub.close()
        self.storage.close()

    def add_user(self, name: str, *organisations: str, role: str = "write") -> str:
        """Make a user (or a further token of one) and return the token."""
        token = "hf_" + secrets.token_hex(17)
        self._users[token] = User(name, role, organisations)
        return token

    def environment(self, home: Path, token: str | None = None) -> dict[str, str]:
        """What a client's process needs: this Hub, a cache of its own, and no way to any other network."""
        nowhere = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"), "http://127.0.0.1:9")
        return {
            **nowhere,
            **{name.lower(): address for name, address in nowhere.items()},
            "NO_PROXY": "127.0.0.1",
            "no_proxy": "127.0.0.1",
            "HF_ENDPOINT": self.url,
            "HF_HOME": str(home),
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_TOKEN": token or "",
        }

    def repository(self, repo_id: str, repo_type: str = "model") -> Repository:
        """A repository by its name."""
        return self.repositories[repo_type, repo_id]

    def requests(self, method: str, path: str, status: int | None = None) -> list[Logged]:
        """Those of the log with this method, a match of `path`, and this status if one is given."""
        return [
            logged
            for logged in self.log
            if logged.method == method and re.search(path, logged.path) and status in (None, logged.status)
        ]

    def _routes(self) -> list[Route]:
        """Every request that this Hub understands."""
        return [
            Route("GET", "/api/whoami-v2", self._whoami),
            Route("POST", "/api/repos/create", self._create),
            Route("POST", "/api/validate-yaml", self._validate_yaml),
            Route("GET", _API + "(?:/revision/(?P<revision>[^/]+))?", self._info),
            Route("GET", _API + "/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", self._tree),
            Route("GET", _API + "/refs", self._refs),
            Route("POST", _API + "/preupload/(?P<revision>[^/]+)", self._preupload),
            Route("POST", _API + "/commit/(?P<revision>[^/]+)", self._commit),
            Route("POST", _API + "/tag/(?P<revision>[^/]+)", self._tag),
            Route("POST", _API + "/branch/(?P<name>[^/]+)", self._branch),
            Route("POST", _PAGE + r"\.git/info/lfs/objects/batch", self._lfs_batch),
            Route("POST", _PAGE + r"\.git/info/lfs/verify", self._lfs_verify),
            Route("GET HEAD", _PAGE + "/resolve/(?P<revision>[^/]+)/(?P<path>.+)", self._resolve),
        ]

    # What follows answers one route each. `names` are the named groups of its expression.

    def _user(self, request: Request) -> User | None:
        """Who asks, None without a token."""
        authorization = request.headers.get("authorization")
        if authorization is None:
            return None
        user = self._users.get(authorization.removeprefix("Bearer "))
        if user is None:
            raise HubError(401, "Invalid credentials in Authorization header")
        return user

    def _readable(self, request: Request, names: dict[str, str]) -> Repository:
        """The repository of a request, if its sender may know of it."""
        user = self._user(request)
        found = self.repositories.get((names["kind"] or "model", names["id"]))
        if found and (not found.private or (user and found.owner in (user.name, *user.organisations))):
            return found
        raise HubError(404 if user else 401, "Repository not found", "RepoNotFound")

    def _writable(self, request: Request, names: dict[str, str]) -> Repository:
        """The repository of a request, if its sender may change it."""
        repository, user = self._readable(request, names), self._user(request)
        if user is None:
            raise HubError(401, "Invalid username or password.")
        if not user.writes(repository.owner):
            raise HubError(403, "You don't have the rights to write to this repository")
        return repository

    def _whoami(self, request: Request, names: dict[str, str]) -> Answer:
        user = self._user(request)
        if user is None:
            raise HubError(401, "Invalid username or password.")
        organisations = [{"type": "org", "name": name} for name in user.organisations]
        auth = {"type": "access_token", "accessToken": {"displayName": "test", "role": user.role}}
        return json_answer({"type": "user", "name": user.name, "orgs": organisations, "auth": auth})

    def _create(self, request: Request, names: dict[str, str]) -> Answer:
        asked, user = request.json(), self._user(request)
        if user is None:
            raise HubError(401, "Invalid username or password.")
        owner, kind = asked.get("organization") or user.name, asked.get("type") or "model"
        if not user.writes(owner):
            raise HubError(403, f"You don't have the rights to create a {kind} under the namespace {owner!r}")
        if kind == "space" and not asked.get("sdk"):
            raise HubError(400, "A Space needs an sdk")
        repo_id = f"{owner}/{asked['name']}"
        known = self.repositories.get((kind, repo_id))
        if known is None:
            private = bool(asked.get("private")) or asked.get("visibility") == "private"
            known = Repository(kind, repo_id, private, asked.get("sdk"))
            self.repositories[kind, repo_id] = known
            return json_answer({"url": f"{self.url}/{known.url_path}", "name": repo_id})
        said = {"error": f"You already created this {kind} repo", "url": f"{self.url}/{known.url_path}"}
        return json_answer(said, 409)

    def _validate_yaml(self, request: Request, names: dict[str, str]) -> Answer:
        text = request.json()["content"]
        match = re.match(r"---\r?\n(.*?)\r?\n---(\r?\n|$)", text, re.DOTALL)
        if match is None:
            return json_answer({"errors": [], "warnings": [{"message": "empty or missing yaml metadata"}]})
        try:
            metadata = yaml.safe_load(match[1])
        except yaml.YAMLError as error:
            return json_answer({"errors": [{"message": str(error)}], "warnings": []}, 400)
        licence = metadata.get("license")
        wrong = [] if licence is None or isinstance(licence, str | list) else ['"license" must be a string']
        errors = [{"message": message} for message in wrong]
        return json_answer({"errors": errors, "warnings": []}, 400 if errors else 200)

    def _info(self, request: Request, names: dict[str, str]) -> Answer:
        return json_answer(self._readable(request, names).info(names["revision"] or "main"))

    def _tree(self, request: Request, names: dict[str, str]) -> Answer:
        recursive = request.query.get("recursive", "").lower() in ("true", "1")
        repository = self._readable(request, names)
        entries = repository.entries(names["revision"], names["path"], recursive)
        start = int(request.query.get("cursor", 0))
        page, rest = entries[start : start + self.page_size], entries[start + self.page_size :]
        if not rest:
            return json_answer(page)
        following = f"{self.url}{request.path}?recursive={recursive}&cursor={start + self.page_size}"
        return json_answer(page, Link=f'<{following}>; rel="next"')

    def _refs(self, request: Request, names: dict[str, str]) -> Answer:
        repository = self._readable(request, names)
        said: dict[str, Any] = {"converts": [], "pullRequests": []}
        for key, folder, refs in (
            ("branches", "heads", repository.branches),
            ("tags", "tags", repository.tags),
        ):
            said[key] = [
                {"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": oid}
                for name, oid in refs.items()
            ]
        return json_answer(said)

    def _preupload(self, request: Request, names: dict[str, str]) -> Answer:
        repository, asked = self._writable(request, names), request.json()
        commit = repository.commit_of(names["revision"])
        ignored = [line for line in asked.get("gitIgnore", "").splitlines() if line and line[0] != "#"]
        plans = []
        for file in asked["files"]:
            path, sample = file["path"], base64.b64decode(file["sample"])
            plan = {"path": path, "uploadMode": repository.upload_mode(commit, path, file["size"], sample)}
            plan["shouldIgnore"] = any(fnmatch.fnmatch(path, pattern) for pattern in ignored)
            if path in commit.files:
                plan["oid"] = commit.files[path].key
            plans.append(plan)
        return json_answer({"files": plans})

    def _commit(self, request: Request, names: dict[str, str]) -> Answer:
        repository = self._writable(request, names)
        lines = [json.loads(line) for line in request.body.splitlines()]
        commit = repository.commit(names["revision"], lines)
        url = f"{self.url}/{repository.url_path}/commit/{commit.oid}"
        return json_answer({"success": True, "commitOid": commit.oid, "commitUrl": url, "hookOutput": ""})

    def _tag(self, request: Request, names: dict[str, str]) -> Answer:
        repository = self._writable(request, names)
        repository.name_commit(repository.tags, request.json()["tag"], names["revision"])
        return json_answer({})

    def _branch(self, request: Request, names: dict[str, str]) -> Answer:
        repository = self._writable(request, names)
        start = request.json().get("startingPoint", "main")
        repository.name_commit(repository.branches, names["name"], start)
        return json_answer({})

    def _lfs_batch(self, request: Request, names: dict[str, str]) -> Answer:
        repository = self._writable(request, names)
        objects = []
        for wanted in request.json()["objects"]:
            oid, size = wanted["oid"], wanted["size"]
            said: dict[str, Any] = {"oid": oid, "size": size}
            if oid not in repository.contents:
                said["actions"] = {
                    "upload": self.storage.upload_action(repository, oid, size),
                    "verify": {"href": f"{self.url}/{repository.url_path}.git/info/lfs/verify"},
                }
            objects.append(said)
        return json_answer({"transfer": "basic", "objects": objects})

    def _lfs_verify(self, request: Request, names: dict[str, str]) -> Answer:
        repository, said = self._writable(request, names), request.json()
        if len(repository.contents.get(said["oid"], b"")) != said["size"]:
            raise HubError(404, "Object not found")
        return json_answer({})

    def _resolve(self, request: Request, names: dict[str, str]) -> Answer:
        repository = self._readable(request, names)
        commit = repository.commit_of(names["revision"])
        headers = {"X-Repo-Commit": commit.oid}
        file = commit.files.get(names["path"])
        if file is None:
            code = {"X_Error_Code": "EntryNotFound", "X_Error_Message": "Entry not found"}
            return json_answer({"error": "Entry not found"}, 404, X_Repo_Commit=commit.oid, **code)
        if file.lfs_oid is None:
            headers["ETag"] = f'"{file.key}"'
            return ranged_answer(repository.contents[file.key], request.headers.get("range"), headers)
        address = self.storage.address(repository, file.lfs_oid)
        linked = {"X-Linked-Size": str(file.size), "X-Linked-Etag": f'"{file.lfs_oid}"'}
        return Answer(302, b"", {**headers, **linked, "Location": address})
