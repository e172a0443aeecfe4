"""Words in WebDataset shards: tar files in which a word is `key.jpg` and `key.txt`.

The headers of the shards are read once; a word is then read from its place in the file, so rows come in any
order and a run goes on at the exact row. A label is the text of `key.txt`, or a field of `key.json`.
"""

from __future__ import annotations

import json
import os
import re
import tarfile
from array import array
from collections import OrderedDict
from collections.abc import Iterator
from typing import Any, BinaryIO

from training.folder_source import IMAGE_FILES
from training.source_interface import (
    TEXT_COLUMNS,
    WordSource,
    as_encoded,
    find_files,
    label_of,
    refuse_options,
)

OPEN_FILES = 32
BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
# The key ends at the first dot of the file's name, whatever dots the folders have.
MEMBER = re.compile(r"((?:.*/)?[^./][^./]*)\.([^/]+)")
PARTS = ("image", "txt", "json")


class WebDatasetSource(WordSource):
    """The words of tar shards, in the order of the shards and of their members.

    The place is one shard, a glob, a folder, or shards counted as `words-{000..009}.tar`; option `text` names
    the field of `key.json` that holds the label.

    Raises:
        ValueError: for a shard that is no plain tar file, ends too early, or has a key twice.
    """

    def __init__(self, name: str, place: str, options: dict[str, str], labelled: bool) -> None:
        refuse_options(name, options, ("text",))
        self.name = name
        self.labelled = labelled
        self.field = options.get("text")
        self.shards = [path for part in expand_braces(place) for path in find_files(name, part, ".tar")]
        # Of every word its shard, and the place and length of its image, txt and json; length -1: none.
        self._index = array("q")
        for number, shard in enumerate(self.shards):
            try:
                for places in index_shard(shard):
                    self._index.append(number)
                    self._index.extend(places)
            except ValueError as error:
                raise ValueError(f"source {name!r}: {error}") from error
        self.size = len(self._index) // 7
        self._files: OrderedDict[str, BinaryIO] = OrderedDict()
        self._process = os.getpid()

    def row(self, index: int) -> dict[str, Any]:
        """Row `index` with its image still encoded."""
        image = as_encoded(self._read(index, "image"), self.name, index)
        return {"image": image, "text": self.text(index)}

    def text(self, index: int) -> str:
        """The label of row `index`; empty when the source is opened without labels."""
        if not self.labelled:
            return ""
        text = None if self.field else self._read(index, "txt")
        if text is not None:
            return text.decode("utf-8-sig").removesuffix("\n").removesuffix("\r")
        fields = self._read(index, "json")
        known = json.loads(fields) if fields is not None else {}
        wanted = (self.field,) if self.field else TEXT_COLUMNS
        return label_of(next((known[field] for field in wanted if field in known), None), self.name, index)

    def _read(self, index: int, part: str) -> bytes | None:
        if not 0 <= index < len(self._index) // 7:
            raise IndexError(f"source {self.name!r} has {self.size} rows, got row {index}.")
        entry = self._index[7 * index : 7 * index + 7]
        start, length = entry[1 + 2 * PARTS.index(part) :][:2]
        if length < 0:
            return None
        file = self._open(self.shards[entry[0]])
        file.seek(start)
        return file.read(length)

    def _open(self, shard: str) -> BinaryIO:
        if self._process != os.getpid():  # a forked process would share the position in the file
            self._files, self._process = OrderedDict(), os.getpid()
        if shard not in self._files:
            if len(self._files) == OPEN_FILES:
                self._files.popitem(last=False)[1].close()
            self._files[shard] = open(shard, "rb", buffering=0)  # noqa: SIM115
        self._files.move_to_end(shard)
        return self._files[shard]

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open files behind when the source goes to another process."""
        return {**self.__dict__, "_files": OrderedDict()}


def expand_braces(place: str) -> list[str]:
    """List the places that `{000..009}` in a place stands for, counted with leading zeros."""
    match = BRACES.search(place)
    if match is None:
        return [place]
    first, last = match[1], match[2]
    numbers = (str(number).zfill(len(first)) for number in range(int(first), int(last) + 1))
    return [
        whole
        for number in numbers
        for whole in expand_braces(place[: match.start()] + number + place[match.end() :])
    ]


def index_shard(path: str) -> Iterator[list[int]]:
    """Of every word of a shard, the place and length in bytes of its image, its txt and its json.

    Yields:
        Six numbers; a length is -1 for what the word lacks.

    Raises:
        ValueError: for what is no plain tar file, ends too early, or has a key twice.
    """
    key, found, seen = None, dict[str, tuple[int, int]](), set[str]()
    for name, start, length in _members(path):
        match = MEMBER.fullmatch(name.removeprefix("./"))
        suffix = match[2].rpartition(".")[2].lower() if match else ""
        part = "image" if f".{suffix}" in IMAGE_FILES else suffix
        if match is None or part not in PARTS:
            continue
        if match[1] != key:
            if found:
                yield _places(found)
            key, found = match[1], {}
            if key in seen:
                raise ValueError(f"{path}: the key {key!r} comes twice; give every word a key of its own.")
            seen.add(key)
        if part in found:
            raise ValueError(
                f"{path}: the key {key!r} has its {part} twice; give every word a key of its own."
            )
        found[part] = (start, length)
    if found:
        yield _places(found)


def _places(found: dict[str, tuple[int, int]]) -> list[int]:
    return [number for part in PARTS for number in found.get(part, (0, -1))]


def _members(path: str) -> Iterator[tuple[str, int, int]]:
    """Name, place and length of the files in a tar file, which must be whole."""
    try:
        with tarfile.open(path, "r:") as tar:
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it keeps every header otherwise
                if member.isfile():
                    yield member.name, member.offset_data, member.size
            end = tar.offset
        with open(path, "rb") as file:
            file.seek(end)
            if file.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
                raise tarfile.ReadError("the mark of the end is missing")
    except tarfile.TarError as error:
        raise ValueError(
            f"{path} is cut off or no plain tar file ({error}); copy it again, or unpack a compressed one to "
            "`.tar`."
        ) from error
