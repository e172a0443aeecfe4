"""Pushing folders over HTTP to the tests' Hub, each push a process of its own, as a person starts it."""

import hashlib
import random
import re
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.hub_http import Fault
from tests.hub_repository import GIT_ATTRIBUTES, Repository
from tests.hub_server import HubServer
from tests.programs import Ended, run_program
from training.hub_push import push_folder, tag_revision

REPO = "words/reader"
CARD = b"---\nlicense: apache-2.0\n---\n# A reader\n"
# The library waits between its attempts, 23 s in all: here no wait lasts, and each is told.
PROGRAM = """
import sys, time
time.sleep = lambda seconds: print(f"waited {seconds} s", file=sys.stderr)
from training.hub_push import main
sys.exit(main(sys.argv[1:]))
"""


def weights(seed: int = 0) -> bytes:
    """Three megabytes that no compression makes smaller."""
    return random.Random(seed).randbytes(3_000_000)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder as a checkpoint's: a card, weights, and files in a sub-folder."""
    folder = tmp_path / "reader"
    (folder / "pictures").mkdir(parents=True)
    (folder / "README.md").write_bytes(CARD)
    (folder / "config.json").write_text('{"model_type": "rcmstr"}\n')
    (folder / "model.safetensors").write_bytes(weights())
    (folder / "pictures" / "word.txt").write_text("milk\n")
    return folder


@dataclass
class Client:
    """Somebody with a token who pushes to a Hub; every push is looked at for the token."""

    hub: HubServer
    home: Path
    token: str

    def __call__(self, *arguments: str | Path, token: str | None = None, **environment: str) -> Ended:
        """Push with the command line; another token than the client's own may be given, "" for none."""
        token = self.token if token is None else token
        run = run_program(
            [sys.executable, "-c", PROGRAM, *map(str, arguments)],
            env={**self.hub.environment(self.home, token), **environment},
        )
        if token:
            assert token not in run.stdout + run.stderr
            for path in self.home.rglob("*"):
                assert path.is_dir() or token.encode() not in path.read_bytes()
        assert "Traceback" not in run.stderr, run.stderr
        return run

    def pushed(self, *arguments: str | Path, **environment: str) -> str:
        """Push, and return the SHA of the commit."""
        run = self(*arguments, **environment)
        assert run.returncode == 0, run.stderr
        return run.stdout.splitlines()[0].rsplit("/", 1)[-1]

    def refused(self, *arguments: str | Path, token: str | None = None, **environment: str) -> str:
        """Try to push, and return what is said to the person who did."""
        run = self(*arguments, token=token, **environment)
        assert run.returncode == 1, (run.stdout, run.stderr)
        assert run.stdout == ""
        return run.stderr


@pytest.fixture
def hub() -> Iterator[HubServer]:
    """An empty Hub; a client that asks for what it does not know fails the test."""
    with HubServer() as hub:
        yield hub
        assert hub.unknown == []


@pytest.fixture
def push(hub: HubServer, tmp_path: Path) -> Client:
    """A client that may write to the organisation `words`."""
    return Client(hub, tmp_path / "home", hub.add_user("ada", "words"))


def contents(repository: Repository, revision: str = "main") -> dict[str, bytes]:
    """Every file of a revision, but for the Hub's own."""
    files = repository.commit_of(revision).files
    return {path: repository.contents[file.key] for path, file in files.items() if path != ".gitattributes"}


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file of a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }


def test_the_repository_holds_what_the_folder_holds(folder: Path, push: Client) -> None:
    push.hub.page_size = 2  # a listing of more files than the Hub tells at once
    (folder / "__pycache__").mkdir()
    (folder / "__pycache__" / "left.pyc").write_bytes(b"by Python")
    first = push.pushed(folder, REPO, "--message", "First words")
    (folder / "__pycache__" / "left.pyc").unlink()
    before = files_of(folder)
    repository = push.hub.repository(REPO)
    assert contents(repository) == before
    assert repository.commit_of("main").oid == first
    assert repository.commit_of(first).files["model.safetensors"].lfs_oid
    assert repository.commit_of(first).files["config.json"].lfs_oid is None
    assert not repository.private

    # Changed, gone, new, and a file whose name is a folder's now.
    (folder / "model.safetensors").write_bytes(weights(1))
    (folder / "pictures" / "word.txt").unlink()
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    (folder / "config.json" / "inside.json").write_text("{}")
    second = push.pushed(folder, REPO)
    assert contents(repository) == files_of(folder)
    assert contents(repository, first) == before, "the old revision is as it was"
    titles = [commit.title for commit in repository.log()]
    assert titles == ["Push reader", "First words", "initial commit"], "one commit for each push"
    assert repository.contents[repository.commit_of(second).files[".gitattributes"].key] == GIT_ATTRIBUTES
    uploads = push.hub.requests("PUT", "^/objects/", 200)
    assert len(uploads) == 2
    assert not any(upload.with_token for upload in push.hub.requests("PUT", ".")), "tokens are for the Hub"


def test_pushing_again_changes_nothing(folder: Path, push: Client) -> None:
    first = push.pushed(folder, REPO, HF_DEBUG="1")  # with all that the library tells when asked to
    assert push.pushed(folder, REPO) == first
    assert len(push.hub.repository(REPO).commits) == 2
    assert len(push.hub.requests("PUT", ".")) == 1
    (folder / "README.md").write_bytes(CARD + b"More.\n")
    assert push.pushed(folder, REPO) != first
    assert len(push.hub.requests("PUT", ".")) == 1, "weights that are there are not sent again"


def test_an_upload_that_breaks_off_leaves_the_old_revision_and_can_be_repeated(
    folder: Path, push: Client
) -> None:
    first = push.pushed(folder, REPO)
    before = files_of(folder)
    (folder / "model.safetensors").write_bytes(weights(1))
    push.hub.faults.append(Fault("PUT", "^/objects/", times=1, cut_after=1_000_000))
    push.hub.faults.append(Fault("PUT", "^/objects/", times=5, cut_after=0))
    said = push.refused(folder, REPO)
    assert "broke off while `words/reader` was pushed" in said
    assert "model.safetensors" in said
    assert re.search("disconnected|reset|pipe", said, re.IGNORECASE), said
    assert "run the same command again" in said
    assert len(push.hub.requests("PUT", "^/objects/", 0)) == 6
    repository = push.hub.repository(REPO)
    assert repository.branches == {"main": first}
    assert contents(repository) == before
    # The line is cut once more, and the library tries again by itself.
    push.hub.faults.append(Fault("PUT", "^/objects/", cut_after=2_000_000))
    second = push.pushed(folder, REPO)
    assert repository.branches == {"main": second}
    assert contents(repository) == files_of(folder)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("POST", "/commit/", status=500),
        Fault("POST", "/commit/", cut_after=10),
        Fault("POST", "/commit/", answer_lost=True),
    ],
    ids=["error 500", "cut off", "answer lost"],
)
def test_a_commit_that_fails_can_be_repeated(folder: Path, push: Client, fault: Fault) -> None:
    first = push.pushed(folder, REPO)
    (folder / "model.safetensors").write_bytes(weights(1))
    (folder / "config.json").unlink()
    push.hub.faults.append(fault)
    said = push.refused(folder, REPO)
    assert "run the same command again" in said
    assert ("(500)" in said) == (fault.status == 500)
    repository = push.hub.repository(REPO)
    assert (repository.branches["main"] == first) is not fault.answer_lost
    push.pushed(folder, REPO)
    assert contents(repository) == files_of(folder)
    assert len(repository.log()) == 3
    assert len(push.hub.requests("PUT", ".")) == 2, "weights that arrived are not sent again"


def test_a_busy_hub_is_waited_for(folder: Path, push: Client) -> None:
    busy = {"Retry-After": "7"}
    push.hub.faults.append(Fault("POST", "/preupload/", status=429, headers=busy))
    run = push(folder, REPO)
    assert run.returncode == 0, run.stderr
    assert "waited 8.0 s" in run.stderr
    (folder / "README.md").write_bytes(CARD + b"More.\n")
    push.hub.faults.append(Fault("POST", "/commit/", status=429, headers=busy))
    assert "push again in 7 seconds" in push.refused(folder, REPO)


def test_somebody_elses_commit_is_not_run_over(folder: Path, push: Client) -> None:
    push.pushed(folder, REPO)
    repository = push.hub.repository(REPO)
    (folder / "README.md").write_bytes(CARD + b"More.\n")
    theirs = {"key": "file", "value": {"path": "notes.txt", "content": "aGVsbG8K"}}

    def commit_theirs() -> None:
        repository.commit("main", [{"key": "header", "value": {"summary": "Theirs"}}, theirs])

    push.hub.faults.append(Fault("POST", "/preupload/", meanwhile=commit_theirs))
    assert "somebody committed to `words/reader`" in push.refused(folder, REPO)
    assert [commit.title for commit in repository.log()][:2] == ["Theirs", "Push reader"]


@pytest.mark.slow
def test_who_may_not_write_is_told_what_to_do(folder: Path, push: Client) -> None:
    hub = push.hub
    for token, message in (
        ("", "none was found"),
        ("hf_\x01wrong", "characters that no token has"),
        ("hf_wrong", "refused the token (401)"),
    ):
        said = push.refused(folder, REPO, token=token)
        assert message in said
        assert "https://huggingface.co/settings/tokens" in said, token
        assert "hf auth login" in said, token
    assert hub.repositories == {}
    reads = hub.add_user("ada", "words", role="read")
    assert "may not write to `words/reader` (403)" in push.refused(folder, REPO, token=reads)
    assert "may not write to `somebody/reader`" in push.refused(folder, "somebody/reader")
    assert hub.repositories == {}

    first = push.pushed(folder, REPO, "--private")
    repository = hub.repository(REPO)
    assert repository.private
    (folder / "config.json").unlink()
    for token in (reads, hub.add_user("eve")):
        assert "may not write to `words/reader`" in push.refused(folder, REPO, token=token)
    assert repository.branches == {"main": first}


def test_without_a_network_the_error_says_so(folder: Path, push: Client) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nowhere = f"http://127.0.0.1:{free.getsockname()[1]}"
    said = push.refused(folder, REPO, HF_ENDPOINT=nowhere)
    assert "the Hub could not be reached" in said
    assert "HF_ENDPOINT" in said
    assert "unset it" in push.refused(folder, REPO, HF_HUB_OFFLINE="1")
    # A gateway in front of a Hub that is down.
    push.hub.faults.append(Fault("POST", "/validate-yaml", status=502, body=b"<html>Bad gateway</html>"))
    assert "the Hub could not be reached" in push.refused(folder, REPO)


def test_a_private_push_never_lands_in_a_public_repository(folder: Path, push: Client) -> None:
    first = push.pushed(folder, REPO)
    (folder / "secret.txt").write_text("not yet")
    assert "exists and is public" in push.refused(folder, REPO, "--private")
    assert push.hub.repository(REPO).branches == {"main": first}
    push.pushed(folder, "words/hidden", "--private")
    (folder / "secret.txt").unlink()
    push.pushed(folder, "words/hidden")
    assert push.hub.repository("words/hidden").private, "what is private stays so"


def test_a_file_with_the_token_is_never_pushed(folder: Path, push: Client) -> None:
    (folder / "training_record.json").write_text(f'{{"environment": {{"HF_TOKEN": "{push.token}"}}}}')
    assert "training_record.json holds your Hugging Face token" in push.refused(folder, REPO)
    assert push.hub.log == []


def test_branches_and_tags(folder: Path, push: Client) -> None:
    first = push.pushed(folder, REPO, "--tag", "v1.0")
    (folder / "config.json").unlink()
    second = push.pushed(folder, REPO, "--branch", "trials/short", "--tag", "v1.1")
    repository = push.hub.repository(REPO)
    assert repository.branches == {"main": first, "trials/short": second}
    assert repository.tags == {"v1.0": first, "v1.1": second}
    assert contents(repository, "trials/short") == files_of(folder)
    third = push.pushed(folder, REPO, "--branch", "trials/short", "--tag", "v1.1")
    assert third == second
    moved = push(folder, REPO, "--branch", "trials/short", "--tag", "v1.0")
    assert moved.returncode == 1
    assert f"the tag 'v1.0' of `words/reader` is the commit {first}" in moved.stderr
    assert repository.tags == {"v1.0": first, "v1.1": second}


def test_a_space_runs_the_sdk_that_its_card_names(folder: Path, push: Client) -> None:
    push.pushed(folder, "words/demo", "--repo-type", "space")
    assert push.hub.repository("words/demo", "space").sdk == "gradio"
    (folder / "README.md").write_text("---\ntitle: Words\nsdk: static\n---\n")
    run = push(folder, "words/page", "--repo-type", "space")
    space = push.hub.repository("words/page", "space")
    assert run.stdout == f"{push.hub.url}/spaces/words/page/commit/{space.branches['main']}\n"
    assert space.sdk == "static"
    assert contents(space) == files_of(folder)


def test_large_files_come_in_parts_where_the_hub_wants_that(folder: Path, tmp_path: Path) -> None:
    with HubServer(part_size=1_000_000) as hub:
        (folder / "more.safetensors").write_bytes(weights(1)[:1_000_001])
        push = Client(hub, tmp_path / "home", hub.add_user("words"))
        # Of each file the second part is cut off first: half a megabyte in, and after all of its one byte.
        for path in folder.glob("*.safetensors"):
            oid = hashlib.sha256(path.read_bytes()).hexdigest()
            hub.faults.append(Fault("PUT", f"^/parts/.*/{oid}/2", cut_after=500_000))
        push.pushed(folder, REPO)
        assert len(hub.requests("PUT", "^/parts/", 0)) == 2
        assert len(hub.requests("PUT", "^/parts/", 200)) == 5
        assert contents(hub.repository(REPO)) == files_of(folder)
        assert hub.unknown == []


def test_what_the_hub_would_refuse_or_leave_out_is_told(folder: Path, push: Client) -> None:
    (folder / "README.md").write_text("---\nlicense: {}\n---\n")
    assert '"license" must be a string' in push.refused(folder, REPO)
    assert push.hub.requests("PUT", ".") == [], "before anything is sent"
    (folder / "README.md").write_bytes(CARD)
    echo = {"X-Error-Message": f"The token {push.token} is of no use"}
    push.hub.faults.append(Fault("POST", "/commit/", status=400, headers=echo))
    assert "The token [token] is of no use" in push.refused(folder, REPO)
    (folder / ".gitignore").write_text("*.json\n")
    assert "lacks config.json" in push.refused(folder, REPO)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"repo_id": "reader"}, "must name its owner"),
        ({"repo_id": "words/reader/main"}, "no name of a repository"),
        ({"repo_id": "words/-reader-"}, "no name of a repository"),
        ({"repo_type": "dataset"}, "must be one of model, space"),
        ({"folder": Path("nowhere")}, "nowhere is no folder"),
    ],
)
def test_arguments_are_checked_before_anything_else(
    folder: Path, arguments: dict[str, str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        push_folder(**{"folder": folder, "repo_id": REPO, **arguments})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "lost").symlink_to("nowhere"), "lost in .* cannot be read"),
        (lambda folder: [path.unlink() for path in folder.rglob("*.*")], "holds no file"),
    ],
    ids=["a link to nothing", "empty"],
)
def test_a_folder_that_cannot_be_pushed_whole_is_refused(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        push_folder(folder, REPO)


def test_a_space_without_metadata_is_refused(folder: Path) -> None:
    (folder / "README.md").write_text("---\nsdk: [\n---\n")
    with pytest.raises(ValueError, match="no YAML"):
        push_folder(folder, REPO, repo_type="space")
    (folder / "README.md").unlink()
    with pytest.raises(ValueError, match="needs a README"):
        push_folder(folder, REPO, repo_type="space")


def test_without_a_token_nothing_starts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.hub_push.get_token", lambda: None)
    for start in (lambda: push_folder(folder, REPO), lambda: tag_revision(REPO, "v1.0", "0" * 40)):
        with pytest.raises(PermissionError, match="hf auth login"):
            start()
