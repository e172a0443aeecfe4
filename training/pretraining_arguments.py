"""The settings of a pretraining run, of both families, in groups; `arguments` reads and checks them.

Sizes of a model and weights of its losses are no settings of a run: they are in the model's `model.json`.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from training.arguments import OPTIMIZERS, GroupedArguments, require_at_least, require_known

SCHEDULES = ("cosine", "linear", "constant")
BATCHNORMS = ("synchronized", "local", "shuffled")
PROBE_HEADS = ("ctc", "attention")


@strict
@dataclass
class PretrainingDataArguments:
    """Which words are read and how they become batches.

    Args:
        train_sources: source → weight, labels not needed; for example "rendered:fonts.yaml", "folder:words/",
            "parquet:words.parquet", "lmdb:words/", "stream:owner/words"; see
            `word_sources.open_source`. A weight is a share of the words.
        processor: settings of the image processor of a new model, for example {"keep_aspect_ratio": true}.
        views: distort each view by one to five operations of `view_augmentation`; False reads words as they
            are.
        bucket_batches: batches of a process whose words are sorted by width together, so that they need
            little padding. 1 keeps the order of the words, which makes N processes read exactly what one
            would.
        data_workers: processes that make batches beside each training process; 0 makes them in it.
    """

    train_sources: dict[str, float | int]
    processor: dict[str, Any] | None = None
    views: bool = True
    bucket_batches: int = 1
    data_workers: int = 1

    def validate_data(self) -> None:
        """Weights and counts are usable."""
        weights = self.train_sources.values()
        if not weights or min(weights) < 0 or sum(weights) <= 0:
            raise ValueError(
                "`train_sources` must map at least one source to a positive weight, for example "
                f'{{"folder:words/": 1}}; got {self.train_sources}.'
            )
        require_at_least(self, bucket_batches=1, data_workers=0)


@strict
@dataclass
class PretrainingOptimisationArguments:
    """How the weights move.

    Args:
        batch_size: words per process and accumulated batch.
        gradient_accumulation_steps: batches per update.
        max_steps: updates of the whole run.
        optimizer: "adamw" or "sgd".
        learning_rate: peak of the schedule.
        learning_rate_words: the rate is meant for updates of this many words and is scaled in proportion;
            None takes it as it is.
        schedule: "cosine", "linear" or "constant" after the warm-up.
        warmup_steps: updates in which the rate rises to its peak.
        final_learning_rate: what "cosine" and "linear" end at, as a share of the peak.
        weight_decay: on matrices and convolutions.
        decay_everything: weight decay also on norms, biases and embeddings, as plain SGD has it.
        layer_decay: share of the rate that each layer of the encoder has of the one above it; 1 for one rate.
        sgd_momentum: of SGD.
        adam_beta1: first moment of AdamW.
        adam_beta2: second moment of AdamW.
        adam_epsilon: of AdamW.
        max_grad_norm: gradient norm above which the gradient is scaled down; 0 turns clipping off.
        bf16: bfloat16 autocast; weights, optimizer and momentum encoder stay float32.
        channels_last: memory layout of images and convolutions; faster for the CNN.
        activation_checkpointing: keep the layers' inputs only and compute the rest again; less memory,
            slower.
        compile_backend: backend of `torch.compile`, for example "inductor"; None runs the model as it is.
        batchnorm: statistics of a CNN on several processes: "synchronized" over all words, so that N
            processes equal one; "local" to each; "shuffled": local, and keys are encoded among other words
            than their queries (MoCo).
        deepspeed: a DeepSpeed configuration file; not needed under `accelerate launch` with a DeepSpeed
            configuration, which names it.
    """

    batch_size: int = 32
    gradient_accumulation_steps: int = 1
    max_steps: int = 100_000
    optimizer: str = "adamw"
    learning_rate: float | int = 0.00015
    learning_rate_words: int | None = None
    schedule: str = "cosine"
    warmup_steps: int = 0
    final_learning_rate: float | int = 0.0
    weight_decay: float | int = 0.05
    decay_everything: bool = False
    layer_decay: float | int = 1.0
    sgd_momentum: float | int = 0.9
    adam_beta1: float | int = 0.9
    adam_beta2: float | int = 0.999
    adam_epsilon: float | int = 0.00000001
    max_grad_norm: float | int = 0.0
    bf16: bool = False
    channels_last: bool = True
    activation_checkpointing: bool = False
    compile_backend: str | None = None
    batchnorm: str = "synchronized"
    deepspeed: str | None = None

    def validate_optimisation(self) -> None:
        """Choices are known and rates in range."""
        require_known("optimizer", self.optimizer, OPTIMIZERS)
        require_known("schedule", self.schedule, SCHEDULES)
        require_known("batchnorm", self.batchnorm, BATCHNORMS)
        require_at_least(self, batch_size=1, gradient_accumulation_steps=1, max_steps=1, warmup_steps=0)
        for name in ("learning_rate", "adam_epsilon"):
            if getattr(self, name) <= 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)}.")
        for name in ("final_learning_rate", "sgd_momentum", "adam_beta1", "adam_beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must lie in 0 to below 1, got {getattr(self, name)}.")
        for name in ("weight_decay", "max_grad_norm"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be 0 or more, got {getattr(self, name)}.")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"`layer_decay` must lie above 0 and up to 1, got {self.layer_decay}.")
        if self.warmup_steps > self.max_steps:
            raise ValueError(
                f"`warmup_steps` {self.warmup_steps} must not exceed `max_steps` {self.max_steps}."
            )
        if self.learning_rate_words is not None:
            require_at_least(self, learning_rate_words=1)


@strict
@dataclass
class ObjectiveArguments:
    """What a family's loss needs from the run; each family reads its own.

    Args:
        queue_size: RCMSTR: keys per level, at most; the queue takes the largest whole number of updates.
        key_momentum: RCMSTR: momentum of the key encoder.
        legacy_enqueue: RCMSTR: terms between levels see the queue with this update's keys in it, as in the
            released RCLSTR code.
        gumbel_start: PerSec: first temperature of the quantisers' draws.
        gumbel_end: PerSec: lowest temperature.
        gumbel_share: PerSec: share of the run after which the lowest is reached.
        gumbel_factor: PerSec: factor per update, which then decides instead of `gumbel_share`; wav2vec 2.0
            has 0.999995.
    """

    queue_size: int = 65536
    key_momentum: float | int = 0.999
    legacy_enqueue: bool = False
    gumbel_start: float | int = 2.0
    gumbel_end: float | int = 0.5
    gumbel_share: float | int = 0.7
    gumbel_factor: float | int | None = None

    def validate_objective(self) -> None:
        """Sizes are positive and temperatures fall."""
        require_at_least(self, queue_size=1)
        if not 0 <= self.key_momentum < 1:
            raise ValueError(f"`key_momentum` must lie in 0 to below 1, got {self.key_momentum}.")
        if not 0 < self.gumbel_end <= self.gumbel_start:
            raise ValueError(
                f"`gumbel_end` must be positive and at most `gumbel_start`, got {self.gumbel_end} and "
                f"{self.gumbel_start}."
            )
        if not 0 < self.gumbel_share <= 1:
            raise ValueError(f"`gumbel_share` must lie above 0 and up to 1, got {self.gumbel_share}.")
        if self.gumbel_factor is not None and not 0 < self.gumbel_factor <= 1:
            raise ValueError(f"`gumbel_factor` must lie above 0 and up to 1, got {self.gumbel_factor}.")


@strict
@dataclass
class ProbeArguments:
    """The online probe: a small recogniser head, trained again and again on the frozen encoder.

    Args:
        probe_source: labelled words, as `word_sources.open_source` takes them; None probes not.
        probe_steps: updates between probes; None probes at the end only.
        probe_head: "ctc" or "attention".
        probe_train_words: words that the head learns from, the first of the source.
        probe_eval_words: words that it is then tested on, the following ones.
        probe_updates: updates of the head.
        probe_charset: characters of the head, by name or spelt out.
    """

    probe_source: str | None = None
    probe_steps: int | None = None
    probe_head: str = "ctc"
    probe_train_words: int = 512
    probe_eval_words: int = 256
    probe_updates: int = 300
    probe_charset: str = "alphanumeric-36"

    def validate_probe(self) -> None:
        """The head is known and numbers are positive."""
        require_known("probe_head", self.probe_head, PROBE_HEADS)
        require_at_least(self, probe_train_words=2, probe_eval_words=1, probe_updates=1)
        if self.probe_steps is not None:
            require_at_least(self, probe_steps=1)


@strict
@dataclass
class PretrainingRunArguments:
    """Where the run starts from, where it writes and how often.

    Args:
        output_dir: folder of the run; holds `checkpoints/`, `final/`, `log.jsonl` and the TensorBoard files.
        model: a `model.json` (a new model) or a folder with weights to go on from.
        model_settings: fields of the model's configuration to change, for example {"decouple": false}.
        preset: a named row of the family's papers ("seqmoco", "rclstr", …); its fields come before
            `model_settings`.
        resume: go on from the newest checkpoint in `output_dir`; a run that has none starts anew.
        seed: seed of weights, data order, views, masks and draws.
        threads: CPU threads of each training process; None leaves the library's choice.
        worker_niceness: scheduling priority taken back by data workers (0 to 19).
        log_steps: updates between log lines.
        save_steps: updates between checkpoints.
        save_minutes: minutes between checkpoints.
        keep_checkpoints: newest checkpoints kept.
        picture_steps: updates between pictures of masked input, reconstruction and original in the log.
        tensorboard: write TensorBoard files (needs the package).
    """

    output_dir: str
    model: str
    model_settings: dict[str, Any] | None = None
    preset: str | None = None
    resume: bool = False
    seed: int = 0
    threads: int | None = None
    worker_niceness: int = 5
    log_steps: int = 50
    save_steps: int | None = None
    save_minutes: float | int | None = 20
    keep_checkpoints: int = 2
    picture_steps: int | None = None
    tensorboard: bool = True

    def validate_run(self) -> None:
        """Intervals are positive."""
        require_at_least(self, log_steps=1, keep_checkpoints=1, seed=0)
        for name in ("save_steps", "save_minutes", "picture_steps", "threads"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"`{name}` must be positive or null, got {value}.")
        if not 0 <= self.worker_niceness <= 19:
            raise ValueError(f"`worker_niceness` must lie in 0 to 19, got {self.worker_niceness}.")


@dataclass
class PretrainingArguments(GroupedArguments):
    """The settings of a run that pretrains an encoder."""

    data: PretrainingDataArguments
    optimisation: PretrainingOptimisationArguments
    objective: ObjectiveArguments
    probe: ProbeArguments
    run: PretrainingRunArguments
    groups: ClassVar[dict[str, type]] = {
        "data": PretrainingDataArguments,
        "optimisation": PretrainingOptimisationArguments,
        "objective": ObjectiveArguments,
        "probe": ProbeArguments,
        "run": PretrainingRunArguments,
    }
