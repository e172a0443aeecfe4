"""Window attention against a NumPy twin: isolation, tiling, shift, indifference to padding."""

import numpy as np
import pytest
import torch
from torch import Tensor

from modeling_rcmstr.window_attention import (
    WindowAttention,
    WindowAttentionLayer,
    merge_windows,
    partition_windows,
    window_grid,
)

HIDDEN, HEADS = 16, 4


def attention(window: tuple[int, int | None], bias: bool = True, max_columns: int = 128) -> WindowAttention:
    """A float64 layer whose bias is not small."""
    layer = WindowAttention(HIDDEN, HEADS, window, bias, max_columns).double()
    if layer.relative_position_bias is not None:
        torch.nn.init.normal_(layer.relative_position_bias)
    return layer


def full_attention_twin(
    layer: WindowAttention,
    feature_map: Tensor,
    window: tuple[int, int],
    offset: tuple[int, int] = (0, 0),
    valid: Tensor | None = None,
    reach: int | None = None,
) -> np.ndarray:
    """Attention over the whole map, with -inf wherever two positions do not share a window, in NumPy loops.

    The bias table is read by its meaning: entry (row distance, column distance), distances from lowest to
    highest, columns clipped to `reach`.
    """
    weights = {name: value.detach().numpy() for name, value in layer.named_parameters()}
    batch, height, width, channels = feature_map.shape
    reach = window[1] - 1 if reach is None else reach
    places = [(row, column) for row in range(height) for column in range(width)]
    home = [((row + offset[0]) // window[0], (column + offset[1]) // window[1]) for row, column in places]
    output = np.zeros(feature_map.shape)
    for word in range(batch):
        tokens = feature_map[word].detach().numpy().reshape(-1, channels)
        mapped = tokens @ weights["query_key_value.weight"].T + weights["query_key_value.bias"]
        query, key, value = (
            mapped[:, :channels],
            mapped[:, channels : 2 * channels],
            mapped[:, 2 * channels :],
        )
        context = np.zeros_like(tokens)
        for head in range(HEADS):
            part = slice(head * channels // HEADS, (head + 1) * channels // HEADS)
            for i, (row, column) in enumerate(places):
                scores = np.full(len(places), -np.inf)
                for j, (other_row, other_column) in enumerate(places):
                    if home[i] != home[j] or (valid is not None and not valid[word, other_row, other_column]):
                        continue
                    scores[j] = query[i, part] @ key[j, part] / np.sqrt(channels / HEADS)
                    if "relative_position_bias" in weights:
                        down = row - other_row + window[0] - 1
                        across = np.clip(column - other_column, -reach, reach) + reach
                        entry = down * (2 * reach + 1) + across
                        scores[j] += weights["relative_position_bias"][entry, head]
                if np.isinf(scores).all():
                    continue
                shares = np.exp(scores - scores.max())
                context[i, part] = shares / shares.sum() @ value[:, part]
        mapped = context @ weights["projection.weight"].T + weights["projection.bias"]
        output[word] = mapped.reshape(height, width, channels)
    return output


@pytest.mark.parametrize("offset", [(0, 0), (1, 2), (3, 4)])
@pytest.mark.parametrize("size", [(8, 10), (4, 5), (7, 3), (1, 13)])
def test_merging_restores_what_was_partitioned(size: tuple[int, int], offset: tuple[int, int]) -> None:
    feature_map = torch.randn(2, *size, 3)
    windows = partition_windows(feature_map, (4, 5), offset)
    assert windows.shape == (2, np.prod(window_grid(size, (4, 5), offset)), 20, 3)
    assert torch.equal(merge_windows(windows, (4, 5), size, offset), feature_map)


def test_windows_are_rectangles_in_row_order() -> None:
    feature_map = torch.arange(24).reshape(1, 4, 6, 1)
    windows = partition_windows(feature_map, (2, 3))[0, :, :, 0]
    assert windows.tolist() == [
        [0, 1, 2, 6, 7, 8],
        [3, 4, 5, 9, 10, 11],
        [12, 13, 14, 18, 19, 20],
        [15, 16, 17, 21, 22, 23],
    ]


@pytest.mark.parametrize(
    ("size", "window", "count"),
    [
        ((8, 96), (4, 4), 48),
        ((8, 32), (4, 4), 16),
        ((1, 97), (1, 10), 10),
        ((1, 96), (1, 10), 10),
        ((1, 33), (1, 10), 4),
        ((1, 32), (1, 10), 4),
        ((8, 96), (4, 96), 2),
    ],
)
def test_number_of_windows(size: tuple[int, int], window: tuple[int, int], count: int) -> None:
    assert partition_windows(torch.zeros(1, *size, 1), window).shape[1] == count


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("size", "window", "offset"),
    [
        ((4, 6), (2, 3), (0, 0)),
        ((1, 13), (1, 5), (0, 0)),
        ((5, 7), (2, 3), (0, 0)),
        ((4, 7), (2, 4), (1, 2)),
        ((1, 9), (1, 4), (0, 2)),
        ((2, 3), (4, 4), (0, 0)),
    ],
)
def test_equals_full_attention_with_a_block_diagonal_mask(
    size: tuple[int, int], window: tuple[int, int], offset: tuple[int, int], bias: bool
) -> None:
    layer = attention(window, bias)
    feature_map = torch.randn(2, *size, HIDDEN, dtype=torch.float64)
    output, _ = layer(feature_map, offset=offset)
    twin = full_attention_twin(layer, feature_map, window, offset)
    np.testing.assert_allclose(output.detach().numpy(), twin, atol=1e-12)


def test_padding_is_excluded_like_in_the_twin() -> None:
    layer = attention((2, 3))
    feature_map = torch.randn(2, 4, 7, HIDDEN, dtype=torch.float64)
    valid = torch.arange(7).expand(2, 4, 7) < torch.tensor([7, 4])[:, None, None]
    output, _ = layer(feature_map, valid)
    twin = full_attention_twin(layer, feature_map, (2, 3), valid=valid)
    np.testing.assert_allclose(output[valid].detach().numpy(), twin[valid.numpy()], atol=1e-12)


def test_stripe_is_as_wide_as_the_map_and_clips_far_distances() -> None:
    layer = attention((2, None), max_columns=3)
    assert layer.relative_position_bias is not None
    assert layer.relative_position_bias.shape == (3 * 5, HEADS)
    for width in (2, 6):
        feature_map = torch.randn(1, 4, width, HIDDEN, dtype=torch.float64)
        output, weights = layer(feature_map)
        assert weights.shape == (1, 2, HEADS, 2 * width, 2 * width)
        twin = full_attention_twin(layer, feature_map, (2, width), reach=2)
        np.testing.assert_allclose(output.detach().numpy(), twin, atol=1e-12)


def layers(window: tuple[int, int], depth: int, shift: bool = False) -> torch.nn.Sequential:
    """A stack that gives the map only."""

    class Map(WindowAttentionLayer):
        def forward(self, feature_map: Tensor, valid: Tensor | None = None) -> Tensor:  # type: ignore[override]
            return super().forward(feature_map, valid)[0]

    return torch.nn.Sequential(
        *(Map(attention(window), HIDDEN, shift=shift and index % 2 == 1) for index in range(depth))
    ).double()


def changed(stack: torch.nn.Module, feature_map: Tensor, row: int, column: int) -> set[tuple[int, int]]:
    """Positions whose output changes when 1 is added to one input position."""
    other = feature_map.clone()
    other[:, row, column, :3] += 1
    moved = (stack(feature_map) != stack(other)).any(-1).any(0)
    return {(int(r), int(c)) for r, c in moved.nonzero()}


@pytest.mark.parametrize("depth", [1, 3])
def test_a_position_reaches_its_own_window_and_nothing_else(depth: int) -> None:
    stroke = changed(layers((4, 4), depth), torch.randn(1, 8, 32, HIDDEN, dtype=torch.float64), 5, 18)
    assert stroke == {(row, column) for row in range(4, 8) for column in range(16, 20)}
    semantic = changed(layers((1, 10), depth), torch.randn(1, 1, 97, HIDDEN, dtype=torch.float64), 0, 95)
    assert semantic == {(0, column) for column in range(90, 97)}


def test_shifted_windows_join_what_plain_ones_separate() -> None:
    feature_map = torch.randn(1, 8, 16, HIDDEN, dtype=torch.float64)
    stack = layers((4, 4), 2, shift=True)
    # The second layer's windows start at -2: position (5, 9) shares one with rows 2..5, columns 6..9; the
    # first layer has mixed the windows (4..7, 8..11) that it came from.
    sources = {(row, column) for row in range(4, 8) for column in range(8, 12)}
    reached = {
        (r, c)
        for row, column in sources
        for r in range(8)
        for c in range(16)
        if ((r + 2) // 4, (c + 2) // 4) == ((row + 2) // 4, (column + 2) // 4)
    }
    assert changed(stack, feature_map, 5, 9) == reached


def test_shift_leaves_a_side_that_one_window_covers() -> None:
    layer = WindowAttentionLayer(attention((4, None)), HIDDEN, shift=True)
    assert layer.offset_for((8, 20)) == (2, 0)
    assert layer.offset_for((4, 20)) == (0, 0)
    assert WindowAttentionLayer(attention((1, 10)), HIDDEN, shift=True).offset_for((1, 97)) == (0, 5)
    assert WindowAttentionLayer(attention((1, 10)), HIDDEN).offset_for((1, 97)) == (0, 0)


def test_words_are_the_same_alone_and_padded() -> None:
    """What stands in the padding does not matter, whether the window or the batch brought it."""
    stack = WindowAttentionLayer(attention((1, 10)), HIDDEN).double()
    word = torch.randn(1, 1, 97, HIDDEN, dtype=torch.float64)
    alone, _ = stack(word)
    for filling in (0.0, 1e6):
        padded = torch.cat([word, torch.full((1, 1, 23, HIDDEN), filling, dtype=torch.float64)], dim=2)
        valid = (torch.arange(120) < 97)[None, None]
        assert torch.allclose(stack(padded, valid)[0][:, :, :97], alone, rtol=0, atol=1e-13)


def test_windows_of_padding_only_stay_finite() -> None:
    layer = attention((1, 4))
    feature_map = torch.randn(1, 1, 8, HIDDEN, dtype=torch.float64, requires_grad=True)
    output, weights = layer(feature_map, (torch.arange(8) < 3)[None, None])
    output.sum().backward()
    assert torch.isfinite(output).all()
    assert feature_map.grad is not None
    assert torch.isfinite(feature_map.grad).all()
    assert torch.allclose(weights[0, 0, ..., :3].sum(-1), torch.ones(HEADS, 4, dtype=torch.float64))


@pytest.mark.parametrize("bias", [True, False])
def test_order_inside_a_window_counts_only_through_the_bias(bias: bool) -> None:
    layer = attention((2, 3), bias)
    windows = torch.randn(1, 1, 6, HIDDEN, dtype=torch.float64)
    order = torch.tensor([3, 1, 5, 0, 4, 2])

    def attend(tokens: Tensor) -> Tensor:
        return partition_windows(layer(merge_windows(tokens, (2, 3), (2, 3)))[0], (2, 3))

    same = torch.allclose(attend(windows[:, :, order]), attend(windows)[:, :, order], atol=1e-12)
    assert same is not bias


def test_weights_are_float32_and_sum_to_one_in_half_precision() -> None:
    layer = WindowAttention(HIDDEN, HEADS, (2, 3)).bfloat16()
    output, weights = layer(torch.randn(1, 4, 6, HIDDEN, dtype=torch.bfloat16))
    assert output.dtype == torch.bfloat16
    assert weights.dtype == torch.float32
    assert torch.allclose(weights.sum(-1), torch.ones(()), atol=1e-6)


def test_gradients_are_those_of_finite_differences() -> None:
    layer = attention((2, 2))
    feature_map = torch.randn(1, 3, 4, HIDDEN, dtype=torch.float64, requires_grad=True)
    valid = torch.ones(1, 3, 4, dtype=torch.bool)
    valid[..., 3] = False
    assert torch.autograd.gradcheck(lambda values: layer(values, valid)[0], feature_map)


def test_layer_is_pre_norm_with_two_residuals() -> None:
    layer = WindowAttentionLayer(attention((2, 3)), HIDDEN).double()
    for module in (layer.attention.projection, layer.output):
        torch.nn.init.zeros_(module.weight)
        torch.nn.init.zeros_(module.bias)
    feature_map = torch.randn(2, 4, 6, HIDDEN, dtype=torch.float64)
    assert torch.equal(layer(feature_map)[0], feature_map)


def test_errors_name_rule_and_value() -> None:
    with pytest.raises(ValueError, match=r"`hidden_size` 10 must be divisible by `num_heads` 4"):
        WindowAttention(10, 4, (2, 2))
    with pytest.raises(ValueError, match=r"at least 1x1 positions, got \(0, 2\)"):
        WindowAttention(16, 4, (0, 2))
    with pytest.raises(ValueError, match=r"at least 1x1 positions, got \(2, 0\)"):
        window_grid((4, 4), (2, 0))
    with pytest.raises(ValueError, match=r"`offset` must be at least 0 and less than the window \(2, 2\)"):
        partition_windows(torch.zeros(1, 4, 4, 1), (2, 2), (0, 2))
