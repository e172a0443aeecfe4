"""Words into the usual forms, part by part: a part is there whole or not at all, and the same every time.

    folder       00000/000000000.jpg … beside labels.tsv
    parquet      words-00000.parquet …, columns image, text and, where the source has it, group
    lmdb         data.mdb in the layout of the deep-text-recognition benchmark
    webdataset   words-00000.tar …, `000000000.jpg` with `000000000.txt`

Images are stored as the bytes that they came in. How parts make a whole is in `convert_words`.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training.lmdb_source import IMAGE_KEY, LABEL_KEY, NUMBER_KEY
from training.word_rows import WordRow

# What an LMDB may grow to; address space, not disk. The benchmark's own files have the same.
LMDB_BYTES = 1 << 40


class WordWriter(ABC):
    """Parts of words in a folder.

    Args:
        folder: where the words go.
        notes: a folder for what is needed until all parts are there.
        labelled: whether labels are written.

    Attributes:
        labels_are_lines: whether a label is kept as a line of text.
    """

    labels_are_lines = False

    def __init__(self, folder: Path, notes: Path, labelled: bool) -> None:
        self.folder = folder
        self.notes = notes
        self.labelled = labelled

    @abstractmethod
    def parts(self) -> int:
        """Number of parts that are there."""

    @abstractmethod
    def write(self, part: int, rows: Sequence[WordRow]) -> None:
        """Write part number `part`, the next one."""

    def refusal(self, row: WordRow) -> str | None:
        """Why a row cannot be stored in this form, or None."""
        if self.labels_are_lines and self.labelled and ("\n" in row.text or "\r" in row.text):
            return "its label has a line break, which a text file cannot hold; write parquet or lmdb."
        return None

    def finish(self) -> None:
        """Make the whole of the parts, and delete what a stop has left half written."""
        for path in self.folder.glob(".*.unfinished"):
            path.unlink()


class FolderWriter(WordWriter):
    """Image files in one folder per part, beside labels.tsv."""

    labels_are_lines = True

    def parts(self) -> int:
        """Count the lists of labels, which are written after their images."""
        return len(list(self.notes.glob("labels-*.tsv")))

    def write(self, part: int, rows: Sequence[WordRow]) -> None:
        """Write the images, then their labels."""
        (self.folder / f"{part:05d}").mkdir(exist_ok=True)
        lines = []
        for row in rows:
            file = f"{part:05d}/{row.index:09d}{row.suffix}"
            (self.folder / file).write_bytes(row.content)
            lines.append(f"{file}\t{row.text}\n")
        path = self.notes / f"labels-{part:05d}.tsv"
        _write_whole(path, "".join(lines).encode())

    def finish(self) -> None:
        """Join the labels."""
        super().finish()
        if self.labelled:
            with open(self.folder / "labels.tsv", "wb") as whole:
                for path in sorted(self.notes.glob("labels-*.tsv")):
                    whole.write(path.read_bytes())


class ParquetWriter(WordWriter):
    """One parquet file per part, which the `datasets` library opens with decoded images."""

    def parts(self) -> int:
        """Count the files."""
        return len(list(self.folder.glob("words-*.parquet")))

    def write(self, part: int, rows: Sequence[WordRow]) -> None:
        """Write one file."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        columns: dict[str, Any] = {
            "image": [{"bytes": row.content, "path": f"{row.index:09d}{row.suffix}"} for row in rows]
        }
        types: dict[str, Any] = {"image": pa.struct([("bytes", pa.binary()), ("path", pa.string())])}
        features: dict[str, Any] = {"image": {"_type": "Image"}}
        texts = {"text": [row.text for row in rows]} if self.labelled else {}
        groups = {"group": [row.group for row in rows]} if any(row.group is not None for row in rows) else {}
        for name, values in (texts | groups).items():
            columns[name], types[name] = values, pa.string()
            features[name] = {"_type": "Value", "dtype": "string"}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})}
        table = pa.table(columns, schema=pa.schema(types, metadata=metadata))
        path = self.folder / f"words-{part:05d}.parquet"
        # Encoded images do not compress further; row groups of 1,000 let readers seek.
        pq.write_table(table, _unfinished(path), compression="none", row_group_size=1000)
        os.replace(_unfinished(path), path)


class LMDBWriter(WordWriter):
    """An LMDB with one transaction per part, so that its number of transactions is its number of parts."""

    def parts(self) -> int:
        """Ask the LMDB for its last transaction."""
        if not (self.folder / "data.mdb").is_file():
            return 0
        with self._open() as environment:
            return int(environment.info()["last_txnid"])

    def write(self, part: int, rows: Sequence[WordRow]) -> None:  # noqa: ARG002
        """Append words and count them; the file is opened anew, so a part is laid out as after a stop."""
        with self._open() as environment, environment.begin(write=True) as transaction:
            first = int(transaction.get(NUMBER_KEY) or 0) + 1
            for number, row in enumerate(rows, start=first):
                transaction.put(IMAGE_KEY.format(number).encode(), row.content)
            for number, row in enumerate(rows if self.labelled else (), start=first):
                transaction.put(LABEL_KEY.format(number).encode(), row.text.encode())
            transaction.put(NUMBER_KEY, str(first - 1 + len(rows)).encode())

    def _open(self) -> Any:
        import lmdb

        return lmdb.open(str(self.folder), map_size=LMDB_BYTES, lock=False)


class WebDatasetWriter(WordWriter):
    """One tar file per part."""

    labels_are_lines = True

    def parts(self) -> int:
        """Count the files."""
        return len(list(self.folder.glob("words-*.tar")))

    def write(self, part: int, rows: Sequence[WordRow]) -> None:
        """Write one file; its members have no time, so the same words give the same bytes."""
        path = self.folder / f"words-{part:05d}.tar"
        with tarfile.open(_unfinished(path), "w", format=tarfile.USTAR_FORMAT) as tar:
            for row in rows:
                _add(tar, f"{row.index:09d}{row.suffix}", row.content)
                if self.labelled:
                    _add(tar, f"{row.index:09d}.txt", f"{row.text}\n".encode())
        os.replace(_unfinished(path), path)


def _add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    header = tarfile.TarInfo(name)
    header.size = len(content)
    tar.addfile(header, io.BytesIO(content))


def _write_whole(path: Path, content: bytes) -> None:
    _unfinished(path).write_bytes(content)
    os.replace(_unfinished(path), path)


def _unfinished(path: Path) -> Path:
    return path.with_name(f".{path.name}.unfinished")


WRITERS: dict[str, type[WordWriter]] = {
    "folder": FolderWriter,
    "parquet": ParquetWriter,
    "lmdb": LMDBWriter,
    "webdataset": WebDatasetWriter,
}
