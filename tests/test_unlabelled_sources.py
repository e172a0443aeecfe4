"""Words without texts from every kind of place."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from modeling_rcmstr.image_reading import read_image
from tests.test_lmdb_source import write as write_lmdb
from training.unlabelled_sources import StreamedImages, open_unlabelled_source


def encoded(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 4), (shade, 0, 0)).save(buffer, "png")
    return buffer.getvalue()


def shades(source: Any, rows: list[int]) -> list[int]:
    """The red of each row's image, which numbers it."""
    return [np.asarray(read_image(source.row(index)["image"]))[0, 0, 0].item() for index in rows]


def write_parquet(path: Path, first: int, count: int, column: str = "image") -> None:
    images = [{"bytes": encoded(first + i), "path": None} for i in range(count)]
    pq.write_table(pa.table({column: images}), path)


def test_a_folder_gives_every_image_below_it_by_path(tmp_path: Path) -> None:
    for number, file in enumerate(["b.png", "a/z.PNG", "a/y.jpeg.txt", "c.gif"]):
        path = tmp_path / file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(encoded(number))
    source = open_unlabelled_source(f"folder:{tmp_path}")
    assert source.size == 3
    assert shades(source, [0, 1, 2]) == [1, 0, 3]
    assert source.row(0)["text"] == source.text(0) == ""


def test_parquet_files_need_an_image_column_only(tmp_path: Path) -> None:
    write_parquet(tmp_path / "1.parquet", 0, 2)
    write_parquet(tmp_path / "2.parquet", 2, 2)
    assert shades(open_unlabelled_source(f"parquet:{tmp_path}/*.parquet"), [3, 0, 1]) == [3, 0, 1]
    pq.write_table(pa.table({"crop": [encoded(7)]}), tmp_path / "other")
    assert shades(open_unlabelled_source(f"parquet:{tmp_path}/other?image=crop"), [0]) == [7]
    with pytest.raises(ValueError, match="no image column image or img or images among"):
        open_unlabelled_source(f"parquet:{tmp_path}/other")


def test_an_lmdb_needs_no_labels(tmp_path: Path) -> None:
    source = open_unlabelled_source(f"lmdb:{write_lmdb(tmp_path / 'words', [None, None])}")
    assert shades(source, [1, 0]) == [2, 1]


def test_a_local_repository_of_datasets(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", 0, 3)
    assert shades(open_unlabelled_source(f"datasets:{tmp_path}"), [2, 0]) == [2, 0]


def test_a_stream_goes_on_forever_from_any_row(tmp_path: Path) -> None:
    write_parquet(tmp_path / "train.parquet", 0, 4)
    source = open_unlabelled_source(f"stream:{tmp_path}")
    assert source.size is None
    assert shades(source, [0, 1, 3, 4, 6, 9]) == [0, 1, 3, 0, 2, 1]
    assert shades(source, [2]) == [2], "going back opens it anew"
    assert isinstance(source, StreamedImages)
    assert source.length == 4
    copy = pickle.loads(pickle.dumps(source))
    assert shades(copy, [7]) == [3]
    resumed = open_unlabelled_source(f"stream:{tmp_path}?split=train")
    assert shades(resumed, [10, 11, 12]) == [2, 3, 0], "a resumed run starts behind the end"


def test_rendered_words_are_the_same_source_with_or_without_labels(tmp_path: Path) -> None:
    write_parquet(tmp_path / "x.parquet", 0, 1)
    with pytest.raises(ValueError, match="rendered"):
        open_unlabelled_source("drawn:")
    with pytest.raises(ValueError, match="does not exist"):
        open_unlabelled_source(f"rendered:{tmp_path}/nothing.yaml")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("words/", "must read `kind:place`"),
        ("folder:{}/none", "does not exist"),
        ("folder:{}", "holds no words"),
        ("folder:{}?image=x", "unknown options \\['image'\\]; known: none"),
        ("parquet:{}/none.parquet", "no parquet file"),
        ("datasets:{}/none", "does not exist"),
        ("lmdb:{}/none", "does not exist"),
    ],
)
def test_what_is_not_there_is_refused(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_unlabelled_source(name.format(tmp_path))


def test_an_empty_stream_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    source = StreamedImages("stream:x", "x", {})
    monkeypatch.setattr(source, "_stream", lambda start: [])
    for row in (0, 5):
        with pytest.raises(ValueError, match="the stream has no rows"):
            source.row(row)
