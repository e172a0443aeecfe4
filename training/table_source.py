"""Words in Arrow tables: parquet files, Arrow files and repositories of the `datasets` library.

Memory stays flat however many rows there are: Arrow files are mapped, and parquet files, which know no single
rows, are turned once into mapped Arrow files in the cache of the `datasets` library (`HF_DATASETS_CACHE`),
unless they are small enough to be held. A row is then found without reading others.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from huggingface_hub.utils import WeakFileLock, tqdm

from training.source_interface import (
    ROLES,
    WordColumns,
    WordSource,
    as_encoded,
    choose_columns,
    find_files,
    label_of,
    refuse_options,
)

# Parquet files up to this size together, unpacked, are held in memory.
HELD_BYTES = 256 << 20
# Rows that are unpacked at once while a parquet file is turned into an Arrow file.
ROWS_AT_ONCE = 1000
HUB_REPOSITORY = re.compile(r"[\w-][\w.-]*/[\w.-]+")


class TableSource(WordSource):
    """The rows of an Arrow table, images still encoded.

    Args:
        name: the string that the source was opened with.
        load: gives the table; called again in every process that the source travels to.
        columns: of the table.
    """

    def __init__(self, name: str, load: Callable[[], Any], columns: WordColumns) -> None:
        self.name = name
        self.has_groups = columns.group is not None
        self._load = load
        self._chosen = columns
        self._take_table()

    def row(self, index: int) -> dict[str, Any]:
        """Row `index` with its image as {"bytes", "path"}."""
        image = as_encoded(self._images[int(index)].as_py(), self.name, index)
        return {"image": image, "text": self.text(index)}

    def text(self, index: int) -> str:
        """The label of row `index`; empty when the source is opened without labels."""
        if self._texts is None:
            return ""
        return label_of(self._texts[int(index)].as_py(), self.name, index)

    def group(self, index: int) -> str:
        """The row's group column, or the row's own number when there is none."""
        return str(index) if self._groups is None else str(self._groups[int(index)].as_py())

    def _take_table(self) -> None:
        table, columns = self._load(), self._chosen
        self.size = table.num_rows
        self._images = table.column(columns.image)
        self._texts = None if columns.text is None else table.column(columns.text)
        self._groups = None if columns.group is None else table.column(columns.group)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the table behind when the source goes to another process, which maps it anew."""
        return {
            "name": self.name,
            "has_groups": self.has_groups,
            "_load": self._load,
            "_chosen": self._chosen,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the table again."""
        self.__dict__.update(state)
        self._take_table()


def open_parquet(name: str, place: str, options: dict[str, str], labelled: bool) -> TableSource:
    """Open a parquet file, a glob of them or a folder of them."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    paths = find_files(name, place, ".parquet")
    try:
        columns = choose_columns(name, pq.read_schema(paths[0]).names, options, labelled)
        held = sum(map(partial(_unpacked_bytes, columns=columns.names()), paths)) <= HELD_BYTES
        load = _read_parquet if held else _map_parquet
        return TableSource(name, partial(load, paths, columns.names()), columns)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"source {name!r}: not every file is whole parquet with the same columns ({error}); "
            "copy or write the files again."
        ) from error


def open_arrow(name: str, place: str, options: dict[str, str], labelled: bool) -> TableSource:
    """Open an Arrow file, a glob of them or a folder of them, as streams or with a footer."""
    import pyarrow as pa

    paths = find_files(name, place, ".arrow")
    try:
        columns = choose_columns(name, _map_arrow(paths[:1]).column_names, options, labelled)
        return TableSource(name, partial(_map_arrow, paths), columns)
    except (pa.ArrowException, OSError) as error:
        raise ValueError(
            f"source {name!r}: not every file is a whole Arrow file with the same columns ({error}); "
            "copy or write the files again."
        ) from error


def open_datasets(name: str, place: str, options: dict[str, str], labelled: bool) -> TableSource:
    """Open a repository of `datasets`, on the Hub or a folder, or a folder written by `save_to_disk`."""
    columns = {key: value for key, value in options.items() if key in ROLES}
    rest = {key: value for key, value in options.items() if key not in ROLES}
    refuse_options(name, rest, ("split", "name", "revision", "data_files"))
    load = partial(_load_datasets, name, place, rest)
    return TableSource(name, load, choose_columns(name, load().column_names, columns, labelled))


def _read_parquet(paths: list[str], columns: list[str]) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    return pa.concat_tables([pq.read_table(path, columns=columns) for path in paths])


def _map_parquet(paths: list[str], columns: list[str]) -> Any:
    """Turn parquet files into one Arrow file, unless the cache has it, and map that.

    Pages are unpacked a thousand rows at once, so memory stays flat however large the row groups are.
    """
    import datasets
    import pyarrow as pa

    files = [(os.path.realpath(path), os.stat(path).st_size, os.stat(path).st_mtime_ns) for path in paths]
    key = hashlib.sha256(repr((files, columns)).encode()).hexdigest()[:32]
    cached = Path(datasets.config.HF_DATASETS_CACHE) / "words" / f"{key}.arrow"
    cached.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(cached.with_suffix(".lock")):  # of several processes one does the work
        if not cached.is_file():
            unfinished = cached.with_suffix(".unfinished")
            _unpack_parquet(paths, columns, unfinished)
            os.replace(unfinished, cached)
    return pa.ipc.open_stream(pa.memory_map(str(cached))).read_all()


def _unpack_parquet(paths: list[str], columns: list[str], target: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema([pq.read_schema(paths[0]).field(column) for column in columns])
    rows = sum(pq.read_metadata(path).num_rows for path in paths)
    with (
        pa.ipc.new_stream(str(target), schema) as writer,
        tqdm(total=rows, unit="word", desc="parquet to Arrow, once", disable=None) as progress,
    ):
        for path in paths:
            file = pq.ParquetFile(path, buffer_size=1 << 20, pre_buffer=False)
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
                writer.write_batch(batch.select(columns))
                progress.update(len(batch))


def _unpacked_bytes(path: str, columns: list[str]) -> int:
    """Size of some columns of a parquet file in memory."""
    import pyarrow.parquet as pq

    metadata = pq.read_metadata(path)
    groups = map(metadata.row_group, range(metadata.num_row_groups))
    chunks = (group.column(number) for group in groups for number in range(group.num_columns))
    return sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.split(".")[0] in columns)


def _map_arrow(paths: list[str]) -> Any:
    import pyarrow as pa

    tables = []
    for path in paths:
        try:
            tables.append(pa.ipc.open_file(pa.memory_map(path)).read_all())
        except pa.ArrowInvalid:  # no footer: a stream, as the `datasets` library writes it
            tables.append(pa.ipc.open_stream(pa.memory_map(path)).read_all())
    return pa.concat_tables(tables)


def _load_datasets(name: str, place: str, options: dict[str, str]) -> Any:
    import datasets

    folder, split = Path(place), options.get("split", "train")
    if not folder.is_dir() and not HUB_REPOSITORY.fullmatch(place):
        raise ValueError(
            f"source {name!r}: the folder {place!r} does not exist; give a folder, or a repository of the "
            "Hub as `owner/name`."
        )
    try:
        if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
            table = datasets.load_from_disk(place)
            table = table[split] if isinstance(table, dict) else table
        else:
            rest = {key: options[key] for key in ("name", "revision", "data_files") if key in options}
            table = datasets.load_dataset(place, split=split, **rest)
    except Exception as error:  # the library raises whatever a script, a file or the network gives it
        raise ValueError(
            f"source {name!r}: `datasets` cannot load {place!r}, split {split!r} ({error}); check the "
            "name, the split and the network."
        ) from error
    if len(table) != table.data.num_rows:  # rows chosen by a list of numbers, saved beside the table
        table = table.flatten_indices()
    return table.data.table
