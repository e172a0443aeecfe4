"""The vision transformer: published sizes, positions tied to no width, hidden units and padding unseen."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modeling_rcmstr.configuration_rcmstr import RCMSTRConfig
from modeling_rcmstr.encoder_vit import ViTEncoder, ViTLayer, sincos_positions
from tests.recognisers import ragged_words

PUBLISHED = {"tiny": (192, 12, 3), "small": (384, 12, 6), "base": (512, 12, 8)}


@pytest.fixture
def make(tiny_config: Callable[..., Any]) -> Callable[..., ViTEncoder]:
    """Make a small encoder: `make(use_mask_token=False, **fields)`."""

    def encoder(use_mask_token: bool = False, attention: str = "eager", **fields: Any) -> ViTEncoder:
        config = tiny_config(encoder="vit", **fields)
        config._attn_implementation = attention
        encoder = ViTEncoder(config, use_mask_token).eval()
        if encoder.mask_token is not None:
            torch.nn.init.normal_(encoder.mask_token)
        return encoder

    return encoder


def meta_encoder(**fields: Any) -> ViTEncoder:
    config = RCMSTRConfig(encoder_type="vit", image_size=(32, 128), **fields)
    config._attn_implementation = "eager"
    with torch.device("meta"):
        return ViTEncoder(config)


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameter_count_follows_from_the_published_size(name: str) -> None:
    size, layers, heads = PUBLISHED[name]
    encoder = meta_encoder(
        hidden_size=size, num_hidden_layers=layers, num_attention_heads=heads, intermediate_size=4 * size
    )
    norms, attention, mlp = 4 * size, 4 * size**2 + 4 * size, 8 * size**2 + 5 * size
    expected = 48 * size + size + layers * (norms + attention + mlp) + 2 * size
    assert sum(parameter.numel() for parameter in encoder.parameters()) == expected
    if name == "small":
        assert round(expected / 1e6, 1) == 21.3  # specification 2.4


@pytest.mark.parametrize(("width", "columns"), [(384, 96), (128, 32), (4, 1)])
def test_maps_have_the_specified_shapes(width: int, columns: int) -> None:
    encoder = meta_encoder()
    output = encoder(torch.zeros(2, 3, 32, width, device="meta"))
    assert output.last_hidden_state.shape == (2, 384, 8, columns)
    assert [tuple(states.shape) for states in output.hidden_states] == [(2, 384, 8, columns)] * 13
    assert encoder.stride == (4, 4)
    assert encoder.out_channels == 384


def test_fixed_positions_equal_the_published_formula() -> None:
    """MAE, arXiv:2111.06377: half of the channels for the row, half for the column."""
    rows, columns, size = 3, 5, 16
    expected = np.zeros((rows, columns, size))
    for row, column, index in np.ndindex(rows, columns, size // 4):
        omega = 1 / 10000 ** (index / (size // 4))
        for offset, place in ((0, row), (size // 2, column)):
            expected[row, column, offset + index] = math.sin(place * omega)
            expected[row, column, offset + size // 4 + index] = math.cos(place * omega)
    positions = sincos_positions(rows, columns, size, torch.device("cpu")).reshape(rows, columns, size)
    np.testing.assert_allclose(positions.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["sincos", "learned"])
def test_positions_of_a_column_do_not_depend_on_the_width(make: Callable[..., ViTEncoder], kind: str) -> None:
    encoder = make(position_embedding_type=kind, max_position_columns=4)
    device = torch.device("cpu")
    narrow = encoder._positions(8, 6, device).reshape(8, 6, -1)
    wide = encoder._positions(8, 32, device).reshape(8, 32, -1)
    assert torch.equal(narrow, wide[:, :6])
    distinct = len({tuple(row) for row in wide.flatten(0, 1).tolist()})
    assert distinct == (8 * 4 if kind == "learned" else 8 * 32)
    if kind == "learned":  # the table ends, its last column goes on
        assert torch.equal(wide[:, 4:], wide[:, 3:4].expand(-1, 28, -1))


def test_learned_table_reads_row_plus_column(make: Callable[..., ViTEncoder]) -> None:
    encoder = make(position_embedding_type="learned")
    assert encoder.row_embedding is not None
    assert encoder.column_embedding is not None
    assert encoder.row_embedding.weight.shape == (8, 32)
    positions = encoder._positions(8, 5, torch.device("cpu")).reshape(8, 5, -1)
    for row, column in np.ndindex(8, 5):
        expected = encoder.row_embedding.weight[row] + encoder.column_embedding.weight[column]
        assert torch.equal(positions[row, column], expected)


def numpy_layer(layer: ViTLayer, tokens: np.ndarray, num_heads: int) -> np.ndarray:
    """A pre-norm transformer layer in float64, written out for one image (N, C)."""
    tensors = {name: value.detach().double().numpy() for name, value in layer.named_parameters()}

    def linear(values: np.ndarray, name: str) -> np.ndarray:
        return values @ tensors[f"{name}.weight"].T + tensors[f"{name}.bias"]

    def norm(values: np.ndarray, name: str) -> np.ndarray:
        centred = values - values.mean(-1, keepdims=True)
        scaled = centred / np.sqrt(values.var(-1, keepdims=True) + 1e-6)
        return scaled * tensors[f"{name}.weight"] + tensors[f"{name}.bias"]

    query, key, value = np.split(
        linear(norm(tokens, "layernorm_before"), "attention.query_key_value"), 3, axis=1
    )
    width = tokens.shape[1] // num_heads
    heads = []
    for head in range(num_heads):
        part = slice(head * width, (head + 1) * width)
        scores = np.exp(query[:, part] @ key[:, part].T / math.sqrt(width))
        heads.append(scores / scores.sum(1, keepdims=True) @ value[:, part])
    tokens = tokens + linear(np.concatenate(heads, axis=1), "attention.projection")
    expanded = linear(norm(tokens, "layernorm_after"), "intermediate")
    gelu = expanded * 0.5 * (1 + np.vectorize(math.erf)(expanded / math.sqrt(2)))
    return tokens + linear(gelu, "output")


def test_layer_equals_the_equations(make: Callable[..., ViTEncoder]) -> None:
    layer = make().layers[0]
    assert isinstance(layer, ViTLayer)
    for norm in (layer.layernorm_before, layer.layernorm_after):
        torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
        torch.nn.init.normal_(norm.bias)
    tokens = torch.randn(2, 6, 32)
    output, weights = layer(tokens, None)
    for image in range(2):
        expected = numpy_layer(layer, tokens[image].double().numpy(), 2)
        np.testing.assert_allclose(output[image].detach(), expected, atol=1e-5)
    torch.testing.assert_close(weights.sum(-1), torch.ones(2, 2, 6))


@pytest.mark.parametrize("padded", [False, True])
def test_eager_and_sdpa_attention_agree(make: Callable[..., ViTEncoder], padded: bool) -> None:
    eager, sdpa = make(), make(attention="sdpa")
    sdpa.load_state_dict(eager.state_dict())
    _, pixel_values, pixel_mask = ragged_words([16, 64])
    outputs = [encoder(pixel_values, None, pixel_mask if padded else None) for encoder in (eager, sdpa)]
    first, second = (output.last_hidden_state for output in outputs)
    torch.testing.assert_close(first[..., :4], second[..., :4], rtol=0, atol=1e-5)
    torch.testing.assert_close(first[1], second[1], rtol=0, atol=1e-5)


def test_attention_weights_skip_the_padding(make: Callable[..., ViTEncoder]) -> None:
    encoder = make()
    _, pixel_values, pixel_mask = ragged_words([16, 64])
    output = encoder(pixel_values, None, pixel_mask, output_attentions=True)
    assert len(output.attentions) == 2
    for weights in output.attentions:
        assert weights.shape == (2, 2, 128, 128)
        by_key = weights[0].reshape(2, 128, 8, 16)
        assert torch.count_nonzero(by_key[..., 4:]) == 0
        torch.testing.assert_close(by_key[..., :4].sum((-1, -2)), torch.ones(2, 128))
    assert encoder(pixel_values).attentions is None


# ------------------------------------------------------------------ hidden units


@pytest.mark.parametrize("filling", [0.0, 1e4, float("inf"), float("nan")])
def test_hidden_pixels_never_reach_a_feature(make: Callable[..., ViTEncoder], filling: float) -> None:
    encoder = make(use_mask_token=True)
    images = torch.randn(2, 3, 32, 32)
    visible = torch.rand(2, 1, 8, 8) < 0.3
    hidden = ~visible.repeat_interleave(4, 2).repeat_interleave(4, 3)
    first = encoder(images, visible)
    other = images.masked_fill(hidden, filling).requires_grad_()
    second = encoder(other, visible)
    for one, two in zip(first.hidden_states, second.hidden_states, strict=True):
        assert torch.equal(one, two)
    second.last_hidden_state.square().sum().backward()
    assert other.grad is not None
    assert torch.count_nonzero(other.grad[hidden.expand_as(other)]) == 0
    weight = encoder.patch_embedding.weight.grad
    assert weight is not None
    assert weight.isfinite().all()


def test_everything_visible_is_the_plain_pass(make: Callable[..., ViTEncoder]) -> None:
    encoder = make(use_mask_token=True)
    images = torch.randn(2, 3, 32, 32)
    shown = encoder(images, torch.ones(2, 1, 8, 8, dtype=torch.bool))
    assert torch.equal(shown.last_hidden_state, encoder(images).last_hidden_state)


def test_hidden_units_hold_the_token_and_their_position(make: Callable[..., ViTEncoder]) -> None:
    encoder = make(use_mask_token=True)
    assert encoder.mask_token is not None
    visible = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    embedded = encoder(torch.randn(1, 3, 32, 32), visible).hidden_states[0]
    positions = sincos_positions(8, 8, 32, embedded.device)
    torch.testing.assert_close(embedded.flatten(2)[0].T, encoder.mask_token[0] + positions)


def test_hiding_needs_a_mask_token(make: Callable[..., ViTEncoder]) -> None:
    with pytest.raises(ValueError, match="use_mask_token=True"):
        make()(torch.zeros(1, 3, 32, 32), torch.ones(1, 1, 8, 8))


# ------------------------------------------------------------------ words of unequal width


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("kind", ["sincos", "learned"])
def test_word_in_a_batch_is_the_word_alone(
    make: Callable[..., ViTEncoder], attention: str, kind: str
) -> None:
    encoder = make(attention=attention, position_embedding_type=kind, max_position_columns=10)
    widths = [4, 64, 20, 100]
    words, pixel_values, pixel_mask = ragged_words(widths)
    output = encoder(pixel_values, None, pixel_mask)
    assert output.frame_mask.sum(1).tolist() == [width // 4 for width in widths]
    for row, (word, width) in enumerate(zip(words, widths, strict=True)):
        alone = encoder(word[None])
        for together, single in zip(output.hidden_states, alone.hidden_states, strict=True):
            own = together[row, ..., : width // 4]
            torch.testing.assert_close(own, single[0], rtol=0, atol=2e-5)


def test_padding_may_hold_anything(make: Callable[..., ViTEncoder]) -> None:
    encoder = make()
    _, pixel_values, pixel_mask = ragged_words([16, 64])
    other = pixel_values.masked_fill(pixel_mask[:, None] == 0, float("nan"))
    first, second = (encoder(values, None, pixel_mask).last_hidden_state for values in (pixel_values, other))
    assert torch.equal(first, second)


def test_very_long_words_are_read(make: Callable[..., ViTEncoder]) -> None:
    with torch.no_grad():
        output = make(num_hidden_layers=1, attention="sdpa")(torch.randn(1, 3, 32, 2000))
    assert output.last_hidden_state.shape == (1, 32, 8, 500)
    assert output.last_hidden_state.isfinite().all()


@pytest.mark.parametrize("patch_size", [2, 8])
def test_other_patch_sizes_work(make: Callable[..., ViTEncoder], patch_size: int) -> None:
    encoder = make(patch_size=patch_size)
    words, pixel_values, pixel_mask = ragged_words([16, 64])
    output = encoder(pixel_values, None, pixel_mask)
    assert output.last_hidden_state.shape == (2, 32, 32 // patch_size, 64 // patch_size)
    alone = encoder(words[0][None]).last_hidden_state[0]
    own = output.last_hidden_state[0, ..., : 16 // patch_size]
    torch.testing.assert_close(own, alone, rtol=0, atol=2e-5)


# ------------------------------------------------------------------ training


def test_dropout_works_in_training_only(make: Callable[..., ViTEncoder]) -> None:
    for field in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
        encoder = make(**{field: 0.5})
        images = torch.randn(1, 3, 32, 32)
        assert torch.equal(encoder(images).last_hidden_state, encoder(images).last_hidden_state)
        encoder.train()
        assert not torch.equal(encoder(images).last_hidden_state, encoder(images).last_hidden_state)


@pytest.mark.parametrize("kind", ["sincos", "learned"])
def test_every_parameter_gets_a_gradient(make: Callable[..., ViTEncoder], kind: str) -> None:
    encoder = make(use_mask_token=True, position_embedding_type=kind, max_position_columns=8).train()
    output = encoder(torch.randn(2, 3, 32, 32), torch.rand(2, 1, 8, 8) < 0.5)
    (output.last_hidden_state * torch.randn_like(output.last_hidden_state)).sum().backward()
    for name, parameter in encoder.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize(
    ("shape", "masks", "message"),
    [
        ((1, 3, 36, 32), {}, "reads words 32 pixels high, got 36"),
        ((1, 3, 32, 30), {}, "positive multiple of 4, got 30"),
        ((1, 3, 32, 0), {}, "positive multiple of 4, got 0"),
        ((2, 3, 32, 32), {"pixel_mask": torch.ones(1, 32, 32)}, r"must be \(2, 32, 32\)"),
        ((1, 3, 32, 32), {"pixel_mask": torch.eye(32)[None]}, "from the left"),
        ((1, 3, 32, 32), {"visible": torch.ones(1, 1, 8, 7)}, r"`visible` must be \(1, 1, 8, 8\)"),
    ],
)
def test_unusable_input_is_refused_with_the_rule(
    make: Callable[..., ViTEncoder], shape: tuple[int, ...], masks: dict[str, Tensor], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make(use_mask_token=True)(torch.zeros(shape), **masks)
