"""Words in parquet files, Arrow files and repositories of the `datasets` library."""

import pickle
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.word_files import encoded, word_table, write_arrow, write_parquet
from training import table_source
from training.word_sources import open_source

Words = list[tuple[Image.Image, str]]


def all_texts(source: Any) -> list[str]:
    return [source.row(index)["text"] for index in range(source.size)]


def test_groups_are_read_where_there_are_some(tmp_path: Path, eight_words: Words) -> None:
    table = word_table(eight_words)
    pages = pa.array([f"page {i % 2}" for i in range(8)])
    pq.write_table(table.append_column("group", pages), tmp_path / "words.parquet")
    source = open_source(f"parquet:{tmp_path}/words.parquet")
    assert source.has_groups
    assert source.group(3) == "page 1"
    pq.write_table(table, tmp_path / "words.parquet")
    source = open_source(f"parquet:{tmp_path}/words.parquet")
    assert not source.has_groups
    assert source.group(3) == "3"


@pytest.mark.parametrize("place", ["", "/words-*.parquet"])
def test_several_files_are_read_in_the_order_of_names(tmp_path: Path, eight_words: Words, place: str) -> None:
    write_parquet(tmp_path / "words-2.parquet", eight_words[5:])
    write_parquet(tmp_path / "words-1.parquet", eight_words[:5])
    assert all_texts(open_source(f"parquet:{tmp_path}{place}")) == [text for _, text in eight_words]


def test_columns_of_other_names_and_plain_bytes_are_read(tmp_path: Path, eight_words: Words) -> None:
    images, texts = [encoded(image) for image, _ in eight_words], [text for _, text in eight_words]
    pq.write_table(pa.table({"crop": images, "said": texts}), tmp_path / "other.parquet")
    source = open_source(f"parquet:{tmp_path}/other.parquet?image=crop&text=said")
    assert source.row(2) == {"image": {"bytes": images[2], "path": None}, "text": texts[2]}
    with pytest.raises(ValueError, match=r"no image column .* name it with `\?image=COLUMN`"):
        open_source(f"parquet:{tmp_path}/other.parquet")


def test_large_parquet_files_are_mapped_from_the_cache_and_give_the_same_rows(
    tmp_path: Path, eight_words: Words, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(3):
        write_parquet(tmp_path / f"{number}.parquet", eight_words)
    held = open_source(f"parquet:{tmp_path}")
    before = pa.total_allocated_bytes()
    monkeypatch.setattr(table_source, "HELD_BYTES", 0)
    mapped = open_source(f"parquet:{tmp_path}")
    for index in (23, 0, 8, 7):
        assert mapped.row(index) == held.row(index)
    assert mapped.size == 24
    write_parquet(tmp_path / "0.parquet", eight_words[::-1])
    assert open_source(f"parquet:{tmp_path}").text(0) == eight_words[7][1], "a changed file is taken anew"
    assert pa.total_allocated_bytes() - before < 1000, "the images of the mapped file take no memory"
    copy = pickle.loads(pickle.dumps(mapped))
    assert copy.row(9) == held.row(9)
    assert len(pickle.dumps(mapped)) < 2000, "it travels by name"


@pytest.mark.parametrize("stream", [True, False])
def test_arrow_files_are_read_with_and_without_a_footer(
    tmp_path: Path, eight_words: Words, stream: bool
) -> None:
    write_arrow(tmp_path / "words.arrow", eight_words, stream)
    source = open_source(f"arrow:{tmp_path}/words.arrow")
    assert all_texts(source) == [text for _, text in eight_words]
    assert source.row(1)["image"]["bytes"] == encoded(eight_words[1][0])
    assert open_source(f"arrow:{tmp_path}", labelled=False).row(1)["text"] == ""


def test_a_local_datasets_repository_is_read(tmp_path: Path, eight_words: Words) -> None:
    table = datasets.Dataset.from_dict(
        {"image": [image for image, _ in eight_words], "label": [text for _, text in eight_words]}
    ).cast_column("image", datasets.Image())
    table.select([6, 2, 4]).save_to_disk(str(tmp_path / "saved"))
    assert all_texts(open_source(f"datasets:{tmp_path}/saved")) == [eight_words[i][1] for i in (6, 2, 4)]
    (tmp_path / "repository").mkdir()
    table.to_parquet(str(tmp_path / "repository" / "train-00000.parquet"))
    for options in ("?split=train", "?split=train&image=image&text=label"):
        assert all_texts(open_source(f"datasets:{tmp_path}/repository{options}")) == [
            t for _, t in eight_words
        ]
    assert open_source(f"datasets:{tmp_path}/repository", labelled=False).text(0) == ""


def test_a_repository_of_the_hub_is_asked_for_by_its_name(
    monkeypatch: pytest.MonkeyPatch, eight_words: Words
) -> None:
    asked = []

    def load_dataset(place: str, **options: Any) -> Any:
        asked.append((place, options))
        return datasets.Dataset(word_table(eight_words))

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)
    source = open_source("datasets:owner/words-2.0?split=test&name=cased&revision=main")
    assert all_texts(source) == [text for _, text in eight_words]
    assert asked[0] == ("owner/words-2.0", {"split": "test", "name": "cased", "revision": "main"})


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("parquet:{}/none.parquet", "no parquet file matches .* check the path"),
        ("parquet:{}/cut.parquet", "not every file is whole parquet .* copy or write the files again"),
        ("parquet:{}/*.parquet?text=said", "no text column 'said' among .* name it with"),
        ("arrow:{}/none.arrow", "no arrow file matches"),
        ("arrow:{}/cut.arrow", "not every file is a whole Arrow file"),
        ("datasets:{}/none", "does not exist; give a folder, or a repository of the Hub"),
        ("datasets:{}?splitt=x", r"unknown options \['splitt'\]; known: split, name"),
        ("datasets:no/such_words", "`datasets` cannot load 'no/such_words', split 'train'"),
        ("datasets:{}/repository?split=test", "split 'test' .* check the name, the split"),
    ],
)
def test_what_cannot_be_opened_says_so(tmp_path: Path, eight_words: Words, name: str, message: str) -> None:
    (tmp_path / "repository").mkdir()
    whole = write_parquet(tmp_path / "repository" / "train.parquet", eight_words).read_bytes()
    name = name.format(tmp_path)
    if "cut" in name or "*" in name:
        (tmp_path / "cut.parquet").write_bytes(whole[: -100 if "cut" in name else None])
        arrow = write_arrow(tmp_path / "cut.arrow", eight_words, stream=True)
        arrow.write_bytes(arrow.read_bytes()[:3000])
    with pytest.raises(ValueError, match=message):
        open_source(name)


def test_a_row_without_a_label_is_named_and_stops_no_other(tmp_path: Path, eight_words: Words) -> None:
    write_parquet(tmp_path / "words.parquet", [eight_words[0], (eight_words[1][0], None)])
    source = open_source(f"parquet:{tmp_path}/words.parquet")
    assert source.text(0) == "book"
    with pytest.raises(ValueError, match="row 1: no label"):
        source.row(1)
    assert open_source(f"parquet:{tmp_path}/words.parquet", labelled=False).row(1)["text"] == ""
