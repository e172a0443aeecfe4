"""Measured numbers reach the documents unchanged, and only between their comments."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.card_checkpoints import MACHINE, SCORES
from training.fill_results import fill, main, results_table, speed_table


@pytest.fixture
def results() -> dict[str, Any]:
    """What `run_benchmark` writes."""
    measured = {
        "scores": SCORES,
        "unreadable": 0,
        "seconds": 2.0,
        "words_per_second": 101.5,
        "fingerprint": "f",
    }
    return {
        "protocol": {"name": "rule-1", "text": "Lower case."},
        "checkpoint": {"name": "default", "sha256": "0123456789abcdef" * 4},
        "sets": [{"name": "signs", "members": [], **measured}],
        "groups": [{"name": "all", "members": ["signs", "notes"], **measured}],
        "batch_size": 32,
        "limit": None,
        "machine": MACHINE,
    }


@pytest.fixture
def speed() -> dict[str, Any]:
    """What `run_speed` writes."""
    return {
        "readers": [
            {"name": "ours", "words_per_second": [700.0, 720.0, 650.0], "scores": SCORES},
            {"name": "rapidocr 3", "words_per_second": [60.0, 61.0, 59.0], "scores": SCORES},
        ],
        "ratio": {"low": 11.0, "median": 11.67, "high": 11.8},
        "threads": 2,
        "machine": {**MACHINE, "threads": 1},
    }


def test_results_table_states_n_interval_protocol_and_machine(results: dict[str, Any]) -> None:
    lines = results_table(results).splitlines()
    assert lines[2] == "| `signs` | 200 | 80.5 | 74.5 to 85.4 | 75.0 | 91.2 | 102 | `f` |"
    assert lines[3].startswith("| `all` (signs + notes) | 200 |")
    assert any(line.startswith("Protocol rule-1. Lower case. The fingerprint") for line in lines)
    assert lines[-1] == (
        "Checkpoint `default`, weights 0123456789abcdef; batches of 32; "
        "A processor, 2 threads, PyTorch 2.13.0."
    )


def test_results_table_admits_a_limit(results: dict[str, Any]) -> None:
    assert "Only the first 50 words of each set." in results_table({**results, "limit": 50})


def test_results_table_names_the_benchmark_and_what_it_lacks(results: dict[str, Any]) -> None:
    benchmark = {"name": "common-benchmarks", "notices": ["SVT is missing."]}
    assert "Sets: common-benchmarks. SVT is missing." in results_table({**results, "benchmark": benchmark})


def test_speed_table_takes_medians_and_states_the_ratio(speed: dict[str, Any]) -> None:
    lines = speed_table(speed).splitlines()
    assert lines[2] == "| ours | 700 | 650 to 720 | 80.5 |"
    assert lines[3] == "| rapidocr 3 | 60 | 59 to 61 | 80.5 |"
    assert "The same 203 decoded images for each, 3 rounds in turn; A processor, 2 threads" in lines[5]
    assert lines[6] == "Ratio of words/s, ours to rapidocr 3: median 11.7, from 11.0 to 11.8."


def test_speed_alone_has_no_ratio(speed: dict[str, Any]) -> None:
    del speed["ratio"]
    assert "Ratio" not in speed_table(speed)


def test_a_gpu_is_named_instead_of_the_processor(results: dict[str, Any]) -> None:
    table = results_table({**results, "machine": {**MACHINE, "gpu": "A card"}})
    assert table.endswith("A card, PyTorch 2.13.0.")


def test_fill_replaces_only_between_the_comments() -> None:
    text = "a\n<!-- results -->\nold\n<!-- /results -->\nb <!-- speed --><!-- /speed -->"
    once = fill(text, {"results": "new", "speed": "fast"})
    assert once == ("a\n<!-- results -->\nnew\n<!-- /results -->\nb <!-- speed -->\nfast\n<!-- /speed -->")
    assert fill(once, {"results": "new", "speed": "fast"}) == once


@pytest.mark.parametrize(
    "text", ["none", "<!-- results --> open", "<!-- /results --> <!-- results -->", "<!-- results -->" * 2]
)
def test_a_document_without_its_place_is_a_worded_error(text: str) -> None:
    with pytest.raises(ValueError, match="<!-- results -->"):
        fill(text, {"results": "new"})


def test_command_writes_and_checks(
    tmp_path: Path, results: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    document, file = tmp_path / "card.md", tmp_path / "results.json"
    document.write_text("<!-- results -->\n<!-- /results -->\n", encoding="utf-8")
    file.write_text(json.dumps(results), encoding="utf-8")
    options = [str(document), "--results", str(file), "--speed", str(tmp_path / "none.json")]
    assert main([*options, "--check"]) == 1
    assert "80.5" not in document.read_text(encoding="utf-8")
    assert main(options) == 0
    assert "80.5" in document.read_text(encoding="utf-8")
    assert main([*options, "--check"]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{document}: out of date", f"{document}: updated"]


def test_command_without_results_says_what_writes_them(tmp_path: Path) -> None:
    none = str(tmp_path / "none.json")
    with pytest.raises(ValueError, match="make bench"):
        main([str(tmp_path / "card.md"), "--results", none, "--speed", none])
