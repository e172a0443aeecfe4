"""The files of a Space: complete, described for the Hub, and running without our package."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio_client
import pytest
import yaml
from huggingface_hub import RepoCard
from transformers import pipeline

from modeling_rcmstr import (
    CharacterTokenizer,
    RCMSTRConfig,
    RCMSTRForTextRecognition,
    TextRecognitionImageProcessor,
    TextRecognitionProcessor,
    default_checkpoint,
)
from training import space_files
from training.space_files import PAGE_PACKAGE, write_space

ROOT = Path(__file__).resolve().parent.parent
REPO_ID = "some-org/word-reader"
TASK: Any = "text-recognition"
LIMIT_S = 240.0


@pytest.fixture
def space(tmp_path: Path) -> Path:
    """A written Space."""
    folder = tmp_path / "space"
    write_space(folder, REPO_ID)
    return folder


def names(folder: Path) -> set[str]:
    """Every file below a folder."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_the_files_are_those_of_a_space(space: Path) -> None:
    assert {"app.py", "requirements.txt", "README.md", "LICENSE", "NOTICE"} < names(space)
    modules = {path.name for path in (space / PAGE_PACKAGE).glob("*.py")}
    assert {"demo_page.py", "saliency.py", "reading_card.py", "image_reading.py"} < modules
    assert not {name for name in modules if name.startswith(("modeling_", "pipeline_", "cli"))}
    assert len(list((space / PAGE_PACKAGE / "example_words").glob("*.jpg"))) >= 6
    for path in space.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        compile(text, str(path), "exec")
        assert "import modeling_rcmstr" not in text
        assert "from modeling_rcmstr" not in text


def test_the_hub_is_told_what_it_asks_for(space: Path) -> None:
    card = RepoCard.load(space / "README.md", repo_type="space", ignore_metadata_errors=False)
    data = card.data.to_dict()
    assert (data["sdk"], data["app_file"], data["license"]) == ("gradio", "app.py", "apache-2.0")
    assert data["models"] == [REPO_ID]
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert f"gradio=={data['sdk_version']}" in pins
    assert len(data["short_description"]) <= 60, "the Hub's limit"
    header = (space / "README.md").read_text(encoding="utf-8").split("---")[1]
    assert yaml.safe_load(header)["title"]
    assert f"https://huggingface.co/{REPO_ID}" in card.text


def test_the_requirements_are_ours_without_ourselves(space: Path) -> None:
    lines = (space / "requirements.txt").read_text(encoding="utf-8").splitlines()
    found = {line.split(">")[0].split("<")[0] for line in lines}
    assert found == {"torch", "transformers", "huggingface_hub", "safetensors", "numpy", "pillow", "gradio"}


@pytest.mark.parametrize("name", ["reader", "a/b/c", "org/na me", "org/--", ""])
def test_a_name_that_no_repository_has_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="(?i)repo"):
        write_space(tmp_path / "space", name)
    assert list(tmp_path.iterdir()) == []


def test_what_lies_in_a_folder_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="must be a new or an empty folder"):
        write_space(tmp_path, REPO_ID)
    assert names(tmp_path) == {"mine.txt"}
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(space_files, "requirements", lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_space(tmp_path / "empty", REPO_ID)
    monkeypatch.undo()
    assert [path.name for path in tmp_path.iterdir() if path.name != "mine.txt"] == ["empty"]
    write_space(tmp_path / "empty", REPO_ID)
    assert "app.py" in names(tmp_path / "empty")


def publish_locally(folder: Path) -> None:
    """Save the bundled recogniser as a repository on the Hub holds it: with its code."""
    classes: dict[Any, str] = {
        RCMSTRConfig: "AutoConfig",
        RCMSTRForTextRecognition: "AutoModelForTextRecognition",
        TextRecognitionImageProcessor: "AutoImageProcessor",
        CharacterTokenizer: "AutoTokenizer",
        TextRecognitionProcessor: "AutoProcessor",
    }
    try:
        for one, auto in classes.items():
            one.register_for_auto_class(auto)
        pipeline(TASK, model=str(default_checkpoint()), device="cpu").save_pretrained(folder)
    finally:
        for one in classes:
            one._auto_class = None


@contextlib.contextmanager
def running_app(space: Path, log: Path) -> Iterator[str]:
    """Run app.py in a Python that cannot import our package; gives the page's address."""
    program = (
        "import runpy, sys; sys.modules['modeling_rcmstr'] = None; sys.path.insert(0, '.'); "
        "runpy.run_path('app.py', run_name='__main__')"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", program],
            cwd=space,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**environment, "GRADIO_TEMP_DIR": str(log.parent / "uploads")},
        )
    try:
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end and process.poll() is None:
            lines = log.read_text().splitlines()
            if lines and lines[-1].startswith("http://"):
                break
            time.sleep(0.2)
        else:
            pytest.fail(f"the app did not start: {log.read_text()}")
        yield lines[-1]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.mark.slow
def test_the_app_reads_a_word_without_the_package(space: Path, tmp_path: Path) -> None:
    """A folder of the repository's name beside app.py is taken for the repository."""
    publish_locally(space / REPO_ID)
    word = ROOT / "examples" / "word_04.jpg"
    with running_app(space, tmp_path / "log.txt") as address:
        client = gradio_client.Client(address, verbose=False)
        (answer,) = client.predict([gradio_client.handle_file(str(word))], api_name="/read")
        page = client.config["components"]
    expected = pipeline(TASK, model=str(default_checkpoint()), device="cpu")(str(word))
    assert answer["text"] == expected["text"] == "$4.99"
    assert answer["score"] == pytest.approx(expected["score"], rel=1e-4)
    assert any(REPO_ID in str(component["props"].get("value")) for component in page)
