"""How well words are read: accuracy, edit distance, uncertainty; pure functions of two lists of texts.

Every number is stated with the protocol that it assumes (`benchmarks.PROTOCOL`). "Alphanumeric" compares both
texts after lower-casing and dropping everything but 0-9 and a-z; words whose label is empty then are left out
and counted. "Cased" compares the texts as they are.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from rapidfuzz.distance import Levenshtein

from training.benchmarks import normalise_alphanumeric


@dataclass(frozen=True)
class Interval:
    """Bounds of a share, each in 0..1."""

    low: float
    high: float


@dataclass(frozen=True)
class RecognitionScores:
    """What `score_words` measured; shares in 0..1.

    Args:
        words: compared words (label not empty after normalisation).
        empty_labels: words left out because their label is empty after normalisation.
        correct: alphanumeric, right words.
        word_accuracy: correct / words.
        interval: Wilson 95 % interval of `word_accuracy`.
        cased_accuracy: share of all words, left-out ones included, that are right to the character.
        one_minus_ned: mean over `words` of 1 - edit distance / longer length, alphanumeric.
        character_error_rate: edit distances summed / label characters summed, cased, over all words.
    """

    words: int
    empty_labels: int
    correct: int
    word_accuracy: float
    interval: Interval
    cased_accuracy: float
    one_minus_ned: float
    character_error_rate: float


def score_words(predictions: Sequence[str], labels: Sequence[str]) -> RecognitionScores:
    """Compare predictions with labels, word by word.

    Raises:
        ValueError: if the lists differ in length.
    """
    if len(predictions) != len(labels):
        raise ValueError(f"each label needs one prediction, got {len(predictions)} for {len(labels)} labels.")
    pairs = [
        (normalise_alphanumeric(p), normalise_alphanumeric(t))
        for p, t in zip(predictions, labels, strict=True)
    ]
    kept = [(prediction, label) for prediction, label in pairs if label]
    correct = sum(prediction == label for prediction, label in kept)
    return RecognitionScores(
        words=len(kept),
        empty_labels=len(pairs) - len(kept),
        correct=correct,
        word_accuracy=_ratio(correct, len(kept)),
        interval=wilson_interval(correct, len(kept)),
        cased_accuracy=_ratio(sum(p == t for p, t in zip(predictions, labels, strict=True)), len(labels)),
        one_minus_ned=_ratio(sum(one_minus_normalised_edit_distance(p, t) for p, t in kept), len(kept)),
        character_error_rate=character_error_rate(predictions, labels),
    )


def edit_distance(first: str, second: str) -> int:
    """Fewest insertions, deletions and replacements of one character that turn one text into the other."""
    return int(Levenshtein.distance(first, second))


def one_minus_normalised_edit_distance(prediction: str, label: str) -> float:
    """1 - edit distance / longer length; 1 for two empty texts (ICDAR 2019 ReCTS, arXiv:1912.09641)."""
    longer = max(len(prediction), len(label))
    return 1.0 if not longer else 1.0 - edit_distance(prediction, label) / longer


def character_error_rate(predictions: Sequence[str], labels: Sequence[str]) -> float:
    """Edit distances summed over label characters summed; may exceed 1. NaN without label characters."""
    distance = sum(edit_distance(p, t) for p, t in zip(predictions, labels, strict=True))
    return _ratio(distance, sum(len(label) for label in labels))


def wilson_interval(successes: int, trials: int, z: float = 1.959963984540054) -> Interval:
    """Wilson score interval of a share (Wilson 1927, JASA 22:209).

    Args:
        successes: right words.
        trials: all words.
        z: standard normal quantile; the default gives 95 %.

    Returns:
        The bounds; (0, 1) without trials.

    Raises:
        ValueError: unless 0 <= successes <= trials.
    """
    if not 0 <= successes <= trials:
        raise ValueError(f"`successes` must lie in 0 to `trials`, got {successes} of {trials}.")
    if trials == 0:
        return Interval(0.0, 1.0)
    share = successes / trials
    centre = share + z * z / (2 * trials)
    half = z * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    scale = 1 + z * z / trials
    return Interval(max(0.0, (centre - half) / scale), min(1.0, (centre + half) / scale))


def _ratio(numerator: float, denominator: float) -> float:
    return numerator / denominator if denominator else math.nan
