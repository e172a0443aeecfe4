import math
import random

import pytest

from training.calibration import (
    accepted_shares,
    calibration_bins,
    coverage_at,
    expected_calibration_error,
)


def drawn(count: int, seed: int = 0) -> tuple[list[float], list[bool]]:
    chooser = random.Random(seed)
    confidences = [chooser.choice([0.0, 0.2, 0.5, 1.0, chooser.random()]) for _ in range(count)]
    return confidences, [chooser.random() < 0.6 for _ in confidences]


def slow_calibration_error(confidences: list[float], correct: list[bool], bins: int) -> float:
    """Word by word, from the definition: bin m holds ((m - 1) / M, m / M], the first also 0."""
    total = 0.0
    for number in range(bins):
        inside = [
            (confidence, right)
            for confidence, right in zip(confidences, correct, strict=True)
            if number < confidence * bins <= number + 1 or (number == 0 and confidence == 0)
        ]
        if inside:
            accuracy = sum(right for _, right in inside) / len(inside)
            mean = sum(confidence for confidence, _ in inside) / len(inside)
            total += len(inside) * abs(accuracy - mean)
    return total / len(confidences)


@pytest.mark.parametrize("bins", [1, 2, 10, 15])
def test_calibration_error_equals_its_definition(bins: int) -> None:
    confidences, correct = drawn(300)
    measured = expected_calibration_error(calibration_bins(confidences, correct, bins))
    assert measured == pytest.approx(slow_calibration_error(confidences, correct, bins))


@pytest.mark.parametrize(
    ("confidences", "correct", "expected"),
    [
        ([1.0, 1.0], [True, True], 0.0),
        ([1.0, 1.0], [False, False], 1.0),
        ([0.5, 0.5], [True, False], 0.0),
        ([0.9] * 10, [True] * 9 + [False], 0.0),
        # Two bins: |1 - 0.7| on one word, |0 - 0.1| on three.
        ([0.7, 0.1, 0.1, 0.1], [True, False, False, False], (0.3 + 3 * 0.1) / 4),
    ],
)
def test_calibration_error_in_closed_form(
    confidences: list[float], correct: list[bool], expected: float
) -> None:
    assert expected_calibration_error(calibration_bins(confidences, correct)) == pytest.approx(expected)


def test_bins_hold_every_word_once_and_state_their_bounds() -> None:
    bins = calibration_bins([0.0, 0.1, 0.5, 0.50001, 1.0], [True] * 5, 2)
    assert [(one.low, one.high, one.words) for one in bins] == [(0.0, 0.5, 3), (0.5, 1.0, 2)]
    empty = calibration_bins([], [], 3)
    assert [one.words for one in empty] == [0, 0, 0]
    assert math.isnan(expected_calibration_error(empty))


def test_coverage_takes_as_many_words_as_the_precision_allows() -> None:
    confidences = [0.9, 0.8, 0.7, 0.6]
    correct = [True, False, True, True]
    shares = accepted_shares(confidences, correct)
    assert [share.precision for share in shares] == pytest.approx([1, 1 / 2, 2 / 3, 3 / 4])
    assert [share.coverage for share in shares] == [0.25, 0.5, 0.75, 1.0]
    best = coverage_at(confidences, correct, 0.75)
    assert best is not None
    assert (best.coverage, best.threshold) == (1.0, 0.6)
    strict = coverage_at(confidences, correct, 0.99)
    assert strict is not None
    assert (strict.coverage, strict.threshold) == (0.25, 0.9)


def test_words_of_one_confidence_are_accepted_together_or_not_at_all() -> None:
    assert len(accepted_shares([0.5, 0.5, 0.5], [True, False, False])) == 1
    assert coverage_at([0.5, 0.5], [True, False], 0.9) is None


def test_every_threshold_keeps_its_promise() -> None:
    confidences, correct = drawn(200, seed=1)
    for share in accepted_shares(confidences, correct):
        kept = [right for c, right in zip(confidences, correct, strict=True) if c >= share.threshold]
        assert share.coverage == len(kept) / 200
        assert share.precision == pytest.approx(sum(kept) / len(kept))


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(ValueError, match="give probabilities"):
        calibration_bins([1.5], [True])
    with pytest.raises(ValueError, match="give probabilities"):
        calibration_bins([math.nan], [True])
    with pytest.raises(ValueError, match="one confidence, got 1 for 2 words"):
        accepted_shares([0.5], [True, False])
    with pytest.raises(ValueError, match="at least 1"):
        calibration_bins([0.5], [True], 0)
    with pytest.raises(ValueError, match="above 0 and up to 1"):
        coverage_at([0.5], [True], 95)
