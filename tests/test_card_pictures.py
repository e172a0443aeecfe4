"""The card's pictures: every word on one sheet or the other, and what they show is what the weights read."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modeling_rcmstr import default_checkpoint
from tests.card_checkpoints import make_recogniser
from training import card_pictures
from training.benchmark_measurement import checkpoint_hash
from training.card_pictures import (
    CARD_FOLDER,
    CELL_WIDTH,
    HARD_WORDS,
    READINGS_FILE,
    SHEETS,
    CardReading,
    CardWord,
    card_words,
    describe_pictures,
    draw_card_sheet,
    parse_readings,
    read_card_words,
    write_card_pictures,
)

LARGEST_IN_ALL = 200_000  # bytes


@pytest.fixture(scope="module")
def words() -> list[CardWord]:
    return card_words()


def test_words_are_always_the_same_pictures(words: list[CardWord]) -> None:
    assert len(words) == 12 + len(HARD_WORDS)
    for first, second in zip(words, card_words(), strict=True):
        assert (first.kind, first.label) == (second.kind, second.label)
        assert np.array_equal(np.asarray(first.image), np.asarray(second.image))
    assert len({word.image.tobytes() for word in words}) == len(words)
    assert all(word.image.mode == "RGB" and min(word.image.size) >= 8 for word in words)


def test_stored_readings_are_what_the_bundled_weights_read(words: list[CardWord]) -> None:
    folder = default_checkpoint()
    content = json.loads((folder / CARD_FOLDER / READINGS_FILE).read_text(encoding="utf-8"))
    assert content["checkpoint_sha256"] == checkpoint_hash(folder)
    stored, read = parse_readings(content), read_card_words(folder, words)
    assert [(one.kind, one.label) for one in stored] == [(one.kind, one.label) for one in read]
    # Other processors round otherwise, which turns a reading that hangs in the balance.
    sure = [pair for pair in zip(stored, read, strict=True) if pair[0].score > 0.3]
    assert len(sure) > len(words) / 2
    assert [old.text for old, _ in sure] == [new.text for _, new in sure]
    assert [old.score for old, _ in sure] == pytest.approx([new.score for _, new in sure], abs=0.02)


def test_stored_sheets_are_small_and_hold_every_word() -> None:
    folder = default_checkpoint() / CARD_FOLDER
    files = [folder / name for name in SHEETS.values()]
    assert sum(file.stat().st_size for file in files) < LARGEST_IN_ALL
    readings = parse_readings(json.loads((folder / READINGS_FILE).read_text(encoding="utf-8")))
    for correct, file in SHEETS.items():
        count = sum(reading.correct == correct for reading in readings)
        assert count >= 10
        with Image.open(folder / file) as sheet:
            blank = Image.new("RGB", (CELL_WIDTH, 40), "white").tobytes()
            assert sheet.convert("RGB").crop((0, 0, CELL_WIDTH, 40)).tobytes() != blank


def test_a_checkpoint_that_reads_nothing_gets_one_sheet(
    tmp_path: Path, tiny_config: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, words: list[CardWord]
) -> None:
    monkeypatch.setattr(card_pictures, "card_words", lambda: words[:3])
    checkpoint = make_recogniser(tmp_path / "mine", tiny_config)
    folder = write_card_pictures(checkpoint)
    assert folder == checkpoint / CARD_FOLDER
    assert not (folder / SHEETS[True]).exists()
    assert (folder / SHEETS[False]).is_file()
    content = json.loads((folder / READINGS_FILE).read_text(encoding="utf-8"))
    assert content["checkpoint_sha256"] == checkpoint_hash(checkpoint)
    assert [word["label"] for word in content["words"]] == [word.label for word in words[:3]]
    # A sheet of an earlier reading does not stay.
    (folder / SHEETS[True]).touch()
    write_card_pictures(checkpoint)
    assert not (folder / SHEETS[True]).exists()


def test_a_sheet_grows_by_rows_and_says_what_a_word_is_only_when_it_was_misread(
    words: list[CardWord],
) -> None:
    right = [(word, CardReading(word.kind, word.label, word.label, 0.9)) for word in words]
    wrong = [(word, CardReading(word.kind, word.label, "", 0.9)) for word in words]
    assert draw_card_sheet(right[:4]).height < draw_card_sheet(right[:5]).height
    assert draw_card_sheet(right[:4]).height < draw_card_sheet(wrong[:4]).height
    assert draw_card_sheet(right[:4]).width == draw_card_sheet(right[:5]).width


def test_right_means_to_the_character() -> None:
    assert CardReading("", "Exit", "Exit", 1.0).correct
    assert not CardReading("", "Exit", "exit", 1.0).correct


def test_words_are_described_for_those_who_do_not_see_them() -> None:
    readings = [CardReading("neon", "OPEN", "OPEN", 0.9), CardReading("curved", "EXIT", "", 0.1)]
    assert describe_pictures(readings) == {True: "OPEN (neon)", False: "EXIT read as nothing"}
    assert describe_pictures([]) == {True: "", False: ""}
