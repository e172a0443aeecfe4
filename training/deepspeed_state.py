"""The optimizer's state under DeepSpeed ZeRO, each process its part, without DeepSpeed's pickles.

Training is in float32 (autocast lowers the precision of single operations only), so at stages 1 and 2 the
optimizer's own copy of the weights equals the model's, and is made anew from it; at stage 3 each process
keeps its part of the weights.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

# Entries of a ZeRO optimizer's state that are made anew: the copy of the weights, objects of DeepSpeed, its
# version.
REMADE = {
    "single_partition_of_fp32_groups",
    "loss_scaler",
    "param_slice_mappings",
    "universal_checkpoint_info",
}


def zero_optimizer_state(optimizer: Any) -> dict[str, Any]:
    """This process's part of the state of a DeepSpeed optimizer, as plain dictionaries, lists and tensors."""
    return {name: value for name, value in optimizer.state_dict().items() if name not in REMADE}


def load_zero_optimizer_state(optimizer: Any, state: dict[str, Any]) -> None:
    """Take over the part that `zero_optimizer_state` gave on this process.

    The model must hold the checkpoint's weights already.

    Raises:
        ValueError: when the number of processes or the stage is another.
    """
    own = optimizer.state_dict()
    for name, words in (("partition_count", "number of processes"), ("zero_stage", "ZeRO stage")):
        if state.get(name) != _plain(own.get(name)):
            raise ValueError(
                f"the checkpoint was written with another {words} ({state.get(name)}, now "
                f"{_plain(own.get(name))}); resume a DeepSpeed run as it was started."
            )
    states: list[dict[str, Any] | None] = [None] * dist.get_world_size()
    states[dist.get_rank()] = {name: state.get(name, value) for name, value in own.items()}
    with torch.no_grad():
        optimizer.load_state_dict(states, load_optimizer_states=True, load_from_fp32_weights=False)


def _plain(value: Any) -> Any:
    """A value as it comes back from a file."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return getattr(value, "value", value)
