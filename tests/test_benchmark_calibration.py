"""Calibration reaches results.json for all words, every set and every group, and is that of the formulas."""

import json

import pytest
from PIL import Image

from training.benchmark_calibration import calibrate_sets, describe_calibration, set_calibration
from training.calibration import calibration_bins, coverage_at, expected_calibration_error
from training.error_analysis import WordRecord


def record(set_name: str, confidence: float, correct: bool) -> WordRecord:
    return WordRecord(set_name, Image.new("RGB", (4, 4)), "a", "a", confidence, correct, 4, 4)


RECORDS = [record("one", 0.9, True), record("one", 0.4, False), record("two", 0.8, True)]


def test_the_numbers_are_those_of_the_formulas() -> None:
    confidences, correct = [0.9, 0.4, 0.8], [True, False, True]
    whole = set_calibration("all", RECORDS, 0.95)
    assert whole.error == pytest.approx(expected_calibration_error(calibration_bins(confidences, correct)))
    assert whole.error == pytest.approx((0.1 + 0.4 + 0.2) / 3)
    assert whole.coverage == coverage_at(confidences, correct, 0.95)
    assert whole.words == 3


def test_all_words_sets_and_groups_have_their_rows() -> None:
    rows = calibrate_sets([*RECORDS, record("three", 0.5, True)], 0.95, {"pair": ["one", "two"]})
    assert [(row.name, row.words) for row in rows] == [
        ("all words", 4),
        ("one", 2),
        ("two", 1),
        ("three", 1),
        ("pair", 3),
    ]


def test_one_set_needs_no_row_for_all_and_an_empty_group_none() -> None:
    assert [row.name for row in calibrate_sets(RECORDS[:2], 0.9, {"lost": ["two"]})] == ["one"]
    assert calibrate_sets([], 0.9) == []


def test_no_acceptable_share_is_said_as_none() -> None:
    described = describe_calibration([record("one", 0.9, False)], 0.95, {})
    assert described["precision"] == 0.95
    assert described["sets"][0]["coverage"] is None
    assert json.loads(json.dumps(described, allow_nan=False)) == described
