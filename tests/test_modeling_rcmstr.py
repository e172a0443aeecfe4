"""RCMSTR's classes: the papers' recognisers, parameter by parameter; their place under the Auto classes."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCTC, AutoModelForTextRecognition

from modeling_rcmstr import (
    RCMSTRConfig,
    RCMSTRForConditionalGeneration,
    RCMSTRForTextRecognition,
    RCMSTRModel,
)

TPS, RESNET, LSTMS = 1_693_544, 44_264_480, 2_892_288  # specification 2.3


def count(module: torch.nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def on_meta(model_class: Any, **fields: Any) -> Any:
    with torch.device("meta"):
        return model_class(RCMSTRConfig(**fields))


def test_ctc_recogniser_of_the_papers() -> None:
    """TRC: rectifier, ResNet, two LSTM layers, 98 classes, 26 frames at 32x100."""
    model = on_meta(RCMSTRForTextRecognition, rectifier_type="tps", vocab_size=98)
    assert count(model.model.rectifier) == TPS
    assert count(model.model.encoder) == RESNET
    assert count(model) == TPS + RESNET + LSTMS + 98 * 257
    plain = on_meta(RCMSTRForTextRecognition, vocab_size=98)
    assert plain(torch.zeros(2, 3, 32, 100, device="meta")).logits.shape == (2, 26, 98)


def test_attention_recogniser_of_the_papers() -> None:
    """TRA: 99 classes; SCATTER's gate over 512 encoder and 512 LSTM channels."""
    model = on_meta(RCMSTRForConditionalGeneration, decoder_type="attention", vocab_size=99)
    lstms = 4 * 2 * 256 * (512 + 256 + 2) + 256 * 513 + 4 * 2 * 256 * (256 + 256 + 2) + 512 * 513
    gate, attention = 1024 * 1025, 256 * 1024 + 256 * 257 + 256
    cell, classifier = 4 * 256 * (1024 + 99 + 256 + 2), 99 * 257
    assert count(model.head) == lstms + gate + attention + cell + classifier
    ids = torch.zeros(2, 26, dtype=torch.long, device="meta")
    model.head.recurrent = torch.nn.ModuleList()  # LSTMs do not run without memory
    model.head.gate = None
    model.head.memory_projection = torch.nn.Linear(512, 256, bias=False, device="meta")
    model.head.cell = torch.nn.LSTMCell(512 + 99, 256, device="meta")
    output = model(torch.zeros(2, 3, 32, 100, device="meta"), decoder_input_ids=ids, output_attentions=True)
    assert output.logits.shape == (2, 26, 99)
    assert output.cross_attentions[0].shape == (2, 1, 26, 26)


def test_encoder_gives_the_map_of_the_papers() -> None:
    model = on_meta(RCMSTRModel)
    assert count(model) == RESNET
    assert len(model.recurrent) == 0
    output = model(torch.zeros(2, 3, 32, 100, device="meta"))
    assert output.last_hidden_state.shape == (2, 512, 1, 26)
    assert output.hidden_states is None
    assert model.out_channels == 512


def test_vit_has_a_frame_for_each_patch_column() -> None:
    model = on_meta(RCMSTRModel, encoder_type="vit", image_size=(32, 128))
    assert model(torch.zeros(1, 3, 32, 128, device="meta")).last_hidden_state.shape == (1, 384, 8, 32)


def test_classes_stand_under_the_auto_classes(tiny_config: Callable[..., Any]) -> None:
    assert type(AutoConfig.for_model("rcmstr")) is RCMSTRConfig
    config = tiny_config("rcmstr", "cnn", "ctc")
    assert type(AutoModel.from_config(config)) is RCMSTRModel
    assert type(AutoModelForTextRecognition.from_config(config)) is RCMSTRForTextRecognition
    assert type(AutoModelForCTC.from_config(config)) is RCMSTRForTextRecognition
    config = tiny_config("rcmstr", "cnn", "attention", architectures=["RCMSTRForConditionalGeneration"])
    assert type(AutoModelForTextRecognition.from_config(config)) is RCMSTRForConditionalGeneration
    with pytest.raises(ValueError, match="use the ForConditionalGeneration class"):
        AutoModelForTextRecognition.from_config(tiny_config("rcmstr", "cnn", "attention"))


@pytest.mark.parametrize(
    "model_class", [RCMSTRModel, RCMSTRForTextRecognition, RCMSTRForConditionalGeneration]
)
def test_classes_are_bound_to_their_configuration(model_class: Any) -> None:
    assert model_class.config_class is RCMSTRConfig
    assert model_class.base_model_prefix == "model"
    assert model_class.main_input_name == "pixel_values"
    assert model_class.can_generate() == (model_class is RCMSTRForConditionalGeneration)
