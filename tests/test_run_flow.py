import signal
import time
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch
from transformers import TrainerControl, TrainingArguments

from training.process_setup import agreement_steps
from training.run_flow import RunFlow
from training.run_state import RunClock


def make_flow(world_size: int = 1, **intervals: Any) -> tuple[RunFlow, Any]:
    run = {"save_steps": None, "save_minutes": None, "eval_steps": None, "eval_minutes": None, **intervals}
    trainer: Any = SimpleNamespace(
        arguments=SimpleNamespace(run=SimpleNamespace(**run)),
        args=SimpleNamespace(world_size=world_size, device=torch.device("cpu")),
        clock=RunClock(limit=3600.0),
        average=None,
        batches=SimpleNamespace(take_wait=lambda: 0.5),
        words_per_update=lambda: 8,
    )
    flow = RunFlow(trainer)
    flow.on_train_begin()
    return flow, trainer


def after(flow: RunFlow, step: int, max_steps: int = 100) -> TrainerControl:
    state: Any = SimpleNamespace(global_step=step, max_steps=max_steps)
    return flow.on_step_end(cast(TrainingArguments, None), state, TrainerControl())


def test_saves_and_evaluations_come_at_their_updates() -> None:
    flow, _ = make_flow(save_steps=3, eval_steps=2)
    due = [(after(flow, step).should_save, after(flow, step).should_evaluate) for step in range(1, 7)]
    assert due == [(False, False), (False, True), (True, False), (False, True), (False, False), (True, True)]


def test_saves_and_evaluations_come_after_their_minutes(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    flow, _ = make_flow(save_minutes=2, eval_minutes=3)
    assert not after(flow, 1).should_save
    now[0] += 121
    control = after(flow, 2)
    assert control.should_save
    assert not control.should_evaluate
    flow.on_save()
    assert not after(flow, 3).should_save
    now[0] += 60
    assert after(flow, 4).should_evaluate
    flow.on_evaluate()
    assert not after(flow, 5).should_evaluate


@pytest.mark.parametrize("reason", ["signal", "clock", "steps"])
def test_an_end_saves_and_stops_and_leaves_the_evaluation_to_the_end(reason: str) -> None:
    flow, trainer = make_flow(eval_steps=1)
    flow.stop.number = signal.SIGTERM if reason == "signal" else None
    trainer.clock.used = 3600.0 if reason == "clock" else 0.0
    control = after(flow, 5, max_steps=5 if reason == "steps" else 100)
    assert control.should_training_stop
    assert control.should_save
    assert not control.should_evaluate


def test_images_are_counted_per_update() -> None:
    flow, _ = make_flow()
    after(flow, 1)
    after(flow, 2)
    assert flow.images == 2 * 8


def test_speed_is_per_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [50.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    flow, _ = make_flow()
    after(flow, 1)
    now[0] += 2
    assert flow.speed() == {"images_per_second": 4.0, "data_wait": 0.25, "images": 8.0}
    after(flow, 2)
    now[0] += 1
    assert flow.speed()["images_per_second"] == 8.0


def test_the_average_moves_with_every_update() -> None:
    flow, trainer = make_flow()
    moved: list[Any] = []
    trainer.average = SimpleNamespace(update=moved.append)
    trainer.recogniser = "model"
    flow.on_optimizer_step()
    assert moved == ["model"]


class OtherProcess:
    """A stand-in for the collective: adds what the other process would have said."""

    def __init__(self, signals: float, seconds: float) -> None:
        self.told = torch.tensor([signals, seconds], dtype=torch.float64)
        self.calls = 0

    def reduce(self, told: torch.Tensor, how: str) -> torch.Tensor:
        assert how == "sum"
        self.calls += 1
        return told + self.told


def of_two(rank: int, other: OtherProcess, **intervals: Any) -> tuple[RunFlow, Any]:
    flow, trainer = make_flow(world_size=2, **intervals)
    trainer.accelerator = other
    trainer.is_world_process_zero = lambda: rank == 0
    return flow, trainer


@pytest.mark.parametrize(("device", "steps"), [("cpu", 1), ("cuda", 10)])
def test_agreement_must_not_hold_a_gpu_up_at_every_update(device: str, steps: int) -> None:
    assert agreement_steps(torch.device(device)) == steps


@pytest.mark.parametrize("rank", [0, 1])
def test_several_processes_stop_together_at_the_signal_of_one(
    monkeypatch: pytest.MonkeyPatch, rank: int
) -> None:
    """The update in which they hear of it is the same for both; before, neither stops."""
    monkeypatch.setattr("training.run_flow.agreement_steps", lambda device: 10)
    flow, trainer = of_two(rank, OtherProcess(float(rank == 0), 5.0))
    flow.stop.number = signal.SIGTERM if rank == 1 else None
    assert [step for step in range(1, 11) if after(flow, step).should_training_stop] == [10]
    assert flow.stopped
    assert trainer.accelerator.calls == 1


def test_a_later_process_goes_by_the_clock_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("training.run_flow.agreement_steps", lambda device: 10)
    other = OtherProcess(0.0, 100.0)
    flow, trainer = of_two(1, other, save_minutes=1)
    trainer.clock.used = 5000.0  # its own, which counts for nothing
    assert not after(flow, 1).should_save
    assert trainer.clock.reading() == 0.0
    control = after(flow, 10)
    assert control.should_save
    assert not control.should_training_stop
    assert trainer.clock.reading() == 100.0
    flow.on_save()
    assert not after(flow, 11).should_save
    other.told[1] = 3600.0
    assert after(flow, 20).should_training_stop


def test_an_interval_by_the_clock_counts_from_the_end_of_what_took_long() -> None:
    """Otherwise an evaluation that takes longer than `eval_minutes` would be due again at every update."""
    other = OtherProcess(0.0, 0.0)
    flow, trainer = of_two(1, other, eval_minutes=1, save_minutes=1)
    other.told[1] = 60.0
    assert after(flow, 1).should_evaluate
    other.told[1] = 180.0  # two minutes later
    flow.on_evaluate()
    other.told[1] = 200.0
    flow.on_save()
    due = {}
    for seconds in (239.0, 240.0, 259.0, 260.0):
        other.told[1] = seconds
        control = after(flow, 2)
        due[seconds] = (control.should_evaluate, control.should_save)
    assert due == {239.0: (False, False), 240.0: (True, False), 259.0: (True, False), 260.0: (True, True)}
