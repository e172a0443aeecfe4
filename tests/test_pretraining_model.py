"""Models to pretrain: from a file, from a folder, by preset, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from modeling_rcmstr import RCMSTRForTextRecognition
from tests.pretraining_models import make
from tests.pretraining_settings import write_run
from training.pretraining_arguments import PretrainingRunArguments
from training.pretraining_model import build_pretraining_model, load_weights, model_family


def run(model: Path | str, **settings: Any) -> PretrainingRunArguments:
    return PretrainingRunArguments(output_dir="run", model=str(model), **settings)


@pytest.mark.parametrize("family", ["rcmstr", "persec"])
def test_a_model_json_gives_a_new_model_and_its_image_processor(tmp_path: Path, family: str) -> None:
    write_run(tmp_path, tmp_path, family)
    model, processor = build_pretraining_model(run(tmp_path / "model.json"), {"keep_aspect_ratio": True})
    assert model.config.model_type == model_family(str(tmp_path / "model.json")) == family
    assert model.training
    assert model.config.vocab_size == 95
    assert (processor.size.height, processor.size.width) == tuple(model.config.image_size)
    assert processor.keep_aspect_ratio


def test_presets_come_before_settings(tmp_path: Path) -> None:
    write_run(tmp_path, tmp_path)
    settings = {"contrastive_temperature": 0.2, "consistency_weights": [0.0, 0.5, 0.0]}
    model, _ = build_pretraining_model(
        run(tmp_path / "model.json", preset="seqmoco", model_settings=settings), None
    )
    assert model.config.query_views == "plain"
    assert model.config.contrastive_temperature == 0.2
    assert list(model.config.consistency_weights) == [0.0, 0.5, 0.0]


def test_a_folder_gives_its_weights_whatever_was_trained_there(tmp_path: Path, tiny_config: Any) -> None:
    pretrained = make()
    pretrained.save_pretrained(tmp_path / "pretrained")
    model, _ = build_pretraining_model(run(tmp_path / "pretrained"), None)
    assert model.training
    for name, tensor in pretrained.state_dict().items():
        assert torch.equal(model.state_dict()[name], tensor), name
    recogniser = RCMSTRForTextRecognition(tiny_config("rcmstr", "cnn", image_size=(32, 100)))
    recogniser.save_pretrained(tmp_path / "recogniser")
    model, _ = build_pretraining_model(run(tmp_path / "recogniser"), None)
    assert torch.equal(
        model.model.encoder.stem[0].convolution.weight, recogniser.model.encoder.stem[0].convolution.weight
    )


def test_a_resumed_model_has_the_very_weights(tmp_path: Path) -> None:
    first, second = make(), make()
    first.save_pretrained(tmp_path)
    load_weights(second, tmp_path)
    assert all(torch.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


def test_what_cannot_be_pretrained_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path, tmp_path, "persec")
    model = tmp_path / "model.json"
    for settings, match in (
        ({"preset": "seqmoco"}, "unknown `preset` 'seqmoco' of persec; known: A,"),
        ({"model_settings": {"mask_ratio": 0.5}}, "persec has no fields \\['mask_ratio'\\]"),
    ):
        with pytest.raises(ValueError, match=match):
            build_pretraining_model(run(model, **settings), None)
    (tmp_path / "empty").mkdir()
    for place, match in (("nowhere", "does not exist"), ("empty", "holds no config.json")):
        with pytest.raises(ValueError, match=match):
            build_pretraining_model(run(tmp_path / place), None)
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ValueError, match="is not valid JSON"):
        build_pretraining_model(run(tmp_path / "broken.json"), None)
    (tmp_path / "typo.json").write_text(json.dumps({"model_type": "persec", "hiden_size": 3}))
    with pytest.raises(ValueError, match="hiden_size"):
        build_pretraining_model(run(tmp_path / "typo.json"), None)


def test_a_family_that_is_not_named_is_none(tmp_path: Path) -> None:
    assert model_family(str(tmp_path / "nowhere.json")) == ""
    assert model_family(str(tmp_path)) == ""
