"""The loop of pretraining, one for both families: updates, log, checkpoints, probe, an end on a signal.

    for every batch of an update: inputs → forward → loss → backward
    clip → check → optimizer → after_step        then, when due: log, probe, picture, save

`PretrainingLoop` knows nothing of a family; that is the objective's part.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor

from training.objectives import Objective, Progress
from training.optimization import schedule_factor, set_learning_rate
from training.pretraining_arguments import PretrainingArguments, PretrainingOptimisationArguments
from training.pretraining_checkpoint import RunProgress, save_checkpoint
from training.process_setup import agreement_steps
from training.run_state import MetricsLog, RunClock, write_json_file
from training.stop_signal import StopSignal
from training.training_batches import TrainingBatches
from training.word_trainer import TrainingDivergedError


class PretrainingLoop:
    """Runs updates from where the progress stands.

    Args:
        arguments: of the run.
        accelerator: of the run.
        model: as prepared.
        optimizer: as prepared.
        objective: of the model's family.
        batches: of this process, at their start.
        image_processor: saved beside the model.
        progress: of the run; moved on here.
    """

    def __init__(
        self,
        arguments: PretrainingArguments,
        accelerator: Accelerator,
        model: Any,
        optimizer: Any,
        objective: Objective,
        batches: TrainingBatches,
        image_processor: Any,
        progress: RunProgress,
    ) -> None:
        self.arguments = arguments
        self.accelerator = accelerator
        self.model = model
        self.optimizer = optimizer
        self.objective = objective
        self.batches = batches
        self.image_processor = image_processor
        self.progress = progress
        self.folder = Path(arguments.run.output_dir)
        self.clock = RunClock(progress.seconds)
        self.log: MetricsLog | None = None
        self.probe: Callable[[], dict[str, float]] | None = None
        self.picture: Callable[[Any, dict[str, Tensor], int], None] | None = None
        self.stop = StopSignal()
        self._warned: set[str] = set()
        self._stream: Iterator[dict[str, Tensor]] = iter(())
        self._scalars: dict[str, list[Tensor]] = {}
        self._unchecked: tuple[Tensor, list[dict[str, Any]], Progress] | None = None
        self._started = self._saved = time.monotonic()
        self._images = 0

    def run(self) -> bool:
        """Update until the last one or a signal; save at the end.

        Returns:
            Whether the run came to its end.

        Raises:
            TrainingDivergedError: when a gradient is not finite; its batches are left in the run's folder.
        """
        settings, run = self.arguments.optimisation, self.arguments.run
        self._stream = iter(self.batches)
        self._started = self._saved = time.monotonic()
        self._images = self.progress.images
        stopped = False
        while self.progress.step < settings.max_steps and not stopped:
            outputs, batch = self.update()
            step, last = self.progress.step, self.progress.step == settings.max_steps
            if step % run.log_steps == 0 or last:
                self.write_log(outputs)
            if self.probe is not None and (last or _every(self.arguments.probe.probe_steps, step)):
                self.write_probe()
            if self.picture is not None and _every(run.picture_steps, step):
                self.picture(outputs, batch, step)
            stopped, save_now = self._agree(step)
            if last or stopped or save_now or _every(run.save_steps, step):
                self.save()
        return not stopped

    def update(self) -> tuple[Any, dict[str, Tensor]]:
        """One update of the weights; returns the outputs of the last batch, and the batch."""
        settings = self.arguments.optimisation
        progress = Progress(
            update=self.progress.step,
            max_updates=settings.max_steps,
            batches=settings.gradient_accumulation_steps,
            rank=self.accelerator.process_index,
            world_size=self.accelerator.num_processes,
        )
        set_learning_rate(self.optimizer, learning_rate_at(settings, self.words_per_update, progress.update))
        seen: list[dict[str, Any]] = []
        outputs, batch = None, {}
        for number in range(progress.batches):
            batch = next(self._stream)
            with self.accelerator.accumulate(self.model):
                inputs = self.objective.inputs(batch, progress.at_batch(number))
                seen.append({**batch, **inputs})
                with self.precision():
                    outputs = self.model(**inputs)
                    loss = self.objective.loss(outputs, progress.at_batch(number))
                self.accelerator.backward(loss)
                self._add(self.objective.losses(outputs))
                if self.accelerator.sync_gradients:
                    self._check(self._clip(), seen, progress)
                self.optimizer.step()
                self.optimizer.zero_grad()
        self.objective.after_step(outputs, progress)
        self.progress.step += 1
        self.progress.images += self.words_per_update
        return outputs, batch

    @property
    def words_per_update(self) -> int:
        """Words of one update, over all processes and batches."""
        return self.progress.words_per_update

    def precision(self) -> contextlib.AbstractContextManager[None]:
        """The autocast context of the run."""
        return autocast(self.accelerator.device, self.arguments.optimisation.bf16)

    def save(self) -> Path:
        """Write a checkpoint."""
        self.check_pending()
        self.progress.seconds = self.clock.seconds()
        self.progress.counts = dict(self.batches.counts)
        began = time.monotonic()
        checkpoint = save_checkpoint(
            self.folder / "checkpoints",
            self.accelerator,
            self.model,
            self.optimizer,
            self.objective,
            self.image_processor,
            self.progress,
            self.arguments.run.keep_checkpoints,
        )
        self._saved = time.monotonic()
        self._started += self._saved - began  # speed is that of training
        return checkpoint

    def write_log(self, outputs: Any) -> None:
        """Write the means of the losses since the last time, speed, rate and the objective's statistics."""
        self.check_pending()
        names = sorted(self._scalars)
        means = torch.stack([torch.stack(self._scalars[name]).mean() for name in names])
        values = self.accelerator.reduce(means, "mean").tolist()
        self._scalars = {}
        statistics = self.objective.statistics(outputs)
        numbers = dict(zip(names, values, strict=True)) | statistics
        numbers["learning_rate"] = max(group["lr"] for group in self.optimizer.param_groups)
        numbers |= self._speed()
        if not self.accelerator.is_main_process:
            return
        if self.log is not None:
            self.log.write(self.progress.step, numbers)
        shown = ("loss", "learning_rate", "gradient_norm", "images_per_second", "data_wait")
        line = "  ".join(f"{name} {numbers[name]:.4g}" for name in shown if name in numbers)
        print(f"step {self.progress.step}  {line}", flush=True)
        warnings = self.objective.warnings(statistics)
        for warning in warnings:
            # Once, until it is over.
            if warning.partition(" (")[0] not in self._warned:
                print(f"step {self.progress.step}  warning: {warning}", flush=True)
        self._warned = {warning.partition(" (")[0] for warning in warnings}

    def write_probe(self) -> None:
        """Run the probe and write its numbers; its time does not count as training."""
        assert self.probe is not None
        began = time.monotonic()
        numbers = self.probe()
        self._started += time.monotonic() - began
        if not self.accelerator.is_main_process:
            return
        if self.log is not None:
            self.log.write(self.progress.step, numbers)
        line = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        print(f"step {self.progress.step}  {line}", flush=True)

    def _agree(self, step: int) -> tuple[bool, bool]:
        """Whether to stop, and whether to save by the clock; all processes answer alike."""
        minutes = self.arguments.run.save_minutes
        due = minutes is not None and time.monotonic() - self._saved >= 60 * minutes
        if self.accelerator.num_processes == 1:
            return self.stop.number is not None, due
        if step % agreement_steps(self.accelerator.device):
            return False, False
        flags = torch.tensor(
            [self.stop.number is not None, due and self.accelerator.is_main_process],
            dtype=torch.float32,
            device=self.accelerator.device,
        )
        stop, save = self.accelerator.reduce(flags, "sum").tolist()
        return stop > 0, save > 0

    def _clip(self) -> Tensor:
        """Scale the gradient down if it is too long; its norm before that, the same on every process."""
        longest = float(self.arguments.optimisation.max_grad_norm) or float("inf")
        norm = self.accelerator.clip_grad_norm_(self.model.parameters(), longest)
        norm = torch.as_tensor(norm, dtype=torch.float32).detach()
        self._add({"gradient_norm": norm.to(self.accelerator.device)})
        return norm

    def _check(self, norm: Tensor, seen: list[dict[str, Any]], progress: Progress) -> None:
        """Stop the run when the gradient is not finite.

        On a GPU, looking at a number waits for it; there an update is checked while the next one runs, and in
        any case before a save.
        """
        self.check_pending()
        self._unchecked = (norm, seen, progress)
        if norm.device.type == "cpu":
            self.check_pending()

    def check_pending(self) -> None:
        """Look at the last gradient norm that nobody has looked at.

        Raises:
            TrainingDivergedError: when it is not finite.
        """
        if self._unchecked is None:
            return
        norm, seen, progress = self._unchecked
        self._unchecked = None
        if torch.isfinite(norm):
            return
        place = self.folder / f"diverged-{progress.update}"
        place.mkdir(parents=True, exist_ok=True)
        stem = f"process-{progress.rank:05d}"
        tensors = {
            f"{number}.{name}": value.detach().cpu().contiguous()
            for number, inputs in enumerate(seen)
            for name, value in inputs.items()
            if isinstance(value, Tensor)
        }
        save_file(tensors, str(place / f"{stem}.safetensors"))
        rate = max(group["lr"] for group in self.optimizer.param_groups)
        write_json_file(
            place / f"{stem}.json",
            {"update": progress.update, "gradient_norm": str(norm.item()), "learning_rate": rate},
        )
        raise TrainingDivergedError(
            f"the gradient's norm is {norm.item()} at update {progress.update + 1}, learning rate "
            f"{rate:.3g}; the batches are in {place}. Resume from the last checkpoint with a lower "
            "`learning_rate` or `max_grad_norm`, or a longer `warmup_steps`."
        )

    def _add(self, values: dict[str, Tensor]) -> None:
        """Keep scalars for the next log line, which shows their means."""
        for name, value in values.items():
            self._scalars.setdefault(name, []).append(value.float())

    def _speed(self) -> dict[str, float]:
        """Words per second of all processes, and the share of time that this one waited for data."""
        now = time.monotonic()
        elapsed = max(now - self._started, 1e-9)
        numbers = {
            "images_per_second": (self.progress.images - self._images) / elapsed,
            "data_wait": self.batches.take_wait() / elapsed,
            "images": float(self.progress.images),
            "minutes": round(self.clock.seconds() / 60, 3),
        }
        self._started, self._images = now, self.progress.images
        return numbers


def learning_rate_at(settings: PretrainingOptimisationArguments, words_per_update: int, update: int) -> float:
    """The learning rate of an update."""
    rate = float(settings.learning_rate)
    if settings.learning_rate_words is not None:
        rate *= words_per_update / settings.learning_rate_words
    return rate * schedule_factor(
        settings.schedule,
        update / settings.max_steps,
        settings.warmup_steps / settings.max_steps,
        float(settings.final_learning_rate),
    )


def autocast(device: torch.device, bf16: bool) -> contextlib.AbstractContextManager[None]:
    """Bfloat16 for the operations that bear it, or nothing."""
    return torch.autocast(device.type, torch.bfloat16) if bf16 else contextlib.nullcontext()


def _every(interval: int | None, step: int) -> bool:
    return interval is not None and step % interval == 0
