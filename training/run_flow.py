"""When a training run evaluates, saves and stops, and how fast it goes."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from training.process_setup import agreement_steps
from training.stop_signal import StopSignal

if TYPE_CHECKING:
    from training.word_trainer import WordTrainer


class RunFlow(TrainerCallback):
    """Says when to evaluate, save and stop; counts images and time.

    Several processes decide alike: by the first one's clock and anybody's signal, of which they hear every
    `agreement_steps` updates.

    Attributes:
        images: words trained on, by all processes in all sessions.
        stop: the signal that this process has received.
        stopped: whether a signal, of any process, ends the session.
    """

    def __init__(self, trainer: WordTrainer) -> None:
        self.trainer = trainer
        self.run = trainer.arguments.run
        self.images = 0
        self.stop = StopSignal()
        self.stopped = False
        if trainer.args.world_size > 1:
            trainer.clock.agree(trainer.clock.used)
        self._last_save = self._last_evaluation = 0.0
        self._speed_start, self._speed_images = time.monotonic(), 0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the watches."""
        self._last_save = self._last_evaluation = self.trainer.clock.reading()
        self._speed_start, self._speed_images = time.monotonic(), self.images

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Move the average."""
        if self.trainer.average is not None:
            self.trainer.average.update(self.trainer.recogniser)

    def on_step_end(
        self,
        args: TrainingArguments,  # noqa: ARG002
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ARG002
    ) -> TrainerControl:
        """Decide what is due after an update."""
        self.images += self.trainer.words_per_update()
        if self.trainer.args.world_size == 1 or not state.global_step % agreement_steps(
            self.trainer.args.device
        ):
            self.agree()
        now = self.trainer.clock.reading()
        ending = self.stopped or self.trainer.clock.is_over() or state.global_step >= state.max_steps
        control.should_training_stop |= ending
        control.should_save |= ending or _due(
            self.run.save_steps, state.global_step, self.run.save_minutes, now - self._last_save
        )
        if not ending:
            control.should_evaluate |= _due(
                self.run.eval_steps, state.global_step, self.run.eval_minutes, now - self._last_evaluation
            )
        return control

    def agree(self) -> None:
        """Take one decision about signals and one reading of the clock for all processes; all must ask."""
        if self.trainer.args.world_size == 1:
            self.stopped = self.stop.number is not None
            return
        seconds = self.trainer.clock.seconds() if self.trainer.is_world_process_zero() else 0.0
        told = torch.tensor([float(self.stop.number is not None), seconds], dtype=torch.float64)
        told = self.trainer.accelerator.reduce(told.to(self.trainer.args.device), "sum")
        signals, seconds = told.tolist()
        self.stopped = signals > 0
        self.trainer.clock.agree(seconds)

    def on_save(self, *_: Any, **__: Any) -> None:
        """Start the next interval, at the end of the save."""
        self.agree()
        self._last_save = self.trainer.clock.reading()

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        """Start the next interval, at the end of the evaluation; speed is measured without it."""
        self.agree()
        self._last_evaluation = self.trainer.clock.reading()
        self._speed_start, self._speed_images = time.monotonic(), self.images
        self.trainer.batches.take_wait()

    def speed(self) -> dict[str, float]:
        """Images per second and the share of time spent waiting for data, since the last call."""
        now = time.monotonic()
        elapsed = max(now - self._speed_start, 1e-9)
        result = {
            "images_per_second": (self.images - self._speed_images) / elapsed,
            "data_wait": self.trainer.batches.take_wait() / elapsed,
            "images": float(self.images),
        }
        self._speed_start, self._speed_images = now, self.images
        return result


def _due(steps: int | None, step: int, minutes: float | int | None, seconds: float) -> bool:
    """Whether an interval by steps or by minutes has passed."""
    return bool(steps and step % steps == 0) or bool(minutes and seconds >= 60 * minutes)
