"""Records of many pictures: one for each file, a reason where there is no text, files that come back."""

import csv
import json
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modeling_rcmstr import TextRecognitionImageProcessor
from modeling_rcmstr.word_readings import (
    COLUMNS,
    SHOWN_HEIGHT,
    SHOWN_WIDTH,
    WordReading,
    as_records,
    read_files,
    to_csv,
    to_json,
    to_tsv,
)


class NameReader:
    """Reads the name of a file that the image processor can read, and reports the others as the pipeline."""

    image_processor = TextRecognitionImageProcessor(keep_aspect_ratio=True)

    def __call__(self, paths: Iterator[str], **options: Any) -> Iterator[dict[str, Any]]:
        assert options.pop("batch_size") > 1
        assert options == {"return_characters": True, "on_error": "return"}
        for path in paths:
            try:
                self.image_processor.read_word(path)
            except Exception as error:
                yield {"text": None, "score": 0.0, "error": str(error), "characters": []}
                continue
            character = {"character": "w", "score": 0.5, "start": 0.0, "end": 1.0}
            yield {"text": Path(path).stem, "score": 0.5, "characters": [character]}


def write_bomb(path: Path, side: int = 30_000) -> None:
    """Write a PNG of a few bytes that states an enormous picture."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    content = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + content)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    """A word, a text, a picture that is too large, an empty file, a missing one, and a word again."""
    names = ["first.png", "notes.txt", "bomb.png", "empty.jpg", "gone.png", "last.png"]
    files = [tmp_path / name for name in names]
    Image.new("RGB", (100, 40)).save(files[0])
    files[1].write_text("no picture")
    write_bomb(files[2])
    files[3].touch()
    Image.new("RGB", (2000, 1000), "red").save(files[5])
    return files


def test_each_file_has_its_record_and_costs_no_other(paths: list[Path]) -> None:
    counts: list[int] = []
    readings = read_files(NameReader(), paths, counts.append)
    assert counts == [1, 2, 3, 4, 5, 6]
    assert [one.name for one in readings] == [path.name for path in paths]
    assert [one.text for one in readings] == ["first", None, None, None, None, "last"]
    reasons = ["", "not an image", "too large", "empty file", "no file", ""]
    for one, reason in zip(readings, reasons, strict=True):
        assert reason in one.error
        assert bool(one.error) == bool(reason)
        assert str(paths[0].parent) not in one.error, "a folder of the server"
        assert (one.word is None) == bool(reason)
    assert [one.size for one in readings] == [(100, 40), None, None, None, None, (2000, 1000)]
    assert read_files(NameReader(), []) == []


def test_a_picture_is_kept_small_and_upright(tmp_path: Path) -> None:
    picture = Image.new("RGB", (2000, 500), "white")
    exif = picture.getexif()
    exif[0x0112] = 6  # a quarter turn
    picture.save(tmp_path / "turned.jpg", exif=exif)
    (reading,) = read_files(NameReader(), [tmp_path / "turned.jpg"])
    assert reading.size == (500, 2000)
    shown = Image.open(BytesIO(reading.picture))
    assert shown.height <= SHOWN_HEIGHT
    assert shown.width <= SHOWN_WIDTH
    assert shown.height / shown.width == pytest.approx(4, rel=0.05)
    assert reading.word is not None
    assert reading.word.shape == (32, 32, 3)


def readings() -> list[WordReading]:
    """A reading with all that could break a table, and a failure."""
    characters = [{"character": ",", "score": 0.25, "start": None, "end": None}]
    nasty = 'a\t"b",\n\\c é'
    return [
        WordReading("x,y.png", nasty, 0.25, characters, (8, 4), picture=b"1", word=np.zeros((4, 8, 3))),
        WordReading("b.txt", None, 0.0, [], None, "no\timage"),
    ]


def test_files_give_back_what_went_into_them() -> None:
    first, second = as_records(readings())
    assert json.loads(to_json(readings())) == [first, second]
    assert (first["width"], first["height"], first["error"]) == (8, 4, None)
    assert first["characters"][0]["character"] == ","
    rows = list(csv.DictReader(StringIO(to_csv(readings()))))
    assert tuple(rows[0]) == COLUMNS
    assert rows[0]["text"] == first["text"]
    assert rows[0]["file"] == "x,y.png"
    assert (rows[1]["text"], rows[1]["width"], rows[1]["error"]) == ("", "", "no\timage")
    lines = [line.split("\t") for line in to_tsv(readings()).splitlines()]
    assert tuple(lines[0]) == COLUMNS
    assert lines[1] == ["x,y.png", 'a\\t"b",\\n\\\\c é', "0.250000", "8", "4", ""]
    assert lines[2] == ["b.txt", "", "0.000000", "", "", "no\\timage"]


def test_a_reader_may_fail_where_its_answer_was_fine(tmp_path: Path) -> None:
    """A file that vanishes between reading and showing is a row with a reason."""

    class Vanishing(NameReader):
        def __call__(self, paths: Iterator[str], **options: Any) -> Iterator[dict[str, Any]]:
            yield from ({"text": "word", "score": 1.0, "characters": []} for _ in paths)

    (reading,) = read_files(Vanishing(), [tmp_path / "word.png"])
    assert reading.text is None
    assert "no file" in reading.error
