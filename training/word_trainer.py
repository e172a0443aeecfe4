"""The library's `Trainer` for word recognisers: its loop, with our data order, schedule, saves and log.

What it adds to the stock class: batches from `TrainingBatches` at the exact position of the run, a learning
rate by steps or by time, a moving average of the weights, evaluation by reading words, checkpoints that
appear whole, and an end on a signal or a clock, which several processes decide alike. A stock `Trainer` with
`TextRecognitionCollator` trains the same models.
"""

from __future__ import annotations

import shutil
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from training.arguments import FinetuningArguments
from training.evaluation import EvaluationSet, evaluate_sets, prediction_table
from training.optimization import WeightAverage, make_optimizer, parameter_groups, schedule_factor
from training.run_flow import RunFlow
from training.run_state import MetricsLog, RunClock, prune, shared_whole_folder, whole_folder, write_json_file
from training.training_batches import TrainingBatches


class TrainingDivergedError(RuntimeError):
    """The loss is not a number any more; the message says when and what to change."""


class WordTrainer(Trainer):
    """Trains one recogniser.

    Args:
        model: the recogniser, channels last where the settings say so.
        arguments: the run's settings.
        library_arguments: the same for the library; with them this process has joined the others.
        processor: saved beside every checkpoint; reads predictions in evaluations.
        batches: the training data; its `start` is set on resume.
        evaluation_sets: what is read at evaluations.
        log: where numbers go; None on all processes but the first, which reads, writes and prints for all.
        clock: time used by the run.
    """

    def __init__(
        self,
        model: nn.Module,
        arguments: FinetuningArguments,
        library_arguments: TrainingArguments,
        processor: Any,
        batches: TrainingBatches,
        evaluation_sets: list[EvaluationSet],
        log: MetricsLog | None,
        clock: RunClock,
    ) -> None:
        super().__init__(model=model, args=library_arguments, processing_class=processor)
        self.arguments = arguments
        self.recogniser: Any = model
        self.processor = processor
        self.batches = batches
        self.evaluation_sets = evaluation_sets
        self.metrics_log = log
        self.clock = clock
        self.folder = Path(arguments.run.output_dir)
        self._staging = self.folder / "checkpoints"
        # The recognisers take keyword arguments they do not need; none of them divides its loss by a given
        # number.
        self.model_accepts_loss_kwargs = False
        self.average = None
        if arguments.optimisation.ema_decay > 0:
            self.average = WeightAverage(model, float(arguments.optimisation.ema_decay))
        self.best: dict[str, Any] = {}
        self.flow = RunFlow(self)
        self.remove_callback(PrinterCallback)
        self.add_callback(self.flow)
        if arguments.optimisation.freeze_encoder:
            freeze_encoder(model, arguments.optimisation.freeze_encoder_batchnorm)

    def get_train_dataloader(self) -> Any:
        """The run's batches, from the position that this session starts at."""
        return self.batches

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """AdamW or SGD on groups with and without weight decay, a pair per layer where layers have rates."""
        if self.optimizer is None:
            settings = self.arguments.optimisation
            groups = parameter_groups(
                model or self.recogniser, float(settings.weight_decay), float(settings.layer_decay)
            )
            own: dict[str, Any] = {"momentum": float(settings.sgd_momentum)}
            if settings.optimizer == "adamw":
                own = {"betas": (float(settings.adam_beta1), float(settings.adam_beta2))}
            self.optimizer = make_optimizer(
                settings.optimizer, groups, float(settings.learning_rate), fused=True, **own
            )
        return self.optimizer

    def create_scheduler(
        self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None
    ) -> torch.optim.lr_scheduler.LRScheduler:
        """A rate by the share of steps done, or of the time used."""
        if self.lr_scheduler is None:
            settings = self.arguments.optimisation

            def factor(step: int) -> float:
                by_time = settings.schedule_by == "time"
                progress = self.clock.share() if by_time else step / num_training_steps
                return schedule_factor(
                    settings.schedule, progress, float(settings.warmup), float(settings.final_learning_rate)
                )

            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                optimizer or self.create_optimizer(), factor
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def floating_point_ops(self, inputs: dict[str, Tensor | Any]) -> int:  # noqa: ARG002
        """Give 0: the library's estimate is for language models, and walks all parameters at every step."""
        return 0

    def training_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor | Any],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        """One forward and backward pass.

        Raises:
            TrainingDivergedError: when the loss is not finite; the batch is left in the run's folder.
        """
        loss = super().training_step(model, inputs, num_items_in_batch)
        # Looking at a loss on a GPU waits for it, so there it is looked at when it is logged.
        if loss.device.type == "cpu" or self.state.global_step % self.args.logging_steps == 0:
            self.check_finite(loss, inputs)
        return loss

    def check_finite(self, loss: Tensor, inputs: dict[str, Tensor]) -> None:
        """Stop the run, and keep the batch, when the loss is not finite."""
        if torch.isfinite(loss):
            return
        step = self.state.global_step
        process = f"-process-{self.args.process_index}" if self.args.world_size > 1 else ""
        path = self.folder / f"diverged-batch-{step}{process}.safetensors"
        save_file({name: tensor.detach().cpu().contiguous() for name, tensor in inputs.items()}, str(path))
        raise TrainingDivergedError(
            f"the loss is {loss.item()} at update {step + 1}, learning rate {self._get_learning_rate():.3g}; "
            f"its batch is in {path}. Resume from the last checkpoint with a lower `learning_rate` or "
            "`max_grad_norm`, or a longer `warmup`."
        )

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:  # noqa: ARG002
        """Add speed and waiting to the library's numbers, write them to the log and print one line."""
        logs.pop("epoch", None)
        if "loss" in logs:
            logs.update(self.flow.speed())
        logs["minutes"] = round(self.clock.seconds() / 60, 3)
        self.state.log_history.append({**logs, "step": self.state.global_step})
        if self.metrics_log is not None:
            self.metrics_log.write(self.state.global_step, logs)
            shown = "  ".join(
                f"{name} {value:.4g}" for name, value in logs.items() if isinstance(value, int | float)
            )
            print(f"step {self.state.global_step}  {shown}", flush=True)
        self.control = self.callback_handler.on_log(self.args, self.state, self.control, logs)

    def evaluate(
        self,
        eval_dataset: Any = None,  # noqa: ARG002
        ignore_keys: list[str] | None = None,  # noqa: ARG002
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Read every evaluation set, with the averaged weights if there are any; keep the best model.

        Of several processes the first one reads, and the others wait for it.
        """
        self._memory_tracker.start()
        started = time.monotonic()
        metrics: dict[str, float] = {}
        if self.is_world_process_zero():
            with self.averaged():
                metrics = self._evaluate_now(metric_key_prefix)
            metrics[f"{metric_key_prefix}_seconds"] = time.monotonic() - started
            self.log(metrics)
        self.accelerator.wait_for_everyone()
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def averaged(self) -> AbstractContextManager[None]:
        """Inside the context the model holds the averaged weights, if there are any."""
        return nullcontext() if self.average is None else self.average.applied(self.recogniser)

    def _evaluate_now(self, prefix: str) -> dict[str, float]:
        scores, examples = evaluate_sets(
            self.recogniser, self.processor, self.evaluation_sets, self.batches.normalise, self.args.device
        )
        if table := prediction_table(examples, self.arguments.run.show_words):
            print(table, flush=True)
        metrics = {f"{prefix}_{name}": value for name, value in scores.items()}
        accuracy = metrics.get(f"{prefix}_word_accuracy")
        if accuracy is not None and accuracy > self.best.get("word_accuracy", -1.0):
            self.best = {"word_accuracy": accuracy, "step": self.state.global_step}
            with whole_folder(self.folder / "best") as folder:
                self.recogniser.save_pretrained(folder)
                self.processor.save_pretrained(folder)
        return metrics

    def _get_output_dir(self, trial: Any) -> str:  # noqa: ARG002
        return str(self._staging)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Write a checkpoint that appears whole or not at all, and delete old ones."""
        step = self.state.global_step
        target = self.folder / "checkpoints" / f"checkpoint-{step}"
        progress = self.progress()
        is_main, wait = self.is_world_process_zero(), self.accelerator.wait_for_everyone
        with shared_whole_folder(target, is_main, wait) as staging:
            # The library writes into a sub-folder of its own naming; its files are moved up.
            self._staging = staging
            super()._save_checkpoint(model, trial)
            wait()
            if is_main:
                written = staging / f"checkpoint-{step}"
                for file in written.iterdir():
                    shutil.move(str(file), staging / file.name)
                written.rmdir()
                # The library's pickled arguments: the run's settings are in its log and record, and nothing
                # reads this file.
                (staging / "training_args.bin").unlink(missing_ok=True)
                if self.average is not None:
                    save_file(self.average.state_dict(), str(staging / "average.safetensors"))
                write_json_file(staging / "progress.json", progress)
        if is_main:
            prune(self.folder / "checkpoints", self.arguments.run.keep_checkpoints)

    def progress(self) -> dict[str, Any]:
        """What a later session must know: time used, words seen and dropped by all processes, best result."""
        return {
            "step": self.state.global_step,
            "seconds": self.clock.seconds(),
            "images": self.flow.images,
            "words_per_update": self.words_per_update(),
            "counts": self.counts(),
            "best": self.best,
        }

    def words_per_update(self) -> int:
        """Words of one update, over all processes and batches."""
        settings = self.arguments.optimisation
        return settings.batch_size * settings.gradient_accumulation_steps * self.args.world_size

    def counts(self) -> dict[str, int]:
        """Words read and dropped by all processes; every process must ask."""
        counts: Counter[str] = Counter()
        for one in gather_object([dict(self.batches.counts)]):
            counts.update(one)
        return dict(counts)

    def is_over(self) -> bool:
        """Whether the run has used up its updates or its time."""
        return self.state.global_step >= self.args.max_steps or self.clock.is_over()

    def is_complete(self) -> bool:
        """Whether the learning rate came to the end of its schedule."""
        if self.arguments.optimisation.schedule_by == "time":
            return self.clock.is_over()
        return self.state.global_step >= self.args.max_steps

    def restore(self, checkpoint: Path, progress: dict[str, Any]) -> None:
        """Take over a checkpoint: weights, average, data position, counts, best result.

        Raises:
            ValueError: when its updates were of another number of words.
        """
        before, now = progress.get("words_per_update", self.words_per_update()), self.words_per_update()
        if before != now:
            raise ValueError(
                f"{checkpoint} belongs to a run with {before} words per update, this one has {now} (batch "
                "size x accumulated batches x processes); a run goes on exactly only as it was started."
            )
        step = int(progress["step"])
        self.batches.start = step * self.arguments.optimisation.gradient_accumulation_steps
        if self.is_world_process_zero():
            self.batches.counts.update(progress["counts"])
        self.flow.images = int(progress["images"])
        self.best = dict(progress["best"])
        self.state.global_step = step
        self.recogniser.load_state_dict(load_file(str(checkpoint / "model.safetensors")))
        if self.average is not None:
            self.average.load_state_dict(load_file(str(checkpoint / "average.safetensors")))
        if self.metrics_log is not None:
            print(f"resuming at update {step} from {checkpoint}", flush=True)


def freeze_encoder(model: nn.Module, freeze_batchnorm: bool) -> None:
    """Train the head only.

    Args:
        model: a recogniser; everything under its `base_model` is frozen.
        freeze_batchnorm: keep BatchNorm there in evaluation mode in every forward pass.
    """
    encoder: Any = model.base_model
    encoder.requires_grad_(False)
    if freeze_batchnorm:
        norms = [
            module for module in encoder.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
        ]

        def evaluate_norms(module: nn.Module, inputs: tuple[Any, ...]) -> None:  # noqa: ARG001
            for norm in norms:
                norm.training = False

        model.register_forward_pre_hook(evaluate_norms)


def trainable_count(parameters: Iterable[nn.Parameter]) -> int:
    """Number of weights that are trained."""
    return sum(parameter.numel() for parameter in parameters if parameter.requires_grad)
