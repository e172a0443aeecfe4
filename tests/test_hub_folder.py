"""The published folder holds exactly what it says, appears whole or not at all, and loses nobody's files."""

import inspect
import json
import pickle
import shutil
import stat
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForTextRecognition, pipeline

import modeling_rcmstr
from modeling_rcmstr import default_checkpoint
from tests.publishable_checkpoints import PRETRAINING_SIZES, save_encoder_folder, save_recogniser_folder
from training import hub_folder
from training.benchmark_measurement import checkpoint_hash
from training.hub_check import HubFolderError, HubReading
from training.hub_folder import (
    MANIFEST_FILE,
    code_files,
    fill_hub_folder,
    write_hub_folder,
)
from training.hub_source import HubSource, open_checkpoint

Config = Callable[..., Any]
READING = HubReading(["AutoConfig"], ["word"])
RECOGNISER_CODE = {
    "bidirectional_lstm.py",
    "charset_mapping.py",
    "configuration_rcmstr.py",
    "configuration_text_recognition.py",
    "encoder_cnn.py",
    "encoder_resnet45.py",
    "encoder_vit.py",
    "image_processing_text_recognition.py",
    "image_reading.py",
    "modeling_rcmstr.py",
    "modeling_text_recognition.py",
    "pipeline_text_recognition.py",
    "pretrained_text_recognition.py",
    "processing_text_recognition.py",
    "recognition_heads.py",
    "rectification.py",
    "sparse_convolution.py",
    "text_decoding.py",
    "tokenization_text_recognition.py",
}
RECOGNISER_FILES = {
    "LICENSE",
    "NOTICE",
    "README.md",
    "config.json",
    "model.safetensors",
    "preprocessor_config.json",
    "processor_config.json",
    "tokenizer_config.json",
    "vocab.json",
}


@pytest.fixture(autouse=True)
def without_card_and_export(monkeypatch: pytest.MonkeyPatch) -> None:
    """Card and export come from elsewhere; here the folder's own answers are tested."""
    monkeypatch.setattr(hub_folder, "render_card", lambda folder, repo_id: f"# {repo_id}")  # noqa: ARG005
    monkeypatch.setitem(sys.modules, "modeling_rcmstr.onnx_export", None)


@pytest.fixture
def unchecked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the process without the package, which test_hub_check starts."""
    monkeypatch.setattr(hub_folder, "check_hub_folder", lambda *_: READING)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory, tiny_config: Config) -> HubSource:
    """A small CTC recogniser with a training record."""
    folder = save_recogniser_folder(tmp_path_factory.mktemp("source") / "final", tiny_config())
    (folder / "training_record.json").write_text('{"settings": {"output_dir": "/home/me/runs/mine"}}')
    (folder / "optimizer.pt").write_bytes(pickle.dumps({"never": "published"}))
    return open_checkpoint(folder)


def published(source: HubSource, folder: Path, **options: Any) -> Path:
    folder.mkdir()
    fill_hub_folder(source, folder, "org/name", **options)
    return folder


def names(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.usefixtures("unchecked")
def test_the_folder_holds_exactly_what_it_says(source: HubSource, tmp_path: Path) -> None:
    """In particular no file of the other family, none of pretraining, no optimizer."""
    folder = tmp_path / "deep" / "published"
    assert write_hub_folder(source, folder, "org/name") is READING
    assert names(folder) == RECOGNISER_FILES | RECOGNISER_CODE | {"training_record.json", MANIFEST_FILE}
    assert set(read(folder / MANIFEST_FILE)["files"]) == names(folder) - {MANIFEST_FILE}
    for path in folder.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o644, path
        assert str(tmp_path).encode() not in path.read_bytes(), path
        assert b"/home/me" not in path.read_bytes(), path
    assert list(tmp_path.rglob(".*")) == []  # nothing unfinished is left


def test_maps_name_classes_that_the_folder_holds(source: HubSource, tmp_path: Path) -> None:
    folder = published(source, tmp_path / "published")
    config = read(folder / "config.json")
    assert config["auto_map"] == {
        "AutoConfig": "configuration_rcmstr.RCMSTRConfig",
        "AutoModel": "modeling_rcmstr.RCMSTRModel",
        "AutoModelForCTC": "modeling_rcmstr.RCMSTRForTextRecognition",
        "AutoModelForTextRecognition": "modeling_rcmstr.RCMSTRForTextRecognition",
    }
    task = config["custom_pipelines"]["text-recognition"]
    assert task["pt"] == ["AutoModelForTextRecognition"]
    tokenizer, processor = read(folder / "tokenizer_config.json"), read(folder / "processor_config.json")
    picture = read(folder / "preprocessor_config.json")["auto_map"]
    assert processor["image_processor"]["auto_map"] == picture
    assert not {"is_local", "local_files_only"} & set(tokenizer)
    slow, fast = tokenizer["auto_map"]["AutoTokenizer"]
    assert fast is None
    references = [*config["auto_map"].values(), task["impl"], slow, *picture.values()]
    for reference in [*references, processor["auto_map"]["AutoProcessor"]]:
        module, _, name = reference.partition(".")
        assert f"class {name}(" in (folder / f"{module}.py").read_text(encoding="utf-8")


@pytest.mark.parametrize("family", ["rcmstr", "persec"])
def test_pretraining_carries_its_own_code_only(family: str, tmp_path: Path, tiny_config: Config) -> None:
    config = tiny_config(family, "vit", "ctc", **PRETRAINING_SIZES[family])
    source = open_checkpoint(save_encoder_folder(tmp_path / "saved", config))
    folder = published(source, tmp_path / "published")
    code = {path.name for path in folder.glob("*.py")}
    other = {"rcmstr": "persec", "persec": "rcmstr"}[family]
    assert {f"pretraining_{family}.py", f"modeling_{family}.py"} <= code
    assert not [
        name for name in code if other in name or name.startswith(("token", "pipeline", "processing"))
    ]
    assert ("context_perceiver.py" in code) == (family == "persec")
    assert not {"vocab.json", "processor_config.json", "tokenizer_config.json"} & names(folder)
    written = read(folder / "config.json")
    assert "custom_pipelines" not in written
    assert written["auto_map"]["AutoModelForPreTraining"].startswith(f"pretraining_{family}.")


def test_attention_brings_its_generation_settings(tmp_path: Path, tiny_config: Config) -> None:
    save_recogniser_folder(tmp_path / "saved", tiny_config("persec", "vit", "attention"))
    source = open_checkpoint(tmp_path / "saved")
    source.model.generation_config.num_beams = 3
    source.model.generation_config.save_pretrained(tmp_path / "saved")
    folder = published(open_checkpoint(tmp_path / "saved"), tmp_path / "published")
    assert read(folder / "generation_config.json")["num_beams"] == 3
    assert "AutoModelForCTC" not in read(folder / "config.json")["auto_map"]


def test_weights_keep_their_bytes_and_shards_their_values(source: HubSource, tmp_path: Path) -> None:
    whole = published(source, tmp_path / "whole")
    name = "model.safetensors"
    assert (whole / name).read_bytes() == (source.folder / name).read_bytes()
    sharded = published(source, tmp_path / "sharded", max_shard_size="100KB")
    shards = sorted(sharded.glob("model-*.safetensors"))
    assert len(shards) > 1
    assert not (sharded / name).exists()
    assert set(read(sharded / f"{name}.index.json")["weight_map"].values()) == {path.name for path in shards}
    tensors = {key: value for path in shards for key, value in load_file(path).items()}
    assert tensors.keys() == source.tensors.keys()
    assert all(torch.equal(tensors[key], source.tensors[key]) for key in tensors)
    assert {stat.S_IMODE(path.stat().st_mode) for path in shards} == {0o644}


@pytest.mark.usefixtures("unchecked")
def test_the_same_source_gives_the_same_bytes(source: HubSource, tmp_path: Path) -> None:
    """Also over the folder that the first call wrote, and from a published folder."""
    folder = tmp_path / "published"
    write_hub_folder(source, folder, "org/name")
    first = {name: (folder / name).read_bytes() for name in names(folder)}
    write_hub_folder(str(source.folder), folder, "org/name")
    assert {name: (folder / name).read_bytes() for name in names(folder)} == first
    (folder / ".cache").mkdir()  # as an upload leaves it
    (folder / ".cache" / "state").touch()
    write_hub_folder(folder, folder, "org/name")
    assert {name: (folder / name).read_bytes() for name in names(folder)} == first


def test_publishing_leaves_the_classes_as_they_were(source: HubSource, tmp_path: Path) -> None:
    published(source, tmp_path / "published")
    for name in modeling_rcmstr.__all__:
        assert getattr(getattr(modeling_rcmstr, name), "_auto_class", None) is None
    source.model.save_pretrained(tmp_path / "later")
    assert "auto_map" not in read(tmp_path / "later" / "config.json")


def test_with_the_package_a_published_folder_needs_no_trust(
    source: HubSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked on a terminal"))
    folder = str(published(source, tmp_path / "published"))
    assert type(AutoModel.from_pretrained(folder)) is modeling_rcmstr.RCMSTRModel
    assert type(AutoModelForTextRecognition.from_pretrained(folder)) is type(source.model)
    task: Any = "text-recognition"
    picture = default_checkpoint().parents[2] / "examples" / "word_01.jpg"
    answers = [pipeline(task, model=place)(str(picture)) for place in (folder, str(source.folder))]
    assert answers[0] == answers[1]


@pytest.mark.usefixtures("unchecked")
def test_a_failure_leaves_what_was_there(
    source: HubSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> HubReading:
        raise HubFolderError("logits differ")

    folder = tmp_path / "published"
    with monkeypatch.context() as patch:
        patch.setattr(hub_folder, "check_hub_folder", fail)
        with pytest.raises(HubFolderError, match="logits differ"):
            write_hub_folder(source, folder, "org/name")
    assert list(tmp_path.iterdir()) == []
    write_hub_folder(source, folder, "org/name")
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    with monkeypatch.context() as patch:
        patch.setattr(hub_folder, "check_hub_folder", fail)
        with pytest.raises(HubFolderError, match="logits differ"):
            write_hub_folder(source, folder, "org/other-name")
    with pytest.raises(ValueError, match="`--max-shard-size` must be a number of .* got '5 shards'"):
        write_hub_folder(source, folder, "org/name", max_shard_size="5 shards")
    assert {name: (folder / name).read_bytes() for name in names(folder)} == before
    assert list(tmp_path.iterdir()) == [folder]


def test_measurements_name_the_published_files(source: HubSource, tmp_path: Path) -> None:
    """In shards the same weights have another fingerprint; the parts of the card travel along."""
    saved = Path(shutil.copytree(source.folder, tmp_path / "saved"))
    (saved / "results.json").write_text(json.dumps({"checkpoint": {"sha256": source.weights}, "n": 3}))
    (saved / "card").mkdir()
    (saved / "card" / "readings.json").write_text(json.dumps({"checkpoint_sha256": source.weights}))
    (saved / "card" / "reads_wrongly.jpg").write_bytes(b"\xff\xd8")
    (saved / "card" / "notes.pkl").write_bytes(b"never copied")
    measured = open_checkpoint(saved)
    whole = published(measured, tmp_path / "whole")
    assert (whole / "results.json").read_bytes() == (saved / "results.json").read_bytes()
    sharded = published(measured, tmp_path / "sharded", max_shard_size="100KB")
    fingerprint = checkpoint_hash(sharded)
    assert fingerprint != source.weights
    assert read(sharded / "results.json") == {"checkpoint": {"sha256": fingerprint}, "n": 3}
    assert read(sharded / "card" / "readings.json") == {"checkpoint_sha256": fingerprint}
    assert {path.name for path in (sharded / "card").iterdir()} == {"readings.json", "reads_wrongly.jpg"}
    assert open_checkpoint(sharded).weights == fingerprint  # and is a source again


def test_the_card_is_rendered_from_the_finished_folder(
    source: HubSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def render_card(folder: Path, repo_id: str) -> str:
        assert {"config.json", "model.safetensors", "training_record.json"} <= names(folder)
        return f"# {repo_id}"

    monkeypatch.setattr(hub_folder, "render_card", render_card)
    folder = published(source, tmp_path / "published")
    assert (folder / "README.md").read_text() == "# org/name"


def test_onnx_lies_beside_the_weights(
    source: HubSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_config: Config
) -> None:
    def export_onnx(model: Any, processor: Any, folder: Path) -> Path:
        assert model is source.model
        assert processor is source.processor
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "model.onnx").write_bytes(b"\x08\x0a")
        return folder / "model.onnx"

    with pytest.raises(ValueError, match="`--onnx` needs modeling_rcmstr.onnx_export, which cannot"):
        published(source, tmp_path / "without", onnx=True)
    monkeypatch.setitem(sys.modules, "modeling_rcmstr.onnx_export", SimpleNamespace(export_onnx=export_onnx))
    assert "onnx/model.onnx" in names(published(source, tmp_path / "published", onnx=True))
    config = tiny_config("rcmstr", "vit", "ctc", **PRETRAINING_SIZES["rcmstr"])
    pretraining = open_checkpoint(save_encoder_folder(tmp_path / "saved", config))
    with pytest.raises(ValueError, match="ONNX is for recognisers; .* is pretraining"):
        published(pretraining, tmp_path / "pretraining", onnx=True)


def test_code_is_the_packages_own(source: HubSource) -> None:
    package = Path(inspect.getfile(modeling_rcmstr)).parent
    files = code_files(source)
    assert {path.name for path in files} == RECOGNISER_CODE
    assert all(path.parent == package for path in files)
