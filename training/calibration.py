"""Whether confidences mean what they say: calibration by bins, and coverage at a wanted precision.

A confidence is the probability that the recogniser gives to the whole text that it read. The expected
calibration error is that of Guo et al. (arXiv:1706.04599) with equal bins, open below and closed above.
Coverage answers what a user of the confidence asks: if 95 % of what I accept shall be right, how much may I
accept?
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from training.metrics import Interval, wilson_interval

BINS = 15


@dataclass(frozen=True)
class CalibrationBin:
    """Words of similar confidence.

    Args:
        low: confidences above this.
        high: and up to this.
        words: number of them.
        confidence: their mean; NaN without words.
        accuracy: share that is right; NaN without words.
        interval: Wilson's of the accuracy.
    """

    low: float
    high: float
    words: int
    confidence: float
    accuracy: float
    interval: Interval


@dataclass(frozen=True)
class AcceptedShare:
    """What is accepted above a threshold of confidence.

    Args:
        precision: share of the accepted words that is right.
        coverage: share of all words that is accepted.
        threshold: smallest accepted confidence.
    """

    precision: float
    coverage: float
    threshold: float


def calibration_bins(
    confidences: Sequence[float], correct: Sequence[bool], bins: int = BINS
) -> list[CalibrationBin]:
    """Sort words into equal bins of confidence.

    Args:
        confidences: one per word, in 0..1.
        correct: whether each was read rightly.
        bins: how many.

    Returns:
        The bins from low to high, empty ones too.

    Raises:
        ValueError: for lists of different length, confidences outside 0..1, or no bins.
    """
    values, right = _checked(confidences, correct)
    if bins < 1:
        raise ValueError(f"`bins` must be at least 1, got {bins}; 15 is usual.")
    bin_of = np.maximum(np.ceil(values * bins).astype(int) - 1, 0)
    found = []
    for number in range(bins):
        inside = bin_of == number
        words, hits = int(inside.sum()), int(right[inside].sum())
        found.append(
            CalibrationBin(
                number / bins,
                (number + 1) / bins,
                words,
                float(values[inside].mean()) if words else math.nan,
                hits / words if words else math.nan,
                wilson_interval(hits, words),
            )
        )
    return found


def expected_calibration_error(bins: Sequence[CalibrationBin]) -> float:
    """Mean over words of |accuracy - confidence| of their bin; NaN without words."""
    words = sum(one.words for one in bins)
    if not words:
        return math.nan
    return sum(one.words * abs(one.accuracy - one.confidence) for one in bins if one.words) / words


def accepted_shares(confidences: Sequence[float], correct: Sequence[bool]) -> list[AcceptedShare]:
    """Precision and coverage at every threshold, from the strictest down; ties are taken together.

    Raises:
        ValueError: for lists of different length or confidences outside 0..1.
    """
    values, right = _checked(confidences, correct)
    order = np.argsort(-values, kind="stable")
    values, right = values[order], right[order]
    hits = np.cumsum(right)
    count = len(values)
    last_of_tie = [i for i in range(count) if i + 1 == count or values[i + 1] < values[i]]
    return [AcceptedShare(float(hits[i] / (i + 1)), (i + 1) / count, float(values[i])) for i in last_of_tie]


def coverage_at(
    confidences: Sequence[float], correct: Sequence[bool], precision: float
) -> AcceptedShare | None:
    """Accept the most words among which the share of right ones is at least `precision`.

    Returns:
        None when even the surest words are right less often.

    Raises:
        ValueError: if `precision` is outside 0..1, and as `accepted_shares`.
    """
    if not 0 < precision <= 1:
        raise ValueError(f"`precision` must lie above 0 and up to 1, got {precision}; 0.95 is usual.")
    fitting = [share for share in accepted_shares(confidences, correct) if share.precision >= precision]
    return fitting[-1] if fitting else None


def _checked(confidences: Sequence[float], correct: Sequence[bool]) -> tuple[np.ndarray, np.ndarray]:
    if len(confidences) != len(correct):
        raise ValueError(f"each word needs one confidence, got {len(confidences)} for {len(correct)} words.")
    values = np.asarray(confidences, dtype=np.float64)
    if values.size and not (values.min() >= 0 and values.max() <= 1):
        raise ValueError("confidences must lie in 0 to 1; give probabilities, not logits.")
    return values, np.asarray(correct, dtype=np.int64)
