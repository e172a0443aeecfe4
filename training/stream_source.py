"""Words read as a stream from a repository of the `datasets` library, on the Hub or a folder.

A stream is read again from its start when it ends, so it has no end. Rows must be asked for in rising order
to be cheap: a row behind the last one opens the stream anew, and rows that nobody here asks for (other
processes and workers do) are passed over without being decoded. So what each process reads is told by the
numbers of its rows alone, and a run goes on at the exact row where it stopped.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from training.source_interface import (
    ROLES,
    WordColumns,
    WordSource,
    as_encoded,
    choose_columns,
    label_of,
    refuse_options,
)

STREAM_OPTIONS = ("split", "name", "revision", "data_files")


class StreamSource(WordSource):
    """The rows of a stream, counted on through the passes over it.

    Options `split`, `name`, `revision` and `data_files` go to `datasets.load_dataset`; `image`, `text` and
    `group` name columns.

    Attributes:
        length: rows of one pass; None until its end was met.
    """

    size = None

    def __init__(self, name: str, place: str, options: dict[str, str], labelled: bool) -> None:
        self.name = name
        self.place = place
        self.labelled = labelled
        self.length: int | None = None
        self._names = {key: value for key, value in options.items() if key in ROLES}
        self._options = {key: value for key, value in options.items() if key not in ROLES}
        refuse_options(name, self._options, STREAM_OPTIONS)
        self._rows: Iterator[dict[str, Any]] | None = None
        self._columns: WordColumns | None = None
        self._start = self._position = 0
        self._last: tuple[int, dict[str, Any]] | None = None

    @property
    def is_open(self) -> bool:
        """Whether rows are coming: False after it could not be opened, broke or ended."""
        return self._rows is not None

    def row(self, index: int) -> dict[str, Any]:
        """Row `index` with its image still encoded."""
        row = self._read(index)
        assert self._columns is not None
        return {"image": as_encoded(row[self._columns.image], self.name, index), "text": self.text(index)}

    def text(self, index: int) -> str:
        """The label of row `index`; empty when the source is opened without labels."""
        if not self.labelled:
            return ""
        row = self._read(index)
        assert self._columns is not None
        return label_of(row[str(self._columns.text)], self.name, index)

    def group(self, index: int) -> str:
        """The row's group column, or the row's own number when there is none."""
        row = self._read(index)
        assert self._columns is not None
        return str(index) if self._columns.group is None else str(row[self._columns.group])

    def _read(self, index: int) -> dict[str, Any]:
        """Find row `index`.

        Raises:
            ValueError: when the stream cannot be opened, has no rows, or lacks a column.
        """
        if self._last is not None and self._last[0] == index:
            return self._last[1]
        while True:
            wanted = index if self.length is None else index % self.length
            if self._rows is None or wanted < self._position:
                self._rows = iter(self._stream(wanted))
                self._start = self._position = wanted
            try:
                for row in self._rows:
                    self._position += 1
                    if self._position > wanted:
                        self._last = (index, row)
                        return row
            except Exception as error:  # the library raises whatever a file or the network gives it
                self._rows = None  # it would look as if it had ended here
                raise ValueError(
                    f"source {self.name!r}: the stream broke at row {index} ({error}); check the network and "
                    "go on from there."
                ) from error
            self._rows = None
            self._note_end()

    def _stream(self, start: int) -> Any:
        import datasets

        options = dict(self._options)
        split = options.pop("split", "train")
        try:
            stream = datasets.load_dataset(self.place, split=split, streaming=True, **options)
            names = stream.column_names or list(next(iter(stream.take(1)), {}))
        except Exception as error:  # the library raises whatever a file or the network gives it
            raise ValueError(
                f"source {self.name!r}: `datasets` cannot stream {self.place!r}, split {split!r} ({error}); "
                "check the name, the split and the network."
            ) from error
        self._columns = choose_columns(self.name, names, self._names, self.labelled)
        self.has_groups = self._columns.group is not None
        if isinstance((stream.features or {}).get(self._columns.image), datasets.Image):
            stream = stream.cast_column(self._columns.image, datasets.Image(decode=False))
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

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open stream behind when the source goes to another process."""
        return {**self.__dict__, "_rows": None, "_last": None}
