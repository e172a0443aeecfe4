"""Saliency maps: closed forms on a model that is linear, derivatives held against differences, and the
contract over every recogniser."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modeling_rcmstr.saliency import (
    NO_TARGET,
    ReadCharacters,
    attention_maps,
    background_values,
    input_gradients,
    integrated_gradients,
    log_odds,
    read_characters,
    text_evidence,
    text_saliency,
)
from tests.recognisers import COMBINATIONS, build, ragged_words


class LinearReader(torch.nn.Module):
    """Reads with CTC from two classes, so that log-odds are linear: frame t sees the columns 4t to 4t + 3."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(weights)  # (C, H, 4)
        self.config = SimpleNamespace(pad_token_id=0)
        self.dtype = weights.dtype
        self.eval()

    def can_generate(self) -> bool:
        return False

    def forward(self, pixel_values: Tensor, pixel_mask: Tensor | None = None) -> Any:
        frames = pixel_values.unflatten(-1, (-1, 4))  # (B, C, H, T, 4)
        character = (frames * self.weights[:, :, None]).sum((1, 2, 4))  # (B, T)
        logits = torch.stack([torch.zeros_like(character), character], dim=-1)
        mask = None if pixel_mask is None else pixel_mask[:, 0, ::4].bool()
        if mask is not None:
            logits[..., 1] = logits[..., 1].masked_fill(~mask, -1e4)
        return SimpleNamespace(logits=logits, frame_mask=mask)


def linear_word() -> tuple[LinearReader, Tensor]:
    """Four frames, of which the reader takes the second alone for its character."""
    model = LinearReader(torch.rand(3, 8, 4) + 0.1)
    pixel_values = torch.zeros(1, 3, 8, 16)
    pixel_values[..., 4:8] = torch.rand(3, 8, 4) + 0.5
    pixel_values[..., :4] = pixel_values[..., 8:] = -0.2
    return model, pixel_values


def test_log_odds_are_those_of_the_probability() -> None:
    logits, ids = torch.randn(2, 5, 7), torch.randint(7, (2, 5))
    probability = logits.softmax(-1).gather(-1, ids[..., None])[..., 0]
    torch.testing.assert_close(log_odds(logits, ids), torch.logit(probability))


def test_a_linear_reader_gives_its_weights_times_the_ink() -> None:
    model, pixel_values = linear_word()
    characters = read_characters(model, pixel_values)
    assert characters.ids.tolist() == [[NO_TARGET, 1, NO_TARGET, NO_TARGET]]
    shares = integrated_gradients(model, pixel_values, steps=1)
    expected = torch.zeros_like(pixel_values)
    expected[..., 4:8] = model.weights * (pixel_values[..., 4:8] + 0.2)  # -0.2 is the median
    torch.testing.assert_close(shares, expected)
    saliency = text_saliency(model, pixel_values)
    assert saliency.kind == "gradient"
    torch.testing.assert_close(saliency.maps, expected.sum(1))


def test_a_word_without_characters_counts_its_least_certain_blank() -> None:
    model, pixel_values = linear_word()
    pixel_values = -pixel_values.abs()
    pixel_values[..., 8:12] = -0.01
    characters = read_characters(model, pixel_values)
    assert characters.ids.tolist() == [[NO_TARGET, NO_TARGET, 0, NO_TARGET]]
    expected = -(pixel_values[..., 8:12] * model.weights).sum()
    torch.testing.assert_close(text_evidence(model, pixel_values, characters)[0], expected)


def test_a_run_of_one_character_counts_once_at_its_surest_frame() -> None:
    model, pixel_values = linear_word()
    pixel_values[..., 8:12] = pixel_values[..., 4:8] * 2
    assert read_characters(model, pixel_values).ids.tolist() == [[NO_TARGET, NO_TARGET, 1, NO_TARGET]]


@pytest.mark.parametrize(("family", "encoder", "decoder"), COMBINATIONS)
def test_gradients_are_those_of_differences(
    tiny_config: Callable[..., Any], family: str, encoder: str, decoder: str
) -> None:
    model = build(tiny_config(family, encoder, decoder)).double()
    pixel_values = torch.randn(1, 3, 32, 64, dtype=torch.double)
    characters = read_characters(model, pixel_values)
    gradients = input_gradients(model, pixel_values, characters)
    assert float(gradients.abs().max()) > 0
    with torch.no_grad():
        for _ in range(3):
            step = torch.randn_like(pixel_values)
            step *= 1e-5 / step.norm()
            difference = text_evidence(model, pixel_values + step, characters) - text_evidence(
                model, pixel_values - step, characters
            )
            slope = float((gradients.double() * step).sum() * 2)
            assert float(difference) == pytest.approx(slope, rel=2e-3, abs=1e-9)


@pytest.mark.parametrize("decoder", ["ctc", "attention"])
def test_shares_add_up_to_what_the_word_brings(tiny_config: Callable[..., Any], decoder: str) -> None:
    model = build(tiny_config("rcmstr", "vit", decoder))
    pixel_values = torch.randn(2, 3, 32, 64)
    characters = read_characters(model, pixel_values)
    empty = background_values(pixel_values).expand_as(pixel_values)
    with torch.no_grad():
        brought = text_evidence(model, pixel_values, characters) - text_evidence(model, empty, characters)
    shares = integrated_gradients(model, pixel_values, steps=48).sum((1, 2, 3))
    torch.testing.assert_close(shares, brought, rtol=0.02, atol=0.02)


@pytest.mark.parametrize("kind", ["gradient", None])
@pytest.mark.parametrize(("family", "encoder", "decoder"), COMBINATIONS)
def test_maps_are_pixels_and_nothing_beside_the_word_counts(
    tiny_config: Callable[..., Any], family: str, encoder: str, decoder: str, kind: str | None
) -> None:
    model = build(tiny_config(family, encoder, decoder))
    words, pixel_values, pixel_mask = ragged_words((48, 96))
    with torch.inference_mode():
        saliency = text_saliency(model, pixel_values, pixel_mask, kind)
    assert saliency.maps.shape == (2, 32, 96)
    assert saliency.kind == (kind or ("gradient" if decoder == "ctc" else "attention"))
    assert bool((saliency.maps >= 0).all())
    assert torch.equal(saliency.maps[0, :, 48:], torch.zeros(32, 48))
    assert float(saliency.maps[0, :, :48].max()) > 0
    alone = text_saliency(model, words[0][None], None, kind).maps[0]
    torch.testing.assert_close(saliency.maps[0, :, :48], alone, rtol=1e-2, atol=2e-3 * float(alone.max()))


@pytest.mark.parametrize("decoder_input", ["columns", "tokens"])
@pytest.mark.parametrize("encoder", ["cnn", "vit"])
def test_attention_maps_are_the_decoders_weights(
    tiny_config: Callable[..., Any], encoder: str, decoder_input: str
) -> None:
    layers = {"head_bilstm_layers": 0} if decoder_input == "tokens" else {}
    model = build(tiny_config("rcmstr", encoder, "attention", decoder_input=decoder_input, **layers))
    pixel_values = torch.randn(1, 3, 32, 64)
    characters = read_characters(model, pixel_values)
    maps = attention_maps(model, pixel_values)
    counted = characters.ids[0] != NO_TARGET
    torch.testing.assert_close(maps.sum((-2, -1))[0], counted.float())
    assert characters.cross_attention is not None
    assert characters.grid is not None
    rows, columns = characters.grid
    weights = characters.cross_attention[0, 0]
    if decoder_input == "tokens":
        weights = weights.unflatten(0, (rows, columns)).sum(0)
    # Frames on both borders stand on the first and the last pixel; others tile the width.
    pixels = np.arange(64)
    places = pixels * (columns - 1) / 63 if 64 % columns else (pixels + 0.5) * columns / 64 - 0.5
    expected = np.interp(places, np.arange(columns), weights.numpy())
    seen = maps[0, 0].sum(0).numpy()
    # The outer rows of a grid that reaches to the border take less than half a share of its pixels.
    tolerance = 1e-6 if decoder_input == "columns" or not 64 % columns else 2e-3
    np.testing.assert_allclose(seen, expected / expected.sum(), atol=tolerance)


def test_the_characters_are_those_of_generate(tiny_config: Callable[..., Any]) -> None:
    model = build(tiny_config("persec", "cnn", "attention"))
    pixel_values = torch.randn(2, 3, 32, 64)
    characters = read_characters(model, pixel_values)
    assert isinstance(characters, ReadCharacters)
    generated = model.generate(pixel_values=pixel_values)[:, 1:]
    config = model.config
    for ids, tokens in zip(characters.ids.tolist(), generated.tolist(), strict=True):
        end = tokens.index(config.eos_token_id) if config.eos_token_id in tokens else len(tokens)
        text = [token for token in tokens[:end] if token not in (config.pad_token_id, config.bos_token_id)]
        assert [token for token in ids if token != NO_TARGET] == (text or tokens[:1])


def test_what_cannot_be_mapped_is_said(tiny_config: Callable[..., Any]) -> None:
    model, pixel_values = build(tiny_config()), torch.randn(1, 3, 32, 64)
    with pytest.raises(ValueError, match="`kind` must be 'gradient' or 'attention', got 'heat'"):
        text_saliency(model, pixel_values, kind="heat")
    with pytest.raises(ValueError, match="no attention over its frames"):
        text_saliency(model, pixel_values, kind="attention")
    with pytest.raises(ValueError, match="`steps` must be at least 1, got 0"):
        integrated_gradients(model, pixel_values, steps=0)
    with pytest.raises(ValueError, match=r"call `model\.eval\(\)`"):
        text_saliency(model.train(), pixel_values)


def test_a_map_leaves_the_model_as_it_was(tiny_config: Callable[..., Any]) -> None:
    model, pixel_values = build(tiny_config()), torch.randn(1, 3, 32, 64)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    text_saliency(model, pixel_values)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
