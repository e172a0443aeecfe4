import json
from pathlib import Path
from typing import Any

import pytest

from training.report_charset_extension import extension_table


def sets(old: float, new: float, found: int) -> dict[str, Any]:
    interval = {"low": 0.1, "high": 0.9}
    rest: dict[str, Any] = {"exact_interval": interval, "words": 10}
    return {
        "old": {**rest, "exact": old, "new_characters": {}},
        "new": {**rest, "exact": new, "new_characters": {"ä": [found, 8], "€": [0, 2]}},
        "a": {"alphanumeric": 0.5, "alphanumeric_words": 10.0},
        "b": {"alphanumeric": 0.8, "alphanumeric_words": 30.0},
    }


@pytest.fixture
def content() -> dict[str, Any]:
    machine = {"cpu": "A processor", "threads": 1, "torch": "2.0"}
    protocol = {
        "characters": "ä€",
        "steps": 7,
        "checkpoint": "abc",
        "settings": {"batch_size": 32, "learning_rate": 0.001},
        "sets": {"old": 10, "new": 10, "a": 10, "b": 30},
        "machine": machine,
    }
    points = [
        {"images": 20, "rehearsal_share": 0.5, "seed": seed, "sets": sets(0.6 + 0.1 * seed, 0.4, 4)}
        for seed in (1, 2)
    ]
    points.append({"images": 5, "rehearsal_share": 0.0, "seed": 1, "sets": sets(0.2, 0.3, 2)})
    before = sets(0.7, 0.0, 0)
    return {
        "protocol": protocol,
        "before": before,
        "resized": before,
        "changed_readings": 0,
        "points": points,
    }


def test_a_row_per_number_of_images_and_share_with_its_interval(content: dict[str, Any]) -> None:
    lines = extension_table(content).splitlines()
    assert lines[2].startswith("| before |  |  | 70.0 (10.0 to 90.0) | 0.0 (10.0 to 90.0) | 0.0 | 72.5 |")
    assert lines[3].startswith("| right after resizing |")
    assert lines[4] == "| 5 | none | 1 | 20.0 (10.0 to 90.0) | 30.0 (10.0 to 90.0) | 20.0 | 72.5 |"
    # Student's interval of 0.7 and 0.8 reaches from 0.115 to beyond 1.
    assert lines[5].startswith(
        "| 20 | share 0.5 | 2 | 75.0 (11.5 to 100.0) | 40.0 (40.0 to 40.0) | 40.0 (40.0"
    )
    assert all(line.count("|") == 8 for line in lines[:6])


def test_the_protocol_is_said(content: dict[str, Any]) -> None:
    text = extension_table(content)
    for part in ("7 updates of 32 words", "Old: 10 rendered", "`a` 10, `b` 30", "1 thread, PyTorch 2.0"):
        assert part in text
    assert "resizing changed: 0 of 60" in text


def test_without_real_words_there_is_no_column_for_them(content: dict[str, Any]) -> None:
    content["protocol"]["sets"] = {"old": 10, "new": 10}
    assert "real" not in extension_table(content).lower()


@pytest.mark.parametrize("name", ["charset_extension", "charset_extension_1000_updates"])
def test_the_guide_shows_the_tables_of_the_kept_results(name: str) -> None:
    docs = Path(__file__).parent.parent / "docs"
    content = json.loads((docs / f"{name}.json").read_text(encoding="utf-8"))
    assert extension_table(content).strip() in (docs / "fine_tuning.md").read_text(encoding="utf-8")
