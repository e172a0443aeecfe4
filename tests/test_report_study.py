"""Tables of a study against hand-made numbers."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from tests.programs import ROOT
from training.report_study import compare_rows, estimate, study_table, summarise, write_report

ROWS: dict[str, dict[str, Any]] = {
    "random": {"model": "a.json", "pretrained": False, "label": "untrained", "group": "small"},
    "seqmoco": {"model": "a.json", "preset": "seqmoco", "group": "small"},
    "never_run": {"model": "a.json"},
    "other": {"model": "b.json", "group": "alone"},
}
SETTINGS = {
    "rows": ROWS,
    "refresh_words": 64,
    "labelled_words": 50,
    "head_updates": 7,
    "test_words": 10,
    "threads": 1,
}


def result(row: str, seed: int, accuracy: float) -> dict[str, Any]:
    numbers = {"word_accuracy": accuracy, "one_minus_ned": accuracy / 2, "effective_rank": 10.0 + seed}
    trained = {"steps": 3, "images_seen": 1200, "minutes": 2.0 + seed}
    return {
        "row": row,
        "seed": seed,
        "pretraining": None if row == "random" else trained,
        "heads": {"attention": dict(numbers, word_accuracy=0.0), "ctc": numbers},
    }


RESULTS = [
    *(result("random", seed, value) for seed, value in enumerate([0.10, 0.20, 0.30])),
    *(result("seqmoco", seed, value) for seed, value in enumerate([0.31, 0.39, 0.50])),
    result("other", 0, 0.5),
]


def test_the_interval_is_students() -> None:
    """Three values: half-width 4.302653 s / sqrt(3), from the tables of the distribution."""
    values = [0.1, 0.2, 0.3]
    found = estimate(values)
    assert found.mean == pytest.approx(0.2)
    assert found.high - found.mean == pytest.approx(
        4.302653 * np.std(values, ddof=1) / math.sqrt(3), rel=1e-6
    )
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    assert math.isnan(estimate([0.4]).low)
    with pytest.raises(ValueError, match="at least one value"):
        estimate([])


def test_gains_are_differences_seed_by_seed() -> None:
    summaries = {summary.name: summary for summary in summarise(ROWS, RESULTS)}
    assert list(summaries) == ["random", "seqmoco", "other"], "in the order of the settings"
    gain = summaries["seqmoco"].gains["ctc"]["word_accuracy"]
    assert gain.mean == pytest.approx(0.2)
    assert gain.values == pytest.approx((0.21, 0.19, 0.20))
    spread = summaries["seqmoco"].measures["ctc"]["word_accuracy"]
    assert gain.high - gain.low < 0.2 * (spread.high - spread.low), "what the seeds share cancels out"
    assert not summaries["random"].gains
    assert not summaries["other"].gains, "its group has no baseline"
    assert summaries["random"].minutes == 0
    assert summaries["seqmoco"].minutes == pytest.approx(3)
    assert summaries["seqmoco"].effective_rank == pytest.approx(11)


def test_seeds_that_the_baseline_lacks_take_no_part_in_the_gain() -> None:
    results = [one for one in RESULTS if (one["row"], one["seed"]) != ("random", 2)]
    gain = summarise(ROWS, results)[1].gains["ctc"]["word_accuracy"]
    assert gain.values == pytest.approx((0.21, 0.19))


def test_the_report_says_what_the_results_say(tmp_path: Path) -> None:
    write_report(tmp_path, SETTINGS, RESULTS, {"cpu": "a processor", "torch": "2"})
    table = (tmp_path / "study.md").read_text()
    assert "| row | CTC, % | gain | CTC 1-NED, % | attention, % |" in table
    assert "| untrained | 20.0 (-4.8 to 44.8) |  | 10.0 |" in table
    assert "| seqmoco | 40.0 (16.3 to 63.7) | +20.0 (+17.5 to +22.5) | 20.0 |" in table
    assert "| other | 50.0 |" in table
    assert "3 updates, 1,200 words; 3 seeds" in table
    content = json.loads((tmp_path / "results.json").read_text())
    assert study_table(content) == table, "the table can be made again from the file"
    assert content["results"] == RESULTS
    picture = np.asarray(Image.open(tmp_path / "study.png").convert("RGB"))
    assert picture.std() > 10


def test_rows_are_compared_seed_by_seed(tmp_path: Path) -> None:
    """0.5 - 0.31 with the one seed that both have; 0.21, 0.19, 0.20 with three."""
    found = compare_rows(RESULTS, "other", "seqmoco")["ctc"]
    assert found.values == pytest.approx((0.19,))
    assert compare_rows(RESULTS, "seqmoco", "random")["ctc"].mean == pytest.approx(0.2)
    assert compare_rows(RESULTS, "seqmoco", "random", "one_minus_ned")["ctc"].mean == pytest.approx(0.1)
    assert compare_rows(RESULTS, "seqmoco", "never_run") == {}
    pairs = [["seqmoco", "random"], ["other", "seqmoco"], ["never_run", "random"]]
    write_report(tmp_path, {**SETTINGS, "comparisons": pairs}, RESULTS, {})
    table = (tmp_path / "study.md").read_text()
    assert "| row | over | CTC, points | attention, points |" in table
    assert "| seqmoco | untrained | +20.0 (+17.5 to +22.5) | +0.0 (+0.0 to +0.0) |" in table
    assert "| other | seqmoco | +19.0 | +0.0 |" in table
    assert "never_run" not in table


@pytest.mark.parametrize("family", ["rcmstr", "persec"])
def test_the_published_study_is_what_its_results_say(family: str) -> None:
    """Nobody types its numbers; every row of the shipped settings ran with at least three seeds."""
    folder = ROOT / "docs/study" / family
    content = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert study_table(content) == (folder / "study.md").read_text(encoding="utf-8")
    summaries = summarise(content["settings"]["rows"], content["results"])
    assert [summary.name for summary in summaries] == list(content["settings"]["rows"])
    assert min(len(summary.seeds) for summary in summaries) >= 3
    shipped = yaml.safe_load((ROOT / f"training/configs/study/{family}.yaml").read_text(encoding="utf-8"))
    assert list(shipped["rows"]) == list(content["settings"]["rows"])
    for found, told in zip(summaries, content["rows"], strict=True):
        for head, measures in found.measures.items():
            assert measures["word_accuracy"].mean == pytest.approx(
                told["measures"][head]["word_accuracy"]["mean"]
            )


@pytest.mark.parametrize("family", ["rcmstr", "persec"])
def test_the_published_study_shows_that_pretraining_helps(family: str) -> None:
    """The margin set beforehand: the interval of the gain over random initialisation lies above nothing."""
    content = json.loads((ROOT / "docs/study" / family / "results.json").read_text(encoding="utf-8"))
    found = compare_rows(content["results"], family, "random_init")
    assert found["ctc"].low > 0
    assert found["attention"].mean > 0
