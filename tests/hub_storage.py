"""Where the tests' Hub keeps large files: a host of its own, whose addresses are signed and need no token.

As behind the Hub, a request that brings a token here is refused: tokens are for the Hub alone.
"""

from __future__ import annotations

import hashlib
import hmac
import math
import secrets
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote, unquote

from tests.hub_http import Answer, Fault, Host, HubError, Logged, Request, Route, answer_by, ranged_answer
from tests.hub_repository import Repository

_PLACE = "/(?P<kind>model|dataset|space)/(?P<id>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})"


class LfsStorage:
    """The host of LFS files.

    Args:
        repositories: by (type, "owner/name"); files go into their contents.
        part_size: larger files come in parts of this size.
        faults: as those of the Hub.
        log: as that of the Hub.
    """

    def __init__(
        self,
        repositories: Mapping[tuple[str, str], Repository],
        part_size: int,
        faults: list[Fault],
        log: list[Logged],
    ) -> None:
        self._repositories, self._part_size = repositories, part_size
        self._parts: dict[str, dict[int, bytes]] = {}
        self._secret = secrets.token_bytes(16)
        routes = [
            Route("PUT", "/objects" + _PLACE, self._put_object),
            Route("GET", "/objects" + _PLACE, self._get_object),
            Route("PUT", "/parts" + _PLACE + "/(?P<number>[0-9]+)", self._put_part),
            Route("POST", "/joined" + _PLACE, self._join_parts),
        ]
        self._host = Host(lambda request: answer_by(routes, request, []), faults, log)

    def close(self) -> None:
        """Stop."""
        self._host.close()

    def address(self, repository: Repository, oid: str, kind: str = "objects", end: str = "") -> str:
        """The signed address of a file, or of what `kind` and `end` say."""
        path = f"/{kind}/{repository.repo_type}/{repository.repo_id}/{oid}{end}"
        return f"{self._host.url}{quote(path)}?signature={self._signature(path)}"

    def upload_action(self, repository: Repository, oid: str, size: int) -> dict[str, Any]:
        """Where the bytes of an LFS file go: one address, or one for each part and one to join them."""
        if size <= self._part_size:
            return {"href": self.address(repository, oid)}
        count = math.ceil(size / self._part_size)
        parts = {str(n): self.address(repository, oid, "parts", f"/{n}") for n in range(1, count + 1)}
        header = {"chunk_size": str(self._part_size), **parts}
        return {"href": self.address(repository, oid, "joined"), "header": header}

    def _signature(self, path: str) -> str:
        return hmac.new(self._secret, path.encode(), hashlib.sha256).hexdigest()

    def _repository(self, request: Request, names: dict[str, str]) -> Repository:
        """The repository of a request, whose address must be signed."""
        if "authorization" in request.headers:
            raise HubError(400, "Only one auth mechanism allowed")
        if request.query.get("signature") != self._signature(unquote(request.path)):
            raise HubError(403, "The request has no valid signature")
        return self._repositories[names["kind"], names["id"]]

    def _put_object(self, request: Request, names: dict[str, str]) -> Answer:
        return _keep(self._repository(request, names), names["oid"], request.body)

    def _get_object(self, request: Request, names: dict[str, str]) -> Answer:
        content = self._repository(request, names).contents[names["oid"]]
        return ranged_answer(content, request.headers.get("range"), {"ETag": f'"{names["oid"][:32]}"'})

    def _put_part(self, request: Request, names: dict[str, str]) -> Answer:
        self._repository(request, names)
        self._parts.setdefault(names["oid"], {})[int(names["number"])] = request.body
        return Answer(200, b"", {"ETag": _part_tag(request.body)})

    def _join_parts(self, request: Request, names: dict[str, str]) -> Answer:
        repository, parts = self._repository(request, names), self._parts.pop(names["oid"])
        listed = [(part["partNumber"], part["etag"]) for part in request.json()["parts"]]
        if listed != [(number, _part_tag(parts[number])) for number in sorted(parts)]:
            raise HubError(400, "The parts are not those that came")
        return _keep(repository, names["oid"], b"".join(parts[number] for number in sorted(parts)))


def _part_tag(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def _keep(repository: Repository, oid: str, content: bytes) -> Answer:
    """Store a whole file, if it is what was announced."""
    if hashlib.sha256(content).hexdigest() != oid:
        raise HubError(400, "The content does not have the SHA-256 that it was announced with")
    repository.contents[oid] = content
    return Answer(200, b"", {"ETag": f'"{oid[:32]}"'})
