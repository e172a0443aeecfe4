"""The command: what it writes and says, when it pushes, and that it never pushes what it should not."""

import os
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.programs import run_program
from tests.publishable_checkpoints import PRETRAINING_SIZES, save_encoder_folder, save_recogniser_folder
from training import hub_folder
from training.hub_check import HubFolderError, HubReading
from training.publish_checkpoint import main, parse_publishing_options

Config = Callable[..., Any]
READING = HubReading(["AutoConfig", "pipeline"], ["OPEN", "EXIT"])


class Pusher:
    """Stands in for the Hub: remembers what it was given."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []

    def push_folder(self, folder: Path, repo_id: str, **options: Any) -> str:
        """Take a folder."""
        files = sorted(path.name for path in Path(folder).iterdir())
        self.calls.append({"repo_id": repo_id, "files": files, **options})
        return f"https://hub.test/{options['repo_type']}/{repo_id}"


@pytest.fixture
def pusher(monkeypatch: pytest.MonkeyPatch) -> Pusher:
    """Nothing of a test reaches a Hub."""
    stand_in = Pusher()
    monkeypatch.setitem(sys.modules, "training.hub_push", stand_in)
    monkeypatch.setattr(hub_folder, "check_hub_folder", lambda *_: READING)
    return stand_in


@pytest.fixture(scope="module")
def recogniser(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config) -> str:
    """The folder of a finished run."""
    run = tmp_path_factory.mktemp("runs") / "mine"
    save_recogniser_folder(run / "final", tiny_config("rcmstr", "vit", "ctc"))
    return str(run)


def test_without_push_nothing_leaves_the_machine(
    recogniser: str, tmp_path: Path, pusher: Pusher, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "out"
    assert main([recogniser, "--repo-id", "org/name", "--output", str(folder)]) == 0
    told = capsys.readouterr().out
    assert pusher.calls == []
    assert (folder / "model.safetensors").is_file()
    assert f"source: {recogniser}/final, RCMSTRForTextRecognition, weights " in told
    assert "read without the package as the source reads: AutoConfig, pipeline" in told
    assert "words: OPEN EXIT" in told
    assert f"{(folder / 'model.safetensors').stat().st_size:,}  model.safetensors" in told
    assert "not pushed; the same command with --push" in told


def test_the_default_output_lies_among_the_runs(
    recogniser: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_folder, "check_hub_folder", lambda *_: READING)
    monkeypatch.chdir(tmp_path)
    main([recogniser, "--repo-id", "org/name"])
    assert (tmp_path / "runs" / "hub" / "org" / "name" / "config.json").is_file()


def test_push_sends_the_checked_folder(
    recogniser: str, tmp_path: Path, pusher: Pusher, capsys: pytest.CaptureFixture[str]
) -> None:
    output = ["--repo-id", "org/name", "--output", str(tmp_path / "out")]
    main([recogniser, *output, "--push", "--private", "--branch", "trial", "--max-shard-size", "100KB"])
    (call,) = pusher.calls
    assert (call["repo_id"], call["private"], call["branch"]) == ("org/name", True, "trial")
    assert call["repo_type"] == "model"
    assert call["message"].startswith("Publish RCMSTRForTextRecognition, weights ")
    assert {"README.md", "config.json", "model.safetensors.index.json", "publication.json"} <= set(
        call["files"]
    )
    assert "pushed model: https://hub.test/model/org/name" in capsys.readouterr().out


def test_what_differs_is_never_pushed(
    recogniser: str, tmp_path: Path, pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> HubReading:
        raise HubFolderError("pipeline: texts: 'OPEN' of the source, 'DOOR' of the folder")

    monkeypatch.setattr(hub_folder, "check_hub_folder", fail)
    with pytest.raises(HubFolderError, match="'OPEN' of the source, 'DOOR'"):
        main([recogniser, "--repo-id", "org/name", "--output", str(tmp_path / "out"), "--push"])
    assert pusher.calls == []
    assert list(tmp_path.iterdir()) == []


def test_a_space_is_written_beside_and_pushed_as_one(
    recogniser: str, tmp_path: Path, pusher: Pusher, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_space(folder: Path, repo_id: str) -> None:
        (folder / "app.py").write_text(f"MODEL = {repo_id!r}\n")

    monkeypatch.setitem(sys.modules, "training.space_files", SimpleNamespace(write_space=write_space))
    command = [recogniser, "--repo-id", "org/name", "--output", str(tmp_path / "out"), "--space"]
    main([*command, "--push", "--branch", "trial"])
    assert (tmp_path / "out-space" / "app.py").read_text() == "MODEL = 'org/name'\n"
    assert [(call["repo_type"], call["branch"]) for call in pusher.calls] == [
        ("model", "trial"),
        ("space", None),
    ]
    assert pusher.calls[1]["files"] == ["app.py", "publication.json"]
    # Again over what it wrote, but not over what somebody changed.
    main(command)
    (tmp_path / "out-space" / "app.py").write_text("mine")
    with pytest.raises(ValueError, match="app.py was changed after the folder was written"):
        main(command)


@pytest.mark.parametrize("option", ["--push", "--space", "--onnx"])
def test_what_an_option_needs_is_asked_for_before_anything_is_written(
    recogniser: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    modules = {
        "--push": "training.hub_push",
        "--space": "training.space_files",
        "--onnx": "modeling_rcmstr.onnx_export",
    }
    monkeypatch.setitem(sys.modules, modules[option], None)
    monkeypatch.setattr(hub_folder, "check_hub_folder", lambda *_: READING)
    with pytest.raises(ValueError, match=f"`{option}` needs {modules[option]}, which cannot be imported"):
        main([recogniser, "--repo-id", "org/name", "--output", str(tmp_path / "out"), option])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("option", ["--space", "--onnx"])
def test_an_encoder_gets_no_demo(
    tmp_path: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch, option: str
) -> None:
    monkeypatch.setitem(sys.modules, "training.space_files", SimpleNamespace(write_space=pytest.fail))
    config = tiny_config("rcmstr", "vit", "ctc", **PRETRAINING_SIZES["rcmstr"])
    save_encoder_folder(tmp_path / "saved", config)
    with pytest.raises(ValueError, match=f"is pretraining: leave `{option}` out"):
        main([str(tmp_path / "saved"), "--repo-id", "o/n", "--output", str(tmp_path / "out"), option])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["default"], "--repo-id"),
        (["default", "--repo-id", "org/name", "--private"], "--private and --branch say how to push"),
        (["default", "--repo-id", "org/name", "--branch", "b"], "--private and --branch say how to push"),
    ],
)
def test_options_are_checked(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse_publishing_options(argv)
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_the_bundled_recogniser_is_published_from_a_command_line(tmp_path: Path) -> None:
    """Whole: written, read without the package, and the texts told."""
    command = [sys.executable, "-m", "training.publish_checkpoint"]
    folder = tmp_path / "reader"
    ended = run_program([*command, "default", "--repo-id", "org/reader", "--output", str(folder)])
    assert ended.returncode == 0, ended.stderr
    assert "words: OPEN Bakery EXIT $4.99 " in ended.stdout
    assert "AutoModelForCTC" in ended.stdout
    assert {"results.json", "speed.json", "training_record.json"} <= set(os.listdir(folder))
    assert [path.name for path in tmp_path.iterdir()] == ["reader"]


def test_errors_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["publish_checkpoint", str(tmp_path), "--repo-id", "org/name"])
    monkeypatch.delitem(sys.modules, "training.publish_checkpoint")
    with pytest.raises(SystemExit, match=f"^error: {tmp_path} holds no checkpoint"):
        runpy.run_module("training.publish_checkpoint", run_name="__main__")
