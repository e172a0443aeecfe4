"""Whether a checkpoint's scores keep their promise, set by set, as `results.json` and the cards state it.

The formulas lie in `calibration`; here they meet the words of a measurement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from training.calibration import (
    BINS,
    AcceptedShare,
    calibration_bins,
    coverage_at,
    expected_calibration_error,
)
from training.error_analysis import WordRecord

ALL_WORDS = "all words"


@dataclass(frozen=True)
class SetCalibration:
    """How confidences of one set, or of several, keep their promise.

    Args:
        name: of the set.
        words: number of compared words.
        error: expected calibration error.
        coverage: most words that may be accepted at the wanted precision; None when none may.
    """

    name: str
    words: int
    error: float
    coverage: AcceptedShare | None


def set_calibration(name: str, records: Sequence[WordRecord], precision: float) -> SetCalibration:
    """Calibration error, and coverage at a wanted precision, of some words."""
    confidences, correct = [record.confidence for record in records], [record.correct for record in records]
    error = expected_calibration_error(calibration_bins(confidences, correct))
    return SetCalibration(name, len(records), error, coverage_at(confidences, correct, precision))


def calibrate_sets(
    records: Sequence[WordRecord], precision: float, groups: Mapping[str, Sequence[str]] | None = None
) -> list[SetCalibration]:
    """All words together where there are several sets, then every set, then every group of sets.

    Args:
        records: of all sets.
        precision: share of right words that is wanted among accepted ones, above 0 and up to 1.
        groups: name → sets; those without a compared word are left out.
    """
    names = list(dict.fromkeys(record.set_name for record in records))
    parts = {ALL_WORDS: names} if len(names) > 1 else {}
    parts |= {name: [name] for name in names} | {name: list(sets) for name, sets in (groups or {}).items()}
    chosen = {name: [record for record in records if record.set_name in sets] for name, sets in parts.items()}
    return [set_calibration(name, part, precision) for name, part in chosen.items() if part]


def describe_calibration(
    records: Sequence[WordRecord], precision: float, groups: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """What goes into `results.json`: the wanted precision, the number of bins, and `calibrate_sets`."""
    return {
        "precision": precision,
        "bins": BINS,
        "sets": [asdict(one) for one in calibrate_sets(records, precision, groups)],
    }
