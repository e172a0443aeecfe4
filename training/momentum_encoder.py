"""The slowly moving copy of a model that yields the keys of contrastive pretraining (MoCo, arXiv:1911.05722).

It is float32 or better and lies outside DDP and the DeepSpeed engine: in bfloat16 a step of one thousandth
is mostly rounded away, and an engine would cast it. Only parameters move (the running statistics of batch
norm are never used here), and the rectifier stays as it was, as in the released RCLSTR code. It is saved with
the run's state, not with the model.

Batch norm of the copy runs on the statistics of its batch. Three ways, named by the setting `batchnorm`:
"local" (each process its own words), "synchronized" (all words; N processes equal one) and "shuffled" (the
words are dealt to the processes anew, so that a query and its key do not share statistics: MoCo, section
3.3).
"""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from training.feature_queue import gather_rows

# The first part of the names of parameters that do not move.
RESTING = ("rectifier",)


class MomentumEncoder:
    """A copy of a model, in float32 or better, whose parameters follow it.

    Args:
        model: with `encode_keys(pixel_values) -> {level: (B, n, D)}`; unwrapped, on its device, parameters
            whole.
        momentum: share of the old value that stays at an update, 0 to below 1.

    Raises:
        ValueError: for a momentum out of range.
    """

    def __init__(self, model: nn.Module, momentum: float) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(
                f"`key_momentum` must lie in 0 to below 1, got {momentum}; the papers use 0.999."
            )
        self.momentum = momentum
        precise = torch.promote_types(next(model.parameters()).dtype, torch.float32)
        self.model: Any = copy.deepcopy(model).to(precise).requires_grad_(False).train()

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move every parameter: momentum · own + (1 - momentum) · the model's; once per update of the model.

        The released code moves the copy before it encodes; moving it after the optimizer's step gives the
        same keys, since before the first step copy and model are equal.
        """
        current = dict(model.named_parameters())
        own = {name: tensor for name, tensor in self.model.named_parameters() if not _rests(name)}
        targets = [current[name].detach().to(tensor) for name, tensor in own.items()]
        torch._foreach_lerp_(list(own.values()), targets, 1.0 - self.momentum)

    @torch.no_grad()
    def encode(
        self,
        pixel_values: Tensor,
        shuffle: torch.Generator | None = None,
        precision: AbstractContextManager[None] | None = None,
    ) -> dict[str, Tensor]:
        """Keys of a process's words.

        Args:
            pixel_values: (B, 3, H, W) of this process; all processes must give equally many.
            shuffle: CPU generator in the same state on every process; the words of all are dealt anew for the
                encoding.
            precision: an autocast context to encode under.

        Returns:
            By level (B, n, D) unit vectors of this process's own words, in order, float32 or better.
        """
        alone = not dist.is_initialized() or dist.get_world_size() == 1
        with precision or nullcontext():
            if shuffle is None or alone:
                keys = self.model.encode_keys(pixel_values)
            else:
                keys = self._encode_shuffled(pixel_values, shuffle)
        return {
            level: features.to(torch.promote_types(features.dtype, torch.float32))
            for level, features in keys.items()
        }

    def _encode_shuffled(self, pixel_values: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
        words = gather_rows(pixel_values)
        count, rank = len(pixel_values), dist.get_rank()
        order = torch.randperm(len(words), generator=generator).to(words.device)
        own = slice(rank * count, (rank + 1) * count)
        keys = self.model.encode_keys(words[order[own]])
        back = torch.argsort(order)[own]
        return {level: gather_rows(features)[back] for level, features in keys.items()}

    def state_dict(self) -> dict[str, Tensor]:
        """Every parameter of the copy."""
        return {name: tensor.detach() for name, tensor in self.model.named_parameters()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over saved parameters.

        Raises:
            ValueError: when they belong to another model.
        """
        own = dict(self.model.named_parameters())
        if set(own) != set(state):
            different = sorted(set(own) ^ set(state))
            raise ValueError(
                f"the saved momentum encoder is another model's; names that differ: {different[:5]}."
            )
        for name, tensor in own.items():
            tensor.copy_(state[name])


def _rests(name: str) -> bool:
    return any(part in RESTING for part in name.split("."))
