"""What a folder does is observed alike with and without the package, and the package is really hidden."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.programs import ROOT, run_program
from tests.publishable_checkpoints import PRETRAINING_SIZES, save_encoder_folder, save_recogniser_folder
from training import hub_reader
from training.hub_reader import Observation, load_parts, observe, run_job

PICTURES = [str(path) for path in sorted((ROOT / "examples").glob("word_0[1-3].jpg"))]
RECOGNISER_PARTS = (
    "AutoConfig",
    "AutoImageProcessor",
    "AutoModel",
    "AutoModelForTextRecognition",
    "AutoTokenizer",
    "AutoProcessor",
    "pipeline",
)
Config = Callable[..., Any]


def seen_in(folder: Path, parts: tuple[str, ...] = RECOGNISER_PARTS) -> Observation:
    return observe(load_parts(str(folder), parts, trust=False), PICTURES)


@pytest.mark.parametrize("decoder", ["ctc", "attention"])
def test_a_recogniser_is_observed_from_pictures_to_texts(
    tmp_path: Path, tiny_config: Config, decoder: str
) -> None:
    seen = seen_in(save_recogniser_folder(tmp_path, tiny_config("rcmstr", "vit", decoder)))
    assert len(PICTURES) == 3
    # By hand, and through the pipeline.
    assert seen.facts["AutoProcessor: texts"] == seen.facts["pipeline: texts"]
    assert seen.tensors["pipeline: scores"].shape == (3,)
    assert seen.tensors["AutoImageProcessor: pixel_values"].shape[:3] == (3, 3, 32)
    assert seen.tensors["AutoProcessor: labels"].shape[0] == 2
    assert seen.tensors["AutoModelForTextRecognition: logits"].shape[0] == 3
    same = torch.equal(
        seen.tensors["AutoModel: features"], seen.tensors["AutoModelForTextRecognition: features"]
    )
    assert same
    assert seen.facts["AutoTokenizer: text"] == "0123456789abcdefghijklmnopqrstuvwxyz"
    assert seen.facts["AutoConfig: fields"]["decoder_type"] == decoder
    assert "transformers_version" not in seen.facts["AutoConfig: fields"]
    assert ("AutoModelForTextRecognition: generation" in seen.facts) == (decoder == "attention")


@pytest.mark.parametrize("family", ["rcmstr", "persec"])
def test_a_pretraining_model_is_observed_with_every_loss(
    tmp_path: Path, tiny_config: Config, family: str
) -> None:
    folder = save_encoder_folder(tmp_path, tiny_config(family, "vit", "ctc", **PRETRAINING_SIZES[family]))
    (folder / "preprocessor_config.json").write_text(
        json.dumps(
            {
                "image_processor_type": "TextRecognitionImageProcessor",
                "size": {"height": 32, "width": 64},
            }
        )
    )
    parts = ("AutoConfig", "AutoImageProcessor", "AutoModel", "AutoModelForPreTraining")
    seen = seen_in(folder, parts)
    losses = {name for name in seen.tensors if name.startswith("AutoModelForPreTraining: ")}
    wanted = {
        "rcmstr": {"loss", "reconstruction_loss", "terms frame_contrastive", "key_embeds word"},
        "persec": {"loss", "stroke_contrastive_loss", "semantic_codes"},
    }
    assert {f"AutoModelForPreTraining: {name}" for name in wanted[family]} <= losses
    # At the size of the image processor, which the model was trained with.
    assert seen.tensors["AutoModel: features"].shape[-1] == 16
    again = seen_in(folder, parts)
    assert again.facts == seen.facts
    assert all(torch.equal(again.tensors[name], value) for name, value in seen.tensors.items())


def test_an_untrained_head_is_not_compared(tmp_path: Path, tiny_config: Config) -> None:
    """It is random, and differs each time."""
    config = tiny_config("rcmstr", "vit", "ctc", **PRETRAINING_SIZES["rcmstr"])
    folder = save_encoder_folder(tmp_path, config)
    (folder / "preprocessor_config.json").write_text(
        json.dumps({"image_processor_type": "TextRecognitionImageProcessor"})
    )
    seen = seen_in(folder, ("AutoConfig", "AutoImageProcessor", "AutoModelForTextRecognition"))
    assert [name for name in seen.tensors if "AutoModel" in name] == ["AutoModelForTextRecognition: features"]


def test_a_bad_folder_is_told_and_the_next_is_read(
    tmp_path: Path, tiny_config: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In this process the package answers, so the check for the folder's own classes is left out."""
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    monkeypatch.setattr(hub_reader, "_refuse_installed_classes", lambda _: None)
    good = save_recogniser_folder(tmp_path / "good", tiny_config("rcmstr", "vit", "ctc"))
    bad = Path(shutil.copytree(good, tmp_path / "bad"))
    (bad / "vocab.json").write_text('{"a": 7}')
    job = {
        "hidden": ["no_such_package"],
        "threads": torch.get_num_threads(),
        "pictures": PICTURES,
        "folders": [
            {
                "folder": str(folder),
                "parts": RECOGNISER_PARTS,
                "output": str(tmp_path / f"{folder.name}-seen"),
            }
            for folder in (bad, good)
        ],
    }
    (tmp_path / "job.json").write_text(json.dumps(job))
    run_job(str(tmp_path / "job.json"))
    error = json.loads((tmp_path / "bad-seen.json").read_text())["error"]
    assert error.startswith("ValueError: ")
    assert error.endswith("(tokenization_text_recognition.py)")
    assert load_file(tmp_path / "bad-seen.safetensors") == {}
    mine = seen_in(good)
    assert json.loads((tmp_path / "good-seen.json").read_text()) == json.loads(json.dumps(mine.facts))
    theirs = load_file(tmp_path / "good-seen.safetensors")
    assert all(torch.equal(theirs[name], value) for name, value in mine.tensors.items())


def test_hidden_packages_cannot_be_imported(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    (tmp_path / "a_stranger_to_hide.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    hub_reader._hide(["a_stranger_to_hide"])
    with pytest.raises(ModuleNotFoundError, match="No module named 'a_stranger_to_hide'"):
        __import__("a_stranger_to_hide")
    # What is loaded already cannot be hidden.
    with pytest.raises(RuntimeError, match="modeling_rcmstr is still importable; the check"):
        hub_reader._hide(["modeling_rcmstr"])


def test_installed_classes_are_refused() -> None:
    with pytest.raises(RuntimeError, match="AutoConfig gave Path of pathlib, not the folder's own class"):
        hub_reader._refuse_installed_classes({"AutoConfig": type("Path", (), {"__module__": "pathlib"})()})
    own = type("Own", (), {"__module__": "transformers_modules.folder.modeling"})
    hub_reader._refuse_installed_classes({"AutoConfig": own()})


@pytest.mark.slow
def test_as_a_program_it_needs_nothing_of_this_repository(tmp_path: Path) -> None:
    """Started far away and isolated, it hides what is installed and reads an empty job."""
    job = {"hidden": ["modeling_rcmstr", "training"], "threads": 1, "pictures": [], "folders": []}
    (tmp_path / "job.json").write_text(json.dumps(job))
    program = str(Path(hub_reader.__file__).resolve())
    ended = run_program([sys.executable, "-I", program, str(tmp_path / "job.json")], tmp_path)
    assert ended.returncode == 0, ended.stderr
