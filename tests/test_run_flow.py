import os
import signal
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from transformers import TrainerControl

from training.run_flow import RunFlow


@pytest.fixture(autouse=True)
def restored_signals() -> Iterator[None]:
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in handlers.items():
        signal.signal(number, handler)


class Clock:
    over = False

    def is_over(self) -> bool:
        return self.over


def make_flow(**intervals: Any) -> tuple[RunFlow, Any]:
    run = {"save_steps": None, "save_minutes": None, "eval_steps": None, "eval_minutes": None, **intervals}
    trainer: Any = SimpleNamespace(
        arguments=SimpleNamespace(run=SimpleNamespace(**run)),
        clock=Clock(),
        average=None,
        batches=SimpleNamespace(take_wait=lambda: 0.5),
    )
    flow = RunFlow(trainer)
    flow.on_train_begin()
    return flow, trainer


def after(flow: RunFlow, step: int, max_steps: int = 100) -> TrainerControl:
    arguments: Any = SimpleNamespace(per_device_train_batch_size=4, gradient_accumulation_steps=2)
    state: Any = SimpleNamespace(global_step=step, max_steps=max_steps)
    return flow.on_step_end(arguments, state, TrainerControl())


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
    flow.signal = signal.SIGTERM if reason == "signal" else None
    trainer.clock.over = reason == "clock"
    control = after(flow, 5, max_steps=5 if reason == "steps" else 100)
    assert control.should_training_stop
    assert control.should_save
    assert not control.should_evaluate


def test_images_are_counted_per_update() -> None:
    flow, _ = make_flow()
    after(flow, 1)
    after(flow, 2)
    assert flow.images == 2 * 4 * 2


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_first_signal_is_noted_and_a_second_interrupts(number: signal.Signals) -> None:
    flow, _ = make_flow()
    flow.watch_signals()
    os.kill(os.getpid(), number)
    assert flow.signal == number
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), number)


def test_the_average_moves_with_every_update() -> None:
    flow, trainer = make_flow()
    moved: list[Any] = []
    trainer.average = SimpleNamespace(update=moved.append)
    trainer.recogniser = "model"
    flow.on_optimizer_step()
    assert moved == ["model"]
