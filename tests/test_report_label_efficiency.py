"""Curves, gains and needed labels against hand-made numbers, and a plot that shows something."""

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.programs import ROOT
from training.arguments import build_grouped_arguments, read_settings
from training.label_efficiency_arguments import LabelEfficiencyArguments
from training.report_label_efficiency import labels_needed, summarise_curves, write_curves

SETTINGS: dict[str, Any] = {
    "labels": {"rcmstr": "RCMSTR", "scratch": "from scratch", "never": "never run"},
    "baseline": "scratch",
    "seeds": [0, 1, 2],
    "batch_size": 32,
    "gradient_accumulation_steps": 2,
    "max_steps": 1500,
    "optimizer": "adamw",
    "threads": 1,
}
WORDS = {"train": 1000, "test": 1234, "test_of": "held back from `folder:words`"}
ACCURACIES = {
    ("scratch", 10): [0.02, 0.01, 0.03],
    ("scratch", 100): [0.20, 0.10, 0.30],
    ("scratch", 1000): [0.58, 0.60, 0.62],
    ("rcmstr", 10): [0.21, 0.19, 0.20],
    ("rcmstr", 100): [0.31, 0.19, 0.40],
    ("rcmstr", 1000): [0.70, 0.71, 0.72],
}


def results(accuracies: dict[tuple[str, int], list[float]]) -> list[dict[str, Any]]:
    return [
        {"start": start, "labels": labels, "seed": seed, "word_accuracy": value, "cer": 1 - value}
        for (start, labels), values in accuracies.items()
        for seed, value in enumerate(values)
    ]


def summaries(accuracies: dict[tuple[str, int], list[float]]) -> dict[tuple[str, int], Any]:
    points = summarise_curves(list(SETTINGS["labels"]), "scratch", results(accuracies))
    return {(point.start, point.labels): point for point in points}


def test_means_and_intervals_are_over_seeds() -> None:
    """Three values: half-width 4.302653 s / sqrt(3), from the tables of Student's distribution."""
    point = summaries(ACCURACIES)["scratch", 100]
    assert point.accuracy.mean == pytest.approx(0.2)
    assert point.accuracy.high - 0.2 == pytest.approx(4.302653 * 0.1 / math.sqrt(3), rel=1e-6)
    assert point.cer == pytest.approx(0.8)
    assert point.seeds == (0, 1, 2)
    assert point.gain is None
    assert point.baseline_labels is None


def test_gains_are_taken_seed_by_seed() -> None:
    gain = summaries(ACCURACIES)["rcmstr", 100].gain
    assert gain.values == pytest.approx((0.11, 0.09, 0.10))
    assert gain.mean == pytest.approx(0.1)
    missing = dict(ACCURACIES)
    missing["scratch", 100] = [0.20, 0.10]
    assert summaries(missing)["rcmstr", 100].gain.values == pytest.approx((0.11, 0.09)), "seeds of both"
    del missing["scratch", 100]
    assert summaries(missing)["rcmstr", 100].gain is None


def test_labels_that_the_baseline_needs_lie_between_its_points_on_the_log_scale() -> None:
    curve = {10: 0.02, 100: 0.20, 1000: 0.60}
    assert labels_needed(curve, 0.20) == pytest.approx(100)
    assert labels_needed(curve, 0.40) == pytest.approx(10**2.5), "half-way up, half-way on the log scale"
    assert labels_needed(curve, 0.01) == 10, "its fewest are enough"
    assert labels_needed(curve, 0.61) == math.inf
    assert labels_needed({10: 0.3, 100: 0.1, 1000: 0.5}, 0.3) == 10, "where it is first reached"
    assert labels_needed({10: 0.0, 100: 0.0, 1000: 0.5}, 0.25) == pytest.approx(10**2.5)
    found = summaries(ACCURACIES)
    assert found["rcmstr", 10].baseline_labels == pytest.approx(100)
    assert math.isinf(found["rcmstr", 1000].baseline_labels)


def test_curves_come_in_the_order_of_the_settings_and_by_rising_labels() -> None:
    assert list(summaries(ACCURACIES)) == [
        (start, labels) for start in ("rcmstr", "scratch") for labels in (10, 100, 1000)
    ]


def test_the_folder_gets_numbers_a_table_and_a_plot(tmp_path: Path) -> None:
    write_curves(tmp_path, SETTINGS, WORDS, results(ACCURACIES), {"cpu": "a CPU", "torch": "2.13"})
    content = json.loads((tmp_path / "results.json").read_text())
    assert len(content["results"]) == 18
    assert content["words"]["test"] == 1234
    assert {point["start"] for point in content["points"]} == {"rcmstr", "scratch"}
    assert content["points"][2]["baseline_labels"] is None, "JSON has no infinity"
    table = (tmp_path / "label_efficiency.md").read_text()
    assert "| labels | RCMSTR, % | from scratch, % |" in table
    assert "| 100 | 30.0 (3.8 to 56.2) | 20.0 (0.0 to 44.8) |" in table
    assert "| 10 | +18.0 (+15.5 to +20.5) | 100 |" in table
    assert "| 1,000 | +11.0 (+8.5 to +13.5) | more than 1,000 |" in table
    assert "1,234 words held back from `folder:words` that no point was trained on" in table
    assert "1,500 updates of 64 words, adamw" in table
    with Image.open(tmp_path / "label_efficiency.png") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape[0] > 500
    assert pixels.shape[1] > 900
    for colour in ((0x00, 0x72, 0xB2), (0xD5, 0x5E, 0x00)):
        assert (abs(pixels - colour).sum(-1) < 30).sum() > 200, "each curve has its colour"


def test_the_first_point_of_one_seed_has_neither_interval_nor_gain(tmp_path: Path) -> None:
    one = {("rcmstr", 10): [0.5]}
    write_curves(tmp_path, {**SETTINGS, "seeds": [0]}, WORDS, results(one), {})
    table = (tmp_path / "label_efficiency.md").read_text()
    assert "| 10 | 50.0 |" in table
    assert "Gain over" not in table
    assert json.loads((tmp_path / "results.json").read_text())["points"][0]["accuracy"]["low"] is None


def test_a_baseline_that_is_better_needs_at_most_its_fewest_labels(tmp_path: Path) -> None:
    worse = {**ACCURACIES, ("rcmstr", 10): [0.0, 0.0, 0.01]}
    write_curves(tmp_path, SETTINGS, WORDS, results(worse), {})
    assert "| at most 10 |" in (tmp_path / "label_efficiency.md").read_text()


def test_a_point_that_reads_nothing_saves_no_labels(tmp_path: Path) -> None:
    nothing = {**ACCURACIES, ("rcmstr", 10): [0.0, 0.0, 0.0]}
    write_curves(tmp_path, SETTINGS, WORDS, results(nothing), {})
    assert "| reads nothing |" in (tmp_path / "label_efficiency.md").read_text()


@pytest.mark.parametrize(("folder", "file"), [("ic15", "ic15"), ("drawn", "study")])
def test_a_published_curve_is_that_of_its_settings_and_results(
    folder: str, file: str, tmp_path: Path
) -> None:
    published = ROOT / "docs/label_efficiency" / folder
    content = json.loads((published / "results.json").read_text(encoding="utf-8"))
    settings = content["settings"]
    named = read_settings(ROOT / "training/configs" / file / "label_efficiency.yaml")
    arguments = build_grouped_arguments(named, LabelEfficiencyArguments)
    assert {name: settings[name] for name in arguments.flat()} == arguments.flat()
    trained = {(one["start"], one["labels"], one["seed"]) for one in content["results"]}
    assert trained == set(itertools.product(settings["labels"], settings["label_counts"], settings["seeds"]))
    write_curves(tmp_path, settings, content["words"], content["results"], content["machine"])
    for name in ("results.json", "label_efficiency.md"):
        assert (tmp_path / name).read_text("utf-8") == (published / name).read_text("utf-8"), name
