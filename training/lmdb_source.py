"""Words in an LMDB, laid out as the deep-text-recognition benchmark (DTRB) does: the field's usual form.

Keys: `num-samples`; `image-000000001`, counted from 1, an encoded image; `label-000000001`, its text, which
unlabelled sets lack.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from training.source_interface import WordSource, label_of

NUMBER_KEY, IMAGE_KEY, LABEL_KEY = b"num-samples", "image-{:09d}", "label-{:09d}"


class LMDBSource(WordSource):
    """The rows of one LMDB folder.

    Args:
        name: the string that the source was opened with.
        place: the folder, or the file of an LMDB without a folder.
        labelled: whether rows must have labels; without, the text of every row is empty.

    Raises:
        ValueError: when there is no such LMDB or it has another layout.
    """

    def __init__(self, name: str, place: str, labelled: bool = True) -> None:
        self.name = name
        self.place = Path(place)
        self.labelled = labelled
        self._environment: Any = None
        self._process = -1
        if not self.place.exists():
            raise ValueError(f"source {name!r}: {place!r} does not exist.")
        number = self._read(NUMBER_KEY)
        if number is None or not number.isdigit():
            raise ValueError(
                f"source {name!r}: {place!r} has no key `num-samples`; it must be laid out as the "
                "deep-text-recognition benchmark does."
            )
        self.size = int(number)

    def row(self, index: int) -> dict[str, Any]:
        """Row `index` with its image still encoded."""
        key = IMAGE_KEY.format(index + 1)
        image = self._read(key.encode())
        if image is None:
            raise ValueError(
                f"source {self.name!r}, row {index}: no key {key!r}, although there should be {self.size} "
                "words; leave the row out."
            )
        return {"image": {"bytes": image, "path": None}, "text": self.text(index)}

    def text(self, index: int) -> str:
        """The label of row `index`; empty when the source is opened without labels."""
        if not self.labelled:
            return ""
        label = self._read(LABEL_KEY.format(index + 1).encode())
        return label_of(None if label is None else label.decode("utf-8"), self.name, index)

    def _read(self, key: bytes) -> bytes | None:
        # An LMDB environment must not be carried into a forked process: each opens its own.
        if self._environment is None or self._process != os.getpid():
            import lmdb

            try:
                self._environment = lmdb.open(
                    str(self.place),
                    subdir=self.place.is_dir(),
                    readonly=True,
                    lock=False,
                    readahead=False,
                    meminit=False,
                )
            except lmdb.Error as error:
                raise ValueError(
                    f"source {self.name!r}: {str(self.place)!r} is no LMDB ({error}); copy it again."
                ) from error
            self._refuse_truncated()
            self._process = os.getpid()
        with self._environment.begin(buffers=False) as transaction:
            value = transaction.get(key)
        return None if value is None else bytes(value)

    def _refuse_truncated(self) -> None:
        """Compare the file's size with its pages: to read one that is missing would end the process."""
        file = self.place / "data.mdb" if self.place.is_dir() else self.place
        pages = self._environment.info()["last_pgno"] + 1
        wanted, size = pages * self._environment.stat()["psize"], file.stat().st_size
        if size < wanted:
            self._environment.close()
            self._environment = None
            raise ValueError(
                f"source {self.name!r}: {str(file)!r} is cut off: it must have {wanted} bytes, it has "
                f"{size}; copy it again."
            )

    def __getstate__(self) -> dict[str, Any]:
        """Leave the open environment behind when the source goes to another process."""
        return {**self.__dict__, "_environment": None, "_process": -1}
