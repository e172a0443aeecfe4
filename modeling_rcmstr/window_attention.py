"""Self-attention inside non-overlapping windows of a feature map (W-MHSA of Swin, arXiv:2103.14030).

A window is any rectangle: (4, 4) is a square of strokes, (1, 10) a run of frames, (4, None) a stripe as wide
as the map. Maps that no whole number of windows covers are padded; padding, the map's own or a word's, is
never attended to. Shifted windows are windows that start earlier: the ones at the border are then smaller,
which is what Swin's cyclic shift with its mask gives.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def partition_windows(
    feature_map: Tensor, window_size: tuple[int, int], offset: tuple[int, int] = (0, 0)
) -> Tensor:
    """Cut a map into windows, row by row; what a window lacks is filled with zeros.

    Args:
        feature_map: (B, H, W, C).
        window_size: (height, width) of a window in positions.
        offset: (rows, columns) by which the first window starts before the map.

    Returns:
        (B, number of windows, height · width, C).
    """
    batch, height, width, channels = feature_map.shape
    rows, columns = window_grid((height, width), window_size, offset)
    bottom = rows * window_size[0] - offset[0] - height
    right = columns * window_size[1] - offset[1] - width
    padded = F.pad(feature_map, (0, 0, offset[1], right, offset[0], bottom))
    windows = padded.reshape(batch, rows, window_size[0], columns, window_size[1], channels)
    return windows.transpose(2, 3).reshape(batch, rows * columns, window_size[0] * window_size[1], channels)


def merge_windows(
    windows: Tensor, window_size: tuple[int, int], size: tuple[int, int], offset: tuple[int, int] = (0, 0)
) -> Tensor:
    """Put windows back into a map of `size` (H, W): the inverse of `partition_windows`.

    Args:
        windows: (B, number of windows, height · width, C).
        window_size: as given to `partition_windows`.
        size: (H, W) of the map.
        offset: as given to `partition_windows`.

    Returns:
        (B, H, W, C).
    """
    batch, _, _, channels = windows.shape
    rows, columns = window_grid(size, window_size, offset)
    tiles = windows.reshape(batch, rows, columns, window_size[0], window_size[1], channels).transpose(2, 3)
    padded = tiles.reshape(batch, rows * window_size[0], columns * window_size[1], channels)
    return padded[:, offset[0] : offset[0] + size[0], offset[1] : offset[1] + size[1]]


def window_grid(
    size: tuple[int, int], window_size: tuple[int, int], offset: tuple[int, int] = (0, 0)
) -> tuple[int, int]:
    """Count the (rows, columns) of windows that cover a map of `size` (H, W).

    Raises:
        ValueError: when a window has no extent or the offset does not lie inside one.
    """
    if min(window_size) < 1:
        raise ValueError(f"a window must be at least 1x1 positions, got {window_size}.")
    if not all(0 <= start < extent for start, extent in zip(offset, window_size, strict=True)):
        raise ValueError(f"`offset` must be at least 0 and less than the window {window_size}, got {offset}.")
    rows, columns = (
        -(-(length + start) // extent)
        for length, start, extent in zip(size, offset, window_size, strict=True)
    )
    return rows, columns


class WindowAttention(nn.Module):
    """Multi-head self-attention inside windows, with a learned bias for every relative position.

    Args:
        hidden_size: channels; divisible by `num_heads`.
        num_heads: attention heads.
        window_size: (height, width) in positions; a width of None is the map's own.
        relative_position_bias: whether positions inside a window are told apart.
        max_columns: for a width of None, the reach of the bias: positions further apart share its last
            column.

    Raises:
        ValueError: when heads do not divide the channels or a window has no extent.
    """

    def __init__(
        self,
        hidden_size: int,
        num_heads: int,
        window_size: tuple[int, int | None],
        relative_position_bias: bool = True,
        max_columns: int = 128,
    ) -> None:
        super().__init__()
        if hidden_size % num_heads:
            raise ValueError(f"`hidden_size` {hidden_size} must be divisible by `num_heads` {num_heads}.")
        height, width = window_size
        columns = max_columns if width is None else width
        if min(height, columns) < 1:
            raise ValueError(f"a window must be at least 1x1 positions, got {window_size}.")
        self.num_heads = num_heads
        self.window_size = window_size
        self.reach = (height - 1, columns - 1)
        self.query_key_value = nn.Linear(hidden_size, 3 * hidden_size)
        self.projection = nn.Linear(hidden_size, hidden_size)
        self.relative_position_bias = None
        if relative_position_bias:
            entries = (2 * height - 1) * (2 * columns - 1)
            self.relative_position_bias = nn.Parameter(torch.zeros(entries, num_heads))
            nn.init.trunc_normal_(self.relative_position_bias, std=0.02)

    def window_for(self, width: int) -> tuple[int, int]:
        """Return the window's (height, width) on a map of that width."""
        height, columns = self.window_size
        return height, width if columns is None else columns

    def forward(
        self, feature_map: Tensor, valid: Tensor | None = None, offset: tuple[int, int] = (0, 0)
    ) -> tuple[Tensor, Tensor]:
        """Attend.

        Args:
            feature_map: (B, H, W, C).
            valid: (B, H, W) True where a position may be attended to; None for all.
            offset: (rows, columns) by which the first window starts before the map.

        Returns:
            (B, H, W, C), and the weights (B, windows, heads, positions, positions) in float32 or better. What
            comes out at positions that are not valid means nothing.
        """
        batch, height, width, channels = feature_map.shape
        window = self.window_for(width)
        windows = partition_windows(feature_map, window, offset)  # (B, n, L, C)
        count, length = windows.shape[1:3]
        heads = self.query_key_value(windows).reshape(batch, count, length, 3, self.num_heads, -1)
        query, key, value = heads.permute(3, 0, 1, 4, 2, 5)  # each (B, n, heads, L, C/heads)
        scores = query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5
        scores = scores if scores.dtype == torch.float64 else scores.float()
        if self.relative_position_bias is not None:
            scores = scores + self._bias(window)
        if valid is None:
            valid = torch.ones((batch, height, width), dtype=torch.bool, device=feature_map.device)
        keys = partition_windows(valid[..., None], window, offset)[..., 0]  # (B, n, L)
        # The lowest number and not -inf: a window of nothing but padding must stay finite.
        scores = scores.masked_fill(~keys[:, :, None, None], torch.finfo(scores.dtype).min)
        weights = scores.softmax(-1)
        context = (weights.to(value.dtype) @ value).transpose(2, 3).reshape(batch, count, length, channels)
        return merge_windows(self.projection(context), window, (height, width), offset), weights

    def _bias(self, window: tuple[int, int]) -> Tensor:
        assert self.relative_position_bias is not None
        device = self.relative_position_bias.device
        row, column = (torch.arange(extent, device=device) for extent in window)
        rows = (row[:, None] - row) + self.reach[0]  # (h, h) query minus key, from 0
        columns = (column[:, None] - column).clamp(-self.reach[1], self.reach[1]) + self.reach[1]  # (w, w)
        index = rows[:, None, :, None] * (2 * self.reach[1] + 1) + columns[None, :, None, :]  # (h, w, h, w)
        length = window[0] * window[1]
        return self.relative_position_bias[index.reshape(length, length)].permute(2, 0, 1)  # (heads, L, L)


class WindowAttentionLayer(nn.Module):
    """Pre-norm transformer layer of window attention and an MLP that keeps the width.

    Args:
        attention: the layer's attention.
        hidden_size: channels.
        dropout: share of channels dropped after attention and MLP in training.
        shift: whether the windows start half a window earlier.
    """

    def __init__(
        self, attention: WindowAttention, hidden_size: int, dropout: float = 0.0, shift: bool = False
    ) -> None:
        super().__init__()
        self.shift = shift
        self.layernorm_before = nn.LayerNorm(hidden_size)
        self.attention = attention
        self.layernorm_after = nn.LayerNorm(hidden_size)
        self.intermediate = nn.Linear(hidden_size, hidden_size)
        self.output = nn.Linear(hidden_size, hidden_size)
        self.dropout = nn.Dropout(dropout)

    def offset_for(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return by how much the windows start before a map of `size`; 0 along a side that one covers."""
        if not self.shift:
            return 0, 0
        window = self.attention.window_for(size[1])
        rows, columns = (
            extent // 2 if extent < length else 0 for extent, length in zip(window, size, strict=True)
        )
        return rows, columns

    def forward(self, feature_map: Tensor, valid: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return (B, H, W, C) and the attention weights; `valid` (B, H, W) is True off the padding."""
        offset = self.offset_for((feature_map.shape[1], feature_map.shape[2]))
        attended, weights = self.attention(self.layernorm_before(feature_map), valid, offset)
        feature_map = feature_map + self.dropout(attended)
        expanded = F.gelu(self.intermediate(self.layernorm_after(feature_map)))
        return feature_map + self.dropout(self.output(expanded)), weights
