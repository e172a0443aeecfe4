"""Nested states go to disk and back unchanged, without a pickle."""

import enum
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from training.tensor_state import load_nested, random_state, restore_random_state, save_nested


class Stage(enum.IntEnum):
    TWO = 2


def test_a_nested_state_comes_back(tmp_path: Path) -> None:
    shared = torch.arange(6.0).view(2, 3)
    state = {
        "state": {0: {"step": torch.tensor(3.0), "momentum": shared.T}, 7: {"same": shared}},
        "groups": [{"betas": (0.9, 0.99), "foreach": None, "fused": True, "lr": 0.1, "params": [0, 7]}],
        "stage": Stage.TWO,
        "half": torch.ones(2, dtype=torch.bfloat16),
        "empty": {},
    }
    save_nested(tmp_path / "optimizer-0", state)
    loaded = load_nested(tmp_path / "optimizer-0")
    assert list(loaded["state"]) == [0, 7], "keys stay numbers"
    assert torch.equal(loaded["state"][0]["momentum"], shared.T)
    assert torch.equal(loaded["state"][7]["same"], shared)
    assert loaded["state"][0]["step"].shape == ()
    assert loaded["groups"] == state["groups"]
    assert loaded["stage"] == 2
    assert loaded["half"].dtype == torch.bfloat16
    assert loaded["empty"] == {}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["optimizer-0.json", "optimizer-0.safetensors"]
    json.loads((tmp_path / "optimizer-0.json").read_text())


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_an_optimizer_goes_on_exactly(tmp_path: Path, name: str) -> None:
    def run(stop: bool) -> torch.Tensor:
        weight = torch.nn.Parameter(torch.linspace(-1, 1, 5))

        def new() -> torch.optim.Optimizer:
            if name == "sgd":
                return torch.optim.SGD([weight], lr=0.1, momentum=0.9, weight_decay=0.01)
            return torch.optim.AdamW([weight], lr=0.1, betas=(0.9, 0.98))

        optimizer = new()
        for step in range(6):
            if stop and step == 3:
                save_nested(tmp_path / "state", optimizer.state_dict())
                optimizer = new()
                optimizer.load_state_dict(load_nested(tmp_path / "state"))
            optimizer.zero_grad()
            (weight * torch.arange(5.0)).sin().sum().backward()
            optimizer.step()
        return weight.detach()

    assert torch.equal(run(stop=True), run(stop=False))


def test_what_needs_a_pickle_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match=r"state\.scaler\[1\] is a object"):
        save_nested(tmp_path / "state", {"scaler": [1, object()]})
    with pytest.raises(TypeError, match="keys that are neither"):
        save_nested(tmp_path / "state", {"a": {(1, 2): 3}})


def test_random_generators_go_on_where_they_were(tmp_path: Path) -> None:
    torch.rand(3), np.random.rand(3), random.gauss(0, 1)
    save_nested(tmp_path / "random", random_state())
    expected = torch.rand(4), np.random.randn(4), random.gauss(0, 1)
    torch.rand(9), np.random.rand(9), random.random()
    restore_random_state(load_nested(tmp_path / "random"))
    assert torch.equal(torch.rand(4), expected[0])
    assert np.array_equal(np.random.randn(4), expected[1])
    assert random.gauss(0, 1) == expected[2]
