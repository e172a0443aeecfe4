"""The settings of a study: which rows are pretrained, with which seeds, and what then reads from them."""

from dataclasses import dataclass
from typing import Any, ClassVar

from huggingface_hub.dataclasses import strict

from training.arguments import GroupedArguments, require_at_least
from training.pretraining_arguments import PROBE_HEADS

ROW_FIELDS = {"group", "label", "model", "preset", "model_settings", "settings", "pretrained"}


@strict
@dataclass
class StudyRowsArguments:
    """What is compared.

    Args:
        rows: name → what sets it apart: `model` (a `model.json`), `preset`, `model_settings`, `settings`
            (of the pretraining run), `pretrained` (false: the encoder as it was initialised), `group` and
            `label` (for the table).
        pretraining: YAML file of the settings that all rows share; see `pretraining_arguments`.
        pretraining_settings: settings of it to change for all rows, for example {"max_steps": 2000}.
        seeds: of weights, order of words, views, masks and heads; each row runs once with each.
        comparisons: pairs of rows whose difference, seed by seed, the report states.
    """

    rows: dict[str, dict[str, Any]]
    pretraining: str
    pretraining_settings: dict[str, Any] | None = None
    seeds: list[int] | None = None
    comparisons: list[list[str]] | None = None

    def validate_rows(self) -> None:
        """Rows name a model and nothing unknown; what is compared are rows."""
        if not self.rows:
            raise ValueError("`rows` must name at least one row.")
        for name, row in self.rows.items():
            if unknown := sorted(set(row) - ROW_FIELDS):
                raise ValueError(
                    f"`rows`: {name!r} has unknown fields {unknown}; known: {sorted(ROW_FIELDS)}."
                )
            if "model" not in row:
                raise ValueError(f"`rows`: {name!r} must name its `model`, a model.json.")
        if self.seeds is not None and (not self.seeds or len(set(self.seeds)) != len(self.seeds)):
            raise ValueError(f"`seeds` must be different whole numbers, at least one; got {self.seeds}.")
        for pair in self.comparisons or []:
            if len(pair) != 2 or not set(pair) <= set(self.rows):
                raise ValueError(f"`comparisons` must hold pairs of rows, got {pair}.")


@strict
@dataclass
class StudyWordsArguments:
    """The words of a study, drawn once for all rows.

    Args:
        rendering: settings of `word_rendering` as a YAML file.
        unlabelled_words: words for pretraining.
        labelled_words: words that the heads learn from; the first after the unlabelled ones.
        test_words: words that the heads are tested on; the next ones.
    """

    rendering: str
    unlabelled_words: int = 20_000
    labelled_words: int = 4000
    test_words: int = 1000

    def validate_words(self) -> None:
        """There are words of each kind."""
        require_at_least(self, unlabelled_words=2, labelled_words=2, test_words=1)


@strict
@dataclass
class StudyHeadsArguments:
    """The heads on the frozen encoder: the papers' decoder evaluation, small.

    Args:
        heads: of "ctc" and "attention".
        head_updates: updates of each head, 64 words each.
        head_charset: characters of the heads.
        refresh_words: unlabelled words from which every encoder's batch norm takes its statistics anew before
            it is frozen; 0 leaves those of the pretraining. Without this, an encoder that was not trained
            has none, and one that saw masked words only has theirs.
    """

    heads: list[str] | None = None
    head_updates: int = 400
    head_charset: str = "alphanumeric-36"
    refresh_words: int = 1024

    def validate_heads(self) -> None:
        """Heads are known."""
        require_at_least(self, head_updates=1, refresh_words=0)
        if self.heads is not None and (not self.heads or set(self.heads) - set(PROBE_HEADS)):
            raise ValueError(f"`heads` must be of {', '.join(PROBE_HEADS)}; got {self.heads}.")


@strict
@dataclass
class StudyRunArguments:
    """Where and how.

    Args:
        output_dir: folder of the study; what is there already is not done again.
        jobs: rows that run side by side, each a process of its own.
        threads: CPU threads of each.
    """

    output_dir: str
    jobs: int = 1
    threads: int = 1

    def validate_run(self) -> None:
        """Numbers are positive."""
        require_at_least(self, jobs=1, threads=1)


@dataclass
class StudyArguments(GroupedArguments):
    """The settings of a study."""

    rows: StudyRowsArguments
    words: StudyWordsArguments
    heads: StudyHeadsArguments
    run: StudyRunArguments
    groups: ClassVar[dict[str, type]] = {
        "rows": StudyRowsArguments,
        "words": StudyWordsArguments,
        "heads": StudyHeadsArguments,
        "run": StudyRunArguments,
    }
