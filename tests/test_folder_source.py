"""Image files beside every form of label file, and without one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modeling_rcmstr.image_reading import read_image
from training.folder_source import read_label_lines
from training.word_sources import open_source

Words = list[tuple[Image.Image, str]]


@pytest.fixture
def word_folder(tmp_path: Path, eight_words: Words) -> Callable[..., Path]:
    """Write the eight words as files beside a label file of a given name and content."""

    def write(label_file: str, line: Callable[[str, str], str], head: str = "") -> Path:
        folder = tmp_path / "words"
        folder.mkdir()
        lines = []
        for number, (image, text) in enumerate(eight_words):
            image.save(folder / f"{number}.png")
            lines.append(line(f"{number}.png", text))
        (folder / label_file).write_bytes((head + "".join(lines)).encode())
        return folder

    return write


def assert_same_words(name: str, expected: Words) -> None:
    source = open_source(name)
    assert source.size == len(expected)
    for index, (image, text) in enumerate(expected):
        row = source.row(index)
        assert row["text"] == source.text(index) == text
        assert np.array_equal(np.asarray(read_image(row["image"])), np.asarray(image))


LABEL_FILES: list[Any] = [
    pytest.param("labels.tsv", lambda file, text: f"{file}\t{text}\n", "", id="tab"),
    pytest.param("labels.tsv", lambda file, text: f"{file}\t{text}\r\n", "\ufeff", id="windows"),
    pytest.param(
        "metadata.csv",
        lambda file, text: f'{file},"{text}"\r\n',
        "\ufefffile_name,text\r\n",
        id="imagefolder",
    ),
    pytest.param(
        "metadata.jsonl",
        lambda file, text: json.dumps({"file_name": file, "text": text}) + "\n",
        "",
        id="imagefolder-jsonl",
    ),
    pytest.param("gt.txt", lambda file, text: f"{file}\t{text}\n", "", id="dtrb"),
    pytest.param("gt.txt", lambda file, text: f'{file}, "{text}"\n', "\ufeff", id="icdar"),
]


@pytest.mark.parametrize(("label_file", "line", "head"), LABEL_FILES)
def test_folders_are_read_by_every_label_file(
    word_folder: Callable[..., Path],
    eight_words: Words,
    label_file: str,
    line: Callable[[str, str], str],
    head: str,
) -> None:
    assert_same_words(f"folder:{word_folder(label_file, line, head)}", eight_words)


@pytest.mark.parametrize("images", ["", "images"])
def test_doctrs_mapping_finds_images_beside_it_or_in_their_folder(
    tmp_path: Path, eight_words: Words, images: str
) -> None:
    (tmp_path / images).mkdir(exist_ok=True)
    labels = {}
    for number, (image, text) in enumerate(eight_words):
        image.save(tmp_path / images / f"{number}.png")
        labels[f"{number}.png"] = text
    (tmp_path / "labels.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(labels, indent=1).encode())
    assert_same_words(f"folder:{tmp_path}", eight_words)


def test_another_label_file_and_other_columns_are_named_by_options(tmp_path: Path) -> None:
    (tmp_path / "rec_gt.txt").write_text("a.png\tone\n", encoding="utf-8")
    assert open_source(f"folder:{tmp_path}?labels=rec_gt.txt").text(0) == "one"
    (tmp_path / "metadata.csv").write_text("crop,said\na.png,two\n", encoding="utf-8")
    assert open_source(f"folder:{tmp_path}?image=crop&text=said").text(0) == "two"
    with pytest.raises(ValueError, match=r"no column 'file_name' among .* name it with `\?image=COLUMN`"):
        open_source(f"folder:{tmp_path}")


def test_spaces_quotes_and_commas_in_labels_are_kept(tmp_path: Path) -> None:
    def pairs(path: Path) -> list[tuple[str, str]]:
        return [(line.file, line.text) for line in read_label_lines(path)]

    (tmp_path / "labels.tsv").write_text('1.png\t a, "b" \n\n2.png\t\n', encoding="utf-8")
    assert pairs(tmp_path / "labels.tsv") == [("1.png", ' a, "b" '), ("2.png", "")]
    (tmp_path / "gt.txt").write_text('1.png, "a, ""b"\n2.png, "\n', encoding="utf-8")
    assert pairs(tmp_path / "gt.txt") == [("1.png", 'a, ""b'), ("2.png", '"')]


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("labels.tsv", "1.png\tone\n2.png two\n", "line 2: expected `file name<TAB>label`, got '2.png two'"),
        ("labels.json", '{"1.png": "one", "2.png": null}', "'2.png': the label must be a string, got 'None'"),
        ("labels.json", '{"1.png": "one", "1.png": "two"}', "'1.png': labelled twice; keep one"),
        ("metadata.csv", "file_name,text\n1.png,one\n2.png\n", "entry 2: no file name or no label"),
    ],
)
def test_an_entry_without_a_label_is_named_when_its_row_is_read_and_stops_no_other(
    tmp_path: Path, file: str, content: str, message: str
) -> None:
    (tmp_path / file).write_text(content, encoding="utf-8")
    source = open_source(f"folder:{tmp_path}")
    assert source.size == 2
    assert source.text(0) == "one"
    for read in (source.text, source.row):
        with pytest.raises(ValueError, match=message):
            read(1)


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("metadata.csv", b"file_name,colour\n1.png,red\n", "no column 'text'"),
        ("metadata.jsonl", b"{", "one JSON object a line"),
        ("labels.json", b'{"1.png": ', "is not JSON"),
        ("labels.json", b'["1.png"]', "must map file names to labels"),
        ("labels.tsv", "1.png\tgrün\n".encode("latin-1"), "must be UTF-8 text .* save it as UTF-8"),
    ],
)
def test_a_label_file_of_another_form_is_refused(
    tmp_path: Path, file: str, content: bytes, message: str
) -> None:
    (tmp_path / file).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        open_source(f"folder:{tmp_path}")


def test_without_labels_a_folder_gives_every_image_below_it_by_path(tmp_path: Path) -> None:
    for file in ["b.png", "a/z.PNG", "a/y.jpeg.txt", "c.gif"]:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    source = open_source(f"folder:{tmp_path}", labelled=False)
    paths = [source.row(index)["image"]["path"] for index in range(3)]
    assert paths == [str(tmp_path / file) for file in ("a/z.PNG", "b.png", "c.gif")]
    assert source.size == 3
    assert source.row(0)["text"] == source.text(0) == ""


def test_many_files_in_one_folder_are_listed_without_being_touched(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """100,000 files would be 100,000 calls of `stat`; one listing names them all."""
    for number in range(2000):
        (tmp_path / f"{number}.png").touch()

    def stat(path: Any, **options: Any) -> None:
        raise AssertionError(path)

    monkeypatch.setattr("training.folder_source.os.stat", stat)
    monkeypatch.setattr("training.folder_source.os.lstat", stat)
    from training.folder_source import _image_files

    assert len(list(_image_files(str(tmp_path)))) == 2000


def test_a_folder_without_labels_is_named_with_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds none of labels\.tsv, metadata\.csv, .*; add a labels\.tsv"):
        open_source(f"folder:{tmp_path}")
    with pytest.raises(ValueError, match=r"holds none of words\.tsv"):
        open_source(f"folder:{tmp_path}?labels=words.tsv")
