"""The ResNet of word recognisers (FAN, arXiv:1709.02054; TRBA, arXiv:1904.01906), dense and sparse in one.

Every convolution is free of bias and followed by batch norm and ReLU; blocks keep the resolution, and only
the poolings and the two last convolutions reduce it. A 32xW word becomes one row of W/4 + 1 frames.

Encoder contract (ResNet45 and the ViT have it too): `encoder(pixel_values, visible=None, pixel_mask=None)` →
`EncoderOutput`, with attributes `out_channels` and `stride = (vertical, horizontal)`.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.utils import ModelOutput

from .configuration_text_recognition import TextRecognitionConfig
from .sparse_convolution import SparseBatchNorm2d, SparseConv2d, downsample_active


@dataclass
class EncoderOutput(ModelOutput):
    """What an encoder gives.

    Args:
        last_hidden_state: (B, C, h', w') feature map.
        frame_mask: (B, w') True for columns that belong to the word, None when no word is padded.
        hidden_states: feature maps of the stem and of each stage or layer.
        attentions: attention weights of each layer, where there are any and they were asked for.
        active: (B, 1, h', w') for each of the CNN's `hidden_states`, 1 where a position takes part; None when
            all do.
    """

    last_hidden_state: Tensor | None = None
    frame_mask: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    active: tuple[Tensor, ...] | None = None


def valid_columns(pixel_mask: Tensor | None, patch_size: int, size: tuple[int, int, int]) -> Tensor | None:
    """Count the unpadded patch columns of each word.

    Args:
        pixel_mask: (B, H, W) 1 for the word, 0 for padding on its right, or None.
        patch_size: pixels of a column.
        size: (B, H, W) of the images.

    Returns:
        (B,) columns, or None without a mask.

    Raises:
        ValueError: when the width is no positive multiple of `patch_size`, or a mask has another size, is not
            the word's columns followed by padding, or its valid width is no positive multiple of
            `patch_size`.
    """
    width = size[2]
    if width < 1 or width % patch_size:
        raise ValueError(
            f"the image width must be a positive multiple of {patch_size}, got {width}; "
            "let the image processor resize or pad it."
        )
    if pixel_mask is None:
        return None
    if tuple(pixel_mask.shape) != size:
        raise ValueError(f"`pixel_mask` must be {size} like `pixel_values`, got {tuple(pixel_mask.shape)}.")
    real = pixel_mask != 0
    pixels = real[:, 0].sum(-1)
    expected = torch.arange(width, device=real.device) < pixels[:, None]  # (B, W)
    wrong = (pixels < 1) | (pixels % patch_size != 0) | (real != expected[:, None]).flatten(1).any(1)
    # A graph that is being traced cannot branch on values; whoever runs it checks its masks.
    if not torch.compiler.is_compiling() and bool(wrong.any()):
        raise ValueError(
            f"each word of `pixel_mask` must be 1 over a positive multiple of {patch_size} columns from the "
            f"left and 0 to their right; words {wrong.nonzero().flatten().tolist()} are not "
            f"(columns: {pixels.tolist()}): "
            "resize each word to such a width and pad on the right (the image processor does)."
        )
    return pixels // patch_size


class ConvLayer(nn.Module):
    """Convolution, batch norm, ReLU."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int = 3,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] = 1,
        activation: bool = True,
    ) -> None:
        """Build from layer sizes; `activation=False` leaves the ReLU out."""
        super().__init__()
        self.convolution = SparseConv2d(
            in_channels, out_channels, kernel_size, stride=stride, padding=padding, bias=False
        )
        self.normalization = SparseBatchNorm2d(out_channels)
        self.activation = activation

    def forward(
        self, feature_map: Tensor, active: Tensor | None = None, update_statistics: bool = True
    ) -> Tensor:
        """Return (B, C', H', W'); `active` belongs to the output."""
        feature_map = self.convolution(feature_map, active)
        feature_map = self.normalization(feature_map, active, update_statistics)
        return F.relu(feature_map, inplace=True) if self.activation else feature_map


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions with a shortcut, ReLU after the sum."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        """Build; the shortcut is a 1x1 convolution when the channels change."""
        super().__init__()
        self.first = ConvLayer(in_channels, out_channels)
        self.second = ConvLayer(out_channels, out_channels, activation=False)
        self.shortcut = None
        if in_channels != out_channels:
            self.shortcut = ConvLayer(in_channels, out_channels, kernel_size=1, padding=0, activation=False)

    def forward(
        self, feature_map: Tensor, active: Tensor | None = None, update_statistics: bool = True
    ) -> Tensor:
        """Return (B, C', H, W)."""
        residual = self.second(self.first(feature_map, active, update_statistics), active, update_statistics)
        if self.shortcut is not None:
            feature_map = self.shortcut(feature_map, active, update_statistics)
        return F.relu(residual + feature_map, inplace=True)


class CNNStage(nn.Module):
    """An optional max pooling, residual blocks, and the convolutions that close the stage."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        depth: int,
        pooling: tuple[tuple[int, int], tuple[int, int]] | None,
        closing: tuple[tuple[int, tuple[int, int], tuple[int, int]], ...],
    ) -> None:
        """Build a stage.

        Args:
            in_channels: channels that come in.
            out_channels: channels of every block.
            depth: number of blocks.
            pooling: (stride, padding) of a 2x2 max pooling, or None.
            closing: (kernel size, stride, padding) of each closing convolution.
        """
        super().__init__()
        self.pooling = pooling
        self.closing_geometry = closing
        self.blocks = nn.ModuleList(
            ResidualBlock(in_channels if index == 0 else out_channels, out_channels) for index in range(depth)
        )
        self.closing = nn.ModuleList(
            ConvLayer(out_channels, out_channels, kernel, stride, padding)
            for kernel, stride, padding in closing
        )

    def forward(
        self, feature_map: Tensor, active: Tensor | None, widths: Tensor | None, update_statistics: bool
    ) -> tuple[Tensor, Tensor | None, Tensor | None]:
        """Return the stage's map and the active set and widths there."""
        if self.pooling is not None:
            stride, padding = self.pooling
            # Everything here follows a ReLU, so the zeros of inactive positions never beat an active value.
            feature_map = F.max_pool2d(feature_map, 2, stride, padding)
            if active is not None:
                active, widths = downsample_active(active, widths, (2, 2), stride, padding)
                feature_map = feature_map * active.to(feature_map.dtype)
        for block in self.blocks:
            feature_map = block(feature_map, active, update_statistics)
        for layer, (kernel, stride, padding) in zip(self.closing, self.closing_geometry, strict=True):
            if active is not None and kernel != 3:
                active, widths = downsample_active(active, widths, (kernel, kernel), stride, padding)
            feature_map = layer(feature_map, active, update_statistics)
        return feature_map, active, widths


class CNNEncoder(nn.Module):
    """TRBA's ResNet at any width and depth; 44,264,480 parameters at the papers' sizes."""

    stride = (32, 4)

    def __init__(self, config: TextRecognitionConfig) -> None:
        """Build from `embedding_sizes`, `hidden_sizes` and `depths`."""
        super().__init__()
        assert config.embedding_sizes is not None
        assert config.hidden_sizes is not None
        assert config.depths is not None
        first, second = config.embedding_sizes
        sizes = [second, *config.hidden_sizes]
        self.stem = nn.ModuleList([ConvLayer(config.num_channels, first), ConvLayer(first, second)])
        same = (3, (1, 1), (1, 1))
        poolings = [((2, 2), (0, 0)), ((2, 2), (0, 0)), ((2, 1), (0, 1)), None]
        closings = [(same,), (same,), (same,), ((2, (2, 1), (0, 1)), (2, (1, 1), (0, 0)))]
        self.stages = nn.ModuleList(
            CNNStage(before, after, depth, pooling, closing)
            for before, after, depth, pooling, closing in zip(
                sizes, sizes[1:], config.depths, poolings, closings, strict=False
            )
        )
        self.out_channels = sizes[-1]

    def forward(
        self,
        pixel_values: Tensor,
        visible: Tensor | None = None,
        pixel_mask: Tensor | None = None,
        output_attentions: bool = False,  # noqa: ARG002
        update_statistics: bool = True,
    ) -> EncoderOutput:
        """Encode words.

        Args:
            pixel_values: (B, C, 32, W); W a multiple of 4.
            visible: (B, 1, 8, W/4) True where a 4x4 unit may be seen; None for all. Hidden pixels have no
                influence.
            pixel_mask: (B, 32, W) 1 for the word, 0 for padding on its right; None when no word is padded.
            output_attentions: accepted for the contract's sake; a CNN has none.
            update_statistics: whether batch norm moves its running statistics in training mode.

        Returns:
            A (B, C, 1, W/4 + 1) map; `hidden_states` holds the stem's map and those of the four stages.

        Raises:
            ValueError: for a height other than 32, a width that is no multiple of 4, or masks that do not
                fit.
        """
        batch, _, height, width = pixel_values.shape
        if height != 32:
            raise ValueError(f"the cnn encoder reads words 32 pixels high, got {height}; resize them to 32.")
        size = (batch, height, width)
        columns = valid_columns(pixel_mask, 4, size)
        active = pixel_activity(visible, columns, size, 4)
        widths = None if columns is None else columns * 4
        if active is not None:
            # Not a product: whatever stands in a hidden place, also infinity, must have no influence.
            pixel_values = pixel_values.masked_fill(~active, 0.0)
            active = active.to(pixel_values.dtype)
        feature_map = pixel_values
        if self.training:
            # On a CPU, the statistics of batch norm take half the time in this layout. Without them, a wide
            # network reads single words twice as fast in the other one, so reading keeps what it is given.
            feature_map = feature_map.contiguous(memory_format=torch.channels_last)
        for layer in self.stem:
            feature_map = layer(feature_map, active, update_statistics)
        hidden_states, activities = [feature_map], [active]
        for stage in self.stages:
            feature_map, active, widths = stage(feature_map, active, widths, update_statistics)
            hidden_states.append(feature_map)
            activities.append(active)
        frame_mask = None
        if widths is not None:
            frame_mask = torch.arange(feature_map.shape[-1], device=feature_map.device) < widths[:, None]
        known = tuple(active for active in activities if active is not None)
        return EncoderOutput(feature_map, frame_mask, tuple(hidden_states), active=known or None)


def pixel_activity(
    visible: Tensor | None, columns: Tensor | None, size: tuple[int, int, int], unit: int
) -> Tensor | None:
    """Combine hidden units and padding into one (B, 1, H, W) map, or None when every pixel counts.

    Raises:
        ValueError: when `visible` is not (B, 1, H/unit, W/unit).
    """
    if visible is None and columns is None:
        return None
    batch, height, width = size
    grid = (batch, 1, height // unit, width // unit)
    if visible is None:
        assert columns is not None
        visible = torch.ones(grid, dtype=torch.bool, device=columns.device)
    if tuple(visible.shape) != grid:
        raise ValueError(
            f"`visible` must be {grid} for {height}x{width} images in {unit}x{unit} units, "
            f"got {tuple(visible.shape)}."
        )
    visible = visible.bool()
    if columns is not None:
        inside = torch.arange(grid[-1], device=visible.device) < columns[:, None]  # (B, w)
        visible = visible & inside[:, None, None]
    return visible.repeat_interleave(unit, 2).repeat_interleave(unit, 3)
