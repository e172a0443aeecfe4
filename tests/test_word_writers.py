"""What each form of words holds, read by the form's own library."""

import tarfile
from pathlib import Path

import datasets
import lmdb
import numpy as np
import pytest
from PIL import Image

from tests.word_files import encoded
from training.word_rows import WordRow
from training.word_writers import WRITERS

Words = list[tuple[Image.Image, str]]


def written(tmp_path: Path, kind: str, words: Words, labelled: bool = True, group: str | None = None) -> Path:
    """Write words in parts of five, and give the folder."""
    data, notes = tmp_path / "data", tmp_path / "notes"
    data.mkdir()
    notes.mkdir()
    writer = WRITERS[kind](data, notes, labelled)
    rows = [
        WordRow(i, encoded(image), text if labelled else "", group) for i, (image, text) in enumerate(words)
    ]
    for part, start in enumerate(range(0, len(rows), 5)):
        assert writer.parts() == part
        writer.write(part, rows[start : start + 5])
    writer.finish()
    return data


def test_an_lmdb_has_the_keys_of_the_benchmark(tmp_path: Path, eight_words: Words) -> None:
    folder = written(tmp_path, "lmdb", eight_words)
    with lmdb.open(str(folder), readonly=True, lock=False) as environment, environment.begin() as transaction:
        found = dict(transaction.cursor())
    expected = {b"num-samples": b"8"}
    for number, (image, text) in enumerate(eight_words, start=1):
        expected[f"image-{number:09d}".encode()] = encoded(image)
        expected[f"label-{number:09d}".encode()] = text.encode()
    assert found == expected
    assert [path.name for path in folder.iterdir()] == ["data.mdb"]


def test_parquet_opens_as_images_in_the_datasets_library(tmp_path: Path, eight_words: Words) -> None:
    folder = written(tmp_path, "parquet", eight_words, group="page 1")
    table = datasets.load_dataset("parquet", data_files=f"{folder}/*.parquet", split="train")
    assert isinstance(table.features["image"], datasets.Image)
    assert table["text"][:] == [text for _, text in eight_words]
    assert set(table["group"][:]) == {"page 1"}
    assert np.array_equal(np.asarray(table[7]["image"]), np.asarray(eight_words[7][0]))


def test_a_tar_shard_has_an_image_and_a_text_for_each_key(tmp_path: Path, eight_words: Words) -> None:
    folder = written(tmp_path, "webdataset", eight_words)
    assert sorted(path.name for path in folder.iterdir()) == ["words-00000.tar", "words-00001.tar"]
    with tarfile.open(folder / "words-00001.tar") as tar:
        assert tar.getnames() == [f"{i:09d}.{suffix}" for i in (5, 6, 7) for suffix in ("png", "txt")]
        member = tar.extractfile("000000006.txt")
        assert member is not None
        assert member.read().decode() == f"{eight_words[6][1]}\n"


def test_a_folder_has_its_images_and_their_labels(tmp_path: Path, eight_words: Words) -> None:
    folder = written(tmp_path, "folder", eight_words)
    lines = (folder / "labels.tsv").read_text(encoding="utf-8").splitlines()
    assert lines[6] == f"00001/000000006.png\t{eight_words[6][1]}"
    for line, (image, _) in zip(lines, eight_words, strict=True):
        assert (folder / line.split("\t")[0]).read_bytes() == encoded(image)


@pytest.mark.parametrize("kind", WRITERS)
def test_without_labels_there_are_images_only(tmp_path: Path, eight_words: Words, kind: str) -> None:
    folder = written(tmp_path, kind, eight_words, labelled=False)
    if kind == "folder":
        assert len(list(folder.rglob("*.png"))) == 8
        assert not (folder / "labels.tsv").exists()
    elif kind == "webdataset":
        with tarfile.open(folder / "words-00000.tar") as tar:
            assert all(name.endswith(".png") for name in tar.getnames())
    elif kind == "parquet":
        table = datasets.load_dataset("parquet", data_files=f"{folder}/*.parquet", split="train")
        assert table.column_names == ["image"]
    else:
        with lmdb.open(str(folder), readonly=True, lock=False) as environment:
            assert environment.stat()["entries"] == 8 + 1


@pytest.mark.parametrize("kind", WRITERS)
def test_a_label_of_two_lines_is_refused_where_it_would_not_come_back(tmp_path: Path, kind: str) -> None:
    writer = WRITERS[kind](tmp_path, tmp_path, True)
    refusal = writer.refusal(WordRow(0, b"", "two\nlines"))
    assert (refusal is not None) == (kind in ("folder", "webdataset"))
    assert refusal is None or "line break" in refusal
    assert writer.refusal(WordRow(0, b"", "a\tb")) is None
