"""A ZeRO optimizer's state: what is kept, made anew, refused. DeepSpeed itself is in the slow tests."""

import enum
from typing import Any

import pytest
import torch

from training.deepspeed_state import load_zero_optimizer_state, zero_optimizer_state


class Stage(enum.IntEnum):
    gradients = 2


class FakeZeroOptimizer:
    """What DeepSpeed's optimizer answers at stage 2, and what it is given back."""

    def __init__(self, step: float = 0.0, partitions: int = 1) -> None:
        self.step, self.partitions = step, partitions
        self.given: list[Any] = []

    def state_dict(self) -> dict[str, Any]:
        return {
            "loss_scaler": object(),
            "base_optimizer_state": {"state": {0: {"step": torch.tensor(self.step)}}, "param_groups": []},
            "single_partition_of_fp32_groups": [torch.zeros(3)],
            "zero_stage": Stage.gradients,
            "partition_count": [self.partitions, self.partitions],
            "ds_version": "0.19.8",
            "param_slice_mappings": [object()],
        }

    def load_state_dict(self, states: list[Any], **options: Any) -> None:
        self.given = states
        assert options == {"load_optimizer_states": True, "load_from_fp32_weights": False}


@pytest.fixture(autouse=True)
def one_of_two_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.deepspeed_state.dist.get_world_size", lambda: 2)
    monkeypatch.setattr("training.deepspeed_state.dist.get_rank", lambda: 1)


def test_objects_and_copies_of_the_weights_are_left_out() -> None:
    state = zero_optimizer_state(FakeZeroOptimizer())
    assert set(state) == {"base_optimizer_state", "zero_stage", "partition_count", "ds_version"}


def test_the_kept_part_goes_back_to_its_process_and_the_rest_is_the_optimizers_own() -> None:
    stored = zero_optimizer_state(FakeZeroOptimizer(step=7.0)) | {"zero_stage": 2}
    optimizer = FakeZeroOptimizer()
    load_zero_optimizer_state(optimizer, stored)
    first, second = optimizer.given
    assert first is None
    assert second["base_optimizer_state"]["state"][0]["step"] == 7.0
    assert set(second) == set(optimizer.state_dict())


def test_another_number_of_processes_or_stage_is_refused() -> None:
    stored = zero_optimizer_state(FakeZeroOptimizer(partitions=2)) | {"zero_stage": 2}
    with pytest.raises(ValueError, match="another number of processes"):
        load_zero_optimizer_state(FakeZeroOptimizer(), stored)
    stored = zero_optimizer_state(FakeZeroOptimizer()) | {"zero_stage": 1}
    with pytest.raises(ValueError, match="another ZeRO stage"):
        load_zero_optimizer_state(FakeZeroOptimizer(), stored)
