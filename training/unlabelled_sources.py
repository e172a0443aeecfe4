"""Words without texts, for pretraining: the kinds of `word_sources` and streams, asked for images only.

    rendered:fonts.yaml                words drawn by `word_rendering`
    folder:words/                      every image below a folder, in the order of their paths
    parquet:words.parquet              one parquet file or a glob of them
    datasets:words/                    a local `datasets` repository
    lmdb:words/                        an LMDB of the deep-text-recognition benchmark, labels not needed
    stream:owner/words?split=train     a `datasets` repository, on disk or on the Hub, read as a stream

An option `image` names the image column; `datasets` and `stream` also take `split` and `name`, `stream` also
`data_files`. The text of every row is empty.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator
from glob import glob
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from training.lmdb_source import LMDBSource
from training.word_sources import IMAGE_COLUMNS, WordSource, open_source

IMAGE_FILES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def open_unlabelled_source(name: str) -> WordSource:
    """Open the words that a string names, labels not needed: `kind:place?option=value&…`.

    Raises:
        ValueError: for an unknown kind or option, a missing file, folder or column, or a source without
            words.
    """
    kind, separator, rest = name.partition(":")
    if not separator or kind not in UNLABELLED_KINDS:
        known = ", ".join(UNLABELLED_KINDS)
        raise ValueError(f"a source must read `kind:place` with kind one of {known}; got {name!r}.")
    place, _, query = rest.partition("?")
    source = UNLABELLED_KINDS[kind](name, place, dict(parse_qsl(query, keep_blank_values=True)))
    if source.size == 0:
        raise ValueError(f"source {name!r} holds no words.")
    return source


class ImageSource(WordSource):
    """Rows that are images only."""

    def row(self, index: int) -> dict[str, Any]:
        """Row `index` with an empty text."""
        return {"image": self.image(index), "text": ""}

    def text(self, index: int) -> str:  # noqa: ARG002
        """Nothing."""
        return ""

    @abstractmethod
    def image(self, index: int) -> Any:
        """Image `index`, as `image_reading.read_image` takes it."""


class FolderImages(ImageSource):
    """Every image file below a folder."""

    def __init__(self, name: str, place: str, options: dict[str, str]) -> None:
        _refuse_options(name, options, ())
        folder = Path(place)
        if not folder.is_dir():
            raise ValueError(f"source {name!r}: the folder {place!r} does not exist.")
        files = (path for path in folder.rglob("*") if path.suffix.lower() in IMAGE_FILES and path.is_file())
        self.name = name
        self.files = sorted(str(path) for path in files)
        self.size = len(self.files)

    def image(self, index: int) -> Any:
        """Path of image `index`."""
        return self.files[index]


class ParquetImages(ImageSource):
    """The image column of one or more parquet files, in memory, still encoded."""

    def __init__(self, name: str, place: str, options: dict[str, str]) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        _refuse_options(name, options, ("image",))
        paths = sorted(glob(place))
        if not paths:
            raise ValueError(f"source {name!r}: no parquet file matches {place!r}.")
        column = _image_column(name, pq.read_schema(paths[0]).names, options)
        table = pa.concat_tables([pq.read_table(path, columns=[column]) for path in paths])
        self.name = name
        self.size = table.num_rows
        self._images = table.column(column)

    def image(self, index: int) -> Any:
        """Image `index` as {"bytes", "path"}."""
        return _as_row(self._images[index].as_py())


class DatasetsImages(ImageSource):
    """The image column of a local `datasets` repository."""

    def __init__(self, name: str, place: str, options: dict[str, str]) -> None:
        import datasets

        _refuse_options(name, options, ("image", "split", "name"))
        if not Path(place).is_dir():
            raise ValueError(f"source {name!r}: the folder {place!r} does not exist.")
        split = options.get("split", "train")
        if any((Path(place) / file).is_file() for file in ("state.json", "dataset_dict.json")):
            table = datasets.load_from_disk(place)
            table = table[split] if isinstance(table, dict) else table
        else:
            table = datasets.load_dataset(place, options.get("name"), split=split)
        column = _image_column(name, table.column_names, options)
        if isinstance(table.features[column], datasets.Image):
            table = table.cast_column(column, datasets.Image(decode=False))
        self.name = name
        self.size = len(table)
        self._column = column
        self._table = table.select_columns([column])

    def image(self, index: int) -> Any:
        """Image `index`, still encoded."""
        return _as_row(self._table[int(index)][self._column])


class StreamedImages(ImageSource):
    """The image column of a stream, read again from its start when it ends, so it has no end.

    Rows must be asked for in rising order to be cheap: a row behind the last one opens the stream anew, and
    rows that nobody asks for (other processes do) are passed over without being decoded.
    """

    size = None

    def __init__(self, name: str, place: str, options: dict[str, str]) -> None:
        _refuse_options(name, options, ("image", "split", "name", "data_files"))
        self.name = name
        self.place = place
        self.options = options
        self.length: int | None = None
        self._rows: Iterator[dict[str, Any]] | None = None
        self._start = self._position = 0
        self._column = ""

    def image(self, index: int) -> Any:
        """Image `index`, counted on through the passes over the stream.

        Raises:
            ValueError: when the stream has no rows, or no image column.
        """
        while True:
            wanted = index if self.length is None else index % self.length
            if self._rows is None or wanted < self._position:
                self._open(wanted)
            assert self._rows is not None
            for row in self._rows:
                self._position += 1
                if self._position > wanted:
                    return _as_row(row[self._column])
            self._note_end()

    def _open(self, start: int) -> None:
        self._rows = iter(self._stream(start))
        self._start = self._position = start

    def _stream(self, start: int) -> Any:
        import datasets

        options = self.options
        stream = datasets.load_dataset(
            self.place,
            options.get("name"),
            split=options.get("split", "train"),
            data_files=options.get("data_files"),
            streaming=True,
        )
        names = stream.column_names or list(next(iter(stream.take(1)), {}))
        self._column = _image_column(self.name, names, options)
        if isinstance((stream.features or {}).get(self._column), datasets.Image):
            stream = stream.cast_column(self._column, datasets.Image(decode=False))
        return stream.skip(start) if start else stream

    def _note_end(self) -> None:
        """Remember how long the stream is, and start over."""
        if self._position > self._start or self._start == 0:
            self.length = self._position
        else:  # it was opened behind its end
            self.length = sum(1 for _ in self._stream(0))
        if not self.length:
            self.length = None
            raise ValueError(f"source {self.name!r}: the stream has no rows.")
        self._rows = None

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open stream behind when the source goes to another process."""
        return {**self.__dict__, "_rows": None}


def _open_lmdb(name: str, place: str, options: dict[str, str]) -> WordSource:
    _refuse_options(name, options, ())
    return LMDBSource(name, place, labelled=False)


def _as_row(image: Any) -> Any:
    """Bytes as a row of the `datasets` library; anything else as it is."""
    return {"bytes": image, "path": None} if isinstance(image, bytes) else image


def _image_column(name: str, available: list[str], options: dict[str, str]) -> str:
    column = options.get("image") or next((c for c in IMAGE_COLUMNS if c in available), None)
    if column not in available:
        wanted = repr(column) if column else " or ".join(IMAGE_COLUMNS)
        raise ValueError(
            f"source {name!r}: no image column {wanted} among {available}; name it with `?image=COLUMN`."
        )
    return str(column)


def _refuse_options(name: str, options: dict[str, str], known: tuple[str, ...]) -> None:
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"source {name!r}: unknown options {unknown}; known: {', '.join(known) or 'none'}.")


UNLABELLED_KINDS: dict[str, Callable[[str, str, dict[str, str]], WordSource]] = {
    "rendered": lambda name, place, options: open_source(name),  # noqa: ARG005
    "folder": FolderImages,
    "parquet": ParquetImages,
    "datasets": DatasetsImages,
    "lmdb": _open_lmdb,
    "stream": StreamedImages,
}
