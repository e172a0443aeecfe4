"""What every source of words answers, `{"image", "text"}` rows by number, and how its columns are found."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from glob import glob
from pathlib import Path
from typing import Any

IMAGE_COLUMNS = ("image", "img", "images", "jpg", "png")
TEXT_COLUMNS = ("text", "label", "word", "transcription")
GROUP_COLUMNS = ("group",)
ROLES = ("image", "text", "group")


class WordSource(ABC):
    """Rows of words.

    Attributes:
        name: the string that the source was opened with.
        size: number of rows, or None when there is no end.
        has_groups: whether `group` says more than the row's number.
    """

    name: str
    size: int | None
    has_groups: bool = False

    @abstractmethod
    def row(self, index: int) -> dict[str, Any]:
        """Row `index`, always the same: {"image": what `image_reading.read_image` takes, "text": str}.

        Raises:
            ValueError: when the row lacks its image, or its label in a source opened with labels.
        """

    @abstractmethod
    def text(self, index: int) -> str:
        """The label of a row without reading its image; empty in a source opened without labels."""

    def group(self, index: int) -> str:
        """What the row shares with others that must stay with it (its photograph); by default nothing."""
        return str(index)


@dataclass(frozen=True)
class WordColumns:
    """Names of the columns in use; `text` is None for words without labels."""

    image: str
    text: str | None
    group: str | None

    def names(self) -> list[str]:
        """The columns that are there."""
        return [column for column in (self.image, self.text, self.group) if column is not None]


def choose_columns(
    name: str, available: Sequence[str], options: dict[str, str], labelled: bool = True
) -> WordColumns:
    """Image, text and (optional) group column: as the options say, or the first known name.

    Raises:
        ValueError: for an unknown option, or when no column serves.
    """
    refuse_options(name, options, ROLES)
    chosen: dict[str, str | None] = {}
    for role, known in zip(ROLES, (IMAGE_COLUMNS, TEXT_COLUMNS, GROUP_COLUMNS), strict=True):
        column = options.get(role) or next((c for c in known if c in available), None)
        needed = role == "image" or (role == "text" and labelled)
        if (column is None and needed) or (column is not None and column not in available):
            raise ValueError(
                f"source {name!r}: no {role} column {repr(column) if column else ' or '.join(known)} among "
                f"{list(available)}; name it with `?{role}=COLUMN`."
            )
        chosen[role] = column
    assert chosen["image"] is not None
    return WordColumns(chosen["image"], chosen["text"] if labelled else None, chosen["group"])


def refuse_options(name: str, options: dict[str, str], known: Sequence[str]) -> None:
    """Raise ValueError for an option that a kind of source does not know."""
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ValueError(f"source {name!r}: unknown options {unknown}; known: {', '.join(known) or 'none'}.")


def label_of(value: Any, name: str, index: int) -> str:
    """A label as text; a missing one is an error, since recognition trains on labels."""
    if value is None:
        raise ValueError(f"source {name!r}, row {index}: no label; every word that is trained on needs one.")
    return str(value)


def as_encoded(image: Any, name: str, index: int) -> Any:
    """Bytes as {"bytes", "path"}, the form of the `datasets` library; anything else as it is.

    Raises:
        ValueError: when there is no image.
    """
    if image is None or (isinstance(image, dict) and image.get("bytes") is image.get("path") is None):
        raise ValueError(f"source {name!r}, row {index}: no image; leave the row out.")
    return {"bytes": image, "path": None} if isinstance(image, bytes) else image


def find_files(name: str, place: str, suffix: str) -> list[str]:
    """Files that a place names, by name: one file, a glob, or a folder for all its files of a suffix.

    Raises:
        ValueError: when there is none.
    """
    if Path(place).is_dir():
        paths = sorted(str(path) for path in Path(place).glob(f"*{suffix}"))
    else:
        paths = [place] if Path(place).is_file() else sorted(glob(place))
    if not paths:
        raise ValueError(f"source {name!r}: no {suffix[1:]} file matches {place!r}; check the path.")
    return paths
