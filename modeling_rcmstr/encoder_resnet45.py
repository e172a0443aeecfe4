"""ABINet's ResNet45 (arXiv:2103.06495), whose map is the grid of 4x4 units; the contract of `encoder_cnn`.

A 3x3 convolution and five stages of residual blocks, of which the first and the third halve rows and columns:
a 32x128 word becomes 8x32 positions, one for each unit that masked image modelling hides or shows. The active
set follows SparK (arXiv:2301.03580): a position of any map is active when its own unit is visible, so the
last one is the mask itself. TRBA's ResNet cannot have this rule, as its maps lie across the units. And its
own rule, by windows, would blur the mask here: a 3x3 window at stride 2 reaches one position above and left
of its own, so that in the end a hidden unit would be active when the unit above, the one on the left or the
one between these is visible. With 70 % hidden, only a quarter of the map would still be inactive.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_text_recognition import TextRecognitionConfig
from .encoder_cnn import ConvLayer, EncoderOutput, pixel_activity, valid_columns
from .sparse_convolution import subsample_active

STAGE_STRIDES = (2, 1, 2, 1, 1)
UNIT = 4  # pixels of a position of the last map, down and across


class ResNet45Block(nn.Module):
    """A 1x1 and a 3x3 convolution with a shortcut, ReLU after the sum; the 3x3 one has the stride."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1) -> None:
        """Build; the shortcut is a 1x1 convolution when the stride or the channels change."""
        super().__init__()
        self.stride = stride
        self.first = ConvLayer(in_channels, out_channels, kernel_size=1, padding=0)
        self.second = ConvLayer(out_channels, out_channels, stride=stride, activation=False)
        self.shortcut = None
        if stride != 1 or in_channels != out_channels:
            self.shortcut = ConvLayer(
                in_channels, out_channels, kernel_size=1, stride=stride, padding=0, activation=False
            )

    def forward(
        self, feature_map: Tensor, active: Tensor | None = None, update_statistics: bool = True
    ) -> tuple[Tensor, Tensor | None]:
        """Return (B, C', H/stride, W/stride) and the active set there; `active` belongs to the input."""
        residual = self.first(feature_map, active, update_statistics)
        if active is not None:
            active = subsample_active(active, self.stride)
        residual = self.second(residual, active, update_statistics)
        if self.shortcut is not None:
            feature_map = self.shortcut(feature_map, active, update_statistics)
        return F.relu(residual + feature_map, inplace=True), active


class ResNet45Stage(nn.Module):
    """Residual blocks, the first of which has the stride."""

    def __init__(self, in_channels: int, out_channels: int, depth: int, stride: int) -> None:
        """Build `depth` blocks."""
        super().__init__()
        self.blocks = nn.ModuleList(
            ResNet45Block(out_channels, out_channels)
            if index
            else ResNet45Block(in_channels, out_channels, stride)
            for index in range(depth)
        )

    def forward(
        self, feature_map: Tensor, active: Tensor | None, update_statistics: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Return the stage's map and the active set there."""
        for block in self.blocks:
            feature_map, active = block(feature_map, active, update_statistics)
        return feature_map, active


class ResNet45Encoder(nn.Module):
    """ResNet45 at any width and depth; 12,994,784 parameters at ABINet's sizes."""

    stride = (UNIT, UNIT)

    def __init__(self, config: TextRecognitionConfig) -> None:
        """Build from `embedding_sizes`, `hidden_sizes` and `depths`."""
        super().__init__()
        assert config.embedding_sizes is not None
        assert config.hidden_sizes is not None
        assert config.depths is not None
        self.height = config.image_size[0]
        sizes = [*config.embedding_sizes, *config.hidden_sizes]
        self.stem = nn.ModuleList([ConvLayer(config.num_channels, sizes[0])])
        self.stages = nn.ModuleList(
            ResNet45Stage(before, after, depth, stride)
            for before, after, depth, stride in zip(
                sizes, sizes[1:], config.depths, STAGE_STRIDES, strict=False
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
            pixel_values: (B, C, H, W); H as in the configuration, W a multiple of 4.
            visible: (B, 1, H/4, W/4) True where a 4x4 unit may be seen; None for all. Hidden pixels have no
                influence.
            pixel_mask: (B, H, W) 1 for the word, 0 for padding on its right; None when no word is padded.
            output_attentions: accepted for the contract's sake; a CNN has none.
            update_statistics: whether batch norm moves its running statistics in training mode.

        Returns:
            A (B, C, H/4, W/4) map; `hidden_states` holds the stem's map and those of the five stages, at
            strides 1, 2, 2, 4, 4, 4.

        Raises:
            ValueError: for a wrong height, a width that is no multiple of 4, or masks that do not fit.
        """
        batch, _, height, width = pixel_values.shape
        if height != self.height:
            raise ValueError(
                f"this cnn encoder reads words {self.height} pixels high, got {height}; resize them."
            )
        size = (batch, height, width)
        columns = valid_columns(pixel_mask, UNIT, size)
        active = pixel_activity(visible, columns, size, UNIT)
        if active is not None:
            # Not a product: whatever stands in a hidden place, also infinity, must have no influence.
            pixel_values = pixel_values.masked_fill(~active, 0.0)
            active = active.to(pixel_values.dtype)
        feature_map = pixel_values
        if self.training:
            # See `CNNEncoder`: faster in training on a CPU, slower at reading single words.
            feature_map = feature_map.contiguous(memory_format=torch.channels_last)
        for layer in self.stem:
            feature_map = layer(feature_map, active, update_statistics)
        hidden_states, activities = [feature_map], [active]
        for stage in self.stages:
            feature_map, active = stage(feature_map, active, update_statistics)
            hidden_states.append(feature_map)
            activities.append(active)
        frame_mask = None
        if columns is not None:
            frame_mask = torch.arange(feature_map.shape[-1], device=feature_map.device) < columns[:, None]
        known = tuple(active for active in activities if active is not None)
        return EncoderOutput(feature_map, frame_mask, tuple(hidden_states), active=known or None)
