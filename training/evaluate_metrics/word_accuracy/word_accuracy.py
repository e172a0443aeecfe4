"""Word accuracy as a metric of the `evaluate` library: `evaluate.load(FOLDER)`, no network.

The library copies this file before it runs it, so it imports nothing of this repository; a test holds it to
`training.metrics`.
"""

from typing import Any

import datasets
import evaluate

DESCRIPTION = """\
Word accuracy of scene text recognition: the share of words that are read without a mistake. With the
normalisation "alphanumeric-36", the field's usual one, both texts are lower-cased, every character outside
0-9 a-z is dropped, and words whose reference is then empty are left out. With "none" the texts are compared
as they are, all of them.
"""

INPUTS = """\
Args:
    predictions: list of str, one per word; "" for a word that could not be read.
    references: list of str, the labels.
    normalisation: "alphanumeric-36" (default) or "none".

Returns:
    word_accuracy: float in 0 to 1; not a number when no word is left.
    words: int, how many words were compared.

Example:
    >>> metric = evaluate.load("training/evaluate_metrics/word_accuracy")
    >>> metric.compute(predictions=["Its", "door"], references=["it's", "doors"])
    {'word_accuracy': 0.5, 'words': 2}
"""

CHARACTERS = frozenset("0123456789abcdefghijklmnopqrstuvwxyz")
NORMALISATIONS = ("alphanumeric-36", "none")


class WordAccuracy(evaluate.Metric):
    """Share of words that are read without a mistake."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
            reference_urls=["https://arxiv.org/abs/1904.01906"],
        )

    def _compute(
        self, predictions: list[str], references: list[str], normalisation: str = "alphanumeric-36"
    ) -> dict[str, Any]:
        pairs = normalised_pairs(predictions, references, normalisation)
        right = sum(prediction == reference for prediction, reference in pairs)
        return {"word_accuracy": right / len(pairs) if pairs else float("nan"), "words": len(pairs)}


def normalised_pairs(
    predictions: list[str], references: list[str], normalisation: str
) -> list[tuple[str, str]]:
    """What is compared: normalised texts of the words that are kept.

    Raises:
        ValueError: for an unknown normalisation.
    """
    if normalisation not in NORMALISATIONS:
        raise ValueError(
            f"`normalisation` must be one of {', '.join(NORMALISATIONS)}, got {normalisation!r}."
        )
    pairs = list(zip(predictions, references, strict=True))
    if normalisation == "none":
        return pairs
    filtered = [
        (filter_characters(prediction), filter_characters(reference)) for prediction, reference in pairs
    ]
    return [pair for pair in filtered if pair[1]]


def filter_characters(text: str) -> str:
    """Lower-case a text and keep 0-9 and a-z only."""
    return "".join(character for character in text.lower() if character in CHARACTERS)
