"""Convolution, batch norm and pooling that look at a subset of positions, with the dense layers' parameters.

RCMSTR (arXiv:2411.11219) runs its CNN twice a step: densely on whole words and sparsely on masked ones, with
one set of weights. Here the set of positions is an argument: `active=None` is the ordinary dense layer, a
tensor makes the very same module sparse, so nothing is converted or copied, and no global state says which
pass is running. Right padding of words of unequal width uses the same mechanism, which is why a word's
features do not depend on its batch neighbours.

A stride-1 "same" operation keeps the active set. For the others there are two rules. Classical sparse
convolution activates an output position when any input of its window is active (`downsample_active`): it
fits every geometry, and TRBA's ResNet. SparK (arXiv:2301.03580) activates an output position with the hidden
unit that it stands on (`subsample_active`), which needs maps whose positions lie inside the units: ResNet45.
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
        The active set of the output (B, 1, H', W') and the widths there, by the layer's own size arithmetic:
        a word padded in a batch keeps exactly the columns that it has alone.
    """
    active = F.max_pool2d(active, kernel_size, stride, padding)
    if widths is None:
        return active, None
    widths = (widths + 2 * padding[1] - kernel_size[1]) // stride[1] + 1
    inside = torch.arange(active.shape[-1], device=active.device) < widths[:, None]  # (B, W')
    return active * inside[:, None, None].to(active.dtype), widths


def subsample_active(active: Tensor, stride: int) -> Tensor:
    """Carry an active set through a strided convolution by SparK's rule: keep what lies at its centres.

    Where each hidden unit covers a multiple of `stride` positions in both directions, the result is the mask
    of the units at the output's resolution.

    Args:
        active: (B, 1, H, W) 1 where a position takes part, 0 elsewhere.
        stride: step in both directions; divides H and W.

    Returns:
        The active set of the output (B, 1, H/stride, W/stride).
    """
    return active[..., ::stride, ::stride]


class SparseConv2d(nn.Conv2d):
    """`nn.Conv2d` whose outputs are zero outside the active set."""

    def forward(self, feature_map: Tensor, active: Tensor | None = None) -> Tensor:
        """Convolve; `active` (B, 1, H', W') belongs to the output."""
        if self.kernel_size == (1, 1) and self.padding == (0, 0) and self.groups == 1:
            # The stride taken beforehand: oneDNN's own backward pass of a strided 1x1 convolution of 8
            # channels in channels-last order writes outside its memory (PyTorch 2.13, CPU).
            taken = feature_map[..., :: self.stride[0], :: self.stride[1]]
            output = F.conv2d(taken, self.weight, self.bias)
        else:
            output = super().forward(feature_map)
        return output if active is None else output * active.to(output.dtype)


class SparseBatchNorm2d(nn.BatchNorm2d):
    """`nn.BatchNorm2d` that takes its statistics from active positions only and leaves the others at zero."""

    masked_running_mean: Tensor | None
    masked_running_var: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ) -> None:
        """Build the ordinary layer."""
        super().__init__(num_features, eps, momentum, affine, track_running_stats)
        self.register_buffer("masked_running_mean", None)
        self.register_buffer("masked_running_var", None)

    def keep_masked_statistics(self) -> None:
        """Give passes with an active set running statistics of their own, apart from the dense ones."""
        self.masked_running_mean = torch.zeros(self.num_features)
        self.masked_running_var = torch.ones(self.num_features)

    def forward(
        self, feature_map: Tensor, active: Tensor | None = None, update_statistics: bool = True
    ) -> Tensor:
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
        if not self.training:
            return self._affine(feature_map, active, *self._running_statistics())
        if feature_map.device.type == "cpu":
            # Positions as rows need no product with the mask and use the library's own kernel; on an
            # accelerator the look-up of the rows would wait for the device at every layer.
            positions = active.flatten().nonzero().squeeze(1)
            if len(positions) > 1:
                return self._normalize_rows(feature_map, positions, update_statistics)
        mean, variance = self._active_statistics(feature_map, active, update_statistics)
        return self._affine(feature_map, active, mean, variance)

    def _running_statistics(self) -> tuple[Tensor, Tensor]:
        if self.masked_running_mean is not None and self.masked_running_var is not None:
            return self.masked_running_mean, self.masked_running_var
        assert self.running_mean is not None
        assert self.running_var is not None
        return self.running_mean, self.running_var

    def _affine(self, feature_map: Tensor, active: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        # In float32 at least, like the dense layer, whatever the parameters' precision; out as it came in.
        precise = torch.promote_types(feature_map.dtype, torch.float32)
        scale = self.weight.to(precise) * torch.rsqrt(variance.to(precise) + self.eps)  # (C,)
        shift = self.bias.to(precise) - mean.to(precise) * scale
        normalized = feature_map * scale[:, None, None] + shift[:, None, None]
        return (normalized * active).to(feature_map.dtype)

    def _normalize_rows(self, feature_map: Tensor, positions: Tensor, update: bool) -> Tensor:
        batch, channels, height, width = feature_map.shape
        rows = feature_map.permute(0, 2, 3, 1).reshape(-1, channels)  # (B·H·W, C)
        mean, variance, momentum = None, None, 0.0
        if update:
            mean, variance = self._running_statistics()
            momentum = self._count_update()
        active_rows = rows.index_select(0, positions)
        active_rows = F.batch_norm(
            active_rows, mean, variance, self.weight, self.bias, True, momentum, self.eps
        )
        output = active_rows.new_zeros(rows.shape).index_copy(0, positions, active_rows)
        return output.reshape(batch, height, width, channels).permute(0, 3, 1, 2)

    def _active_statistics(self, feature_map: Tensor, active: Tensor, update: bool) -> tuple[Tensor, Tensor]:
        values = feature_map.to(torch.promote_types(feature_map.dtype, torch.float32)) * active
        count = active.sum(dtype=torch.float32).clamp(min=1.0)
        mean = values.sum((0, 2, 3)) / count
        centred = (values - mean[:, None, None]) * active
        variance = centred.square().sum((0, 2, 3)) / count  # (C,)
        if update:
            with torch.no_grad():
                running_mean, running_var = self._running_statistics()
                momentum = self._count_update()
                unbiased = variance * count / (count - 1.0).clamp(min=1.0)
                running_mean.lerp_(mean.to(running_mean.dtype), momentum)
                running_var.lerp_(unbiased.to(running_var.dtype), momentum)
        return mean, variance

    def _count_update(self) -> float:
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        if self.masked_running_mean is None:
            self.num_batches_tracked += 1
        return self.momentum
