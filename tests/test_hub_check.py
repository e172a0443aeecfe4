"""The check reads a folder without the package, and names whatever is not as in the source."""

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.publishable_checkpoints import (
    ENCODERS,
    PRETRAINING_SIZES,
    save_encoder_folder,
    save_recogniser_folder,
)
from training import hub_check
from training.hub_check import (
    HubFolderError,
    HubReading,
    check_hub_folder,
    compare_hub_folders,
    fixed_words,
    parts_to_load,
)
from training.hub_folder import auto_map, code_files, fill_hub_folder
from training.hub_reader import Observation
from training.hub_source import HubSource, open_checkpoint

FAMILIES = ("rcmstr", "persec")
DECODERS = ("ctc", "attention")
FOLDERS = [
    *(f"{family}-{encoder}-{decoder}" for family in FAMILIES for encoder in ENCODERS for decoder in DECODERS),
    *(f"{family}-{encoder}-pretraining" for family in FAMILIES for encoder in ENCODERS),
    "rcmstr-vit-encoder",
    "persec-trba-encoder",
    "sharded",
    "half-precision",
    "rectified",
    "attention-pretraining",
]
Published = tuple[Path, HubSource]
Checked = dict[str, tuple[Published, tuple[list[str], HubReading]]]


def edit_text(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert old in text
    path.write_text(text.replace(old, new), encoding="utf-8")


def edit_json(path: Path, edit: Callable[[dict[str, Any]], None]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    edit(content)
    path.write_text(json.dumps(content), encoding="utf-8")


def change_weight(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["head.classifier.weight"][3] += 0.5
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def change_weight_a_little(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    weights["head.classifier.bias"][0] += 1e-7
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def swap_letters(folder: Path) -> None:
    edit_json(folder / "vocab.json", lambda ids: ids.update(a=ids["b"], b=ids["a"]))


# What is done to a good folder, and what must be said of it.
TAMPERED: dict[str, tuple[Callable[[Path], None], str]] = {
    "weight": (change_weight, "weight `head.classifier.weight` has other values"),
    "weight-in-the-logits": (change_weight, "AutoModelForTextRecognition: logits: up to "),
    "last-digit": (change_weight_a_little, "weight `head.classifier.bias` has other values"),
    "code-missing": (lambda folder: (folder / "encoder_vit.py").unlink(), "encoder_vit.py"),
    "answers-changed": (
        lambda folder: edit_text(
            folder / "pipeline_text_recognition.py",
            "        return answers\n",
            "        return answers[::-1]\n",
        ),
        "pipeline: texts",
    ),
    "vocabulary": (swap_letters, "AutoTokenizer: vocabulary (a: 11 of the source, 12"),
    "picture-settings": (
        lambda folder: edit_json(
            folder / "processor_config.json",
            lambda content: content["image_processor"].update(image_mean=[0.4] * 3),
        ),
        "image_mean",
    ),
    "field": (
        lambda folder: edit_json(folder / "config.json", lambda content: content.update(max_text_length=9)),
        "AutoConfig: fields (max_text_length: 8 of the source, 9)",
    ),
    "no-pipeline": (
        lambda folder: edit_json(folder / "config.json", lambda content: content.pop("custom_pipelines")),
        "loading without the package failed with KeyError",
    ),
    "no-tokenizer-class": (
        lambda folder: edit_json(folder / "tokenizer_config.json", lambda content: content.pop("auto_map")),
        "(tokenization_auto.py)",
    ),
    "needs-the-package": (
        lambda folder: edit_text(
            folder / "image_reading.py",
            "import numpy as np\n",
            "import numpy as np\nimport modeling_rcmstr\n",
        ),
        "modeling_rcmstr",
    ),
    "no-weights": (lambda folder: (folder / "model.safetensors").unlink(), "holds no model.safetensors"),
}


def save_combination(folder: Path, name: str, tiny_config: Callable[..., Any]) -> Path:
    """Save the checkpoint that one of FOLDERS names."""
    if name == "sharded":
        return save_recogniser_folder(folder, tiny_config("rcmstr", "cnn", "ctc"), max_shard_size="100KB")
    if name == "half-precision":
        save_recogniser_folder(folder, tiny_config("rcmstr", "cnn", "ctc"))
        path = folder / "model.safetensors"
        weights = load_file(path)
        halves = {key: value.half() if value.is_floating_point() else value for key, value in weights.items()}
        save_file(halves, path, metadata={"format": "pt"})
        return folder
    if name == "rectified":
        config = tiny_config("persec", "cnn", "attention", rectifier_type="tps")
        return save_recogniser_folder(folder, config, keep_aspect_ratio=False)
    if name == "attention-pretraining":
        sizes = PRETRAINING_SIZES["rcmstr"]
        return save_encoder_folder(folder, tiny_config("rcmstr", "vit", "attention", **sizes))
    family, encoder, kind = name.split("-")
    fields = {**ENCODERS[encoder], **PRETRAINING_SIZES[family]}
    encoder_type = fields.pop("encoder_type")
    if kind in DECODERS:
        return save_recogniser_folder(folder, tiny_config(family, encoder_type, kind, **fields))
    if encoder == "trba":
        fields["image_size"] = (32, 100)  # 26 frames, an even number
    config = tiny_config(family, encoder_type, "ctc", **fields)
    return save_encoder_folder(folder, config, {"pretraining": "ForPreTraining", "encoder": "Model"}[kind])


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory, tiny_config: Callable[..., Any]) -> Checked:
    """Every combination, and one folder tampered with in many ways, compared in one process."""
    place = tmp_path_factory.mktemp("hub")
    published: dict[str, Published] = {}
    for name in FOLDERS:
        source = open_checkpoint(save_combination(place / "sources" / name, name, tiny_config))
        folder = place / "published" / name
        folder.mkdir(parents=True)
        fill_hub_folder(source, folder, f"org/{name}", "100KB" if name == "sharded" else "5GB")
        published[name] = (folder, source)
    good, source = published["rcmstr-trba-ctc"]
    for name, (tamper, _) in TAMPERED.items():
        tamper(Path(shutil.copytree(good, place / "tampered" / name)))
        published[f"tampered {name}"] = (place / "tampered" / name, source)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hub_check, "fixed_words", lambda: fixed_words()[:4])
        found = compare_hub_folders(list(published.values()))
    return {name: (pair, seen) for (name, pair), seen in zip(published.items(), found, strict=True)}


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_a_published_folder_does_without_the_package_what_its_source_does(
    checked: Checked, name: str
) -> None:
    (folder, source), (differences, reading) = checked[name]
    assert differences == []
    assert {"AutoConfig", "AutoModel", "AutoImageProcessor", *auto_map(source)} <= set(reading.parts)
    assert ("pipeline" in reading.parts) == (source.kind == "recogniser")
    assert len(list(filter(None, reading.texts))) == (4 if source.kind == "recogniser" else 0)
    assert {path.name for path in folder.glob("*.py")} == {path.name for path in code_files(source)}


@pytest.mark.slow
@pytest.mark.parametrize("name", TAMPERED)
def test_a_tampered_folder_is_refused_by_name(checked: Checked, name: str) -> None:
    differences, _ = checked[f"tampered {name}"][1]
    assert [found for found in differences if TAMPERED[name][1] in found], differences


def test_parts_are_what_the_kind_calls_for_and_what_the_folder_claims(
    tmp_path: Path, tiny_config: Callable[..., Any]
) -> None:
    source = open_checkpoint(save_recogniser_folder(tmp_path, tiny_config("rcmstr", "vit", "attention")))
    config = tmp_path / "config.json"
    edit_json(
        config, lambda content: content.update(auto_map={"AutoBackbone": "modeling_rcmstr.RCMSTRModel"})
    )
    parts = parts_to_load(tmp_path, source)
    assert parts[-4:] == ["AutoTokenizer", "AutoProcessor", "pipeline", "AutoBackbone"]
    assert "AutoModelForCTC" not in parts


def test_the_process_gets_no_token_and_no_path_of_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("HUGGING_FACE_HUB_TOKEN", "hf_secret")
    monkeypatch.setenv("PYTHONPATH", "/somewhere")
    environment = hub_check._bare_environment(tmp_path)
    assert "hf_secret" not in environment.values()
    assert not [name for name in environment if name.startswith("PYTHON")]
    assert environment["HF_HUB_OFFLINE"] == "1"
    assert Path(environment["HF_MODULES_CACHE"]).is_relative_to(tmp_path)
    assert environment["PATH"] == os.environ["PATH"]


def test_the_first_differences_are_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source: Any = type("Source", (), {"folder": Path("runs/mine")})
    reading = HubReading(["AutoConfig"], [])
    told = [f"difference {number}" for number in range(10)]
    monkeypatch.setattr(hub_check, "compare_hub_folders", lambda _: [(told, reading)])
    with pytest.raises(
        HubFolderError, match=r"runs/mine.*not published: difference 0; .*difference 7; and 2 more"
    ):
        check_hub_folder(tmp_path, source)
    monkeypatch.setattr(hub_check, "compare_hub_folders", lambda _: [([], reading)])
    assert check_hub_folder(tmp_path, source) is reading


@pytest.mark.parametrize(
    ("mine", "theirs", "told"),
    [
        (torch.ones(2), torch.ones(3), "x: shape (2,) of the source, (3,) of the folder"),
        (torch.tensor([1, 2]), torch.tensor([1, 3]), "x: other values"),
        (torch.tensor([10.0]), torch.tensor([10.1]), "x: up to 0.1 apart, at values like 10"),
        (torch.tensor([1.0]), torch.tensor([torch.nan]), "x: up to nan apart"),
        (torch.tensor([10.0]), torch.tensor([10.0 + 1e-4]), ""),
        (torch.zeros(0), torch.zeros(0), ""),
        (torch.tensor([1.0, 2.0, 1e9]), torch.tensor([1.01, 2.0, 1e9]), "x: up to 0.01 apart"),
    ],
)
def test_tensors_are_compared_within_float32(mine: torch.Tensor, theirs: torch.Tensor, told: str) -> None:
    found = list(hub_check._differences(Observation({"x": mine}), Observation({"x": theirs})))
    assert bool(found) == bool(told)
    assert "".join(found).startswith(told)


def test_facts_are_named_with_both_values() -> None:
    mine = Observation(facts={"texts": ["ab", "cd", "ef"], "class": "A", "only mine": 1})
    theirs = Observation(facts={"texts": ["ab", "xx", "yy"], "class": "B"}, tensors={"t": torch.ones(1)})
    assert list(hub_check._differences(mine, theirs)) == [
        "class: 'A' of the source, 'B' of the folder",
        "only mine: 1 of the source, None of the folder",
        "texts: 'cd' of the source, 'xx' of the folder, 2 in all",
        "t: only the folder gives it",
    ]


@pytest.mark.parametrize(
    ("outcome", "message"),
    [
        (subprocess.TimeoutExpired("python", 1), "took more than 900 s"),
        (subprocess.CompletedProcess([], 3, "", "no torch here"), "ended with 3: no torch here"),
    ],
)
def test_a_process_that_fails_is_told(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    tiny_config: Callable[..., Any],
    outcome: Any,
    message: str,
) -> None:
    def run(*_: Any, **__: Any) -> Any:
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    source = open_checkpoint(save_recogniser_folder(tmp_path, tiny_config()))
    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(HubFolderError, match=message):
        compare_hub_folders([(tmp_path, source)])


def test_a_source_that_cannot_run_is_told(tmp_path: Path, tiny_config: Callable[..., Any]) -> None:
    """33 frames of the trba cnn at width 128 cannot be cut in two."""
    config = tiny_config("rcmstr", "cnn", "ctc", **PRETRAINING_SIZES["rcmstr"])
    source = open_checkpoint(save_encoder_folder(tmp_path, config))
    parts = ["AutoConfig", "AutoImageProcessor", *source.model_classes]
    message = "itself cannot be run on the fixed words: ValueError: 33 frames"
    with pytest.raises(HubFolderError, match=message):
        hub_check.observe_source(source, parts, [str(path) for path in fixed_words()[:1]])
