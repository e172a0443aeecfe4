"""When a training run evaluates, saves and stops, and how fast it goes."""

from __future__ import annotations

import signal
import time
from types import FrameType
from typing import TYPE_CHECKING, Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

if TYPE_CHECKING:
    from training.word_trainer import WordTrainer


class RunFlow(TrainerCallback):
    """Says when to evaluate, save and stop; counts images and time.

    Attributes:
        images: words trained on, in all sessions.
        signal: number of the signal that ended the session, or None.
    """

    def __init__(self, trainer: WordTrainer) -> None:
        self.trainer = trainer
        self.run = trainer.arguments.run
        self.images = 0
        self.signal: int | None = None
        self._last_save = self._last_evaluation = time.monotonic()
        self._speed_start, self._speed_images = time.monotonic(), 0

    def watch_signals(self) -> None:
        """Turn SIGTERM and SIGINT into: save, then stop."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note_signal)

    def _note_signal(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002
        if self.signal is not None:
            raise KeyboardInterrupt
        self.signal = number

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        """Start the watches."""
        self._last_save = self._last_evaluation = self._speed_start = time.monotonic()
        self._speed_images = self.images

    def on_optimizer_step(self, *_: Any, **__: Any) -> None:
        """Move the average."""
        if self.trainer.average is not None:
            self.trainer.average.update(self.trainer.recogniser)

    def on_step_end(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        **kwargs: Any,  # noqa: ARG002
    ) -> TrainerControl:
        """Decide what is due after an update."""
        self.images += args.per_device_train_batch_size * args.gradient_accumulation_steps
        now = time.monotonic()
        ending = (
            self.signal is not None or self.trainer.clock.is_over() or state.global_step >= state.max_steps
        )
        control.should_training_stop |= ending
        control.should_save |= ending or _due(
            self.run.save_steps, state.global_step, self.run.save_minutes, now - self._last_save
        )
        if not ending:
            control.should_evaluate |= _due(
                self.run.eval_steps, state.global_step, self.run.eval_minutes, now - self._last_evaluation
            )
        return control

    def on_save(self, *_: Any, **__: Any) -> None:
        """Start the next interval."""
        self._last_save = time.monotonic()

    def on_evaluate(self, *_: Any, **__: Any) -> None:
        """Start the next interval; speed is measured without the evaluation."""
        self._last_evaluation = self._speed_start = time.monotonic()
        self._speed_images = self.images
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
