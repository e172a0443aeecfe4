"""Words to train and measure on, from wherever they lie, behind one interface of `{"image", "text"}` rows.

A source is chosen by one string, `kind:place?option=value&…`:

    rendered:                          words drawn by `word_rendering`, endless; place = a YAML file of its
    settings, or nothing
    parquet:words.parquet              one parquet file or a glob of them, image column a struct of bytes or
    plain bytes
    folder:words/                      images beside labels.tsv, metadata.csv or gt.txt
    datasets:words/                    a local `datasets` repository or a folder written by `save_to_disk`
    lmdb:words/                        an LMDB of the deep-text-recognition benchmark

Options of the file kinds name columns: `image`, `text`, `group`; `datasets` also takes `split` and `name`;
options of `rendered` are settings of the renderer (`seed`, …). How sources are mixed lies in `word_mixture`,
what happens to a row afterwards in `collation`, how an image is read in `modeling_rcmstr.image_reading`. A
further kind is one subclass of `WordSource` and one entry in `SOURCE_KINDS`; a stream would read its rows in
rising order and only has to be able to start at a row.
"""

from __future__ import annotations

import csv
import hashlib
import io
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from glob import glob
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np

IMAGE_COLUMNS = ("image", "img", "images")
TEXT_COLUMNS = ("text", "label", "word", "transcription")
GROUP_COLUMNS = ("group",)
LABEL_FILES = ("labels.tsv", "metadata.csv", "gt.txt")


class WordSource(ABC):
    """Rows of words.

    Attributes:
        name: the string that the source was opened with.
        size: number of rows, or None when there is no end.
    """

    name: str
    size: int | None

    @abstractmethod
    def row(self, index: int) -> dict[str, Any]:
        """Row `index`, always the same: {"image": what `image_reading.read_image` takes, "text": str}."""

    @abstractmethod
    def text(self, index: int) -> str:
        """The label of a row without reading its image."""

    def group(self, index: int) -> str:
        """What the row shares with others that must stay with it (its photograph); by default nothing."""
        return str(index)


class RenderedSource(WordSource):
    """Words drawn by `training.word_rendering`: row i is a pure function of (settings, i)."""

    def __init__(self, name: str, settings: dict[str, Any]) -> None:
        from training.word_rendering import RenderingConfig, WordRenderer
        from training.word_texts import TextConfig

        self.name = name
        self.size = None
        settings = dict(settings)
        if settings.get("fonts") is not None:
            fonts = settings["fonts"]
            settings["fonts"] = (fonts,) if isinstance(fonts, str) else tuple(fonts)
        try:
            if isinstance(settings.get("texts"), dict):
                settings["texts"] = TextConfig(**settings["texts"])
            self.config = RenderingConfig(**settings)
        except TypeError as error:
            raise ValueError(
                f"source {name!r}: {error}; see `training.word_rendering.RenderingConfig`."
            ) from error
        self.renderer = WordRenderer(self.config)

    def row(self, index: int) -> dict[str, Any]:
        """Render word `index`."""
        word = self.renderer.render(index)
        return {"image": word.image, "text": word.text}

    def text(self, index: int) -> str:
        """The text of word `index` (rendered for it)."""
        return str(self.renderer.render(index).text)


class ParquetSource(WordSource):
    """The rows of one or more parquet files, held in memory with their images still encoded."""

    def __init__(self, name: str, place: str, columns: dict[str, str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        paths = sorted(glob(place)) or ([place] if Path(place).is_file() else [])
        if not paths:
            raise ValueError(f"source {name!r}: no parquet file matches {place!r}.")
        available = pq.read_schema(paths[0]).names
        image, text, group = choose_columns(name, available, columns)
        wanted = [column for column in (image, text, group) if column is not None]
        table = pa.concat_tables([pq.read_table(path, columns=wanted) for path in paths])
        self.name = name
        self.size = table.num_rows
        self._images = table.column(image)
        self._texts = table.column(text)
        self._groups = None if group is None else table.column(group)

    def row(self, index: int) -> dict[str, Any]:
        """Row `index` with its image as {"bytes", "path"}."""
        image = self._images[index].as_py()
        if isinstance(image, bytes):
            image = {"bytes": image, "path": None}
        return {"image": image, "text": self.text(index)}

    def text(self, index: int) -> str:
        """The label of row `index`."""
        return label_of(self._texts[index].as_py(), self.name, index)

    def group(self, index: int) -> str:
        """The row's group column, or the row's own number when there is none."""
        return str(index) if self._groups is None else str(self._groups[index].as_py())


class FolderSource(WordSource):
    """Image files beside labels.tsv, metadata.csv (file_name, text) or gt.txt (DTRB, ICDAR)."""

    def __init__(self, name: str, place: str, columns: dict[str, str]) -> None:
        self.folder = Path(place)
        if not self.folder.is_dir():
            raise ValueError(f"source {name!r}: the folder {place!r} does not exist.")
        label_file = next(
            (self.folder / file for file in LABEL_FILES if (self.folder / file).is_file()), None
        )
        if label_file is None:
            raise ValueError(f"source {name!r}: {place!r} holds none of {', '.join(LABEL_FILES)}.")
        self.name = name
        self.entries = read_label_file(label_file, columns)
        self.size = len(self.entries)

    def row(self, index: int) -> dict[str, Any]:
        """Row `index` with the path of its image."""
        file, text = self.entries[index]
        return {"image": {"bytes": None, "path": str(self.folder / file)}, "text": text}

    def text(self, index: int) -> str:
        """The label of row `index`."""
        return self.entries[index][1]

    def group(self, index: int) -> str:
        """The file's name: a row keeps its side of a split when the label file is reordered."""
        return self.entries[index][0]


class DatasetsSource(WordSource):
    """A local repository of the `datasets` library (memory-mapped Arrow)."""

    def __init__(self, name: str, place: str, options: dict[str, str]) -> None:
        import datasets

        options = dict(options)
        split, subset = options.pop("split", "train"), options.pop("name", None)
        if not Path(place).is_dir():
            raise ValueError(f"source {name!r}: the folder {place!r} does not exist.")
        if (Path(place) / "state.json").is_file() or (Path(place) / "dataset_dict.json").is_file():
            table = datasets.load_from_disk(place)
            table = table[split] if isinstance(table, dict) else table
        else:
            table = datasets.load_dataset(place, subset, split=split)
        image, text, group = choose_columns(name, table.column_names, options)
        self.name = name
        self.size = len(table)
        self._image, self._text, self._group = image, text, group
        if isinstance(table.features[image], datasets.Image):
            table = table.cast_column(image, datasets.Image(decode=False))
        self._table = table
        self._labels = table.select_columns([column for column in (text, group) if column is not None])

    def row(self, index: int) -> dict[str, Any]:
        """Row `index` with its image still encoded."""
        row = self._table[int(index)]
        return {"image": row[self._image], "text": label_of(row[self._text], self.name, index)}

    def text(self, index: int) -> str:
        """The label of row `index`."""
        return label_of(self._labels[int(index)][self._text], self.name, index)

    def group(self, index: int) -> str:
        """The row's group column, or the row's own number when there is none."""
        return str(index) if self._group is None else str(self._labels[int(index)][self._group])


def open_source(name: str) -> WordSource:
    """Open the source that a string names: `kind:place?option=value&…`.

    Raises:
        ValueError: for an unknown kind or option, a missing file, folder or column.
    """
    kind, separator, rest = name.partition(":")
    if not separator or kind not in SOURCE_KINDS:
        raise ValueError(
            f"a source must read `kind:place` with kind one of {', '.join(SOURCE_KINDS)}; got {name!r}."
        )
    place, _, query = rest.partition("?")
    return SOURCE_KINDS[kind](name, place, dict(parse_qsl(query, keep_blank_values=True)))


def split_by_group(source: WordSource, fraction: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Split the rows of a finite source in two so that no group lies on both sides.

    A group's side depends on its name and the seed only, so rows may be added or reordered without moving
    others.

    Returns:
        Row numbers of the larger part and of the held-out part (about `fraction` of the groups), each rising.
    """
    if source.size is None:
        raise ValueError(
            f"source {source.name!r} has no end and cannot be split; give its held-out words another seed."
        )
    held_out = np.fromiter(
        (_share(source.group(i), seed) < fraction for i in range(source.size)), bool, source.size
    )
    return np.flatnonzero(~held_out), np.flatnonzero(held_out)


def choose_columns(
    name: str, available: Sequence[str], options: dict[str, str]
) -> tuple[str, str, str | None]:
    """Image, text and (optional) group column: as the options say, or the first known name.

    Raises:
        ValueError: for an unknown option, or when no column serves.
    """
    unknown = set(options) - {"image", "text", "group"}
    if unknown:
        raise ValueError(f"source {name!r}: unknown options {sorted(unknown)}; known: image, text, group.")
    chosen: list[str | None] = []
    for role, known in (("image", IMAGE_COLUMNS), ("text", TEXT_COLUMNS), ("group", GROUP_COLUMNS)):
        column = options.get(role) or next((c for c in known if c in available), None)
        if (column is None and role != "group") or (column is not None and column not in available):
            raise ValueError(
                f"source {name!r}: no {role} column {column or ' or '.join(known)!r} among "
                f"{list(available)}; name it with `?{role}=COLUMN`."
            )
        chosen.append(column)
    image, text, group = chosen
    assert image is not None
    assert text is not None
    return image, text, group


def read_label_file(path: Path, columns: dict[str, str] | None = None) -> list[tuple[str, str]]:
    """Read (file name, label) pairs; a byte-order mark and Windows line ends are allowed.

    Args:
        path: labels.tsv (`name<TAB>text`), metadata.csv (columns file_name and text) or gt.txt
            (`name<TAB>text`, or `name, "text"` as in ICDAR's ground truth).
        columns: for metadata.csv, the names of its "image" and "text" columns.

    Raises:
        ValueError: with the line number, for a line without a label.
    """
    content = path.read_text(encoding="utf-8-sig")
    if path.suffix == ".csv":
        return _read_metadata_csv(path, content, columns or {})
    entries = []
    for number, line in enumerate(content.split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        file, separator, text = line.partition("\t")
        if not separator and path.suffix == ".txt":
            file, separator, text = line.partition(", ")
            text = text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
        if not separator or not file:
            raise ValueError(f"{path}, line {number}: expected `file name<TAB>label`, got {line[:80]!r}.")
        entries.append((file, text))
    return entries


def label_of(value: Any, name: str, index: int) -> str:
    """A label as text; a missing one is an error, since recognition trains on labels."""
    if value is None:
        raise ValueError(f"source {name!r}, row {index}: no label.")
    return str(value)


def _read_metadata_csv(path: Path, content: str, columns: dict[str, str]) -> list[tuple[str, str]]:
    reader = csv.DictReader(io.StringIO(content))
    file_column = columns.get("image", "file_name")
    text_column = columns.get("text") or next(
        (c for c in TEXT_COLUMNS if c in (reader.fieldnames or ())), "text"
    )
    for column in (file_column, text_column):
        if column not in (reader.fieldnames or ()):
            raise ValueError(f"{path}: no column {column!r} among {reader.fieldnames}.")
    return [(row[file_column], row[text_column]) for row in reader]


def _open_rendered(name: str, place: str, options: dict[str, str]) -> WordSource:
    from training.arguments import parse_value, read_settings

    settings = read_settings(place) if place else {}
    settings.update({key: parse_value(key, value) for key, value in options.items()})
    return RenderedSource(name, settings)


def _open_lmdb(name: str, place: str, options: dict[str, str]) -> WordSource:
    from training.lmdb_source import LMDBSource

    if options:
        raise ValueError(f"source {name!r}: unknown options {sorted(options)}; an LMDB has none.")
    return LMDBSource(name, place)


def _share(group: str, seed: int) -> float:
    """A number in 0..1 that depends on group and seed only."""
    digest = hashlib.blake2b(f"{seed}:{group}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") / 2**64


SOURCE_KINDS: dict[str, Callable[[str, str, dict[str, str]], WordSource]] = {
    "rendered": _open_rendered,
    "parquet": ParquetSource,
    "folder": FolderSource,
    "datasets": DatasetsSource,
    "lmdb": _open_lmdb,
}
