"""How weights move besides the gradient: parameter groups, learning rates, and the average of the weights."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

# A one-cycle schedule (arXiv:1708.07120) starts at this share of its peak, as RCLSTR's code does.
ONE_CYCLE_START = 0.05
# A linear warm-up starts at this share, not at 0: the first update must move something.
WARMUP_START = 0.01
# Parameters that are no matrices although they have two dimensions: mask vectors and position tables.
UNDECAYED = {"mask_token", "mask_vector", "relative_position_bias"}


def parameter_groups(
    model: nn.Module, weight_decay: float, layer_decay: float = 1.0, decay_everything: bool = False
) -> list[dict[str, Any]]:
    """Trainable parameters in groups of one weight decay and one learning rate.

    Matrices and convolutions decay; norms, biases, embeddings, mask vectors and position tables do not: they
    have fewer than two dimensions, belong to an embedding, or are named in `UNDECAYED`.

    Args:
        model: whose trainable parameters are taken, in their order.
        weight_decay: of the decaying group.
        layer_decay: 1 for one rate; below it, each layer of the encoder learns at this share of the rate of
            the layer above it (ELECTRA, arXiv:2003.10555), everything above the encoder at the full rate.
        decay_everything: norms, biases and embeddings decay too, as plain `torch.optim.SGD` does it.

    Returns:
        Groups with `weight_decay`, and with `lr_scale` when `layer_decay` is not 1.

    Raises:
        ValueError: for a layer decay out of range.
    """
    if not 0 < layer_decay <= 1:
        raise ValueError(f"`layer_decay` must lie above 0 and up to 1, got {layer_decay}; 0.75 is common.")
    embeddings = {
        id(p) for module in model.modules() if isinstance(module, nn.Embedding) for p in module.parameters()
    }
    scales = layer_scales(model, layer_decay) if layer_decay < 1 else {}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for scale in sorted(set(scales.values()) or {1.0}, reverse=True):
        groups |= {(scale, True): [], (scale, False): []}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            decays = parameter.ndim >= 2 and id(parameter) not in embeddings
            decays = decays and name.rpartition(".")[2] not in UNDECAYED
            groups[scales.get(name, 1.0), decays or decay_everything].append(parameter)
    return [
        {
            "params": members,
            "weight_decay": weight_decay if decays else 0.0,
            **({"lr_scale": scale} if scales else {}),
        }
        for (scale, decays), members in groups.items()
        if members
    ]


def layer_scales(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """Share of the learning rate that each parameter has under layer-wise decay, by its name.

    The depth of a parameter is 0 in the encoder's stem, patches, positions and mask token, and one more with
    each of its `layers` (ViT) or `stages` (CNN); all others, and the encoder's last norm, lie one above the
    last of them.
    """
    depths = {}
    for name, _ in model.named_parameters():
        match = re.search(r"(?:^|\.)encoder\.(?:(?:layers|stages)\.(\d+)\.|(layernorm))?", name)
        depths[name] = None if match is None or match[2] else 0 if match[1] is None else int(match[1]) + 1
    top = 1 + max((depth for depth in depths.values() if depth is not None), default=0)
    return {name: layer_decay ** (top - (top if depth is None else depth)) for name, depth in depths.items()}


def make_optimizer(
    name: str, groups: list[dict[str, Any]], learning_rate: float, **settings: Any
) -> Optimizer:
    """An optimizer over parameter groups.

    Args:
        name: "adamw" (settings `betas`, `eps`) or "sgd" (setting `momentum`).
        groups: of `parameter_groups`.
        learning_rate: peak; a group's `lr_scale` multiplies it.
        settings: passed on.

    Raises:
        ValueError: for an unknown name.
    """
    classes: dict[str, Callable[..., Optimizer]] = {"adamw": torch.optim.AdamW, "sgd": torch.optim.SGD}
    if name not in classes:
        raise ValueError(f"unknown optimizer {name!r}; known: {', '.join(sorted(classes))}.")
    optimizer = classes[name](groups, lr=learning_rate, **settings)
    set_learning_rate(optimizer, learning_rate)
    return optimizer


def set_learning_rate(optimizer: Optimizer, learning_rate: float) -> None:
    """Give every group its rate: the given one times the group's `lr_scale`."""
    for group in optimizer.param_groups:
        group["lr"] = learning_rate * group.get("lr_scale", 1.0)


def schedule_factor(schedule: str, progress: float, warmup: float, final: float) -> float:
    """Learning rate as a share of its peak.

    Args:
        schedule: "cosine", "one_cycle", "linear" or "constant".
        progress: share of the run that is done; above 1 counts as 1.
        warmup: share of the run in which the rate rises to its peak.
        final: share of the peak at the end ("constant" stays at the peak).

    Returns:
        1 at `progress == warmup`, `final` at 1.

    Raises:
        ValueError: for an unknown schedule.
    """
    progress = min(max(progress, 0.0), 1.0)
    if schedule not in ("cosine", "one_cycle", "linear", "constant"):
        raise ValueError(f"unknown schedule {schedule!r}; known: cosine, one_cycle, linear, constant.")
    if progress < warmup:
        risen = progress / warmup
        if schedule == "one_cycle":
            return ONE_CYCLE_START + (1 - ONE_CYCLE_START) * (1 - math.cos(math.pi * risen)) / 2
        return WARMUP_START + (1 - WARMUP_START) * risen
    if schedule == "constant":
        return 1.0
    left = 1 - (progress - warmup) / (1 - warmup)
    share = left if schedule == "linear" else (1 - math.cos(math.pi * left)) / 2
    return final + (1 - final) * share


class WeightAverage:
    """Exponential moving average of a model's parameters and floating-point buffers, in float32.

    The decay rises with the number of updates, (1 + n) / (10 + n) up to `decay`, so the first weights are
    forgotten quickly.

    Args:
        model: whose tensors are averaged; the average starts at their values.
        decay: final decay per update, 0 to below 1.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0 < decay < 1:
            raise ValueError(f"`decay` must lie between 0 and 1, got {decay}.")
        self.decay = decay
        self.updates = 0
        self.tensors = {name: tensor.detach().float().clone() for name, tensor in _averaged(model).items()}

    @torch.no_grad()
    def update(self, model: nn.Module) -> None:
        """Move the average towards the model, once per optimizer step."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = _averaged(model)
        targets = [current[name].float() for name in self.tensors]
        torch._foreach_lerp_(list(self.tensors.values()), targets, 1 - decay)
        self.updates += 1

    @contextmanager
    def applied(self, model: nn.Module) -> Iterator[None]:
        """Inside the context the model holds the averaged weights; afterwards its own again, bit for bit."""
        current = _averaged(model)
        own = {name: tensor.detach().clone() for name, tensor in current.items()}
        self._copy(self.tensors, current)
        try:
            yield
        finally:
            self._copy(own, current)

    def state_dict(self) -> dict[str, Tensor]:
        """The average and the number of updates, as tensors."""
        tensors = {name: tensor.contiguous() for name, tensor in self.tensors.items()}
        return {**tensors, "updates": torch.tensor([self.updates])}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Take over a saved average.

        Raises:
            ValueError: when it belongs to another model.
        """
        if set(state) != {*self.tensors, "updates"}:
            different = sorted(set(state) ^ {*self.tensors, "updates"})
            raise ValueError(
                f"the saved average belongs to another model; names that differ: {different[:5]}."
            )
        self.updates = int(state["updates"][0])
        self._copy({name: state[name] for name in self.tensors}, self.tensors)

    @staticmethod
    @torch.no_grad()
    def _copy(source: dict[str, Tensor], target: dict[str, Tensor]) -> None:
        for name, tensor in source.items():
            target[name].copy_(tensor)


def _averaged(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and floating-point buffers by name."""
    tensors: dict[str, Tensor] = dict(model.named_parameters())
    tensors.update({name: buffer for name, buffer in model.named_buffers() if buffer.is_floating_point()})
    return tensors
