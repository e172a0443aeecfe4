"""Masked image modelling (RCMSTR, arXiv:2411.11219): predict pixels, and compare those that were hidden.

The head of TRBA's CNN mirrors its three reducing operations, with the maps of the two stages below added on
the way (SparK, arXiv:2301.03580); positions that saw nothing hold a learned mask token. ResNet45's map is the
grid of patches already: the token and one more convolution are enough. The ViT's tokens go through a small
perceptron each (DiG, arXiv:2207.00193). Predictions are patches: (B, P, h, w) with the P =
C·p·p pixels of a p x p patch as channels, in the order of `pixel_unshuffle`. Which units are hidden is
`masking`'s matter.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .configuration_rcmstr import RCMSTRConfig
from .encoder_cnn import ConvLayer, EncoderOutput


@dataclass
class PatchTargets:
    """What is to be reconstructed.

    Args:
        values: (B, P, h, w) pixels of each patch, normalised or not.
        mean: (B, 1, h, w) that was taken off; 0 without normalisation.
        deviation: (B, 1, h, w) that was divided by; 1 without normalisation.
    """

    values: Tensor
    mean: Tensor
    deviation: Tensor


def patch_targets(pixel_values: Tensor, patch_size: int, normalize: bool) -> PatchTargets:
    """Cut (B, C, H, W) images into patches, in float32 at least.

    `normalize` gives each patch mean 0 and variance 1 over its pixels and colours.
    """
    precise = torch.promote_types(pixel_values.dtype, torch.float32)
    patches = F.pixel_unshuffle(pixel_values.to(precise), patch_size)  # (B, P, h, w)
    mean, deviation = torch.zeros_like(patches[:, :1]), torch.ones_like(patches[:, :1])
    if normalize:
        variance, mean = torch.var_mean(patches, 1, keepdim=True)  # unbiased, as in SparK and MAE
        deviation = (variance + 1e-6).sqrt()
    return PatchTargets((patches - mean) / deviation, mean, deviation)


def masked_pixel_loss(prediction: Tensor, target: Tensor, visible: Tensor) -> Tensor:
    """Mean square error of hidden patches.

    The mean is over a patch's pixels, then over all hidden patches of the batch.

    Args:
        prediction: (B, P, h, w).
        target: (B, P, h, w).
        visible: (B, 1, h, w) True where a patch was seen; it does not count.

    Returns:
        A scalar of the target's type; 0 when nothing was hidden.
    """
    hidden = ~visible.bool()
    # Not a product: an overflow at a visible patch must reach neither the loss nor a gradient.
    difference = (prediction.to(target.dtype) - target).masked_fill(~hidden, 0.0)
    return difference.square().mean(1).sum() / hidden.sum().clamp(min=1)


def build_reconstruction_head(config: RCMSTRConfig) -> nn.Module:
    """Make the prediction head for the configuration's encoder; it turns `EncoderOutput` into patches."""
    if config.encoder_type == "vit":
        return ViTReconstructionHead(config)
    resnet45 = config.cnn_type == "resnet45"
    return ResNet45ReconstructionHead(config) if resnet45 else CNNReconstructionHead(config)


class CNNReconstructionHead(nn.Module):
    """From (B, C, 1, W/4 + 1) frames back to 8 x W/4 patches."""

    def __init__(self, config: RCMSTRConfig) -> None:
        """Build from `reconstruction_size` and the CNN's `hidden_sizes`."""
        super().__init__()
        size = config.reconstruction_size
        assert size is not None
        assert config.hidden_sizes is not None
        _, second, third, last = config.hidden_sizes
        # One token for each map that is read: the last one, then the skips from the top down.
        self.mask_tokens = nn.ParameterList(
            nn.Parameter(torch.zeros(1, c, 1, 1)) for c in (last, third, second)
        )
        self.upsampling = nn.ModuleList(
            [
                UpsamplingLayer(last, size, stride=(1, 1), padding=(0, 0)),  # 1 x (w + 1) → 2 x (w + 2)
                UpsamplingLayer(size, size, stride=(2, 1), padding=(0, 1)),  # → 4 x (w + 1)
                UpsamplingLayer(size, size, stride=(2, 1), padding=(0, 1)),  # → 8 x w
            ]
        )
        self.skips = nn.ModuleList([nn.Conv2d(third, size, 1), nn.Conv2d(second, size, 1)])
        self.patches = PatchPrediction(size, config.num_channels * config.patch_size**2, 1)

    def forward(self, encoded: EncoderOutput) -> Tensor:
        """Predict (B, P, 8, W/4) patches from the maps of the last three stages."""
        assert encoded.hidden_states is not None
        second, third, last = encoded.hidden_states[-3:]
        active = encoded.active[-3:] if encoded.active is not None else (None, None, None)
        tokens = self.mask_tokens
        feature_map = self.upsampling[0](_densify(last, active[2], tokens[0]))
        feature_map = self.upsampling[1](feature_map) + self.skips[0](_densify(third, active[1], tokens[1]))
        feature_map = self.upsampling[2](feature_map) + self.skips[1](_densify(second, active[0], tokens[2]))
        return self.patches(feature_map)


class ResNet45ReconstructionHead(nn.Module):
    """From (B, C, h, w) positions to the patch of each."""

    def __init__(self, config: RCMSTRConfig) -> None:
        """Build from `reconstruction_size` and the channels of the last stage."""
        super().__init__()
        size = config.reconstruction_size
        assert size is not None
        assert config.hidden_sizes is not None
        channels = config.hidden_sizes[-1]
        self.mask_tokens = nn.ParameterList([nn.Parameter(torch.zeros(1, channels, 1, 1))])
        self.layer = ConvLayer(channels, size)
        self.patches = PatchPrediction(size, config.num_channels * config.patch_size**2, 1)

    def forward(self, encoded: EncoderOutput) -> Tensor:
        """Predict (B, P, h, w) patches from the last (B, C, h, w) map."""
        assert encoded.last_hidden_state is not None
        active = encoded.active[-1] if encoded.active is not None else None
        return self.patches(self.layer(_densify(encoded.last_hidden_state, active, self.mask_tokens[0])))


def _densify(feature_map: Tensor, active: Tensor | None, mask_token: Tensor) -> Tensor:
    if active is None:
        return feature_map
    return torch.where(active > 0, feature_map, mask_token.to(feature_map.dtype))


class PatchPrediction(nn.Conv2d):
    """The last layer, by a name of its own: it starts with small weights."""


class UpsamplingLayer(nn.Module):
    """Transposed 2x2 convolution, batch norm, ReLU: the mirror of a reducing layer of the same geometry."""

    def __init__(
        self, in_channels: int, out_channels: int, stride: tuple[int, int], padding: tuple[int, int]
    ) -> None:
        """Build from layer sizes."""
        super().__init__()
        self.convolution = nn.ConvTranspose2d(
            in_channels, out_channels, 2, stride=stride, padding=padding, bias=False
        )
        self.normalization = nn.BatchNorm2d(out_channels)

    def forward(self, feature_map: Tensor) -> Tensor:
        """Return the larger map."""
        return F.relu(self.normalization(self.convolution(feature_map)), inplace=True)


class ViTReconstructionHead(nn.Module):
    """A perceptron on each token."""

    def __init__(self, config: RCMSTRConfig) -> None:
        """Build from `reconstruction_size` and `hidden_size`."""
        super().__init__()
        size = config.reconstruction_size
        assert size is not None
        self.layers = nn.Sequential(
            nn.Linear(config.hidden_size, size),
            nn.Linear(size, size),
            nn.LayerNorm(size),
            nn.GELU(),
            nn.Linear(size, config.num_channels * config.patch_size**2),
        )

    def forward(self, encoded: EncoderOutput) -> Tensor:
        """Predict (B, P, h, w) patches from the last (B, C, h, w) map."""
        assert encoded.last_hidden_state is not None
        return self.layers(encoded.last_hidden_state.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
