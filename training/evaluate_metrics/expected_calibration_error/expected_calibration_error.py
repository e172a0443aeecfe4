"""Expected calibration error as a metric of the `evaluate` library: `evaluate.load(FOLDER)`, no network.

The library copies this file before it runs it, so it imports nothing of this repository; a test holds it to
`training.calibration`.
"""

from typing import Any

import datasets
import evaluate
import numpy as np

DESCRIPTION = """\
Expected calibration error of text recognition (Guo et al. 2017): words are put into equal bins of
confidence, open below and closed above; the error is the mean over words of the distance between the
accuracy and the mean confidence of their bin. 0 means that of the words read with confidence 0.8, eight in
ten are right. A word is right when it equals its reference after the normalisation; with "alphanumeric-36"
words whose reference is then empty are left out.
"""

INPUTS = """\
Args:
    predictions: list of str, one per word; "" for a word that could not be read.
    references: list of str, the labels.
    confidences: list of float in 0 to 1, the probability that the recogniser gives to its whole prediction.
    bins: int, number of equal bins, 15 by default.
    normalisation: "alphanumeric-36" (default) or "none".

Returns:
    expected_calibration_error: float in 0 to 1, smaller is better; not a number when no word is left.
    words: int, how many words were compared.

Example:
    >>> metric = evaluate.load("training/evaluate_metrics/expected_calibration_error")
    >>> metric.compute(predictions=["a", "b"], references=["a", "c"], confidences=[0.75, 0.75])
    {'expected_calibration_error': 0.25, 'words': 2}
"""

CHARACTERS = frozenset("0123456789abcdefghijklmnopqrstuvwxyz")
NORMALISATIONS = ("alphanumeric-36", "none")


class ExpectedCalibrationError(evaluate.Metric):
    """Mean distance between accuracy and confidence over bins of confidence."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=DESCRIPTION,
            citation="",
            inputs_description=INPUTS,
            features=datasets.Features(
                {
                    "predictions": datasets.Value("string"),
                    "references": datasets.Value("string"),
                    "confidences": datasets.Value("float64"),
                }
            ),
            reference_urls=["https://arxiv.org/abs/1706.04599"],
        )

    def _compute(
        self,
        predictions: list[str],
        references: list[str],
        confidences: list[float],
        bins: int = 15,
        normalisation: str = "alphanumeric-36",
    ) -> dict[str, Any]:
        if normalisation not in NORMALISATIONS:
            raise ValueError(
                f"`normalisation` must be one of {', '.join(NORMALISATIONS)}, got {normalisation!r}."
            )
        if bins < 1:
            raise ValueError(f"`bins` must be at least 1, got {bins}; 15 is usual.")
        if not all(0 <= confidence <= 1 for confidence in confidences):
            raise ValueError("`confidences` must lie in 0 to 1; give probabilities, not logits.")
        rows = list(zip(predictions, references, confidences, strict=True))
        if normalisation == "alphanumeric-36":
            filtered = [(filter_characters(p), filter_characters(r), c) for p, r, c in rows]
            rows = [row for row in filtered if row[1]]
        if not rows:
            return {"expected_calibration_error": float("nan"), "words": 0}
        right = np.array([float(prediction == reference) for prediction, reference, _ in rows])
        confidence = np.array([row[2] for row in rows], dtype=np.float64)
        bin_of = np.maximum(np.ceil(confidence * bins).astype(int) - 1, 0)
        # Of a bin with n words, n |accuracy - confidence| is the size of the sum of their differences.
        differences = np.bincount(bin_of, weights=right - confidence, minlength=bins)
        error = float(np.abs(differences).sum() / len(rows))
        return {"expected_calibration_error": error, "words": len(rows)}


def filter_characters(text: str) -> str:
    """Lower-case a text and keep 0-9 and a-z only."""
    return "".join(character for character in text.lower() if character in CHARACTERS)
