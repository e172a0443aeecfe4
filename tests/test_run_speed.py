import json
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modeling_rcmstr import onnx_export
from tests.fake_peers import install_rapidocr
from tests.word_folders import save_untrained, write_words
from training.metrics import score_words
from training.run_speed import ReaderResult, alternate, compare, load_words, main
from training.word_readers import Reader

Words = list[tuple[Image.Image, str]]


@pytest.fixture
def checkpoint(tmp_path: Path, tiny_config: Callable[..., Any]) -> Path:
    """A saved recogniser that has learned nothing."""
    return save_untrained(tmp_path / "checkpoint", tiny_config)


@pytest.fixture
def fake_peer(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """A package `rapidocr` that reads the blue of the first pixel; gives the calls that it saw."""
    return install_rapidocr(monkeypatch)


def coloured(blue: int) -> np.ndarray:
    return np.full((32, 64, 3), (1, 2, blue), np.uint8)


def test_readers_take_turns_and_every_round_turns_the_order() -> None:
    order = []

    def reader(name: str) -> Reader:
        def read(images: list[np.ndarray]) -> list[str]:
            order.append(name)
            return ["a"] * len(images)

        return Reader(name, read)

    results = alternate([reader("A"), reader("B")], [coloured(0)] * 3, ["a", "a", "b"], rounds=3)
    assert "".join(order) == "AB" + "AB" + "BA" + "AB"
    assert [len(result.words_per_second) for result in results] == [3, 3]
    assert results[0].scores.word_accuracy == pytest.approx(2 / 3)


def test_the_ratio_is_taken_within_rounds() -> None:
    scores = score_words(["a"], ["a"])
    ours, peer = ReaderResult("ours", [100, 50, 90], scores), ReaderResult("peer", [10, 10, 30], scores)
    comparison = compare(ours, peer)
    assert (comparison.low, comparison.median, comparison.high) == (3, 5, 10)


def test_words_that_cannot_be_read_are_left_out_for_both(
    tmp_path: Path, eight_words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_words(tmp_path / "words", eight_words)
    (folder / "3.png").write_bytes(b"broken")
    images, labels, _ = load_words([str(folder)], None)
    assert len(images) == len(labels) == 7
    assert eight_words[3][1] not in labels
    assert np.array_equal(images[0], np.asarray(eight_words[0][0]))
    assert "left out" in capsys.readouterr().err


def test_the_command_compares_and_writes(
    checkpoint: Path,
    tmp_path: Path,
    eight_words: Words,
    fake_peer: list[dict[str, Any]],
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder, output = write_words(tmp_path / "words", eight_words), tmp_path / "speed.json"
    threads = torch.get_num_threads()
    options = ["--checkpoint", str(checkpoint), "--threads", "1", "--rounds", "2", "--output", str(output)]
    assert main([str(folder), *options]) == 0
    torch.set_num_threads(threads)
    report = json.loads(output.read_text(encoding="utf-8"))
    assert [reader["name"] for reader in report["readers"]] == ["ours", "rapidocr 3.0"]
    assert report["ratio"]["low"] <= report["ratio"]["median"] <= report["ratio"]["high"]
    assert "ratio ours / rapidocr 3.0: median" in capsys.readouterr().out


@pytest.mark.slow
def test_the_peer_may_be_the_checkpoint_as_a_graph(
    checkpoint: Path, tmp_path: Path, eight_words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnx_export, "CHECKED_WORDS", 20)
    folder, output = write_words(tmp_path / "words", eight_words), tmp_path / "speed.json"
    threads = torch.get_num_threads()
    options = ["--checkpoint", str(checkpoint), "--threads", "1", "--rounds", "1", "--peer", "onnx"]
    assert main([str(folder), *options, "--batch-size", "4", "--output", str(output)]) == 0
    torch.set_num_threads(threads)
    report = json.loads(output.read_text(encoding="utf-8"))
    ours, graph = report["readers"]
    assert graph["name"].startswith("onnxruntime ")
    assert graph["scores"] == ours["scores"]
    assert report["batch_sizes"] == {"ours": 4, "peer": 4}


def test_our_own_speed_needs_no_peer(
    checkpoint: Path,
    tmp_path: Path,
    eight_words: Words,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    missing: ModuleType | None = None
    monkeypatch.setitem(sys.modules, "rapidocr", missing)
    folder = write_words(tmp_path / "words", eight_words)
    threads = torch.get_num_threads()
    assert (
        main([str(folder), "--checkpoint", str(checkpoint), "--threads", "1", "--rounds", "1", "--no-peer"])
        == 0
    )
    torch.set_num_threads(threads)
    assert "ratio" not in capsys.readouterr().out


def test_numbers_are_positive(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(SystemExit):
        main([str(tmp_path), "--rounds", "0"])
    assert "--rounds must be at least 1" in capsys.readouterr().err
