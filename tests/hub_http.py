"""The HTTP under the tests' Hub: requests and answers as plain values, ranges, and faults on demand.

A host reads a request to its end, hands it to a function, and writes the answer; a `Fault` makes it break
off, refuse, or lose an answer instead, as networks and servers do.
"""

from __future__ import annotations

import json
import math
import re
import socket
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit


@dataclass(frozen=True)
class Request:
    """What came in; `path` is still quoted, `query` is not."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Answer:
    """What goes out. A `HEAD` request gets all but the body."""

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Fault:
    """What goes wrong with the next `times` requests of a method whose path has a match of `path`.

    Args:
        method: of the requests.
        path: a regular expression.
        times: how many requests fail.
        status: answer with this instead of doing anything, with `headers` and `body`.
        cut_after: cut the connection after so many bytes of an upload's body, or of an answer to a GET; after
            all of a shorter one.
        answer_lost: do what was asked for, then cut the connection without an answer.
        meanwhile: called before the request is answered: what somebody else does at that moment.
    """

    method: str
    path: str
    times: int = 1
    status: int | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b"{}"
    cut_after: int | None = None
    answer_lost: bool = False
    meanwhile: Callable[[], object] | None = None


@dataclass(frozen=True)
class Logged:
    """A request that came, what became of it (0 = cut off), and whether it carried a token."""

    method: str
    path: str
    status: int
    range: str | None
    with_token: bool


class HubError(Exception):
    """What a request is refused with: the HTTP status, the Hub's `X-Error-Code`, and a sentence."""

    def __init__(self, status: int, message: str, code: str | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code


@dataclass(frozen=True)
class Route:
    """Which requests a function answers.

    Args:
        methods: separated by spaces.
        path: a regular expression for the whole path.
        take: gets the request and the expression's named groups, unquoted, "" for those that are not there.
    """

    methods: str
    path: str
    take: Callable[[Request, dict[str, str]], Answer]


def answer_by(routes: Sequence[Route], request: Request, unknown: list[str]) -> Answer:
    """Answer a request by its route; a `HubError` becomes the Hub's form of an error.

    A request without a route is added to `unknown`.
    """
    for route in routes:
        match = re.fullmatch(route.path, request.path)
        if match is None or request.method not in route.methods.split():
            continue
        try:
            return route.take(
                request, {name: unquote(text or "") for name, text in match.groupdict().items()}
            )
        except HubError as error:
            code = {"X_Error_Code": error.code} if error.code else {}
            return json_answer({"error": str(error)}, error.status, X_Error_Message=str(error), **code)
    unknown.append(f"{request.method} {request.path}")
    return json_answer({"error": "Not found"}, 404)


def json_answer(value: Any, status: int = 200, **headers: str) -> Answer:
    """An answer in JSON; `X_Error_Code="…"` gives the header `X-Error-Code`."""
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    return Answer(status, json.dumps(value).encode(), {"Content-Type": "application/json", **named})


def ranged_answer(content: bytes, asked: str | None, headers: Mapping[str, str]) -> Answer:
    """A file, or the part of it that a `Range` header asks for."""
    headers = {"Content-Type": "application/octet-stream", "Accept-Ranges": "bytes", **headers}
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", asked or "")
    if match is None:
        return Answer(200, content, headers)
    start, last = int(match[1]), min(int(match[2] or len(content)), len(content) - 1)
    if start >= len(content):
        return Answer(416, b"", {**headers, "Content-Range": f"bytes */{len(content)}"})
    extent = {"Content-Range": f"bytes {start}-{last}/{len(content)}"}
    return Answer(206, content[start : last + 1], {**headers, **extent})


class Host:
    """A web server on a free port of this machine, in a thread per connection.

    Args:
        answer: gives the answer to a request; called by one thread at a time.
        faults: looked through at every request, and used up.
        log: every request is added to it.
    """

    def __init__(self, answer: Callable[[Request], Answer], faults: list[Fault], log: list[Logged]) -> None:
        self._answer, self._faults, self._log = answer, faults, log
        self._lock = threading.Lock()
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: Any) -> None:
                pass

            def _serve(self) -> None:
                host._serve(self)

            do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _serve

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop; the port is free again."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        """Read one request, answer it, or let it go wrong."""
        fault = self._fault_for(handler.command, handler.path)
        uploads = handler.command in ("PUT", "POST")
        if fault and fault.cut_after is not None and uploads:
            _body(handler, fault.cut_after)
            return self._cut(handler)
        parts = urlsplit(handler.path)
        query = dict(parse_qsl(parts.query))
        headers = {name.lower(): text for name, text in handler.headers.items()}
        request = Request(handler.command, parts.path, query, headers, _body(handler))
        if fault and fault.meanwhile:
            fault.meanwhile()
        if fault and fault.status is not None:
            answer = Answer(fault.status, fault.body, {"Content-Type": "application/json", **fault.headers})
        else:
            with self._lock:
                answer = self._answer(request)
        if fault and fault.answer_lost:
            return self._cut(handler)
        cut_after = fault.cut_after if fault else None
        if cut_after is None:
            self._note(handler, answer.status)
        handler.send_response(answer.status)
        for name, text in {**answer.headers, "Content-Length": str(len(answer.body))}.items():
            handler.send_header(name, text)
        handler.end_headers()
        if handler.command == "HEAD":
            return None
        handler.wfile.write(answer.body[:cut_after])
        return None if cut_after is None else self._cut(handler)

    def _fault_for(self, method: str, path: str) -> Fault | None:
        """The first fault that is left for a request, one use taken off it."""
        with self._lock:
            for fault in self._faults:
                if fault.times > 0 and fault.method == method and re.search(fault.path, path):
                    fault.times -= 1
                    return fault
        return None

    def _cut(self, handler: BaseHTTPRequestHandler) -> None:
        """End a connection as a broken line does."""
        self._note(handler, 0)
        handler.close_connection = True
        handler.connection.shutdown(socket.SHUT_RDWR)

    def _note(self, handler: BaseHTTPRequestHandler, status: int) -> None:
        with_token = "Authorization" in handler.headers
        path = urlsplit(handler.path).path
        self._log.append(Logged(handler.command, path, status, handler.headers.get("Range"), with_token))


def _body(handler: BaseHTTPRequestHandler, limit: float = math.inf) -> bytes:
    """The body of a request, sent with its length or in chunks, or at least the first `limit` bytes of it."""
    if handler.headers.get("Transfer-Encoding", "").lower() != "chunked":
        return handler.rfile.read(int(min(limit, int(handler.headers.get("Content-Length", 0)))))
    content = bytearray()
    while len(content) < limit and (size := int(handler.rfile.readline().split(b";")[0], 16)):
        content += handler.rfile.read(size)
        handler.rfile.readline()
    if len(content) < limit:
        handler.rfile.readline()
    return bytes(content)
