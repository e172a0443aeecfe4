"""Character error rate as a metric of the `evaluate` library: `evaluate.load(FOLDER)`, no network.

The library copies this file before it runs it, so it imports nothing of this repository; a test holds it to
`training.metrics`.
"""

from typing import Any

import datasets
import evaluate
from rapidfuzz.distance import Levenshtein

DESCRIPTION = """\
Character error rate: edit distances of all words summed, by the characters of all references summed. Texts
are compared as they are, with case and punctuation, and long words weigh more than short ones. It may
exceed 1.
"""

INPUTS = """\
Args:
    predictions: list of str, one per word; "" for a word that could not be read.
    references: list of str, the labels.

Returns:
    character_error_rate: float, 0 or more, smaller is better; not a number without reference characters.
    characters: int, how many characters the references have.

Example:
    >>> metric = evaluate.load("training/evaluate_metrics/character_error_rate")
    >>> metric.compute(predictions=["Its", "door"], references=["it's", "doors"])
    {'character_error_rate': 0.3333333333333333, 'characters': 9}
"""


class CharacterErrorRate(evaluate.Metric):
    """Edit distances summed by reference characters summed."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        distance = sum(Levenshtein.distance(p, r) for p, r in zip(predictions, references, strict=True))
        characters = sum(map(len, references))
        rate = distance / characters if characters else float("nan")
        return {"character_error_rate": rate, "characters": characters}
