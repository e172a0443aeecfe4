"""Rows of any source, as stored bytes or with their fault."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.word_files import encoded, write_parquet
from training.word_rows import WordRow, count_rows, encoded_content, read_rows
from training.word_sources import open_source

Words = list[tuple[Image.Image, str]]


def test_rows_come_in_order_a_finite_source_repeated(tmp_path: Path, eight_words: Words) -> None:
    source = open_source(f"parquet:{write_parquet(tmp_path / 'words.parquet', eight_words)}")
    rows = list(read_rows(source, 6, 18))
    assert [row.index for row in rows] == list(range(6, 18))
    assert [row.text for row in rows] == [eight_words[i % 8][1] for i in range(6, 18)]
    assert rows[0].content == encoded(eight_words[6][0])
    assert count_rows(source) == 8
    assert count_rows(source, limit=10, repeat=2) == 10
    assert count_rows(source, limit=3) == 3


def test_a_stream_is_read_to_its_end_once(tmp_path: Path, eight_words: Words) -> None:
    write_parquet(tmp_path / "train.parquet", eight_words)
    for start in (0, 5, 8, 11):
        rows = list(read_rows(open_source(f"stream:{tmp_path}"), start, None))
        assert [row.text for row in rows] == [text for _, text in eight_words[start:]]
    assert count_rows(open_source(f"stream:{tmp_path}")) is None


def test_a_faulty_row_says_why_and_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "labels.tsv").write_text("a.png\tone\nb.png\nc.png\tthree\n", encoding="utf-8")
    for name in "ab":
        (tmp_path / f"{name}.png").write_bytes(b"content")
    rows = list(read_rows(open_source(f"folder:{tmp_path}"), 0, 3))
    assert rows[0] == WordRow(0, b"content", "one")
    assert "expected `file name<TAB>label`" in str(rows[1].fault)
    assert "there is no file" in str(rows[2].fault)


def test_a_stream_that_cannot_be_opened_or_breaks_is_no_faulty_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match="cannot stream"):
        list(read_rows(open_source(f"stream:{tmp_path}/none"), 0, None))

    def breaking() -> Any:
        yield {"image": b"1", "text": "one"}
        raise ConnectionError("reset by peer")

    source: Any = open_source("stream:x", labelled=False)
    source._columns = SimpleNamespace(image="image", text=None, group=None)
    monkeypatch.setattr(source, "_stream", lambda start: breaking())
    rows = read_rows(source, 0, None)
    assert next(rows).content == b"1"
    with pytest.raises(ValueError, match="the stream broke at row 1 .*reset by peer.* go on from there"):
        next(rows)
    assert source.length is None


def test_an_endless_source_needs_a_number(eight_words: Words) -> None:
    endless: Any = SimpleNamespace(name="rendered:", size=None)
    assert count_rows(endless, limit=5) == 5
    with pytest.raises(ValueError, match="has no end; give --rows"):
        count_rows(endless)
    with pytest.raises(ValueError, match="cannot be repeated"):
        count_rows(endless, limit=5, repeat=2)


def test_images_stay_the_bytes_that_they_are_and_pixels_become_png(
    tmp_path: Path, eight_words: Words
) -> None:
    image = eight_words[0][0]
    image.save(tmp_path / "word.jpg", quality=60)
    content = (tmp_path / "word.jpg").read_bytes()
    for stored in (content, str(tmp_path / "word.jpg"), {"bytes": content, "path": None}):
        assert encoded_content(stored) == content
    assert WordRow(0, content, "").suffix == ".jpg"
    for pixels in (np.asarray(image), image):
        assert encoded_content(pixels) == encoded(image)
    assert WordRow(0, encoded(image), "").suffix == ".png"
    with pytest.raises(ValueError, match="must be bytes, a path or pixels"):
        encoded_content(3)


@pytest.mark.parametrize("format", ["jpeg", "png", "gif", "bmp", "webp", "tiff"])
def test_the_suffix_is_told_by_the_content(tmp_path: Path, eight_words: Words, format: str) -> None:
    eight_words[0][0].save(tmp_path / "word", format=format)
    row = WordRow(0, (tmp_path / "word").read_bytes(), "")
    assert row.suffix == {"jpeg": ".jpg", "tiff": ".tif"}.get(format, f".{format}")
