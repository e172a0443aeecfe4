"""What the tests of ONNX share: tiny recognisers with opinions, and each exported once for all tests."""

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch

import modeling_rcmstr
from modeling_rcmstr import onnx_export
from modeling_rcmstr.onnx_check import draw_check_words
from tests.conftest import NUM_CHARACTERS, TINY_SIZES
from tests.recognisers import COMBINATIONS, build

# Every combination; two of them, one of each decoder, are quick enough for every run.
EACH = [
    pytest.param(*names, marks=() if names in COMBINATIONS[0::7] else pytest.mark.slow)
    for names in COMBINATIONS
]
CHECKED = 40  # words of the check here; a real export takes `CHECKED_WORDS`


@cache
def recogniser(family: str, encoder: str, decoder: str, **fields: Any) -> Any:
    """A tiny random recogniser whose texts differ from word to word."""
    configs = {"rcmstr": modeling_rcmstr.RCMSTRConfig, "persec": modeling_rcmstr.PerSecConfig}
    sizes = {**TINY_SIZES, "vocab_size": NUM_CHARACTERS + {"ctc": 1, "attention": 3}[decoder]}
    named = {"encoder_type": encoder, "decoder_type": decoder}
    model = build(configs[family](**{**sizes, **named, **fields}))
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.head.named_parameters():
        # Wilder LSTMs would turn rounding into other texts.
        parameter.data.normal_(std=1.0 if name.startswith("classifier") else 0.25, generator=generator)
    spread_texts(model, processor_for(decoder, model.config.rectifier_type == "none"))
    return model


@torch.no_grad()
def spread_texts(model: Any, processor: Any) -> None:
    """Take out what all words have in common, and make large what tells them apart."""
    words = processor(images=list(draw_check_words("abc", 12)))
    if model.can_generate():
        encoded = model.model(**words)
        memory = model.head.start(encoded.last_hidden_state).tensors["memory"].mean(1)
        cell, size = model.head.cell, memory.shape[1]
        common = memory.mean(0)
        scale = 3.0 / ((memory - common) @ cell.weight_ih[:, :size].T).std(0).mean()
        cell.weight_ih[:, :size] *= scale
        cell.bias_ih -= cell.weight_ih[:, :size] @ common
        return
    logits = model(**words).logits.flatten(0, 1)
    scale = 4.0 / logits[logits.amin(1) > -1e9].std(0).mean()
    common = logits[logits.amin(1) > -1e9].mean(0)
    model.head.classifier.weight.mul_(scale)
    model.head.classifier.bias.copy_(scale * (model.head.classifier.bias - common))


def processor_for(decoder: str, keep_aspect_ratio: bool = True) -> Any:
    """The processor of the tiny recognisers."""
    return modeling_rcmstr.TextRecognitionProcessor(
        modeling_rcmstr.TextRecognitionImageProcessor(keep_aspect_ratio=keep_aspect_ratio),
        modeling_rcmstr.CharacterTokenizer(for_attention=decoder == "attention"),
    )


@cache
def exported(family: str, encoder: str, decoder: str, keeps: bool = True, **fields: Any) -> Path:
    """The folder of an exported tiny recogniser; `keeps` says whether words keep their aspect ratio."""
    place = tempfile.mkdtemp(prefix="modeling_rcmstr_onnx_")
    atexit.register(shutil.rmtree, place, ignore_errors=True)
    model, processor = recogniser(family, encoder, decoder, **fields), processor_for(decoder, keeps)
    with patch.object(onnx_export, "CHECKED_WORDS", CHECKED):
        return onnx_export.export_onnx(model, processor, Path(place) / "onnx")
