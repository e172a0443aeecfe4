"""Labelled words under one name, and the test sets of a benchmark as they lie in a user's folder.

A place is a folder with labels, a folder of such folders, a parquet file, or `kind:place` of `word_sources`.
For a benchmark (`benchmarks.BENCHMARKS`), a folder is searched for its sets by name, in whatever form each
lies there: labelled images, an LMDB, parquet files, a `datasets` folder. What is missing, or has another
number of words than the protocol says, becomes a notice, to be shown beside the numbers.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.benchmarks import SOURCE_NAMES, TEST_SETS, Benchmark, LabelRule, SetProtocol, fingerprint
from training.folder_source import LABEL_FILES
from training.source_interface import WordSource
from training.word_sources import SOURCE_KINDS, open_source

# Folders are searched so far below the one that was given.
SEARCH_DEPTH = 4


@dataclass(frozen=True)
class BenchmarkSet:
    """Labelled words under one name.

    Args:
        name: of the row in the table.
        images: what the pipeline reads, one per word.
        labels: one per word.
        fingerprint: identifies protocol, files and labels.
    """

    name: str
    images: list[Any]
    labels: list[str]
    fingerprint: str


@dataclass(frozen=True)
class FoundSets:
    """The sets of a benchmark that a folder holds.

    Args:
        sets: in the order of the benchmark.
        places: set name → the source string that it was opened with.
        missing: names of the sets that are not there.
        notices: sentences for the reader of the numbers: what is missing, what has another size.
    """

    sets: list[BenchmarkSet]
    places: dict[str, str]
    missing: list[str]
    notices: list[str]


def open_sets(place: str, limit: int | None = None) -> list[BenchmarkSet]:
    """Open what a DATA argument names; a folder of labelled folders gives one set each, by name.

    Raises:
        ValueError: when nothing labelled is there.
    """
    if place.partition(":")[0] in SOURCE_KINDS:
        return [load_set(_name_of(place.partition(":")[2].partition("?")[0]), open_source(place), limit)]
    path = Path(place)
    if path.is_file() and path.suffix == ".parquet":
        return [load_set(path.stem, open_source(f"parquet:{place}"), limit)]
    if _is_labelled(path):
        return [load_set(_name_of(place), open_source(f"folder:{place}"), limit)]
    folders = sorted(child for child in path.iterdir() if _is_labelled(child)) if path.is_dir() else []
    if not folders:
        raise ValueError(
            f"{place!r} is neither a parquet file, nor a folder with one of {', '.join(LABEL_FILES)}, "
            "nor a folder of such folders."
        )
    return [load_set(folder.name, open_source(f"folder:{folder}"), limit) for folder in folders]


def load_set(name: str, source: WordSource, limit: int | None, rule: LabelRule | None = None) -> BenchmarkSet:
    """Take the rows of a source, images still encoded.

    Args:
        name: of the set.
        source: of the words.
        limit: words at most, from the start, after the rule; None for all.
        rule: which labels are kept; None for all.

    Raises:
        ValueError: for a source without an end when there is no limit, and when the rule keeps no word.
    """
    if source.size is None and limit is None:
        raise ValueError(f"source {source.name!r} has no end; give --limit.")
    size = limit if source.size is None else source.size
    assert size is not None
    chosen = [i for i in range(size) if rule is None or rule.keeps(source.text(i))][:limit]
    if rule is not None and not chosen:
        raise ValueError(f"source {source.name!r}: the protocol measures {rule.text}, and it has none such.")
    rows = [source.row(index) for index in chosen]
    labels = [row["text"] for row in rows]
    return BenchmarkSet(
        name, [row["image"] for row in rows], labels, fingerprint([source.group(i) for i in chosen], labels)
    )


def find_sets(benchmark: Benchmark, folder: str, limit: int | None = None) -> FoundSets:
    """Search a folder for the sets of a benchmark and open them.

    A folder named after the source alone ("IC13") serves the size whose labels it yields: the smaller sizes
    of ICDAR 2013 follow from its 1095 words by `LabelRule`, those of ICDAR 2003 and 2015 do not.

    Raises:
        ValueError: when the folder does not exist, holds none of the sets, or holds one twice.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"{folder!r} is no folder; give the one that holds the test sets.")
    places = list_places(Path(folder))
    found = FoundSets([], {}, [], [])
    for name in benchmark.sets:
        _find_set(TEST_SETS[name], places, limit, found)
    if not found.sets:
        raise ValueError(
            f"{folder!r} holds none of the sets of {benchmark.name} ({', '.join(benchmark.sets)}); name "
            f"their folders so. Found there: {', '.join(sorted(places)) or 'no labelled words'}."
        )
    return found


def list_places(folder: Path) -> dict[str, list[str]]:
    """Every place of words in a folder, itself included, that `open_source` can open.

    Returns:
        name without case, spaces and punctuation → source strings.
    """
    places: dict[str, list[str]] = {}
    for current, children, files in os.walk(folder):
        path = Path(current)
        source = _source_of(path, files)
        if source is not None:
            # The Hub's repositories keep their files one folder down.
            named = path.resolve().parent if path.name == "data" else path.resolve()
            places.setdefault(_key(named.name), []).append(source)
            children.clear()
            continue
        for file in sorted(files):
            if file.endswith(".parquet"):
                places.setdefault(_key(Path(file).stem), []).append(f"parquet:{path / file}")
        children.sort()
        if len(path.relative_to(folder).parts) >= SEARCH_DEPTH:
            children.clear()
    return places


def _find_set(wanted: SetProtocol, places: dict[str, list[str]], limit: int | None, found: FoundSets) -> None:
    """Open one set and add it, or say what is missing."""
    own = [source for name in wanted.found_as for source in places.get(name, [])]
    shared = [source for name in SOURCE_NAMES.get(wanted.source, ()) for source in places.get(name, [])]
    candidates = own or shared
    if len(candidates) > 1:
        raise ValueError(
            f"{wanted.name} lies there {len(candidates)} times: {', '.join(candidates)}; keep one of them."
        )
    if not candidates:
        found.missing.append(wanted.name)
        found.notices.append(f"{wanted.name} is missing: no folder or file called {wanted.found_as[0]!r}.")
        return
    source = open_source(candidates[0])
    assert source.size is not None
    size = sum(wanted.rule.keeps(source.text(i)) for i in range(source.size))
    others = {other.words for other in TEST_SETS.values() if other.source == wanted.source} - {wanted.words}
    if not own and size != wanted.words and size in others:
        found.missing.append(wanted.name)
        found.notices.append(
            f"{wanted.name} is missing: {candidates[0]!r} has {size} words, which is another size of "
            f"{wanted.source}."
        )
        return
    found.sets.append(load_set(wanted.name, source, limit, wanted.rule))
    found.places[wanted.name] = candidates[0]
    if size != wanted.words:
        found.notices.append(
            f"{wanted.name} has {size} words ({wanted.rule.text}), the protocol {wanted.words}: its numbers "
            "cannot be compared with published ones."
        )


def _source_of(path: Path, files: Sequence[str]) -> str | None:
    """The source string of a folder that is itself a set of words; None for any other."""
    if any(file in files for file in LABEL_FILES):
        return f"folder:{path}"
    if "data.mdb" in files:
        return f"lmdb:{path}"
    if "dataset_dict.json" in files:
        splits = json.loads((path / "dataset_dict.json").read_text(encoding="utf-8"))["splits"]
        return f"datasets:{path}?split={'test' if 'test' in splits else splits[0]}"
    if "state.json" in files:
        return f"datasets:{path}"
    shards = [file for file in files if re.fullmatch(r".+-\d+-of-\d+\.parquet", file)]
    tests = "test-*" if any(file.startswith("test-") for file in shards) else "*"
    return f"parquet:{path}/{tests}.parquet" if shards else None


def _key(name: str) -> str:
    return re.sub(r"[^0-9a-z]", "", name.lower())


def _is_labelled(path: Path) -> bool:
    return any((path / name).is_file() for name in LABEL_FILES)


def _name_of(place: str) -> str:
    return Path(place).resolve().stem if place else "rendered"
