import sys
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from modeling_rcmstr.image_reading import read_image
from training.word_sources import open_source, read_label_file, split_by_group

Words = list[tuple[Image.Image, str]]


def encoded(image: Image.Image) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def parquet_file(tmp_path: Path, eight_words: Words) -> Path:
    """Eight words in two photographs, columns as in this project's shared parquet files."""
    rows = {
        "image": [{"bytes": encoded(image), "path": f"{i}.png"} for i, (image, _) in enumerate(eight_words)],
        "text": [text for _, text in eight_words],
        "group": [f"photograph {i % 2}" for i in range(len(eight_words))],
    }
    path = tmp_path / "words.parquet"
    pq.write_table(pa.table(rows), path)
    return path


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


def test_parquet_rows_come_back(parquet_file: Path, eight_words: Words) -> None:
    assert_same_words(f"parquet:{parquet_file}", eight_words)
    assert open_source(f"parquet:{parquet_file}").group(3) == "photograph 1"


def test_a_glob_of_parquet_files_is_read_in_the_order_of_names(
    parquet_file: Path, eight_words: Words
) -> None:
    parquet_file.rename(parquet_file.with_name("a1.parquet"))
    pq.write_table(pq.read_table(parquet_file.with_name("a1.parquet")), parquet_file.with_name("a2.parquet"))
    assert_same_words(f"parquet:{parquet_file.parent}/a*.parquet", eight_words * 2)


def test_columns_of_other_names_are_chosen_by_options(tmp_path: Path, eight_words: Words) -> None:
    rows = {"crop": [encoded(image) for image, _ in eight_words], "said": [text for _, text in eight_words]}
    pq.write_table(pa.table(rows), tmp_path / "other.parquet")
    assert_same_words(f"parquet:{tmp_path}/other.parquet?image=crop&text=said", eight_words)
    with pytest.raises(ValueError, match=r"no image column .* name it with `\?image=COLUMN`"):
        open_source(f"parquet:{tmp_path}/other.parquet")


LABEL_FILES: list[Any] = [
    pytest.param("labels.tsv", lambda file, text: f"{file}\t{text}\n", "", id="tab"),
    pytest.param("labels.tsv", lambda file, text: f"{file}\t{text}\r\n", "\ufeff", id="windows"),
    pytest.param(
        "metadata.csv", lambda file, text: f'{file},"{text}"\n', "file_name,text\n", id="imagefolder"
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


def test_spaces_quotes_and_commas_in_labels_are_kept(tmp_path: Path) -> None:
    (tmp_path / "labels.tsv").write_text('1.png\t a, "b" \n\n2.png\t\n', encoding="utf-8")
    assert read_label_file(tmp_path / "labels.tsv") == [("1.png", ' a, "b" '), ("2.png", "")]
    (tmp_path / "gt.txt").write_text('1.png, "a, ""b"\n2.png, "\n', encoding="utf-8")
    assert read_label_file(tmp_path / "gt.txt") == [("1.png", 'a, ""b'), ("2.png", '"')]


def test_a_line_without_a_label_is_named(tmp_path: Path) -> None:
    (tmp_path / "labels.tsv").write_text("1.png\tone\n2.png two\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 2: expected `file name<TAB>label`, got '2.png two'"):
        read_label_file(tmp_path / "labels.tsv")


def test_metadata_without_a_text_column_is_named(tmp_path: Path) -> None:
    (tmp_path / "metadata.csv").write_text("file_name,colour\n1.png,red\n", encoding="utf-8")
    with pytest.raises(ValueError, match="no column 'text'"):
        read_label_file(tmp_path / "metadata.csv")


def test_a_local_datasets_repository_is_read(tmp_path: Path, eight_words: Words) -> None:
    table = datasets.Dataset.from_dict(
        {"image": [image for image, _ in eight_words], "label": [text for _, text in eight_words]}
    ).cast_column("image", datasets.Image())
    table.save_to_disk(str(tmp_path / "saved"))
    assert_same_words(f"datasets:{tmp_path}/saved", eight_words)
    (tmp_path / "repository").mkdir()
    table.to_parquet(str(tmp_path / "repository" / "train-00000.parquet"))
    assert_same_words(f"datasets:{tmp_path}/repository?split=train", eight_words)


def test_rendered_words_are_those_of_the_renderer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The source hands settings over and numbers through; the renderer itself has its own tests."""

    class Renderer:
        def __init__(self, config: Any) -> None:
            self.config = config

        def render(self, index: int) -> SimpleNamespace:
            image = np.full((32, 64, 3), index % 256, np.uint8)
            return SimpleNamespace(image=image, text=f"{self.config.seed}-{index}")

    monkeypatch.setattr("training.word_rendering.WordRenderer", Renderer)
    (tmp_path / "render.yaml").write_text(
        "seed: 5\nfonts: [a, b]\ntexts: {max_length: 9}\n", encoding="utf-8"
    )
    source: Any = open_source(f"rendered:{tmp_path}/render.yaml?seed=7")
    assert source.size is None
    assert source.row(3)["text"] == source.text(3) == "7-3"
    assert source.config.fonts == ("a", "b")
    assert source.config.texts.max_length == 9
    with pytest.raises(ValueError, match="unexpected keyword argument 'sead'"):
        open_source("rendered:?sead=1")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("words", "`kind:place`"),
        ("tar:words", "one of rendered, parquet, folder"),
        ("folder:no_such_folder", "does not exist"),
        ("parquet:no_such_file.parquet", "no parquet file matches"),
        ("datasets:no_such_folder", "does not exist"),
    ],
)
def test_a_source_that_is_not_there_is_named(name: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_source(name)


def test_a_folder_without_labels_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds none of labels\.tsv, metadata\.csv, gt\.txt"):
        open_source(f"folder:{tmp_path}")


def test_an_unknown_option_is_named(parquet_file: Path) -> None:
    with pytest.raises(ValueError, match=r"unknown options \['colum'\]"):
        open_source(f"parquet:{parquet_file}?colum=text")


def test_a_row_without_a_label_is_named(tmp_path: Path, eight_words: Words) -> None:
    rows = {"image": [encoded(eight_words[0][0])] * 2, "text": ["one", None]}
    pq.write_table(pa.table(rows), tmp_path / "words.parquet")
    with pytest.raises(ValueError, match="row 1: no label"):
        open_source(f"parquet:{tmp_path}/words.parquet").row(1)


class Groups:
    """A source of nothing but groups."""

    name = "groups"

    def __init__(self, groups: list[str]) -> None:
        self.groups = groups
        self.size = len(groups)

    def group(self, index: int) -> str:
        return self.groups[index]


def test_no_group_lies_on_both_sides_of_a_split_and_every_row_on_one() -> None:
    source: Any = Groups([f"photograph {i // 5}" for i in range(2000)])
    train, held_out = split_by_group(source, 0.25, seed=0)
    assert sorted([*train, *held_out]) == list(range(2000))
    assert not {source.group(i) for i in train} & {source.group(i) for i in held_out}
    # 400 groups at 25 %: four standard deviations are 35.
    assert abs(len(held_out) / 5 - 100) < 35


def test_a_groups_side_depends_on_its_name_and_the_seed_only() -> None:
    names = [f"photograph {i}" for i in range(300)]
    source: Any = Groups(names)
    backwards: Any = Groups(names[::-1])
    _, held_out = split_by_group(source, 0.3, seed=1)
    _, other_order = split_by_group(backwards, 0.3, seed=1)
    _, other_seed = split_by_group(source, 0.3, seed=2)
    assert {names[i] for i in held_out} == {names[::-1][i] for i in other_order}
    assert set(held_out) != set(other_seed)


def test_an_endless_source_is_not_split() -> None:
    source: Any = SimpleNamespace(name="rendered:", size=None)
    with pytest.raises(ValueError, match="no end"):
        split_by_group(source, 0.1, seed=0)


def test_opening_a_file_source_does_not_import_the_renderer(
    word_folder: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading files must not need fonts."""
    broken: ModuleType | None = None
    monkeypatch.setitem(sys.modules, "training.word_rendering", broken)
    folder = word_folder("labels.tsv", lambda file, text: f"{file}\t{text}\n")
    assert open_source(f"folder:{folder}").size == 8
