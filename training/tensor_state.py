"""Nested states of optimizers as two files that need no trust: tensors in safetensors, the rest in JSON.

`torch.save` pickles, and a pickle runs what its author wrote into it. Here `NAME.safetensors` holds the
tensors of a nested state by number, and `NAME.json` its shape: dictionaries, lists, numbers and text, with a
mark where a tensor belongs.
"""

from __future__ import annotations

import enum
import json
import random
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

# Keys that mark what JSON does not have. Dictionaries of a state are marked too, so nothing can be mistaken.
TENSOR, TUPLE, ITEMS = "__tensor__", "__tuple__", "__items__"


def save_nested(path: Path, state: Any) -> None:
    """Write a nested state to `path` with the endings .safetensors and .json.

    Args:
        path: without an ending.
        state: dictionaries with keys of text or whole numbers, lists, tuples, tensors, numbers, text, None;
            enumeration members are stored as their values.

    Raises:
        TypeError: for anything else, naming where it stands.
    """
    tensors: dict[str, Tensor] = {}
    shape = _describe(state, tensors, path.name)
    save_file(tensors, str(path.with_name(path.name + ".safetensors")))
    path.with_name(path.name + ".json").write_text(json.dumps(shape), encoding="utf-8")


def load_nested(path: Path) -> Any:
    """Read what `save_nested` wrote; tensors are on the CPU."""
    tensors = load_file(str(path.with_name(path.name + ".safetensors")))
    shape = json.loads(path.with_name(path.name + ".json").read_text(encoding="utf-8"))
    return _rebuild(shape, tensors)


def _describe(value: Any, tensors: dict[str, Tensor], where: str) -> Any:
    """The JSON form of a value; its tensors are added to `tensors`."""
    if isinstance(value, Tensor):
        name = str(len(tensors))
        # A copy of its own: safetensors refuses tensors that share memory, and optimizers may share.
        tensors[name] = value.detach().to("cpu", copy=True).contiguous()
        return {TENSOR: name}
    if isinstance(value, enum.Enum):
        return _describe(value.value, tensors, where)
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple):
        return {TUPLE: [_describe(item, tensors, f"{where}[{i}]") for i, item in enumerate(value)]}
    if isinstance(value, list):
        return [_describe(item, tensors, f"{where}[{i}]") for i, item in enumerate(value)]
    if isinstance(value, dict):
        if any(type(key) not in (str, int) for key in value):
            raise TypeError(f"{where} has keys that are neither text nor whole numbers.")
        return {ITEMS: [[key, _describe(item, tensors, f"{where}.{key}")] for key, item in value.items()]}
    raise TypeError(f"{where} is a {type(value).__name__}, which cannot be stored without a pickle.")


def _rebuild(shape: Any, tensors: dict[str, Tensor]) -> Any:
    if isinstance(shape, list):
        return [_rebuild(item, tensors) for item in shape]
    if not isinstance(shape, dict):
        return shape
    if TENSOR in shape:
        return tensors[shape[TENSOR]]
    if TUPLE in shape:
        return tuple(_rebuild(item, tensors) for item in shape[TUPLE])
    return {key: _rebuild(item, tensors) for key, item in shape[ITEMS]}


def random_state() -> dict[str, Any]:
    """The state of this process's global random generators: PyTorch's (CPU, GPUs), NumPy's, Python's."""
    name, keys, *rest = cast(tuple[Any, ...], np.random.get_state(legacy=True))
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), *rest],
        "python": random.getstate(),
    }


def restore_random_state(state: dict[str, Any]) -> None:
    """Take over what `random_state` gave."""
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    random.setstate(state["python"])
