"""The settings of a training run: strict dataclasses, read from one flat YAML file and `key=value` overrides.

A file is complete in itself: no inheritance between files, no second place where a default hides. An unknown
key is an error that names the nearest known one; a value of the wrong type is an error that names the type
(YAML reads `1e-3` as text: write 0.001). Where the settings act: sources in `word_sources`, augmentation in
`augmentation`, learning rate in `optimization`.
"""

from collections.abc import Sequence
from dataclasses import MISSING, Field, asdict, dataclass, fields
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import yaml
from huggingface_hub.dataclasses import strict
from huggingface_hub.errors import StrictDataclassError

from training.charset_arguments import CharsetArguments
from training.label_subset import refuse_wrong_labels
from training.setting_names import explain_wrong_setting, read_override, refuse_unknown_settings, spelling

OPTIMIZERS = ("adamw", "sgd")
SCHEDULES = ("cosine", "one_cycle", "linear", "constant")
SCHEDULE_CLOCKS = ("steps", "time")
OUT_OF_CHARSET_RULES = ("drop_word", "drop_characters", "error")


@strict
@dataclass
class DataArguments:
    """Which words are read, how they are mixed and what is evaluated.

    Args:
        train_sources: source → weight. A source is one string, for example "rendered:fonts.yaml",
            "parquet:words.parquet", "folder:words/", "datasets:words/"; see `word_sources.open_source`. A
            weight is the share of the training words that come from the source; shares are divided by their
            sum.
        held_out_fraction: share of the groups (photograph, form, receipt; a row where the source knows none)
            of every finite training source that is never trained on and is evaluated instead.
        split_seed: draws what is held out, and which of it is evaluated; None takes `seed`. A number keeps
            the test words the same in runs with different seeds.
        label_share: share of the words of every file source that count as labelled and are trained on, for
            semi-supervised evaluation; drawn by `seed`, a smaller share always part of a larger one.
        label_count: instead of a share, exactly this many labelled words of every file source, drawn likewise
            and as nested; None for no limit.
        eval_sources: name → source, evaluated besides the held-out words.
        eval_words: words evaluated from each source, at most; drawn by `seed`.
        out_of_charset: "drop_word" leaves out words with a character that the tokenizer lacks,
            "drop_characters" leaves out those characters only, "error" stops. Counted in
            `training_record.json`. Evaluation never drops a word.
        augmentation_strength: 0 (none) to 1 (as strong as the named operations go); for file sources.
        rendered_augmentation_strength: the same for rendered words, which are distorted already.
        bucket_batches: batches whose words are sorted by width together, so that a batch needs no padding; a
            buffer of this many batches is held in memory, twice with a worker.
        data_workers: processes that make batches beside the training process; 0 makes them in it.
    """

    train_sources: dict[str, float | int]
    held_out_fraction: float | int = 0.1
    split_seed: int | None = None
    label_share: float | int = 1.0
    label_count: int | None = None
    eval_sources: dict[str, str] | None = None
    eval_words: int = 1000
    out_of_charset: str = "drop_word"
    augmentation_strength: float | int = 0.5
    rendered_augmentation_strength: float | int = 0.0
    bucket_batches: int = 50
    data_workers: int = 1

    def validate_data(self) -> None:
        """Weights, fractions and counts are usable."""
        if (
            not self.train_sources
            or min(self.train_sources.values()) < 0
            or sum(self.train_sources.values()) <= 0
        ):
            raise ValueError(
                "`train_sources` must map at least one source to a positive weight, for example "
                f'{{"rendered:": 0.8, "parquet:words.parquet": 0.2}}; got {self.train_sources}.'
            )
        if not 0 <= self.held_out_fraction < 1:
            raise ValueError(f"`held_out_fraction` must lie in 0 to below 1, got {self.held_out_fraction}.")
        refuse_wrong_labels(self.label_share, self.label_count)
        require_known("out_of_charset", self.out_of_charset, OUT_OF_CHARSET_RULES)
        for name in ("augmentation_strength", "rendered_augmentation_strength"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must lie in 0 to 1, got {getattr(self, name)}.")
        require_at_least(self, bucket_batches=1, data_workers=0, eval_words=1)


@strict
@dataclass
class OptimisationArguments:
    """How the weights move.

    Args:
        batch_size: words per step and process.
        gradient_accumulation_steps: batches per update.
        max_steps: updates of the whole run; may be left out with `schedule_by: time`.
        max_minutes: wall-clock limit of the whole run over all its sessions, evaluations and saves included.
        schedule: "cosine", "one_cycle" (half a cosine up to the peak, half a cosine down), "linear" or
            "constant".
        schedule_by: "steps", or "time": the learning rate follows the share of `max_minutes` that is used up,
            so a run on a machine of unknown speed still ends at its lowest rate.
        optimizer: "adamw" or "sgd".
        learning_rate: peak of the schedule.
        layer_decay: below 1, each layer of the encoder learns at this share of the rate of the one above.
        final_learning_rate: what the schedule ends at, as a share of the peak.
        warmup: share of the run in which the rate rises from near 0 to the peak.
        weight_decay: on matrices and convolutions; never on norms, biases and embeddings.
        sgd_momentum: momentum of SGD.
        adam_beta1: first moment of AdamW.
        adam_beta2: second moment of AdamW.
        max_grad_norm: gradient norm above which the gradient is scaled down; 0 turns clipping off.
        ema_decay: decay of the moving average of the weights per update; 0 turns it off. With it, the
            averaged weights are evaluated and saved as the result.
        freeze_encoder: train the head only.
        freeze_encoder_batchnorm: keep the encoder's BatchNorm in evaluation mode (stored statistics).
        bf16: bfloat16 autocast; helps on recent GPUs, slower on most CPUs.
        channels_last: memory layout of images and convolutions; faster for the CNN on CPU.
    """

    batch_size: int = 64
    gradient_accumulation_steps: int = 1
    max_steps: int | None = None
    max_minutes: float | int | None = None
    schedule: str = "cosine"
    schedule_by: str = "steps"
    optimizer: str = "adamw"
    learning_rate: float | int = 0.001
    layer_decay: float | int = 1.0
    final_learning_rate: float | int = 0.0
    warmup: float | int = 0.03
    weight_decay: float | int = 0.01
    sgd_momentum: float | int = 0.9
    adam_beta1: float | int = 0.9
    adam_beta2: float | int = 0.99
    max_grad_norm: float | int = 5.0
    ema_decay: float | int = 0.0
    freeze_encoder: bool = False
    freeze_encoder_batchnorm: bool = True
    bf16: bool = False
    channels_last: bool = True

    def validate_schedule(self) -> None:
        """The schedule is known and has an end."""
        require_known("schedule", self.schedule, SCHEDULES)
        require_known("schedule_by", self.schedule_by, SCHEDULE_CLOCKS)
        require_known("optimizer", self.optimizer, OPTIMIZERS)
        if self.schedule_by == "time" and self.max_minutes is None:
            raise ValueError(
                "`schedule_by: time` needs `max_minutes`: the rate follows the share of it that is used."
            )
        if self.schedule_by == "steps" and self.max_steps is None:
            raise ValueError(
                "`schedule_by: steps` needs `max_steps`; or set `schedule_by: time` and `max_minutes`."
            )
        if self.max_minutes is not None and self.max_minutes <= 0:
            raise ValueError(f"`max_minutes` must be positive, got {self.max_minutes}.")
        if self.max_steps is not None:
            require_at_least(self, max_steps=1)

    def validate_optimisation(self) -> None:
        """Rates and sizes are in range."""
        if self.learning_rate <= 0:
            raise ValueError(f"`learning_rate` must be positive, got {self.learning_rate}.")
        if not 0 < self.layer_decay <= 1:
            raise ValueError(f"`layer_decay` must lie above 0 and up to 1, got {self.layer_decay}.")
        for name in ("final_learning_rate", "warmup", "ema_decay", "sgd_momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"`{name}` must lie in 0 to below 1, got {getattr(self, name)}.")
        for name in ("weight_decay", "max_grad_norm"):
            if getattr(self, name) < 0:
                raise ValueError(f"`{name}` must be 0 or more, got {getattr(self, name)}.")
        require_at_least(self, batch_size=1, gradient_accumulation_steps=1)


@strict
@dataclass
class RunArguments:
    """Where the run starts from, where it writes and how often.

    Args:
        output_dir: folder of the run; holds `checkpoints/`, `best/`, `final/`, `log.jsonl` and the
            TensorBoard files.
        model: a `model.json` (a new model of that configuration) or a checkpoint folder (its weights, and its
            processor unless `charset` or `processor` says otherwise).
        model_settings: fields of the model's configuration to change, for example {"decoder_type":
            "attention"}.
        charset: characters of a new tokenizer, by name or spelt out; None keeps the checkpoint's, or
            "ascii-94".
        processor: image processor settings of a new model, for example {"keep_aspect_ratio": true}.
        resume: go on from the newest checkpoint in `output_dir`; a run that has none starts anew.
        seed: seed of weights, data order and augmentation.
        threads: CPU threads of the training process; None leaves the library's choice.
        worker_niceness: scheduling priority taken back by data workers (0 to 19), so that they fill idle
            time.
        log_steps: updates between log lines.
        eval_steps: updates between evaluations; None evaluates at the end only (or see `eval_minutes`).
        eval_minutes: minutes between evaluations.
        save_steps: updates between checkpoints.
        save_minutes: minutes between checkpoints.
        keep_checkpoints: newest checkpoints kept.
        show_words: words shown with label, prediction and confidence at every evaluation.
        half_precision: store the final model's weights in float16.
        tensorboard: write TensorBoard files (needs the package).
    """

    output_dir: str
    model: str
    model_settings: dict[str, Any] | None = None
    charset: str | None = None
    processor: dict[str, Any] | None = None
    resume: bool = False
    seed: int = 0
    threads: int | None = None
    worker_niceness: int = 5
    log_steps: int = 50
    eval_steps: int | None = None
    eval_minutes: float | int | None = None
    save_steps: int | None = None
    save_minutes: float | int | None = 10
    keep_checkpoints: int = 2
    show_words: int = 8
    half_precision: bool = False
    tensorboard: bool = True

    def validate_run(self) -> None:
        """Intervals are positive."""
        require_at_least(self, log_steps=1, keep_checkpoints=1, show_words=0, seed=0)
        for name in ("eval_steps", "eval_minutes", "save_steps", "save_minutes", "threads"):
            value = getattr(self, name)
            if value is not None and value <= 0:
                raise ValueError(f"`{name}` must be positive or null, got {value}.")
        if not 0 <= self.worker_niceness <= 19:
            raise ValueError(f"`worker_niceness` must lie in 0 to 19, got {self.worker_niceness}.")


class GroupedArguments:
    """The settings of one run in groups; a YAML file names their fields flat, without the groups."""

    groups: ClassVar[dict[str, type]]

    def flat(self) -> dict[str, Any]:
        """Every setting by its name, as a YAML file would hold it."""
        return {
            spelling(field): asdict(getattr(self, name))[field.name]
            for name, group in self.groups.items()
            for field in fields(group)
        }


@dataclass
class FinetuningArguments(GroupedArguments):
    """The settings of a run that trains a recogniser."""

    data: DataArguments
    optimisation: OptimisationArguments
    run: RunArguments
    charset: CharsetArguments
    groups: ClassVar[dict[str, type]] = {
        "data": DataArguments,
        "optimisation": OptimisationArguments,
        "run": RunArguments,
        "charset": CharsetArguments,
    }


Grouped = TypeVar("Grouped", bound=GroupedArguments)


def parse_arguments(argv: Sequence[str]) -> FinetuningArguments:
    """Read the settings of a run that trains a recogniser; see `parse_grouped_arguments`."""
    return parse_grouped_arguments(argv, FinetuningArguments)


def parse_grouped_arguments(argv: Sequence[str], kind: type[Grouped]) -> Grouped:
    """Read `CONFIG.yaml key=value …`.

    Args:
        argv: the command line without the program's name; the first item is the YAML file.
        kind: which groups of settings the program has.

    Returns:
        The settings; an override replaces the file's value and is read as YAML (`bf16=true`,
        `max_steps=100`).

    Raises:
        ValueError: for a missing or malformed file, an unknown or missing key, or a value of the wrong type
            or range.
    """
    if not argv or "=" in argv[0]:
        raise ValueError(
            "the first argument must be a YAML file of settings; overrides `key=value` follow it."
        )
    settings = read_settings(argv[0])
    for item in argv[1:]:
        key, separator, value = item.partition("=")
        if not separator or not key:
            raise ValueError(f"an override must read `key=value`, got {item!r}.")
        key = key.lstrip("-").replace("-", "_")
        settings[key] = read_override(_known_settings(kind).get(key), key, value)
    return build_grouped_arguments(settings, kind)


def read_settings(path: str | Path) -> dict[str, Any]:
    """Read a flat YAML mapping.

    Raises:
        ValueError: when the file is missing, is not YAML, or does not hold one mapping.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"the settings file {str(path)!r} does not exist.")
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{str(path)!r} is not valid YAML: {error}") from error
    if not isinstance(settings, dict):
        raise ValueError(
            f"{str(path)!r} must hold one flat mapping of settings, got {type(settings).__name__}."
        )
    return settings


def build_arguments(settings: dict[str, Any]) -> FinetuningArguments:
    """Check the flat settings of a run that trains a recogniser; see `build_grouped_arguments`."""
    return build_grouped_arguments(settings, FinetuningArguments)


def build_grouped_arguments(settings: dict[str, Any], kind: type[Grouped]) -> Grouped:
    """Check flat settings and sort them into their groups.

    Raises:
        ValueError: for unknown keys (all listed, each with the nearest known name), missing keys, wrong types
            or values.
    """
    known = _known_settings(kind)
    refuse_unknown_settings(settings, list(known))
    missing = [name for name, field in known.items() if _is_required(field) and name not in settings]
    if missing:
        raise ValueError(f"these settings have no default and must be given: {', '.join(missing)}.")
    groups = {}
    for name, group in kind.groups.items():
        spellings = {field.name: spelling(field) for field in fields(group)}
        values = {field: settings[key] for field, key in spellings.items() if key in settings}
        try:
            groups[name] = group(**values)
        except StrictDataclassError as error:
            raise ValueError(explain_wrong_setting(error, values, spellings)) from error
    return kind(**groups)


def require_known(name: str, value: str, known: Sequence[str]) -> None:
    """Raise a ValueError that lists the known values unless `value` is one of them."""
    if value not in known:
        raise ValueError(f"`{name}` must be one of {', '.join(known)}; got {value!r}.")


def require_at_least(arguments: object, **minima: int) -> None:
    """Raise a ValueError for the first named field that is below its minimum."""
    for name, minimum in minima.items():
        if getattr(arguments, name) < minimum:
            raise ValueError(f"`{name}` must be at least {minimum}, got {getattr(arguments, name)}.")


def _known_settings(kind: type[GroupedArguments]) -> dict[str, Field[Any]]:
    return {spelling(field): field for group in kind.groups.values() for field in fields(group)}


def _is_required(field: Field[Any]) -> bool:
    return field.default is MISSING and field.default_factory is MISSING
