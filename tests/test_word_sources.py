"""Every kind of source gives the same words for the same words, and splits keep groups together."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modeling_rcmstr.image_reading import read_image
from tests.word_files import tar_members, write_arrow, write_lmdb, write_parquet, write_tar
from tests.word_folders import write_words
from training.word_sources import name_source, open_source, split_by_group

Words = list[tuple[Image.Image, str]]


def write_repository(folder: Path, words: Words) -> Path:
    folder.mkdir()
    write_parquet(folder / "train.parquet", words)
    return folder


WRITERS: dict[str, Callable[[Path, Any], Path]] = {
    "folder": lambda folder, words: write_words(folder / "words", words),
    "parquet": lambda folder, words: write_parquet(folder / "words.parquet", words),
    "arrow": lambda folder, words: write_arrow(folder / "words.arrow", words, stream=True),
    "lmdb": lambda folder, words: write_lmdb(folder / "words", words),
    "webdataset": lambda folder, words: write_tar(folder / "words.tar", tar_members(words)),
    "datasets": lambda folder, words: write_repository(folder / "words", words),
    "stream": lambda folder, words: write_repository(folder / "words", words),
}


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("kind", WRITERS)
def test_every_kind_gives_the_words_that_were_written(
    tmp_path: Path, eight_words: Words, kind: str, labelled: bool
) -> None:
    place = WRITERS[kind](tmp_path, eight_words)
    source = open_source(f"{kind}:{place}", labelled=labelled)
    assert source.name == f"{kind}:{place}"
    assert source.size == (None if kind == "stream" else 8)
    for index, (image, text) in enumerate(eight_words):
        row = source.row(index)
        assert row["text"] == source.text(index) == (text if labelled else "")
        assert np.array_equal(np.asarray(read_image(row["image"])), np.asarray(image))


@pytest.mark.parametrize("kind", ["folder", "parquet", "arrow", "lmdb", "webdataset"])
def test_a_path_alone_names_its_kind(tmp_path: Path, eight_words: Words, kind: str) -> None:
    place = str(WRITERS[kind](tmp_path, eight_words))
    assert name_source(place) == f"{kind}:{place}"
    assert name_source(f"{kind}:{place}") == f"{kind}:{place}"
    if kind in ("parquet", "arrow", "webdataset"):
        assert name_source(str(tmp_path)) == f"{kind}:{tmp_path}"


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


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("words", "`kind:place`"),
        ("tar:words", "one of rendered, folder, parquet"),
        ("folder:no_such_folder", "does not exist"),
        ("parquet:no_such_file.parquet", "no parquet file matches"),
        ("arrow:no_such_file.arrow", "no arrow file matches"),
        ("webdataset:no_such_file.tar", "no tar file matches"),
        ("lmdb:no_such_folder", "does not exist"),
        ("datasets:no_such_folder", "does not exist"),
        ("rendered:no_such_settings.yaml", "does not exist"),
    ],
)
def test_a_source_that_is_not_there_is_named(name: str, message: str, labelled: bool) -> None:
    with pytest.raises(ValueError, match=message):
        open_source(name, labelled)


def test_a_source_without_words_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="holds no words"):
        open_source(f"folder:{tmp_path}", labelled=False)
    (tmp_path / "labels.tsv").touch()
    with pytest.raises(ValueError, match="holds no words"):
        open_source(f"folder:{tmp_path}")


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
    tmp_path: Path, eight_words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading files must not need fonts."""
    broken: ModuleType | None = None
    monkeypatch.setitem(sys.modules, "training.word_rendering", broken)
    assert open_source(f"folder:{write_words(tmp_path / 'words', eight_words)}").size == 8
