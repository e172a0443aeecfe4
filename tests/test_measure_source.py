"""Figures of a source: what they count, not how large they are."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.word_files import encoded, write_lmdb
from training import measure_source
from training.measure_source import held_mib, main, row_numbers

Words = list[tuple[Image.Image, str]]


def test_every_row_is_read_before_one_comes_again() -> None:
    source: Any = SimpleNamespace(size=5)
    assert row_numbers(source, 7, in_order=True).tolist() == [0, 1, 2, 3, 4, 0, 1]
    numbers = row_numbers(source, 10, in_order=False)
    assert sorted(numbers[:5]) == sorted(numbers[5:]) == list(range(5))
    endless: Any = SimpleNamespace(size=None)
    assert row_numbers(endless, 3, in_order=False).tolist() == [0, 1, 2]


def test_the_figures_are_those_of_the_rows(
    tmp_path: Path, eight_words: Words, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, cpu_clock = iter(range(1000)), iter(range(0, 1000, 2))
    monkeypatch.setattr(measure_source.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(measure_source.time, "process_time", lambda: next(cpu_clock))
    made: list[tuple[int, int]] = []

    def make_view(image: np.ndarray, seed: int, epoch: int, index: int, view: int) -> None:
        assert image.shape == (32, 128, 3)
        made.append((index, view))

    monkeypatch.setattr(measure_source, "make_view", make_view)
    threads: list[int] = []
    monkeypatch.setattr(measure_source.cv2, "setNumThreads", threads.append)
    place = write_lmdb(tmp_path / "words", eight_words)
    output = tmp_path / "figures.json"
    assert main([str(place), "--rows", "16", "--output", str(output)]) == 0
    assert threads == [0], "a data worker has one"
    figures = json.loads(capsys.readouterr().out)
    kept = json.loads(output.read_text())
    assert kept.pop("machine")["cores"] > 0
    assert kept == figures
    assert figures["size"] == 8
    assert figures["rows"] == 48
    assert figures["unreadable"] == 0
    for work in ("read", "decoded", "viewed"):
        assert figures[f"{work}_rows_per_second"] == 16
        assert figures[f"{work}_rows_per_cpu_second"] == 8
    source: Any = SimpleNamespace(size=8)
    last = row_numbers(source, 48, in_order=False)[32:]
    assert made == [(number, view) for number in last for view in (0, 1)]
    mean = np.mean([len(encoded(image)) for image, _ in eight_words]) / 1000
    assert figures["kilobytes_per_row"] == pytest.approx(mean, abs=0.01)
    assert figures["peak_rss_mib"] > 10


def test_broken_images_are_counted(
    tmp_path: Path, eight_words: Words, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.png").write_bytes(b"broken")
    (tmp_path / "b.png").write_bytes(encoded(eight_words[0][0]))
    assert main([str(tmp_path), "--rows", "4", "--in-order", "--unlabelled"]) == 0
    assert json.loads(capsys.readouterr().out)["unreadable"] == 4, (
        "two of four decoded, two of four distorted"
    )
    assert main([f"{tmp_path}/none"]) == 2
    assert "does not exist" in capsys.readouterr().err


@pytest.mark.skipif(held_mib() is None, reason="the system does not tell")
def test_held_memory_is_that_of_the_process_without_mapped_files(tmp_path: Path) -> None:
    before = held_mib()
    block = np.ones(64 << 20, np.uint8)
    after = held_mib()
    assert before is not None
    assert after is not None
    assert 60 < after - before < 70
    block.tofile(tmp_path / "file")
    mapped = np.memmap(tmp_path / "file", np.uint8, mode="r")
    assert mapped.sum() == 64 << 20
    again = held_mib()
    assert again is not None
    assert again - after < 5
