"""Batch norm with the statistics of all processes together: N processes with B / N words act as one with B.

`torch.nn.SyncBatchNorm` runs on GPUs only and knows nothing of active positions (masked words, padded words),
so the sparse layer of the package gets its own: every process sends count, mean and sum of squared
deviations, and the parts are combined by the exact formula of Chan, Golub and LeVeque (1979), with gradients.
Right also when processes have unequal numbers of active positions, or none.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from modeling_rcmstr.sparse_convolution import SparseBatchNorm2d


def synchronize_batchnorm(model: nn.Module) -> int:
    """Replace every 2-D batch norm inside a model by the synchronised one.

    Returns:
        How many were replaced. Parameters and buffers are the same tensors; names and values of the model's
        state are unchanged.
    """
    replaced = 0
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.BatchNorm2d) and not isinstance(child, SynchronizedBatchNorm2d):
                setattr(parent, name, SynchronizedBatchNorm2d.from_batchnorm(child))
                replaced += 1
    return replaced


class SynchronizedBatchNorm2d(SparseBatchNorm2d):
    """`SparseBatchNorm2d` that in training mode takes its statistics over all processes."""

    @classmethod
    def from_batchnorm(cls, layer: nn.BatchNorm2d) -> SynchronizedBatchNorm2d:
        """Take over a layer's parameters and buffers, the very same tensors."""
        new = cls(layer.num_features, layer.eps, layer.momentum, layer.affine, layer.track_running_stats)
        for name, parameter in layer.named_parameters(recurse=False):
            setattr(new, name, parameter)
        for name, buffer in layer.named_buffers(recurse=False):
            setattr(new, name, buffer)
        return new.train(layer.training)

    def forward(
        self, feature_map: Tensor, active: Tensor | None = None, update_statistics: bool = True
    ) -> Tensor:
        """Normalise (B, C, H, W); arguments as in `SparseBatchNorm2d`."""
        if not self.training or not dist.is_initialized() or dist.get_world_size() == 1:
            return super().forward(feature_map, active, update_statistics)
        precise = torch.promote_types(feature_map.dtype, torch.float32)
        mean, variance, count = self._global_statistics(feature_map.to(precise), active)
        if update_statistics:
            self._move_running_statistics(mean.detach(), variance.detach(), count, active is not None)
        scale = self.weight.to(precise) * torch.rsqrt(variance + self.eps)  # (C,)
        shift = self.bias.to(precise) - mean * scale
        output = (feature_map * scale[:, None, None] + shift[:, None, None]).to(feature_map.dtype)
        return output if active is None else output * active.to(output.dtype)

    def _global_statistics(self, values: Tensor, active: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (C,), biased variance (C,) and number of positions (), over all processes."""
        if active is None:
            count = values.new_tensor(values.numel() // values.shape[1])
            mean = values.mean((0, 2, 3))
            deviations = (values - mean[:, None, None]).square().sum((0, 2, 3))
        else:
            count = active.sum(dtype=values.dtype)
            mean = values.sum((0, 2, 3)) / count.clamp(min=1.0)  # inactive positions hold zeros
            deviations = ((values - mean[:, None, None]) * active).square().sum((0, 2, 3))
        parts = gather_with_gradient(torch.cat([count[None], mean, deviations]))  # (N, 1 + 2 C)
        counts, (means, deviations) = parts[:, :1], parts[:, 1:].chunk(2, dim=1)
        total = counts.sum().clamp(min=1.0)
        mean = (counts * means).sum(0) / total
        variance = (deviations.sum(0) + (counts * (means - mean).square()).sum(0)) / total
        return mean, variance, total.detach()

    @torch.no_grad()
    def _move_running_statistics(self, mean: Tensor, variance: Tensor, count: Tensor, masked: bool) -> None:
        if self.running_mean is None or self.running_var is None:
            return
        running_mean, running_var = (
            self._running_statistics() if masked else (self.running_mean, self.running_var)
        )
        momentum = self._count_update()
        unbiased = variance * count / (count - 1.0).clamp(min=1.0)
        running_mean.lerp_(mean.to(running_mean.dtype), momentum)
        running_var.lerp_(unbiased.to(running_var.dtype), momentum)


class _GatherWithGradient(torch.autograd.Function):
    """Stack one tensor of every process; the gradient of a part goes back to where it came from."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:  # noqa: ARG004
        parts = [torch.empty_like(tensor) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, tensor.contiguous())
        return torch.stack(parts)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # noqa: ARG004
        # Every process uses every part, so a part's gradient is the sum over the processes.
        gradient = gradient.contiguous()
        dist.all_reduce(gradient)
        return gradient[dist.get_rank()]


@torch.compiler.disable
def gather_with_gradient(tensor: Tensor) -> Tensor:
    """(N, …) stack of a tensor of each of the N processes, in the order of their ranks, with gradients."""
    return _GatherWithGradient.apply(tensor)
