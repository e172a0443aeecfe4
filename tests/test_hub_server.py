"""The tests' own Hub does what the Hub does, also where the pushes of other tests do not look."""

import hashlib
import http.client
import json
import random
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.hub_http import Fault, HubError, ranged_answer
from tests.hub_repository import Repository, git_hash, lfs_file
from tests.hub_server import HubServer
from tests.programs import run_program

# More than the client reads at once (10 MiB), so that it can have kept a part of it.
SIZE = 12_000_000
WEIGHTS = random.Random(0).randbytes(SIZE)
OID = hashlib.sha256(WEIGHTS).hexdigest()
DOWNLOAD = """
import pathlib, sys, time
time.sleep = lambda seconds: None
from huggingface_hub import HfApi, hf_hub_download
print(hf_hub_download("ada/reader", "model.safetensors"))
print(HfApi().whoami()["name"])
print([file.path for file in HfApi().list_repo_tree("ada/reader")])
print([file.path for file in HfApi().list_repo_tree("ada/reader", "docs")])
"""


@pytest.fixture
def repository() -> Repository:
    """One with a large file, and a commit after it."""
    repository = Repository("model", "ada/reader", private=False)
    repository.contents[OID] = WEIGHTS
    large = {"key": "lfsFile", "value": {"path": "model.safetensors", "oid": OID}}
    text = {"key": "file", "value": {"path": "docs/more/a.txt", "content": "aGVsbG8K"}}
    repository.commit("main", [header("Weights"), large, text])
    return repository


@pytest.fixture
def hub(repository: Repository) -> Iterator[HubServer]:
    """A Hub with that repository."""
    with HubServer() as hub:
        hub.repositories["model", "ada/reader"] = repository
        yield hub


def header(title: str, **more: str) -> dict[str, Any]:
    """The first line of a commit request."""
    return {"key": "header", "value": {"summary": title, **more}}


def ask(
    url: str, method: str = "GET", token: str = "", body: bytes | None = None, **headers: str
) -> tuple[int, Mapping[str, str], bytes]:
    """Status, headers and body of one request; redirections are not followed."""

    class NoRedirection(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_: Any) -> None:
            return None

    request = urllib.request.Request(url, body, headers, method=method)
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), NoRedirection)
    try:
        with opener.open(request, timeout=30) as answer:
            return answer.status, dict(answer.headers), answer.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, dict(error.headers), error.read()


def test_contents_are_named_as_git_names_them() -> None:
    assert git_hash(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n" % (OID.encode(), SIZE)
    assert lfs_file(OID, SIZE).blob_id == git_hash(pointer)


def test_a_refused_commit_changes_nothing(repository: Repository) -> None:
    before = dict(repository.branches), dict(repository.commits)
    new = {"key": "file", "value": {"path": "new.txt", "content": "aGVsbG8K"}}
    missing = {"key": "lfsFile", "value": {"path": "b.safetensors", "oid": "0" * 64}}
    lost = {"key": "deletedFile", "value": {"path": "lost.txt"}}
    inside = {"key": "file", "value": {"path": "docs", "content": ""}}
    first = repository.log()[-1].oid
    for lines, status in (
        ([header("A"), new, missing], 400),
        ([header("B"), new, lost], 404),
        ([header("C", parentCommit=first), new], 412),
        ([header("D"), new, inside], 400),
    ):
        with pytest.raises(HubError) as raised:
            repository.commit("main", lines)
        assert raised.value.status == status
    with pytest.raises(HubError, match="Invalid rev id"):
        repository.commit("elsewhere", [header("E"), new])
    assert (repository.branches, repository.commits) == before


def test_ranges() -> None:
    content = bytes(range(100))
    for asked, status, expected, extent in (
        (None, 200, content, None),
        ("bytes=10-19", 206, content[10:20], "bytes 10-19/100"),
        ("bytes=90-", 206, content[90:], "bytes 90-99/100"),
        ("bytes=90-500", 206, content[90:], "bytes 90-99/100"),
        ("bytes=100-", 416, b"", "bytes */100"),
    ):
        answer = ranged_answer(content, asked, {})
        assert (answer.status, answer.body) == (status, expected)
        assert answer.headers.get("Content-Range") == extent


def test_a_large_file_is_asked_for_at_the_hub_and_fetched_from_its_storage(hub: HubServer) -> None:
    page = f"{hub.url}/ada/reader/resolve/main"
    status, headers, body = ask(f"{page}/model.safetensors", "HEAD")
    assert (status, body) == (302, b"")
    assert headers["X-Linked-Size"] == str(SIZE)
    assert headers["X-Linked-Etag"] == f'"{OID}"'
    assert headers["X-Repo-Commit"] == hub.repository("ada/reader").branches["main"]
    address = headers["Location"]
    assert not address.startswith(hub.url)
    assert ask(address)[2] == WEIGHTS
    assert ask(address, Range="bytes=11999990-")[2] == WEIGHTS[-10:]
    assert ask(address.replace("signature=", "signature=0"))[0] == 403
    assert ask(address, token=hub.add_user("ada"))[0] == 400, "a token has no business here"
    status, headers, body = ask(f"{page}/docs%2Fmore%2Fa.txt")
    assert (status, body) == (200, b"hello\n")
    assert headers["ETag"] == f'"{git_hash(body)}"'
    status, headers, _ = ask(f"{page}/lost.txt")
    assert (status, headers["X-Error-Code"]) == (404, "EntryNotFound")
    status, headers, _ = ask(f"{hub.url}/ada/reader/resolve/v9/model.safetensors")
    assert (status, headers["X-Error-Code"]) == (404, "RevisionNotFound")


def test_only_what_was_announced_is_stored(hub: HubServer) -> None:
    token = hub.add_user("ada")
    other = hashlib.sha256(b"other").hexdigest()
    wanted = {"objects": [{"oid": other, "size": 5}, {"oid": OID, "size": SIZE}]}
    batch = f"{hub.url}/ada/reader.git/info/lfs/objects/batch"
    _, _, body = ask(batch, "POST", token, json.dumps(wanted).encode())
    new, known = json.loads(body)["objects"]
    assert "actions" not in known
    address, verify = (new["actions"][name]["href"] for name in ("upload", "verify"))
    said = json.dumps(wanted["objects"][0]).encode()
    assert ask(address, "PUT", body=b"wrong")[0] == 400
    assert ask(verify, "POST", token, said)[0] == 404
    assert ask(address, "PUT", body=b"other")[0] == 200
    assert ask(verify, "POST", token, said)[0] == 200
    assert ask(batch, "POST", body=json.dumps(wanted).encode())[0] == 401
    reads = hub.add_user("ada", role="read")
    assert ask(batch, "POST", reads, json.dumps(wanted).encode())[0] == 403


def put_in_chunks(url: str, pieces: list[bytes]) -> int:
    """The status of one chunked upload."""
    address = urlsplit(url)
    with closing(http.client.HTTPConnection(address.netloc, timeout=30)) as connection:
        connection.request("PUT", f"{address.path}?{address.query}", iter(pieces), encode_chunked=True)
        return connection.getresponse().status


def test_bodies_may_come_in_chunks(hub: HubServer) -> None:
    repository, pieces = hub.repository("ada/reader"), [b"in ", b"three ", b"pieces"]
    oid = hashlib.sha256(b"".join(pieces)).hexdigest()
    url = hub.storage.address(repository, oid)
    hub.faults.append(Fault("PUT", oid, cut_after=5))
    # Noticed while sending or while waiting for the answer, whichever comes first.
    with pytest.raises(ConnectionError):
        put_in_chunks(url, pieces)
    assert oid not in repository.contents
    assert put_in_chunks(url, pieces) == 200
    assert repository.contents[oid] == b"in three pieces"


def test_who_may_not_read_does_not_learn_that_a_repository_exists(
    hub: HubServer, repository: Repository
) -> None:
    repository.private = True
    ada, eve = hub.add_user("ada", role="read"), hub.add_user("eve")
    for name in ("reader", "nothing"):
        for token, expected in (("", 401), (eve, 404), ("hf_wrong", 401)):
            status, headers, _ = ask(f"{hub.url}/api/models/ada/{name}", token=token)
            assert status == expected
            if token != "hf_wrong":
                assert headers["X-Error-Code"] == "RepoNotFound"
    assert ask(f"{hub.url}/api/models/ada/reader", token=ada)[0] == 200


def test_what_is_not_known_is_noted(hub: HubServer) -> None:
    assert ask(f"{hub.url}/api/papers/2411.11219")[0] == 404
    assert hub.unknown == ["GET /api/papers/2411.11219"]


def test_a_download_that_is_cut_off_goes_on_where_it_ended(hub: HubServer, tmp_path: Path) -> None:
    hub.faults.append(Fault("GET", "^/objects/", cut_after=11_000_000))
    token = hub.add_user("ada")
    run = run_program([sys.executable, "-c", DOWNLOAD], env=hub.environment(tmp_path, token))
    assert run.returncode == 0, run.stderr
    path, name, *listings = run.stdout.splitlines()
    assert Path(path).read_bytes() == WEIGHTS
    assert name == "ada"
    assert listings == ["['.gitattributes', 'docs', 'model.safetensors']", "['docs/more']"]
    cut, rest = hub.requests("GET", "^/objects/")
    assert (cut.status, cut.range) == (0, None)
    assert (rest.status, rest.range) == (206, "bytes=10485760-")
    assert [cut.with_token, rest.with_token] == [False, False]
    assert hub.unknown == []
