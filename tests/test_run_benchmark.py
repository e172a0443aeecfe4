import hashlib
import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from tests.word_folders import save_untrained, write_words
from training import run_benchmark
from training.metrics import score_words
from training.run_benchmark import BenchmarkSet, checkpoint_hash, main, measure, open_sets, parse_groups, pool

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


class EchoReader:
    """Reads every word as its label, but for some."""

    def __init__(self, answers: dict[int, dict[str, Any]]) -> None:
        self.answers = answers

    def __call__(self, images: list[Any], on_error: str) -> list[dict[str, Any]]:
        assert on_error == "return"
        return [self.answers.get(image, {"text": f"word {image}", "score": 1.0}) for image in images]


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


def test_predictions_meet_their_labels_and_unreadable_images_count_as_wrong() -> None:
    labels = ["word 0", "WORD 1", "word 2", "word 3"]
    answers: dict[int, dict[str, Any]] = {
        2: {"text": None, "score": 0.0, "error": "cut off"},
        3: {"text": "other", "score": 0.5},
    }
    predictions, result = measure(EchoReader(answers), BenchmarkSet("set", [0, 1, 2, 3], labels, "f"))
    assert predictions == ["word 0", "word 1", "", "other"]
    assert result.scores == score_words(predictions, labels)
    assert result.scores.word_accuracy == 0.5
    assert result.unreadable == 1


def test_a_pooled_row_is_its_words_together_not_the_mean_of_its_sets() -> None:
    sets = [
        BenchmarkSet("small", [0], ["word 0"], "a"),
        BenchmarkSet("large", [1, 2, 3], ["x", "x", "word 3"], "b"),
    ]
    measured = {words.name: measure(EchoReader({}), words) for words in sets}
    predictions = {name: texts for name, (texts, _) in measured.items()}
    pooled = pool("both", ["small", "large"], sets, predictions, [result for _, result in measured.values()])
    assert pooled.scores.words == 4
    assert pooled.scores.word_accuracy == 0.5
    assert pooled.fingerprint not in ("a", "b")


def test_a_folder_of_folders_gives_a_set_each_by_name(data: Path) -> None:
    assert [words.name for words in open_sets(str(data))] == ["bad", "one", "two"]
    assert [words.name for words in open_sets(str(data / "two"))] == ["two"]
    assert [len(words.labels) for words in open_sets(str(data), limit=2)] == [2, 2, 2]


def test_a_parquet_file_and_a_source_string_are_sets_too(tmp_path: Path, eight_words: Words) -> None:
    encoded = []
    for image, _ in eight_words:
        buffer = BytesIO()
        image.save(buffer, format="PNG")
        encoded.append({"bytes": buffer.getvalue(), "path": None})
    path = tmp_path / "words.parquet"
    pq.write_table(pa.table({"image": encoded, "label": [text for _, text in eight_words]}), path)
    (plain,) = open_sets(str(path))
    (named,) = open_sets(f"parquet:{path}?text=label")
    assert plain.name == named.name == "words"
    assert plain.labels == named.labels == [text for _, text in eight_words]


def test_the_fingerprint_tells_other_words_and_labels_apart(data: Path) -> None:
    before = {words.name: words.fingerprint for words in open_sets(str(data))}
    assert before == {words.name: words.fingerprint for words in open_sets(str(data))}
    labels = data / "one" / "labels.tsv"
    labels.write_text(labels.read_text(encoding="utf-8").replace("book", "hook"), encoding="utf-8")
    after = {words.name: words.fingerprint for words in open_sets(str(data))}
    assert [name for name in before if before[name] != after[name]] == ["one"]


@pytest.mark.parametrize("text", ["scene", "scene=", "=one", "scene=one,three", "one=one", "scene=one extra"])
def test_a_group_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="NAME=SET,SET"):
        parse_groups([text], ["one", "two"])


def test_two_sets_of_one_name_are_refused() -> None:
    with pytest.raises(ValueError, match=r"several sets are called \['one'\]"):
        parse_groups([], ["one", "one"])


def test_a_place_without_words_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in ("empty", "nowhere"):
        with pytest.raises(ValueError, match="neither a parquet file, nor a folder"):
            open_sets(str(tmp_path / place))
    (tmp_path / "empty" / "labels.tsv").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="holds no words"):
        open_sets(str(tmp_path / "empty"))


def test_a_folder_that_is_no_checkpoint_is_refused(data: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.json"):
        main([str(data / "one"), str(data / "one")])
    with pytest.raises(ValueError, match=r"no \.safetensors"):
        checkpoint_hash(data / "one")


def test_numbers_of_the_command_line_are_positive(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["default", "words", "--limit", "0"])
    assert "must be at least 1" in capsys.readouterr().err


def test_the_table_shows_percent_and_the_unweighted_mean() -> None:
    results = [
        measure(EchoReader({}), BenchmarkSet("right", [0], ["word 0"], "a"))[1],
        measure(EchoReader({}), BenchmarkSet("wrong", [1, 2], ["x", "..."], "b"))[1],
    ]
    lines = run_benchmark.format_table(results, []).splitlines()
    assert lines[2].split()[:4] == ["right", "1", "100.0", "20.7-100.0"]
    assert lines[4].split() == ["mean", "of", "the", "sets", "50.0"]
    assert lines[5].startswith("wrong: 0 unreadable images, 1 words left out")
