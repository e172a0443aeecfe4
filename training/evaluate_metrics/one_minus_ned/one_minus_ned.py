"""1 - normalised edit distance as a metric of the `evaluate` library: `evaluate.load(FOLDER)`, no network.

The library copies this file before it runs it, so it imports nothing of this repository; a test holds it to
`training.metrics`.
"""

from typing import Any

import datasets
import evaluate
from rapidfuzz.distance import Levenshtein

DESCRIPTION = """\
1-NED of text recognition: the mean over words of 1 - edit distance / length of the longer text, so that a
word with one wrong letter counts for more than one that is all wrong (ICDAR 2019 ReCTS). With the
normalisation "alphanumeric-36" both texts are lower-cased, every character outside 0-9 a-z is dropped, and
words whose reference is then empty are left out. With "none" the texts are compared as they are, all of
them.
"""

INPUTS = """\
Args:
    predictions: list of str, one per word; "" for a word that could not be read.
    references: list of str, the labels.
    normalisation: "alphanumeric-36" (default) or "none".

Returns:
    one_minus_ned: float in 0 to 1, larger is better; not a number when no word is left.
    words: int, how many words were compared.

Example:
    >>> metric = evaluate.load("training/evaluate_metrics/one_minus_ned")
    >>> metric.compute(predictions=["abd", "x"], references=["abcd", "x"])
    {'one_minus_ned': 0.875, 'words': 2}
"""

CHARACTERS = frozenset("0123456789abcdefghijklmnopqrstuvwxyz")
NORMALISATIONS = ("alphanumeric-36", "none")


class OneMinusNormalisedEditDistance(evaluate.Metric):
    """Mean over words of 1 - edit distance / longer length."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
            reference_urls=["https://arxiv.org/abs/1912.09641"],
        )

    def _compute(
        self, predictions: list[str], references: list[str], normalisation: str = "alphanumeric-36"
    ) -> dict[str, Any]:
        if normalisation not in NORMALISATIONS:
            raise ValueError(
                f"`normalisation` must be one of {', '.join(NORMALISATIONS)}, got {normalisation!r}."
            )
        pairs = list(zip(predictions, references, strict=True))
        if normalisation == "alphanumeric-36":
            pairs = [(filter_characters(prediction), filter_characters(text)) for prediction, text in pairs]
            pairs = [pair for pair in pairs if pair[1]]
        # Two empty texts are at distance 0.
        similarities = [Levenshtein.normalized_similarity(*pair) for pair in pairs]
        mean = sum(similarities) / len(pairs) if pairs else float("nan")
        return {"one_minus_ned": mean, "words": len(pairs)}


def filter_characters(text: str) -> str:
    """Lower-case a text and keep 0-9 and a-z only."""
    return "".join(character for character in text.lower() if character in CHARACTERS)
