"""Models by their names over HTTP: pushed to the tests' Hub, loaded where this package cannot be imported."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline

import modeling_rcmstr  # noqa: F401 (registers the pipeline)
from tests.hub_server import HubServer
from tests.programs import run_program
from tests.published_folders import Published, write_published_folders
from tests.recognisers import COMBINATIONS

pytestmark = pytest.mark.slow

RECOGNISERS = {"-".join(combination): (*combination, 2) for combination in COMBINATIONS}
PRETRAINED = {
    f"{family}-{encoder}-pretrained": (family, encoder, None, 3)
    for family in ("rcmstr", "persec")
    for encoder in ("cnn", "vit")
}
FIRST, SECOND = ("rcmstr", "cnn", "ctc", 0), ("rcmstr", "cnn", "ctc", 1)

PUSH = """
import json, pathlib, sys
from training.hub_push import push_folder, tag_revision
for folder, repo_id, private, tag in json.loads(sys.argv[1]):
    sha = push_folder(pathlib.Path(folder), repo_id, private=private).rsplit("/", 1)[-1]
    if tag:
        tag_revision(repo_id, tag, sha)
    print(sha)
"""
# Reads a list of [method, repository, further arguments]; prints what each gives, or its error.
LOAD = """
import importlib.abc, json, os, sys

class NotInstalled(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_rcmstr", "training", "tests"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, NotInstalled())
import transformers
from huggingface_hub import snapshot_download
from transformers import pipeline

def load(method, repo_id, **arguments):
    if arguments.get("token"):
        arguments["token"] = os.environ["TOKEN_OF_TEST"]
    if method == "snapshot_download":
        return sorted(os.listdir(snapshot_download(repo_id, **arguments)))
    if method == "pipeline":
        pipe = pipeline("text-recognition", model=repo_id, trust_remote_code=True, device="cpu", **arguments)
        assert type(pipe).__module__.startswith("transformers_modules."), type(pipe)
        return pipe(sys.argv[1])
    found = getattr(transformers, method).from_pretrained(repo_id, trust_remote_code=True, **arguments)
    assert type(found).__module__.startswith("transformers_modules."), type(found)
    answer = {"class": type(found).__name__}
    if hasattr(found, "state_dict"):
        answer["weights"] = float(sum(value.double().abs().sum() for value in found.state_dict().values()))
    return answer

answers = []
for method, repo_id, arguments in json.loads(sys.argv[2]):
    try:
        answers.append(load(method, repo_id, **arguments))
    except Exception as error:
        answers.append({"error": f"{type(error).__name__}: {error}"})
print(json.dumps(answers))
"""


@dataclass(frozen=True)
class Hub:
    """A Hub on which everything has been pushed: `words/reader` twice, and each model of `published`."""

    server: HubServer
    published: Published
    first: str
    second: str
    token: str
    home: Path

    def load(self, *wanted: tuple[str, str, dict[str, Any]]) -> list[Any]:
        """Load one after the other in one process that does not know this package or, at first, a token."""
        environment = self.server.environment(self.home)
        run = run_program(
            [sys.executable, "-c", LOAD, str(self.published.picture), json.dumps(wanted)],
            cwd=self.published.root,
            env={**environment, "PYTHONPATH": "", "TOKEN_OF_TEST": self.token},
        )
        assert run.returncode == 0, run.stderr
        assert self.token not in run.stdout + run.stderr
        assert self.server.unknown == []
        return json.loads(run.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """Write all models, push them in one process, and leave the Hub open."""
    root = tmp_path_factory.mktemp("published")
    models = {"first": FIRST, "second": SECOND, **RECOGNISERS, **PRETRAINED}
    published = write_published_folders(root, models)
    (published.folder("first") / "only_in_the_first.txt").write_text("and gone with the second\n")
    pushes = [
        ("first", "words/reader", False, "v1.0"),
        ("second", "words/reader", False, None),
        ("first", "words/hidden", True, None),
        *[(name, f"words/{name}", False, None) for name in (*RECOGNISERS, *PRETRAINED)],
    ]
    plan = [(str(published.folder(name)), *further) for name, *further in pushes]
    with HubServer() as server:
        token = server.add_user("ada", "words")
        home = tmp_path_factory.mktemp("home")
        run = run_program([sys.executable, "-c", PUSH, json.dumps(plan)], env=server.environment(home, token))
        assert run.returncode == 0, run.stderr
        first, second, *_ = run.stdout.splitlines()
        yield Hub(server, published, first, second, token, home)


def test_a_name_means_the_newest_revision_and_a_commit_or_tag_an_old_one(hub: Hub) -> None:
    repo_id = "words/reader"
    newest, by_sha, by_tag, read, read_first, files, lost = hub.load(
        ("AutoModelForTextRecognition", repo_id, {}),
        ("AutoModelForTextRecognition", repo_id, {"revision": hub.first}),
        ("AutoModelForTextRecognition", repo_id, {"revision": "v1.0"}),
        ("pipeline", repo_id, {}),
        ("pipeline", repo_id, {"revision": "v1.0"}),
        ("snapshot_download", repo_id, {}),
        ("AutoModelForTextRecognition", repo_id, {"revision": "v9.9"}),
    )
    first, second = (hub.published.known[name] for name in ("first", "second"))
    assert first["weights"] != second["weights"]
    assert newest == {"class": "RCMSTRForTextRecognition", "weights": second["weights"]}
    assert by_sha == by_tag == {"class": "RCMSTRForTextRecognition", "weights": first["weights"]}
    for answer, expected in ((read, second), (read_first, first)):
        assert answer["text"] == expected["text"]
        assert answer["score"] == pytest.approx(expected["score"], rel=1e-4)
    assert "model.safetensors" in files
    assert "only_in_the_first.txt" not in files
    assert "v9.9" in lost["error"]
    kept = hub.server.repository(repo_id)
    assert "only_in_the_first.txt" in kept.commit_of(hub.first).files
    downloads = hub.server.requests("GET", "^/objects/", 200)
    assert downloads, "weights come from the storage host"
    assert not any(download.with_token for download in downloads)


def test_a_private_repository_needs_a_token(hub: Hub) -> None:
    repo_id, token = "words/hidden", {"token": True}
    *refused, model, processor, read = hub.load(
        ("AutoModelForTextRecognition", repo_id, {}),
        ("pipeline", repo_id, {}),
        ("snapshot_download", repo_id, {}),
        ("AutoModelForTextRecognition", repo_id, token),
        ("AutoProcessor", repo_id, token),
        ("pipeline", repo_id, token),
    )
    for answer in refused:
        assert "private" in answer["error"]
        assert "authenticated" in answer["error"] or "hf auth login" in answer["error"], answer["error"]
    expected = hub.published.known["first"]
    assert model == {"class": "RCMSTRForTextRecognition", "weights": expected["weights"]}
    assert processor == {"class": "TextRecognitionProcessor"}
    assert read["text"] == expected["text"]
    for path in hub.home.rglob("*"):
        assert path.is_dir() or hub.token.encode() not in path.read_bytes(), path


def test_every_kind_of_model_survives_the_way_over_the_hub(hub: Hub) -> None:
    """Each family, encoder and head, and the pretraining checkpoints, by all auto classes."""
    parts = ("AutoConfig", "AutoModel", "AutoImageProcessor", "AutoTokenizer", "AutoProcessor")
    wanted: list[tuple[str, str, dict[str, Any]]] = []
    for name in RECOGNISERS:
        wanted += [(method, f"words/{name}", {}) for method in ("AutoModelForTextRecognition", "pipeline")]
    wanted += [("AutoModelForPreTraining", f"words/{name}", {}) for name in PRETRAINED]
    for name in ("rcmstr-cnn-ctc", "persec-vit-attention"):
        wanted += [(method, f"words/{name}", {}) for method in parts]
    answers = hub.load(*wanted)
    for (method, repo_id, _), answer in zip(wanted, answers, strict=True):
        name = repo_id.removeprefix("words/")
        known = hub.published.known[name]
        assert "error" not in answer, (method, repo_id, answer)
        if method == "pipeline":
            assert answer["text"] == known["text"], name
            assert answer["score"] == pytest.approx(known["score"], rel=1e-3), name
        elif method.startswith("AutoModelFor"):
            assert answer["weights"] == known["weights"], name
        elif method == "AutoModel":
            assert answer["class"] in ("RCMSTRModel", "PerSecModel")
            assert 0 < answer["weights"] < known["weights"]


def test_one_command_publishes_a_recogniser_and_its_space(hub: Hub, tmp_path: Path) -> None:
    """Folder, check, card, Space and push of the bundled recogniser; strangers then read with its name."""
    repo_id = "words/bundled"
    command = ["training.publish_checkpoint", "default", "--repo-id", repo_id, "--push", "--space"]
    run = run_program(
        [sys.executable, "-m", *command, "--output", str(tmp_path / "folder")],
        env=hub.server.environment(tmp_path / "home", hub.token),
    )
    assert run.returncode == 0, run.stderr
    assert hub.token not in run.stdout + run.stderr
    files = hub.server.repository(repo_id).commit_of("main").files
    assert {"README.md", "card/reads_rightly.jpg", "results.json", "publication.json"} <= set(files)
    space = hub.server.repository(repo_id, "space").commit_of("main").files
    assert {"README.md", "app.py", "requirements.txt"} <= set(space)
    (read,) = hub.load(("pipeline", repo_id, {}))
    reader: Any = pipeline("text-recognition", device="cpu")  # type: ignore[call-overload]
    expected = reader(str(hub.published.picture))
    assert read["text"] == expected["text"]
    assert read["score"] == pytest.approx(expected["score"], rel=1e-3)
