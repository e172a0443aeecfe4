import random

import numpy as np
import pytest

from training.edit_alignment import AlignedCharacter, align, count_confusions
from training.metrics import edit_distance


def random_words(count: int, seed: int) -> list[str]:
    chooser = random.Random(seed)
    return ["".join(chooser.choices("abcd", k=chooser.randrange(8))) for _ in range(count)]


@pytest.mark.parametrize(
    ("prediction", "label", "expected"),
    [
        ("", "", []),
        ("ab", "ab", [("a", "a"), ("b", "b")]),
        ("0b", "ob", [("o", "0"), ("b", "b")]),
        ("b", "ab", [("a", ""), ("b", "b")]),
        ("abc", "ab", [("a", "a"), ("b", "b"), ("", "c")]),
        ("rn", "m", [("", "r"), ("m", "n")]),
    ],
)
def test_alignment_in_closed_form(prediction: str, label: str, expected: list[tuple[str, str]]) -> None:
    assert [(pair.label, pair.read) for pair in align(prediction, label)] == expected


def test_an_alignment_spells_both_texts_with_as_few_mistakes_as_possible() -> None:
    for prediction, label in zip(random_words(200, 1), random_words(200, 2), strict=True):
        aligned = align(prediction, label)
        assert "".join(pair.label for pair in aligned) == label
        assert "".join(pair.read for pair in aligned) == prediction
        assert sum(pair.label != pair.read for pair in aligned) == edit_distance(prediction, label)
        assert AlignedCharacter("", "") not in aligned


def test_confusions_equal_a_table_filled_pair_by_pair() -> None:
    predictions, labels = random_words(80, 3), random_words(80, 4)
    letters = ["", *"abcd"]
    table = np.zeros((5, 5), int)
    for prediction, label in zip(predictions, labels, strict=True):
        for pair in align(prediction, label):
            table[letters.index(pair.label), letters.index(pair.read)] += 1
    confusions = count_confusions(predictions, labels)
    assert len(confusions) == sum(table[i, j] > 0 for i in range(5) for j in range(5) if i != j)
    for one in confusions:
        row = letters.index(one.label)
        assert one.count == table[row, letters.index(one.read)]
        occurrences = table[row].sum() if one.label else table[:, 1:].sum()
        assert one.share == pytest.approx(one.count / occurrences)
    assert [one.count for one in confusions] == sorted((one.count for one in confusions), reverse=True)


def test_texts_that_are_right_confuse_nothing() -> None:
    assert count_confusions(["abc", ""], ["abc", ""]) == []


def test_a_missing_prediction_is_refused() -> None:
    with pytest.raises(ValueError, match="zip"):
        count_confusions(["a"], ["a", "b"])
