"""The settings of a curve of accuracy over number of labels: from where, which words, how many labels."""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from training.arguments import (
    OUT_OF_CHARSET_RULES,
    GroupedArguments,
    OptimisationArguments,
    require_at_least,
    require_known,
)

# What may set one starting point apart. The number of updates and the words are the same for all.
POINT_FIELDS = {"model", "model_settings", "processor", "label"}
OWN_OPTIMISATION = {"freeze_encoder", "freeze_encoder_batchnorm", "learning_rate", "layer_decay"}


@strict
@dataclass
class CurveArguments:
    """What is compared.

    Args:
        starting_points: name → where training starts: a checkpoint folder or a `model.json`, or a mapping
            with that as `model` and any of `label` (for plot and table), `model_settings`, `processor`,
            `freeze_encoder`, `freeze_encoder_batchnorm`, `learning_rate`, `layer_decay`.
        label_counts: numbers of labelled words, a smaller set always part of a larger one; None takes 1, 5,
            10, 25, 50 and 100 % of the words there are.
        seeds: of labelled words, weights of new layers, order and augmentation; every point is trained once
            with each. Three or more give a usable interval, fewer than two give none.
        baseline: the starting point that others are compared with; None takes "scratch", or the first.
    """

    starting_points: dict[str, str | dict[str, Any]]
    label_counts: list[int] | None = None
    seeds: list[int] | None = None
    baseline: str | None = None

    def validate_starting_points(self) -> None:
        """Starting points name a model and nothing unknown."""
        if not self.starting_points:
            raise ValueError(
                "`starting_points` must name at least one, for example "
                "{scratch: model.json, pretrained: runs/rcmstr/final}."
            )
        known = POINT_FIELDS | OWN_OPTIMISATION
        for name, point in self.starting_points.items():
            # Names are names of folders.
            if not name or set(name) & set('/\\:*?"<>|') or name.startswith("."):
                raise ValueError(
                    f"`starting_points`: {name!r} must be usable as a folder's name; give other characters "
                    "as its `label`."
                )
            if isinstance(point, dict):
                if unknown := sorted(set(point) - known):
                    raise ValueError(
                        f"`starting_points`: {name!r} has unknown fields {unknown}; known: {sorted(known)}. "
                        "Updates and words are settings of the whole curve."
                    )
                if not isinstance(point.get("model"), str):
                    raise ValueError(
                        f"`starting_points`: {name!r} must name its `model`, a folder or a model.json."
                    )
        if self.baseline is not None:
            require_known("baseline", self.baseline, list(self.starting_points))

    def validate_counts(self) -> None:
        """Counts and seeds are different whole numbers."""
        for name, least in (("label_counts", 1), ("seeds", 0)):
            values = getattr(self, name)
            if values is not None and (
                not values or len(set(values)) != len(values) or min(values, default=0) < least
            ):
                raise ValueError(
                    f"`{name}` must be different whole numbers of at least {least}, got {values}."
                )


@strict
@dataclass
class CurveWordsArguments:
    """The words.

    Args:
        source: labelled words, see `word_sources.open_source`, for example "folder:my_words".
        test_source: other labelled words to be tested on; None holds back some of `source`.
        held_out_fraction: share of the groups of `source` (photographs, forms; words where it knows none)
            that is never trained on and is the test, where there is no `test_source`.
        split_seed: draws the test words; the same for all points.
        test_words: words tested on, at most.
        charset: characters of all recognisers, by name or spelt out.
        out_of_charset: what happens to a training word with other characters; see `arguments.DataArguments`.
        augmentation_strength: 0 to 1.
        bucket_batches: batches whose words are sorted by width together.
        data_workers: processes that make batches, for each point that is being trained.
    """

    source: str
    test_source: str | None = None
    held_out_fraction: float | int = 0.2
    split_seed: int = 0
    test_words: int = 1000
    charset: str = "ascii-94"
    out_of_charset: str = "drop_word"
    augmentation_strength: float | int = 0.5
    bucket_batches: int = 10
    data_workers: int = 0

    def validate_words(self) -> None:
        """There are test words, and they are others than those trained on."""
        require_known("out_of_charset", self.out_of_charset, OUT_OF_CHARSET_RULES)
        require_at_least(self, test_words=1, bucket_batches=1, data_workers=0, split_seed=0)
        if not 0 <= self.augmentation_strength <= 1:
            raise ValueError(f"`augmentation_strength` must lie in 0 to 1, got {self.augmentation_strength}.")
        if self.test_source is None and not 0 < self.held_out_fraction < 1:
            raise ValueError(
                f"`held_out_fraction` must lie between 0 and 1, got {self.held_out_fraction}: the curve is "
                "measured on words that are never trained on; or name a `test_source`."
            )
        if self.test_source == self.source:
            raise ValueError(
                "`test_source` and `source` are the same words; leave `test_source` out, and "
                "`held_out_fraction` of them are held back as the test."
            )


@strict
@dataclass
class CurveRunArguments:
    """Where and how.

    Args:
        output_dir: folder of the curve; points that are finished there are kept.
        jobs: points that are trained side by side, each a process of its own.
        threads: CPU threads of each; `jobs` times `threads` should not be above the number of cores.
        save_minutes: minutes between the checkpoints from which an interrupted point goes on.
    """

    output_dir: str
    jobs: int = 1
    threads: int = 1
    save_minutes: float | int = 5

    def validate_run(self) -> None:
        """Numbers are positive."""
        require_at_least(self, jobs=1, threads=1)
        if self.save_minutes <= 0:
            raise ValueError(f"`save_minutes` must be positive, got {self.save_minutes}.")


@dataclass
class LabelEfficiencyArguments(GroupedArguments):
    """The settings of a curve; those of the optimisation are `arguments.OptimisationArguments`."""

    curve: CurveArguments
    words: CurveWordsArguments
    optimisation: OptimisationArguments
    run: CurveRunArguments
    groups: ClassVar[dict[str, type]] = {
        "curve": CurveArguments,
        "words": CurveWordsArguments,
        "optimisation": OptimisationArguments,
        "run": CurveRunArguments,
    }

    def __post_init__(self) -> None:
        """Refuse what would give points unequal training."""
        settings = self.optimisation
        if settings.max_steps is None or settings.schedule_by != "steps" or settings.max_minutes is not None:
            raise ValueError(
                "a curve counts updates, so that all points get the same: set `max_steps`, and leave out "
                "`max_minutes` and `schedule_by: time`."
            )
        for name in self.curve.starting_points:
            self.point_optimisation(name)

    @property
    def seeds(self) -> list[int]:
        """The seeds, three of them unless the settings say otherwise."""
        return [0, 1, 2] if self.curve.seeds is None else self.curve.seeds

    @property
    def baseline(self) -> str:
        """The starting point that others are compared with."""
        names = list(self.curve.starting_points)
        return self.curve.baseline or ("scratch" if "scratch" in names else names[0])

    def point(self, name: str) -> dict[str, Any]:
        """A starting point as a mapping, its `label` filled in."""
        point = self.curve.starting_points[name]
        return {"label": name, **({"model": point} if isinstance(point, str) else point)}

    def point_optimisation(self, name: str) -> dict[str, Any]:
        """The optimisation of a starting point: that of the curve, and what is its own.

        Raises:
            StrictDataclassError: when its own values are out of range.
        """
        own = {key: value for key, value in self.point(name).items() if key in OWN_OPTIMISATION}
        return asdict(OptimisationArguments(**{**asdict(self.optimisation), **own}))
