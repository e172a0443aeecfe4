"""PerSec's pretraining checkpoints: saved, loaded, and on to a recogniser."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForPreTraining

from modeling_rcmstr.configuration_persec import PerSecConfig
from modeling_rcmstr.modeling_persec import (
    PerSecForConditionalGeneration,
    PerSecForTextRecognition,
    PerSecModel,
)
from modeling_rcmstr.pretraining_persec import PerSecForPreTraining
from tests.persec_words import PERCEIVERS, generator, images

Config = Callable[..., PerSecConfig]


def test_saved_and_loaded_it_is_the_same_model(tiny_config: Config, encoder: str, tmp_path: Path) -> None:
    model = PerSecForPreTraining(tiny_config("persec", encoder)).eval()
    model.save_pretrained(tmp_path)
    loaded, information = PerSecForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(information[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(
        loaded(images(), generator=generator()).loss, model(images(), generator=generator()).loss
    )
    assert isinstance(AutoModelForPreTraining.from_pretrained(tmp_path), PerSecForPreTraining)


def test_recognisers_take_the_whole_encoder_and_leave_the_perceivers(
    tiny_config: Config, encoder: str, decoder: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = PerSecForPreTraining(tiny_config("persec", encoder))
    model.save_pretrained(tmp_path)
    classes = {"ctc": PerSecForTextRecognition, "attention": PerSecForConditionalGeneration}
    recogniser, information = classes[decoder].from_pretrained(
        tmp_path, config=tiny_config("persec", encoder, decoder), output_loading_info=True
    )
    missing = set(information["missing_keys"])
    assert missing == {name for name in recogniser.state_dict() if name.startswith("head.")}
    assert not information["unexpected_keys"]
    assert not [record for record in caplog.records if "perceiver" in record.getMessage()]
    left = {name for name in model.state_dict() if name not in recogniser.state_dict()}
    assert left == {name for name in model.state_dict() if name.startswith(PERCEIVERS)}
    for name, value in model.model.state_dict().items():
        assert torch.equal(recogniser.model.state_dict()[name], value), name
    assert not hasattr(recogniser, "stroke_perceiver")


def test_auto_model_is_the_encoder(tiny_config: Config, encoder: str, tmp_path: Path) -> None:
    model = PerSecForPreTraining(tiny_config("persec", encoder)).eval()
    model.save_pretrained(tmp_path)
    loaded, information = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(loaded, PerSecModel)
    assert not any(information[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert torch.equal(loaded(images()).last_hidden_state, model.model(images()).last_hidden_state)


def test_pretraining_goes_on_from_a_recogniser(tiny_config: Config, encoder: str, tmp_path: Path) -> None:
    """Its perceivers are then initialised as those of a new model, not as the library would."""
    recogniser = PerSecForTextRecognition(tiny_config("persec", encoder))
    recogniser.save_pretrained(tmp_path)
    model, information = PerSecForPreTraining.from_pretrained(tmp_path, output_loading_info=True)
    missing = set(information["missing_keys"])
    assert missing == {name for name in model.state_dict() if name.startswith(PERCEIVERS)}
    fresh = PerSecForPreTraining(tiny_config("persec", encoder))
    for candidate in (model, fresh):
        perceivers: tuple[Any, ...] = (candidate.stroke_perceiver, candidate.semantic_perceiver)
        for perceiver in perceivers:
            vector, books = perceiver.mask_vector.detach(), perceiver.quantizer.codebooks.detach()
            assert 0 <= float(vector.min()) < 0.1 < 0.9 < float(vector.max()) <= 1
            assert float(books.mean()) == pytest.approx(0.5, abs=0.02)
            assert float(books.std()) == pytest.approx(12**-0.5, rel=0.02)
            assert float(perceiver.quantizer.logits.weight.detach().std()) == pytest.approx(1, rel=0.05)
            linear = perceiver.layers[0].intermediate.weight.detach()
            # A normal cut at twice the scale of the untruncated one keeps nearly all of its deviation.
            assert float(linear.std()) == pytest.approx(128**-0.5, rel=0.05)
            bias = perceiver.layers[0].attention.relative_position_bias.detach()
            assert float(bias.std()) == pytest.approx(0.02, rel=0.25)


def test_layers_behind_the_semantic_tap_rest(tiny_config: Config, tmp_path: Path) -> None:
    """Also after loading, which thaws everything; a recogniser trains them again."""
    config = tiny_config("persec", "cnn", semantic_tap="before_bilstm")
    PerSecForPreTraining(config).save_pretrained(tmp_path)
    model = PerSecForPreTraining.from_pretrained(tmp_path).train()
    assert not any(parameter.requires_grad for parameter in model.model.recurrent.parameters())
    model(images()).loss.backward()
    for name, parameter in model.named_parameters():
        assert (parameter.grad is not None) == (not name.startswith("model.recurrent.")), name
    recogniser = PerSecForTextRecognition.from_pretrained(tmp_path)
    assert all(parameter.requires_grad for parameter in recogniser.parameters())
    plain = PerSecForPreTraining(tiny_config("persec", "cnn"))
    assert all(parameter.requires_grad for parameter in plain.parameters())


def test_forward_changes_no_weight_and_no_buffer_in_evaluation(tiny_config: Config, encoder: str) -> None:
    model = PerSecForPreTraining(tiny_config("persec", encoder)).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(images())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert set(model.train().state_dict()) == set(before)
