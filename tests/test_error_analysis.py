from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from training.benchmark_measurement import Readings
from training.benchmark_sets import BenchmarkSet
from training.error_analysis import (
    WORD_KINDS,
    WordRecord,
    accuracy_by_character_kind,
    accuracy_by_height,
    accuracy_by_length,
    accuracy_by_word_kind,
    group_accuracy,
    image_size,
    lower_each,
    make_records,
    word_kind,
    worst_mistakes,
)
from training.metrics import score_words, wilson_interval


def record(
    label: str, text: str, confidence: float = 0.5, height: int = 32, correct: bool | None = None
) -> WordRecord:
    right = label.lower() == text.lower() if correct is None else correct
    return WordRecord("set", None, label, text, confidence, right, height, 2 * height)


def test_records_hold_the_compared_words_and_agree_with_the_scores() -> None:
    labels = ["Its", "...", "stop", "door"]
    texts = ["it's", "...", "shop", ""]
    images = [np.zeros((20, 50, 3), np.uint8)] * 3 + ["nowhere.png"]
    words = BenchmarkSet("signs", images, labels, "f")
    records = make_records([words], {"signs": Readings(texts, [0.9, 0.8, 0.7, 0.0], 1, 1.0)})
    assert [one.label for one in records] == ["Its", "stop", "door"]
    assert [one.correct for one in records] == [True, False, False]
    assert [(one.height, one.width) for one in records] == [(20, 50), (20, 50), (0, 0)]
    assert sum(one.correct for one in records) == score_words(texts, labels).correct


def test_readings_without_confidences_are_refused() -> None:
    words = BenchmarkSet("signs", [None], ["a"], "f")
    with pytest.raises(ValueError, match="'signs' have no confidences"):
        make_records([words], {"signs": Readings(["a"], [], 0, 1.0)})


def test_a_turned_photograph_is_as_high_as_it_looks() -> None:
    buffer = BytesIO()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (10, 40)).save(buffer, format="JPEG", exif=exif)
    assert image_size(buffer.getvalue()) == (10, 40)
    assert image_size(b"broken") == (0, 0)


def test_groups_by_length_hold_every_word_once() -> None:
    records = [record("a" * length, "a" * length) for length in (1, 2, 2, 11, 12, 30)]
    records.append(record("b-c", "bc"))
    groups = accuracy_by_length(records)
    assert [(group.name, group.count) for group in groups] == [
        ("1", 1),
        ("2", 3),
        ("11", 1),
        ("12 and more", 2),
    ]


def test_groups_by_height_have_closed_lower_and_open_upper_ends() -> None:
    records = [record("a", "a", height=height) for height in (1, 15, 16, 23, 24, 95, 96, 500, 0)]
    groups = {group.name: group.count for group in accuracy_by_height(records)}
    assert groups == {"under 16": 2, "16 to 23": 2, "24 to 31": 1, "64 to 95": 1, "96 and more": 2}


@pytest.mark.parametrize(
    ("label", "kind"),
    [
        ("door", "lower case"),
        ("DOOR", "upper case"),
        ("Door", "capitalised"),
        ("A", "upper case"),
        ("iPad", "mixed case"),
        ("2024", "digits"),
        ("42nd", "letters and digits"),
        ("it's", "with other characters"),
        ("a b", "with other characters"),
    ],
)
def test_the_kind_of_a_word(label: str, kind: str) -> None:
    assert word_kind(label) == kind
    assert kind in WORD_KINDS
    (group,) = accuracy_by_word_kind([record(label, "x")])
    assert (group.name, group.count, group.correct) == (kind, 1, 0)


def test_a_group_states_share_and_wilson_interval() -> None:
    group = group_accuracy("some", 81, 263)
    assert group.accuracy == 81 / 263
    assert group.interval == wilson_interval(81, 263)
    with pytest.raises(ValueError, match="'none' has no words"):
        group_accuracy("none", 0, 0)


def test_characters_are_counted_by_the_kind_that_the_label_shows() -> None:
    """ "A1b." read as "a1c": A has the wrong case, b is wrong, the point is missed."""
    records = [record("A1b.", "a1c")]
    cased = {group.name: (group.correct, group.count) for group in accuracy_by_character_kind(records, False)}
    assert cased == {
        "lower-case letters": (0, 1),
        "upper-case letters": (0, 1),
        "digits": (1, 1),
        "other characters": (0, 1),
    }
    caseless = {group.name: group.correct for group in accuracy_by_character_kind(records, True)}
    assert caseless["upper-case letters"] == 1
    assert caseless["lower-case letters"] == 0


def test_a_letter_whose_lower_case_is_longer_keeps_its_place() -> None:
    assert lower_each("\u0130AB") == "\u0130ab"
    (group,) = accuracy_by_character_kind([record("\u0130A", "\u0130a")], True)
    assert (group.correct, group.count) == (2, 2)


def test_the_surest_mistakes_come_first_and_unreadable_images_not_at_all() -> None:
    records = [
        record("a", "b", 0.3),
        record("c", "c", 0.9),
        record("d", "e", 0.8),
        record("f", "", 0.99, height=0),
        record("g", "h", 0.5),
    ]
    assert [one.label for one in worst_mistakes(records, 2)] == ["d", "g"]
    assert len(worst_mistakes(records, 10)) == 3
