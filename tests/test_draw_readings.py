"""The demo: finding images, the table, and the picture of what was read."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from examples import draw_readings
from examples.draw_readings import (
    CARD_HEIGHT,
    CARD_WIDTH,
    FOLDER,
    LEGEND_HEIGHT,
    MARGIN,
    SURE,
    UNSURE,
    Reading,
    draw_card,
    read_labels,
    table,
)
from modeling_rcmstr.cli import find_images


@pytest.fixture
def image_file(tmp_path: Path) -> Path:
    """A black image of 200x50 pixels: its card shows it 84 pixels high and 336 wide."""
    path = tmp_path / "black.png"
    Image.new("RGB", (200, 50)).save(path)
    return path


def reading(path: Path, text: str = "ab", label: str | None = None, score: float = 0.95) -> Reading:
    """A reading whose characters share the image's width evenly."""
    spans = [
        {"character": character, "score": score, "start": number / len(text), "end": (number + 1) / len(text)}
        for number, character in enumerate(text)
    ]
    return Reading(path, text, score, spans, label)


def test_examples_all_have_labels_and_are_small() -> None:
    files = [Path(name) for name in find_images([str(FOLDER)])[0]]
    assert {path.name for path in files} == set(read_labels(FOLDER))
    assert 8 <= len(files) <= 16
    assert sum(path.stat().st_size for path in files) < 300_000


def test_labels_may_hold_tabs_and_may_be_missing(tmp_path: Path) -> None:
    assert read_labels(tmp_path) == {}
    (tmp_path / "labels.tsv").write_text("a.png\tone\ttwo\n\nb.png\té\n", encoding="utf-8")
    assert read_labels(tmp_path) == {"a.png": "one\ttwo", "b.png": "é"}


def test_table_counts_only_what_is_labelled(image_file: Path) -> None:
    lines = table(
        [reading(image_file, "ab", "ab"), reading(image_file, "abc", "abd", 0.5), reading(image_file)]
    ).splitlines()
    assert lines[0].endswith("ab    95.0%  as labelled")
    assert lines[1].endswith("abc   50.0%  labelled abd")
    assert lines[2].endswith("ab    95.0%")
    assert lines[3] == "1 of 2 exactly as labelled"


def test_brackets_span_the_characters_of_the_shown_image(image_file: Path) -> None:
    card = np.asarray(draw_card(reading(image_file, "abcd")))
    shown = np.flatnonzero((card[MARGIN + 40] == 0).all(-1))
    assert (shown.min(), shown.max() + 1) == (MARGIN, MARGIN + 336)
    row = card[MARGIN + 84 + 4]
    coloured = np.flatnonzero((row == SURE).all(-1))
    assert abs(coloured.min() - MARGIN) <= 3
    assert abs(coloured.max() - (MARGIN + 336)) <= 3
    gaps = coloured[:-1][np.diff(coloured) > 1]
    np.testing.assert_allclose(gaps, [MARGIN + 84 * number for number in (1, 2, 3)], atol=3)


def test_unsure_characters_have_their_colour(image_file: Path) -> None:
    sure, unsure = (np.asarray(draw_card(reading(image_file, score=score))) for score in (0.95, 0.85))
    assert (unsure == UNSURE).all(-1).any()
    assert not (sure == UNSURE).all(-1).any()


def test_a_word_without_characters_is_drawn(image_file: Path) -> None:
    assert draw_card(reading(image_file, "", "ab")).size == (CARD_WIDTH, CARD_HEIGHT)


@pytest.mark.parametrize(("count", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (5, 2, 3)])
def test_picture_has_two_columns(image_file: Path, count: int, columns: int, rows: int) -> None:
    picture = draw_readings.draw_readings([reading(image_file)] * count)
    assert picture.size == (columns * CARD_WIDTH, rows * CARD_HEIGHT + LEGEND_HEIGHT)


def test_demo_reads_the_examples(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What `make demo` runs, with the bundled checkpoint."""
    output = tmp_path / "readings.png"
    labels = read_labels(FOLDER)
    assert draw_readings.main(["--output", str(output)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(labels) + 2
    assert int(lines[-2].split()[0]) >= len(labels) // 2
    with Image.open(output) as picture:
        assert picture.width == 2 * CARD_WIDTH


def test_one_bad_image_costs_itself_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    good = FOLDER / "word_06.jpg"
    assert draw_readings.main([str(bad), str(good), "--output", str(tmp_path / "out.png")]) == 1
    printed = capsys.readouterr()
    assert "bad.jpg could not be read" in printed.err
    assert "word_06.jpg" in printed.out
    assert (tmp_path / "out.png").is_file()


def test_no_image_is_a_worded_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        draw_readings.main([str(tmp_path)])
    assert "no image files in this folder" in capsys.readouterr().err
