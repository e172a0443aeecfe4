import math
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training.benchmark_measurement import (
    Readings,
    checkpoint_hash,
    mean_accuracy,
    pool,
    read_set,
    read_set_with_peer,
    report_reader,
    sample_accuracy,
    score_readings,
)
from training.benchmark_sets import BenchmarkSet
from training.metrics import score_words
from training.word_readers import Reader


class EchoReader:
    """Reads every word as its label, but for some."""

    def __init__(self, answers: dict[int, dict[str, Any]]) -> None:
        self.answers = answers

    def __call__(self, images: list[Any], on_error: str) -> list[dict[str, Any]]:
        assert on_error == "return"
        return [self.answers.get(image, {"text": f"word {image}", "score": 1.0}) for image in images]


def png(shade: int) -> dict[str, Any]:
    buffer = BytesIO()
    Image.new("RGB", (8, 8), (shade, shade, shade)).save(buffer, format="PNG")
    return {"bytes": buffer.getvalue(), "path": None}


def test_predictions_meet_their_labels_and_unreadable_images_count_as_wrong() -> None:
    labels = ["word 0", "WORD 1", "word 2", "word 3"]
    answers: dict[int, dict[str, Any]] = {
        2: {"text": None, "score": 0.0, "error": "cut off"},
        3: {"text": "other", "score": 0.5},
    }
    words = BenchmarkSet("set", [0, 1, 2, 3], labels, "f")
    readings = read_set(EchoReader(answers), words)
    result = score_readings(words, readings)
    assert readings.texts == ["word 0", "word 1", "", "other"]
    assert readings.confidences == [1.0, 1.0, 0.0, 0.5]
    assert result.scores == score_words(readings.texts, labels)
    assert result.scores.word_accuracy == 0.5
    assert result.unreadable == 1


def test_a_peer_gets_decoded_images_and_those_that_are_broken_count_as_wrong() -> None:
    peer = Reader("shades", lambda images: [str(image[0, 0, 0]) for image in images])
    images = [png(3), {"bytes": b"broken", "path": None}, png(5), "nowhere.png"]
    words = BenchmarkSet("set", images, ["3", "4", "5", "6"], "f")
    readings = read_set_with_peer(peer, words)
    assert readings.texts == ["3", "", "5", ""]
    assert readings.confidences == []
    assert readings.unreadable == 2
    assert score_readings(words, readings).scores.correct == 2


def test_a_peer_that_loses_words_is_not_believed() -> None:
    peer = Reader("lossy", lambda images: ["a"] * (len(images) - 1))
    with pytest.raises(ValueError, match="zip"):
        read_set_with_peer(peer, BenchmarkSet("set", [np.zeros((4, 4, 3), np.uint8)] * 2, ["a", "a"], "f"))


def test_a_pooled_row_is_its_words_together_not_the_mean_of_its_sets() -> None:
    sets = [
        BenchmarkSet("small", [0], ["word 0"], "a"),
        BenchmarkSet("large", [1, 2, 3], ["x", "x", "word 3"], "b"),
    ]
    readings = {words.name: read_set(EchoReader({}), words) for words in sets}
    pooled = pool("both", ["small", "large"], sets, readings)
    assert pooled.scores.words == 4
    assert pooled.scores.word_accuracy == 0.5
    assert pooled.fingerprint not in ("a", "b")
    report = report_reader("ours", sets, {"both": ["small", "large"]}, readings)
    assert report.pooled == [pooled]
    assert mean_accuracy(report.results) == pytest.approx((1 + 1 / 3) / 2)
    assert sample_accuracy(report.results) == pooled.scores.word_accuracy


def test_a_set_without_compared_words_is_no_part_of_the_means() -> None:
    def result(label: str) -> Any:
        words = BenchmarkSet("set", [0], [label], "f")
        return score_readings(words, Readings(["a"], [1.0], 0, 1.0))

    assert mean_accuracy([result("a"), result("...")]) == sample_accuracy([result("a"), result("...")]) == 1.0
    assert math.isnan(mean_accuracy([result("...")]))
    assert math.isnan(sample_accuracy([]))


def test_a_checkpoint_is_identified_by_its_weights(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no \.safetensors"):
        checkpoint_hash(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"one")
    before = checkpoint_hash(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"two")
    assert checkpoint_hash(tmp_path) != before
