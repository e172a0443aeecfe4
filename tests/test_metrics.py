import math
import random

import numpy as np
import pytest

from training.metrics import (
    character_error_rate,
    edit_distance,
    one_minus_normalised_edit_distance,
    score_words,
    wilson_interval,
)


def slow_edit_distance(first: str, second: str) -> int:
    """Wagner and Fischer's table, cell by cell."""
    table = np.zeros((len(first) + 1, len(second) + 1), dtype=int)
    table[:, 0], table[0] = range(len(first) + 1), range(len(second) + 1)
    for i, a in enumerate(first, 1):
        for j, b in enumerate(second, 1):
            table[i, j] = min(table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (a != b))
    return int(table[-1, -1])


def random_words(count: int, letters: str = "abAB1-") -> list[str]:
    chooser = random.Random(3)
    return ["".join(chooser.choices(letters, k=chooser.randrange(7))) for _ in range(count)]


def test_edit_distance_equals_the_table() -> None:
    words = random_words(60)
    for first, second in zip(words, reversed(words), strict=True):
        assert edit_distance(first, second) == slow_edit_distance(first, second)


def test_character_error_rate_equals_its_slow_twin() -> None:
    predictions, labels = random_words(40), random_words(41)[1:]
    expected = sum(map(slow_edit_distance, predictions, labels)) / sum(map(len, labels))
    assert character_error_rate(predictions, labels) == expected


def test_character_error_rate_is_not_a_number_without_label_characters() -> None:
    assert math.isnan(character_error_rate(["a"], [""]))


@pytest.mark.parametrize(
    ("prediction", "label", "expected"),
    [("", "", 1.0), ("abc", "abc", 1.0), ("", "abc", 0.0), ("abd", "abc", 2 / 3), ("abcdef", "abc", 0.5)],
)
def test_one_minus_normalised_edit_distance_in_closed_form(
    prediction: str, label: str, expected: float
) -> None:
    assert one_minus_normalised_edit_distance(prediction, label) == pytest.approx(expected)


@pytest.mark.parametrize(("successes", "trials"), [(0, 10), (5, 10), (81, 263), (263, 263), (1, 1)])
def test_wilson_bounds_solve_the_score_equation(successes: int, trials: int) -> None:
    """A bound is a share p at which the observed share lies z standard errors away."""
    z, share = 1.959963984540054, successes / trials
    interval = wilson_interval(successes, trials)
    for bound in (interval.low, interval.high):
        assert (share - bound) ** 2 == pytest.approx(z**2 * bound * (1 - bound) / trials, abs=1e-12)
    assert interval.low <= share <= interval.high


def test_wilson_interval_of_a_published_example() -> None:
    """Newcombe 1998, table I: 81 of 263 gives 0.2553 to 0.3662."""
    interval = wilson_interval(81, 263)
    assert (round(interval.low, 4), round(interval.high, 4)) == (0.2553, 0.3662)


def test_wilson_interval_without_trials_says_nothing() -> None:
    interval = wilson_interval(0, 0)
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_wilson_interval_refuses_more_successes_than_trials() -> None:
    with pytest.raises(ValueError, match="0 to `trials`"):
        wilson_interval(3, 2)


def test_scores_state_what_was_compared_and_how() -> None:
    predictions = ["Hello", "its", "5.99", "wrong", "", "Caf"]
    labels = ["HELLO", "It's", "599", "right", "...", "Cafe"]
    scores = score_words(predictions, labels)
    assert (scores.words, scores.empty_labels, scores.correct) == (5, 1, 3)
    assert scores.word_accuracy == 3 / 5
    assert scores.interval == wilson_interval(3, 5)
    assert scores.cased_accuracy == 0.0
    # hello, its, 599 are 1 each; wrong for right: 4 of 5 characters differ or move; caf for cafe: 1 of 4.
    distance = slow_edit_distance("wrong", "right")
    assert scores.one_minus_ned == pytest.approx((3 + (1 - distance / 5) + 3 / 4) / 5)


def test_perfect_predictions_score_one_and_zero() -> None:
    words = [word for word in random_words(30) if word]
    scores = score_words(words, words)
    assert scores.word_accuracy == scores.cased_accuracy == scores.one_minus_ned == 1.0
    assert scores.character_error_rate == 0.0


def test_scores_do_not_depend_on_the_order_of_words() -> None:
    predictions, labels = random_words(30), random_words(31)[1:]
    forwards, backwards = score_words(predictions, labels), score_words(predictions[::-1], labels[::-1])
    assert forwards.one_minus_ned == pytest.approx(backwards.one_minus_ned)
    assert forwards.correct == backwards.correct


def test_a_missing_prediction_is_an_error() -> None:
    with pytest.raises(ValueError, match="one prediction"):
        score_words(["a"], ["a", "b"])
