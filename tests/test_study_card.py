"""The study's summary on a family's card is that of the study's own table."""

import json
from pathlib import Path
from typing import Any

import pytest

from training.study_card import study_summary

STUDIES = Path(__file__).resolve().parent.parent / "docs" / "study"


def stored(family: str) -> dict[str, Any]:
    return json.loads((STUDIES / family / "results.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("family", ["rcmstr", "persec"])
def test_every_row_shows_the_means_of_the_table(family: str) -> None:
    content = stored(family)
    lines = study_summary(content).replace("\u00a0", " ").splitlines()
    table = (STUDIES / family / "study.md").read_text(encoding="utf-8").splitlines()
    for row, line in zip(content["rows"], lines[2:], strict=False):
        label, ctc, gain, attention, _ = [part.strip() for part in line.strip("|").split("|")]
        assert label == row["label"]
        (long,) = [one for one in table if one.startswith(f"| {label} |") and one.count("|") == 10]
        assert f"| {ctc} (" in long
        assert f"| {attention} (" in long
        assert not gain or f"| {gain} |" in long
    assert "16,000 words seen by the encoder, 3 seeds" in lines[-1]


def test_a_single_seed_has_no_interval() -> None:
    content = stored("rcmstr")
    gain = content["rows"][1]["gains"]["ctc"]["word_accuracy"]
    gain |= {"mean": 0.125, "low": None, "high": None}
    assert study_summary(content).splitlines()[3].split("|")[3].strip() == "+12.5"
