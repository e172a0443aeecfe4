"""Convolution, batch norm and pooling that look at a subset of positions, with the parameters of the dense layers.

RCMSTR (arXiv:2411.11219) runs its CNN twice a step: densely on whole words and sparsely on masked ones, with one set of weights.
Here the set of positions is an argument: `active=None` is the ordinary dense layer, a tensor makes the very same module
sparse, so nothing is converted or copied, and no global state says which pass is running. Right padding of words of
unequal width uses the same mechanism, which is why a word's features do not depend on its batch neighbours.

Rule for the active set (classical sparse convolution): a stride-1 "same" operation keeps it; any other operation activates an
output position when any input of its window is active (`downsample_active`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def downsample_active(
    active: Tensor,
    widths: Tensor | None,
    kernel_size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
) -> tuple[Tensor, Tensor | None]:
    """Carry an active set through a pooling or strided convolution.

    Args:
        active: (B, 1, H, W) 1 where a position takes part, 0 elsewhere.
        widths: (B,) columns of each word that are not padding, or None when there is no padding.
        kernel_size: (vertical, horizontal) window.
        stride: (vertical, horizontal) step.
        padding: (vertical, horizontal) zeros added on each side.

    Returns:
        The active set of the output (B, 1, H', W') and the widths there, by the layer's own size arithmetic: a word
        padded in a batch keeps exactly the columns that it has alone.
    """
    active = F.max_pool2d(active, kernel_size, stride, padding)
    if widths is None:
        return active, None
    widths = (widths + 2 * padding[1] - kernel_size[1]) // stride[1] + 1
    inside = torch.arange(active.shape[-1], device=active.device) < widths[:, None]  # (B, W')
    return active * inside[:, None, None].to(active.dtype), widths


class SparseConv2d(nn.Conv2d):
    """`nn.Conv2d` whose outputs are zero outside the active set."""

    def forward(self, feature_map: Tensor, active: Tensor | None = None) -> Tensor:
        """Convolve; `active` (B, 1, H', W') belongs to the output."""
        output = super().forward(feature_map)
        return output if active is None else output * active


class SparseBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` that takes its statistics from active positions only and leaves the others at zero."""

    def forward(self, feature_map: Tensor, active: Tensor | None = None, update_statistics: bool = True) -> Tensor:
        """Normalise.

        Args:
            feature_map: (B, C, H, W); zero outside the active set.
            active: (B, 1, H, W) 1 or 0, or None for all positions.
            update_statistics: whether training mode moves the running mean and variance.

        Returns:
            (B, C, H, W), zero outside the active set.
        """
        if active is None and (update_statistics or not self.training):
            return super().forward(feature_map)
        if active is None:
            return F.batch_norm(feature_map, None, None, self.weight, self.bias, True, 0.0, self.eps)
        if self.training:
            mean, variance = self._active_statistics(feature_map, active, update_statistics)
        else:
            mean, variance = self.running_mean, self.running_var
        scale = self.weight * torch.rsqrt(variance + self.eps)  # (C,)
        shift = self.bias - mean * scale
        return (feature_map * scale[:, None, None] + shift[:, None, None]) * active

    def _active_statistics(self, feature_map: Tensor, active: Tensor, update: bool) -> tuple[Tensor, Tensor]:
        values = feature_map.float()
        count = active.sum(dtype=torch.float32).clamp(min=1.0)
        mean = values.sum((0, 2, 3)) / count  # inactive positions hold zeros
        centred = (values - mean[:, None, None]) * active
        variance = centred.square().sum((0, 2, 3)) / count  # (C,)
        if update:
            with torch.no_grad():
                self.num_batches_tracked += 1
                unbiased = variance * count / (count - 1.0).clamp(min=1.0)
                self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                self.running_var.lerp_(unbiased.to(self.running_var.dtype), self.momentum)
        return mean, variance
