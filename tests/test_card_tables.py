"""Tables of a card show the numbers of their files, rounded, and dashes where there are none."""

import math

from tests.card_checkpoints import make_results
from training.card_facts import TrainingSource
from training.card_tables import (
    calibration_table,
    cell,
    losses_table,
    probes_table,
    robustness_table,
    sources_table,
    unbroken_ranges,
)


def test_calibration_shows_error_coverage_and_threshold() -> None:
    lines = calibration_table(make_results("ab")["calibration"]).splitlines()
    assert "accepted at 95 % right" in lines[0]
    assert lines[2] == "| all words | 200 | 4.6 | 68.4 | 0.912 |"
    assert lines[3] == "| `signs` | 200 | 5.7 | none |  |"
    assert {line.count("|") for line in lines} == {6}


def test_robustness_shows_each_grade_behind_its_accuracy() -> None:
    lines = robustness_table(make_results("ab")["robustness"]).replace("\u00a0", " ").splitlines()
    assert lines[2] == "| rotation (degrees) | 80.0 | 70.0 (at 5) | 12.3 (at 10) |"
    assert {line.count("|") for line in lines} == {5}


def test_sources_show_words_share_and_rights() -> None:
    sources = [
        TrainingSource("a", "drawn | words", "ours", None, 1500, 0.75, 0),
        TrainingSource("b", "photographs", "theirs", None, None, None, 1200),
    ]
    lines = sources_table(sources).splitlines()
    assert lines[2] == "| drawn \\| words | 1,500 | 0.75 |  | ours |"
    assert lines[3] == "| photographs |  |  | 1,200 | theirs |"


def test_losses_leave_out_terms_and_speed() -> None:
    last = {"step": 9, "loss": 6.54321, "stroke_perplexity": 48.05373, "term/x_loss": 1.0, "images": 3.0}
    assert losses_table(last).splitlines() == [
        "| at update 9 | value |",
        "|---|---:|",
        "| weighted sum | 6.543 |",
        "| stroke perplexity | 48.05 |",
    ]


def test_probes_are_rows_and_none_is_nothing() -> None:
    probe = {
        "step": 5,
        "probe/word_accuracy": 0.1,
        "probe/one_minus_ned": 0.25,
        "probe/effective_rank": 42.34,
    }
    assert probes_table([probe]).splitlines()[2] == "| 5 | 10.0 | 25.0 | 42.3 |"
    assert probes_table([]) == ""


def test_ranges_do_not_break_but_sentences_do() -> None:
    assert unbroken_ranges("9.1 to 15.1, words to come") == "9.1\u00a0to\u00a015.1, words to come"


def test_missing_shares_are_dashes() -> None:
    calibration = {"precision": 0.9, "sets": [{"name": "a", "words": 0, "error": math.nan, "coverage": None}]}
    assert calibration_table(calibration).splitlines()[2] == "| `a` | 0 | – | none |  |"
    calibration["sets"] = [{"name": "a", "words": 0, "error": None, "coverage": None}]
    assert "| – |" in calibration_table(calibration)


def test_a_cell_is_one_line() -> None:
    assert cell("a|b\n c") == "a\\|b c"
