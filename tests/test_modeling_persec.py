"""PerSec's classes: two encoders with their taps, LSTM layers inside the encoder, heads of one layer."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCTC, AutoModelForTextRecognition

from modeling_rcmstr import (
    PerSecConfig,
    PerSecForConditionalGeneration,
    PerSecForTextRecognition,
    PerSecModel,
)
from tests.recognisers import build, ragged_words


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(model_class: Any, **fields: Any) -> Any:
    with torch.device("meta"):
        return model_class(PerSecConfig(**fields))


def test_lstm_layers_belong_to_the_encoder() -> None:
    """Specification 2.2: a ResNet of 44.26 M parameters, two LSTM layers of 256; the CTC head is linear."""
    model = on_meta(PerSecForTextRecognition, vocab_size=97)
    assert count(model.model) == 44_264_480 + 2_892_288
    assert model.model.out_channels == 256
    assert count(model.head) == 97 * 257


@pytest.mark.parametrize(("width", "steps", "columns"), [(384, 97, 96), (128, 33, 32), (100, 26, 25)])
def test_cnn_taps_have_the_specified_shapes(width: int, steps: int, columns: int) -> None:
    # Without the LSTM layers, which need memory: the map before them has 512 channels.
    model = on_meta(PerSecModel, encoder_bilstm_layers=0)
    output = model(torch.zeros(1, 3, 32, width, device="meta"), output_hidden_states=True)
    assert output.last_hidden_state.shape == (1, 512, 1, steps)
    stroke = output.hidden_states[PerSecConfig().stroke_tap_index]
    assert stroke.shape == (1, 256, 8, columns)


@pytest.mark.parametrize(("width", "columns"), [(384, 96), (128, 32)])
def test_vit_taps_have_the_specified_shapes(width: int, columns: int) -> None:
    config = PerSecConfig(encoder_type="vit")
    model = on_meta(PerSecModel, encoder_type="vit")
    output = model(torch.zeros(1, 3, 32, width, device="meta"), output_hidden_states=True)
    assert config.stroke_tap_index == 3  # a quarter of the depth
    assert output.hidden_states[3].shape == (1, 384, 8, columns)
    assert output.last_hidden_state.mean(2).shape == (1, 384, columns)
    assert model.encoder.row_embedding.weight.shape == (8, 384)


def test_sequence_after_the_lstm_layers_is_masked_like_the_map(tiny_config: Callable[..., Any]) -> None:
    model = build(tiny_config("persec")).model
    words, pixel_values, pixel_mask = ragged_words([64, 16])
    output = model(pixel_values, pixel_mask=pixel_mask)
    assert output.last_hidden_state.shape == (2, 32, 1, 17)
    assert torch.count_nonzero(output.last_hidden_state[1, ..., 5:]) == 0
    alone = model(words[1][None]).last_hidden_state
    torch.testing.assert_close(output.last_hidden_state[1, ..., :5], alone[0], rtol=0, atol=2e-5)


def test_classes_stand_under_the_auto_classes(tiny_config: Callable[..., Any]) -> None:
    assert type(AutoConfig.for_model("persec")) is PerSecConfig
    config = tiny_config("persec", "cnn", "ctc")
    assert type(AutoModel.from_config(config)) is PerSecModel
    assert type(AutoModelForTextRecognition.from_config(config)) is PerSecForTextRecognition
    assert type(AutoModelForCTC.from_config(config)) is PerSecForTextRecognition
    config = tiny_config("persec", "cnn", "attention", architectures=["PerSecForConditionalGeneration"])
    assert type(AutoModelForTextRecognition.from_config(config)) is PerSecForConditionalGeneration
    with pytest.raises(ValueError, match="use the ForConditionalGeneration class"):
        AutoModelForTextRecognition.from_config(tiny_config("persec", "cnn", "attention"))


@pytest.mark.parametrize(
    "model_class", [PerSecModel, PerSecForTextRecognition, PerSecForConditionalGeneration]
)
def test_classes_are_bound_to_their_configuration(model_class: Any) -> None:
    assert model_class.config_class is PerSecConfig
    assert model_class.base_model_prefix == "model"
    assert model_class.main_input_name == "pixel_values"
    assert model_class.can_generate() == (model_class is PerSecForConditionalGeneration)
