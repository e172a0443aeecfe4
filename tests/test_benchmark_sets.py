import string
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import datasets
import lmdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.word_folders import write_words
from training import benchmark_sets
from training.benchmark_sets import find_sets, list_places, load_set, open_sets
from training.benchmarks import ALPHANUMERIC_LABELS, Benchmark, LabelRule, SetProtocol
from training.source_interface import WordSource
from training.word_sources import open_source

Words = list[tuple[Image.Image, str]]
DOT = Image.new("RGB", (8, 8))

# Sizes small enough to write: four words, of which three are of letters and digits, of which one is long.
LABELS = ["stop", "it", "a-b", "7"]
SETS = {
    "IC13_1": SetProtocol("IC13_1", 1, "IC13", ("ic131",), LabelRule("long", alphanumeric=True, shortest=3)),
    "IC13_3": SetProtocol("IC13_3", 3, "IC13", ("ic133",), LabelRule("alphanumeric", alphanumeric=True)),
    "IC13_4": SetProtocol("IC13_4", 4, "IC13", ("ic134",)),
    "IC15_2": SetProtocol("IC15_2", 2, "IC15", ("ic152",)),
    "IC15_4": SetProtocol("IC15_4", 4, "IC15", ("ic154",)),
    "SVT": SetProtocol("SVT", 4, "SVT", ("svt", "svt4")),
}
EVERYTHING = Benchmark("everything", tuple(SETS), "all")


@pytest.fixture(autouse=True)
def small_sets(monkeypatch: pytest.MonkeyPatch) -> None:
    """The protocols' sets, small."""
    monkeypatch.setattr(benchmark_sets, "TEST_SETS", SETS)


def write_set(folder: Path, labels: list[str]) -> Path:
    return write_words(folder, [(DOT, label) for label in labels])


def png() -> bytes:
    buffer = BytesIO()
    DOT.save(buffer, format="PNG")
    return buffer.getvalue()


def write_lmdb(folder: Path, labels: list[str]) -> None:
    folder.mkdir(parents=True)
    with (
        lmdb.open(str(folder), map_size=1 << 20) as environment,
        environment.begin(write=True) as transaction,
    ):
        transaction.put(b"num-samples", str(len(labels)).encode())
        for number, label in enumerate(labels, 1):
            transaction.put(b"image-%09d" % number, png())
            transaction.put(b"label-%09d" % number, label.encode())


def write_parquet(path: Path, labels: list[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    images = [{"bytes": png(), "path": None} for _ in labels]
    pq.write_table(pa.table({"image": images, "text": labels}), path)


def write_dataset(folder: Path, labels: list[str]) -> None:
    def split(texts: list[str]) -> Any:
        return datasets.Dataset.from_dict({"image": [DOT] * len(texts), "text": texts})

    datasets.DatasetDict({"train": split(["x"]), "test": split(labels)}).save_to_disk(str(folder))


def test_every_size_follows_from_the_largest_by_the_rule_for_labels(tmp_path: Path) -> None:
    write_set(tmp_path / "ICDAR2013", LABELS)
    found = find_sets(Benchmark("icdar", ("IC13_1", "IC13_3", "IC13_4"), ""), str(tmp_path))
    assert [words.labels for words in found.sets] == [["stop"], ["stop", "it", "7"], LABELS]
    assert (found.missing, found.notices) == ([], [])
    assert len({words.fingerprint for words in found.sets}) == 3


def test_a_missing_set_and_another_size_are_said(tmp_path: Path) -> None:
    write_set(tmp_path / "deep" / "down" / "IC13-4", LABELS[:2])
    found = find_sets(EVERYTHING, str(tmp_path))
    assert [words.name for words in found.sets] == ["IC13_4"]
    assert found.missing == ["IC13_1", "IC13_3", "IC15_2", "IC15_4", "SVT"]
    assert found.notices[0] == "IC13_1 is missing: no folder or file called 'ic131'."
    assert (
        "IC13_4 has 2 words (all labels), the protocol 4: its numbers cannot be compared with published ones."
        in found.notices
    )


def test_a_source_without_a_size_serves_only_the_size_that_it_has(tmp_path: Path) -> None:
    write_set(tmp_path / "IC15", LABELS)
    found = find_sets(Benchmark("icdar", ("IC15_2", "IC15_4"), ""), str(tmp_path))
    assert [words.name for words in found.sets] == ["IC15_4"]
    assert "has 4 words, which is another size of IC15" in found.notices[0]
    write_set(tmp_path / "IC15_2", LABELS[:2])
    found = find_sets(Benchmark("icdar", ("IC15_2", "IC15_4"), ""), str(tmp_path))
    assert [len(words.labels) for words in found.sets] == [2, 4]


@pytest.mark.parametrize(
    ("write", "where"),
    [
        (write_set, "SVT"),
        (write_lmdb, "svt"),
        (lambda path, labels: write_parquet(path / "SVT.parquet", labels), "files"),
        (lambda path, labels: write_parquet(path / "data" / "test-00000-of-00001.parquet", labels), "svt_4"),
        (write_dataset, "Svt"),
    ],
    ids=["folder", "lmdb", "parquet", "hub", "datasets"],
)
def test_a_set_is_found_in_whatever_form_it_lies(
    tmp_path: Path, write: Callable[[Path, list[str]], None], where: str
) -> None:
    write(tmp_path / where, LABELS)
    found = find_sets(Benchmark("svt", ("SVT",), ""), str(tmp_path))
    assert found.sets[0].labels == LABELS
    assert found.notices == []
    assert list(found.places) == ["SVT"]


def test_the_test_split_is_chosen_among_parquet_files_of_a_repository(tmp_path: Path) -> None:
    write_parquet(tmp_path / "SVT" / "data" / "train-00000-of-00001.parquet", ["x"])
    write_parquet(tmp_path / "SVT" / "data" / "test-00000-of-00001.parquet", LABELS)
    assert find_sets(Benchmark("svt", ("SVT",), ""), str(tmp_path)).sets[0].labels == LABELS


def test_the_given_folder_may_itself_be_the_set(tmp_path: Path) -> None:
    folder = write_set(tmp_path / "SVT", LABELS)
    assert list(list_places(folder)) == ["svt"]


def test_a_set_that_lies_there_twice_is_refused(tmp_path: Path) -> None:
    write_set(tmp_path / "SVT", LABELS)
    write_set(tmp_path / "other" / "svt", LABELS)
    with pytest.raises(ValueError, match="SVT lies there 2 times"):
        find_sets(EVERYTHING, str(tmp_path))


def test_a_folder_without_any_set_says_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="is no folder"):
        find_sets(EVERYTHING, str(tmp_path / "nowhere"))
    with pytest.raises(ValueError, match="Found there: no labelled words"):
        find_sets(EVERYTHING, str(tmp_path))
    write_set(tmp_path / "my words", LABELS)
    with pytest.raises(ValueError, match="Found there: mywords"):
        find_sets(EVERYTHING, str(tmp_path))


def test_a_limit_counts_words_that_the_rule_keeps(tmp_path: Path) -> None:
    source = open_source(f"folder:{write_set(tmp_path / 'set', ['-', 'a', '+', 'b', 'c'])}")
    rule = LabelRule("alphanumeric", alphanumeric=True)
    assert load_set("set", source, 2, rule).labels == ["a", "b"]
    assert load_set("set", source, 2).labels == ["-", "a"]


def test_a_source_without_an_end_needs_a_limit() -> None:
    class Endless(WordSource):
        name, size = "endless", None

        def row(self, index: int) -> dict[str, Any]:
            return {"image": index, "text": self.text(index)}

        def text(self, index: int) -> str:
            return string.ascii_letters[index]

    with pytest.raises(ValueError, match="has no end; give --limit"):
        load_set("words", Endless(), None)
    assert load_set("words", Endless(), 3).labels == ["a", "b", "c"]


@pytest.fixture
def data(tmp_path: Path, eight_words: Words) -> Path:
    """Two labelled folders in one, and a folder that is none."""
    write_words(tmp_path / "data" / "one", eight_words[:3])
    write_words(tmp_path / "data" / "two", eight_words[3:])
    (tmp_path / "data" / "notes").mkdir()
    return tmp_path / "data"


def test_a_folder_of_folders_gives_a_set_each_by_name(data: Path) -> None:
    assert [words.name for words in open_sets(str(data))] == ["one", "two"]
    assert [words.name for words in open_sets(str(data / "two"))] == ["two"]
    assert [len(words.labels) for words in open_sets(str(data), limit=2)] == [2, 2]


def test_a_parquet_file_and_a_source_string_are_sets_too(tmp_path: Path) -> None:
    path = tmp_path / "words.parquet"
    write_parquet(path, LABELS)
    (plain,) = open_sets(str(path))
    (named,) = open_sets(f"parquet:{path}?text=text")
    assert plain.name == named.name == "words"
    assert plain.labels == named.labels == LABELS


def test_the_fingerprint_tells_other_words_and_labels_apart(data: Path) -> None:
    before = {words.name: words.fingerprint for words in open_sets(str(data))}
    assert before == {words.name: words.fingerprint for words in open_sets(str(data))}
    labels = data / "one" / "labels.tsv"
    labels.write_text(labels.read_text(encoding="utf-8").replace("book", "hook"), encoding="utf-8")
    after = {words.name: words.fingerprint for words in open_sets(str(data))}
    assert [name for name in before if before[name] != after[name]] == ["one"]


def test_a_place_without_words_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for place in ("empty", "nowhere"):
        with pytest.raises(ValueError, match="neither a parquet file, nor a folder"):
            open_sets(str(tmp_path / place))
    (tmp_path / "empty" / "labels.tsv").write_text("", encoding="utf-8")
    with pytest.raises(ValueError, match="holds no words"):
        open_sets(str(tmp_path / "empty"))


def test_a_source_of_which_the_protocol_keeps_nothing_is_refused(tmp_path: Path) -> None:
    folder = write_words(tmp_path / "marks", [(Image.new("RGB", (40, 32)), "?!")])
    source = open_source(f"folder:{folder}")
    assert load_set("marks", source, None).labels == ["?!"]
    with pytest.raises(ValueError, match="measures labels of letters and digits only, and it has none"):
        load_set("marks", source, None, ALPHANUMERIC_LABELS)
