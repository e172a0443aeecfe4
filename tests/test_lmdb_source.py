"""LMDB in the layout of the deep-text-recognition benchmark, with and without labels."""

import io
import pickle
from pathlib import Path

import lmdb
import pytest
from PIL import Image

from training.lmdb_source import LMDBSource
from training.word_sources import open_source


def encoded(shade: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 4), (shade, 0, 0)).save(buffer, "png")
    return buffer.getvalue()


def write(folder: Path, words: list[str | None]) -> str:
    with (
        lmdb.open(str(folder), map_size=1 << 20) as environment,
        environment.begin(write=True) as transaction,
    ):
        for number, text in enumerate(words, start=1):
            transaction.put(f"image-{number:09d}".encode(), encoded(number))
            if text is not None:
                transaction.put(f"label-{number:09d}".encode(), text.encode())
        transaction.put(b"num-samples", str(len(words)).encode())
    return str(folder)


def test_rows_count_from_zero_and_keys_from_one(tmp_path: Path) -> None:
    source = LMDBSource("lmdb:x", write(tmp_path / "words", ["one", "zwö"]))
    assert source.size == 2
    assert [source.text(i) for i in range(2)] == ["one", "zwö"]
    assert source.row(1) == {"image": {"bytes": encoded(2), "path": None}, "text": "zwö"}


def test_it_is_a_kind_of_word_source(tmp_path: Path) -> None:
    source = open_source(f"lmdb:{write(tmp_path / 'words', ['one'])}")
    assert source.row(0)["text"] == "one"
    with pytest.raises(ValueError, match="unknown options"):
        open_source(f"lmdb:{tmp_path / 'words'}?image=x")


def test_labels_may_be_missing_only_when_they_are_not_wanted(tmp_path: Path) -> None:
    place = write(tmp_path / "words", ["one", None])
    with pytest.raises(ValueError, match="row 1: no label"):
        LMDBSource("lmdb:x", place).row(1)
    assert LMDBSource("lmdb:x", place, labelled=False).row(1)["text"] == ""


def test_a_source_travels_to_another_process(tmp_path: Path) -> None:
    source = LMDBSource("lmdb:x", write(tmp_path / "words", ["one"]))
    copy = pickle.loads(pickle.dumps(source))
    source._environment.close()
    assert copy.row(0)["text"] == "one"


def test_what_is_no_such_lmdb_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        LMDBSource("lmdb:x", str(tmp_path / "nowhere"))
    (tmp_path / "file").write_bytes(b"text")
    with pytest.raises(ValueError, match="is no LMDB"):
        LMDBSource("lmdb:x", str(tmp_path / "file"))
    with lmdb.open(str(tmp_path / "other"), map_size=1 << 20):
        pass
    with pytest.raises(ValueError, match="no key `num-samples`"):
        LMDBSource("lmdb:x", str(tmp_path / "other"))
    source = LMDBSource("lmdb:x", write(tmp_path / "short", ["one"]))
    source.size = 3
    with pytest.raises(ValueError, match="no key 'image-000000003'"):
        source.row(2)


def test_a_file_that_is_cut_off_is_refused_before_a_missing_page_is_read(tmp_path: Path) -> None:
    place = write(tmp_path / "words", [f"word {i}" for i in range(200)])
    data = tmp_path / "words" / "data.mdb"
    whole = data.read_bytes()
    for length in (len(whole) - 4096, len(whole) // 2, 3 * 4096):
        data.write_bytes(whole[:length])
        with pytest.raises(ValueError, match=f"is cut off: it must have .* it has {length}; copy it again"):
            LMDBSource("lmdb:x", place)
    data.write_bytes(whole[:100])
    with pytest.raises(ValueError, match="is no LMDB .* copy it again"):
        LMDBSource("lmdb:x", place)
    data.write_bytes(whole)
    assert LMDBSource("lmdb:x", place).row(199)["text"] == "word 199"
