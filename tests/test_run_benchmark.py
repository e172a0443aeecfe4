import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests.word_folders import save_untrained, write_words
from training import run_benchmark
from training.benchmark_measurement import Readings, SetResult, score_readings
from training.benchmark_sets import BenchmarkSet
from training.benchmarks import BENCHMARKS, TEST_SETS
from training.robustness import measure_robustness
from training.run_benchmark import format_table, main, parse_benchmark_options, parse_groups
from training.run_speed import parse_speed_options
from training.word_readers import PEERS, Reader
from training.write_cards import parse_options as parse_card_options

Words = list[tuple[Image.Image, str]]


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_config: Callable[..., Any]) -> Path:
    """A saved recogniser that has learned nothing."""
    return save_untrained(tmp_path / "checkpoint", tiny_config)


@pytest.fixture
def data(tmp_path: Path, eight_words: Words) -> Path:
    """Three labelled folders in one, and a folder that is none."""
    write_words(tmp_path / "data" / "one", eight_words[:3])
    write_words(tmp_path / "data" / "two", eight_words[3:])
    bad = write_words(tmp_path / "data" / "bad", eight_words[:2])
    (bad / "0.png").write_bytes(b"")
    (bad / "labels.tsv").write_text("0.png\tlost\n1.png\t...\nmissing.png\tgone\n", encoding="utf-8")
    (tmp_path / "data" / "notes").mkdir()
    return tmp_path / "data"


def test_the_command_writes_a_table_and_a_complete_report(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "results.json"
    threads = torch.get_num_threads()
    options = ["--output", str(output), "--threads", "1", "--batch-size", "4", "--group", "scene=one,two"]
    assert main([str(checkpoint), str(data), *options]) == 0
    torch.set_num_threads(threads)
    report = json.loads(output.read_text(encoding="utf-8"))
    assert [result["name"] for result in report["sets"]] == ["bad", "one", "two"]
    assert [result["scores"]["words"] for result in report["sets"]] == [2, 3, 5]
    assert report["sets"][0]["unreadable"] == 2
    assert report["sets"][0]["scores"]["empty_labels"] == 1
    (scene,) = report["groups"]
    assert scene["members"] == ["one", "two"]
    assert scene["scores"]["words"] == 8
    weights = (checkpoint / "model.safetensors").read_bytes()
    assert report["checkpoint"]["sha256"] == hashlib.sha256(weights).hexdigest()
    assert report["machine"]["threads"] == 1
    assert report["protocol"]["text"] in capsys.readouterr().out
    assert all(result["words_per_second"] > 0 for result in report["sets"])
    accuracies = [result["scores"]["word_accuracy"] for result in report["sets"]]
    assert report["mean_word_accuracy"] == pytest.approx(sum(accuracies) / 3)
    assert report["calibration"]["precision"] == 0.95
    calibrated = {one["name"]: one["words"] for one in report["calibration"]["sets"]}
    assert calibrated == {"all words": 10, "bad": 2, "one": 3, "two": 5, "scene": 8}
    assert "robustness" not in report


def test_robustness_reaches_results_and_page_as_one_measurement(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = []

    def counted(reader: Any, sample: Any) -> Any:
        measured.append(len(sample))
        return measure_robustness(reader, sample)

    monkeypatch.setattr(run_benchmark, "measure_robustness", counted)
    monkeypatch.setattr("training.benchmark_report.measure_robustness", counted)
    output, page = tmp_path / "results.json", tmp_path / "page"
    options = ["--robustness", "--output", str(output), "--report", str(page)]
    assert main([str(checkpoint), str(data / "one"), *options]) == 0
    assert measured == [3]
    report = json.loads(output.read_text(encoding="utf-8"))
    assert report["robustness"]["words"] == 3
    analysis = json.loads((page / "results.json").read_text(encoding="utf-8"))["analysis"]
    assert report["robustness"]["curves"] == analysis["robustness"]
    assert [curve["name"] for curve in analysis["robustness"]][0] == "rotation"


@pytest.mark.parametrize("text", ["scene", "scene=", "=one", "scene=one,three", "one=one", "scene=one extra"])
def test_a_group_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="NAME=SET,SET"):
        parse_groups([text], ["one", "two"])


def test_two_sets_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"several sets are called \['one'\]"):
        parse_groups([], ["one", "one"])


def test_a_folder_that_is_no_checkpoint_is_refused(data: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        main([str(data / "one"), str(data / "one")])


def test_numbers_of_the_command_line_are_positive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["default", "words", "--limit", "0"])
    assert "must be at least 1" in capsys.readouterr().err


def result_of(name: str, predictions: list[str], labels: list[str]) -> SetResult:
    return score_readings(BenchmarkSet(name, [0], labels, "f00d"), Readings(predictions, [], 0, 1.0))


def test_the_table_shows_percent_both_means_and_the_fingerprint() -> None:
    results = [result_of("right", ["a"] * 3, ["A"] * 3), result_of("wrong", ["a", "b"], ["x", "..."])]
    lines = format_table(results, []).splitlines()
    assert lines[0].split()[-1] == "alphanumeric-36-v1"
    assert lines[2].split()[:4] == ["right", "3", "100.0", "43.9-100.0"]
    assert lines[2].split()[-1] == "f00d"
    assert lines[4].split() == ["mean", "of", "the", "sets", "50.0"]
    assert lines[5].split() == ["mean", "over", "words", "4", "75.0"]
    assert lines[6].startswith("wrong: 0 unreadable images, 1 words left out")


def test_sets_that_overlap_have_no_mean() -> None:
    results = [result_of("a", ["a"], ["a"]), result_of("b", ["a"], ["b"])]
    assert "mean" not in format_table(results, [], averaged=False)


def test_a_protocol_is_measured_and_what_is_missing_is_said(
    checkpoint: Path, tmp_path: Path, eight_words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    write_words(tmp_path / "sets" / "CUTE80", eight_words)
    output = tmp_path / "results.json"
    options = ["--protocol", "common-benchmarks", "--output", str(output), "--limit", "2"]
    assert main([str(checkpoint), str(tmp_path / "sets"), *options]) == 0
    printed = capsys.readouterr().out
    assert "note: IIIT5K is missing" in printed
    assert "note: CUTE80 has 8 words (all labels), the protocol 288" in printed
    report = json.loads(output.read_text(encoding="utf-8"))
    assert report["benchmark"]["name"] == "common-benchmarks"
    assert report["benchmark"]["missing"] == ["IIIT5K", "SVT", "IC13_1015", "IC15_2077", "SVTP"]
    assert [result["scores"]["words"] for result in report["sets"]] == [2]
    assert report["sets"][0]["protocol"] == "alphanumeric-36-v1"


def test_a_protocol_needs_one_folder(data: Path) -> None:
    with pytest.raises(ValueError, match="one folder that holds the test sets, got 2"):
        main(["default", str(data), str(data), "--protocol", "common-benchmarks"])


def test_a_peer_reads_the_same_words(
    checkpoint: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two peers, one that reads every word as "book" and one that says nothing."""
    read = {"tesseract": "book", "rapidocr": ""}
    threads: list[int] = []

    def fake(name: str, count: int, batch_size: int) -> Reader:
        threads.append(count)
        return Reader(f"{name} 1", lambda images: [read[name]] * len(images))

    monkeypatch.setattr(run_benchmark, "peer_reader", fake)
    output = tmp_path / "results.json"
    peers = ["--peer", "tesseract", "--peer", "rapidocr", "--peer", "tesseract"]
    assert main([str(checkpoint), str(data / "one"), "--output", str(output), *peers]) == 0
    report = json.loads(output.read_text(encoding="utf-8"))
    assert [peer["name"] for peer in report["peers"]] == ["tesseract 1", "rapidocr 1"]
    assert threads == [report["machine"]["threads"]] * 2
    (first,), (second,) = (peer["sets"] for peer in report["peers"])
    assert first["scores"]["correct"] == 1
    assert second["scores"]["correct"] == 0
    assert first["fingerprint"] == second["fingerprint"] == report["sets"][0]["fingerprint"]
    assert first["scores"]["interval"]["low"] < 1 / 3 < first["scores"]["interval"]["high"]


def test_a_report_is_written_beside_the_table(
    checkpoint: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "new" / "report"
    assert main([str(checkpoint), str(data / "one"), "--report", str(folder), "--precision", "0.5"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["index.html", "results.json"]
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert results["analysis"]["precision"] == 0.5
    assert results["sets"][0]["scores"]["words"] == 3
    assert f"written: {folder / 'index.html'}" in capsys.readouterr().out


def test_a_precision_is_a_share(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["default", "words", "--precision", "95"])
    assert "write 95 % as 0.95" in capsys.readouterr().err


def test_the_commands_of_the_guide_are_understood() -> None:
    """Every command of docs/benchmark.md parses; benchmarks, peers and sizes are those of the code."""
    guide = (Path(__file__).resolve().parent.parent / "docs" / "benchmark.md").read_text(encoding="utf-8")
    commands = [line.split() for line in guide.splitlines() if line.startswith("python -m")]
    parsers = {
        "training.run_benchmark": parse_benchmark_options,
        "training.run_speed": parse_speed_options,
        "training.write_cards": parse_card_options,
    }
    assert {words[2] for words in commands} == set(parsers)
    for words in commands:
        parsers[words[2]](words[3:])
    for benchmark in BENCHMARKS.values():
        assert f"| `{benchmark.name}` |" in guide
    for peer in PEERS:
        assert f"| `{peer}` |" in guide
    for name in BENCHMARKS["union14m-benchmark"].sets:
        assert f" {TEST_SETS[name].words}" in guide or f" {TEST_SETS[name].words:,}" in guide
