"""Words as image files beside a file of labels, in every form that is usual, or without labels.

labels.tsv       file name, tab, label
metadata.csv     columns file_name and text (`imagefolder` of the `datasets` library); metadata.jsonl alike
gt.txt           file name, tab, label (deep-text-recognition benchmark), or name, "label" (ICDAR)
labels.json      {file name: label} (docTR), images beside it or in `images/`
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training.source_interface import TEXT_COLUMNS, WordSource, refuse_options

LABEL_FILES = ("labels.tsv", "metadata.csv", "metadata.jsonl", "gt.txt", "labels.json")
IMAGE_FILES = {".bmp", ".gif", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


@dataclass(frozen=True)
class LabelLine:
    """One entry of a label file: the image's name and label, or what is wrong with the entry."""

    file: str
    text: str
    fault: str | None = None


class FolderSource(WordSource):
    """Image files, with the labels of a label file or without labels.

    With labels, the rows are those of the label file; option `labels` names another than the usual ones,
    `image` and `text` the columns of a metadata file. Without, they are all images below the folder by path.
    """

    def __init__(self, name: str, place: str, options: dict[str, str], labelled: bool) -> None:
        folder = Path(place)
        if not folder.is_dir():
            raise ValueError(f"source {name!r}: the folder {place!r} does not exist.")
        self.name = name
        self.folder = str(folder)
        if labelled:
            refuse_options(name, options, ("labels", "image", "text"))
            wanted = (options["labels"],) if "labels" in options else LABEL_FILES
            label_file = next((folder / file for file in wanted if (folder / file).is_file()), None)
            if label_file is None:
                raise ValueError(
                    f"source {name!r}: {place!r} holds none of {', '.join(wanted)}; add a labels.tsv with "
                    "`file name<TAB>label` on each line."
                )
            self.entries = read_label_lines(label_file, options)
            if label_file.suffix == ".json" and (folder / "images").is_dir():
                self.folder = str(folder / "images")
        else:
            refuse_options(name, options, ())
            self.entries = [LabelLine(file, "") for file in sorted(_image_files(self.folder))]
        self.size = len(self.entries)

    def row(self, index: int) -> dict[str, Any]:
        """Row `index` with the path of its image."""
        text = self.text(index)
        path = os.path.join(self.folder, self.entries[index].file)
        return {"image": {"bytes": None, "path": path}, "text": text}

    def text(self, index: int) -> str:
        """The label of row `index`.

        Raises:
            ValueError: with the line number, for a line without a label.
        """
        entry = self.entries[index]
        if entry.fault is not None:
            raise ValueError(entry.fault)
        return entry.text

    def group(self, index: int) -> str:
        """The file's name: a row keeps its side of a split when the label file is reordered."""
        return self.entries[index].file


def read_label_lines(path: Path, columns: dict[str, str] | None = None) -> list[LabelLine]:
    """Read a label file; a byte-order mark and Windows line ends are allowed.

    Args:
        path: of a form that the module names, told by its suffix.
        columns: for metadata files, the names of their "image" and "text" columns.

    Returns:
        Every entry; one without a label has its fault instead.

    Raises:
        ValueError: when the file as a whole has another form.
    """
    try:
        content = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"{path} must be UTF-8 text ({error}); save it as UTF-8.") from error
    if path.suffix == ".json":
        return list(_json_lines(path, content))
    if path.suffix in (".csv", ".jsonl"):
        return list(_metadata_lines(path, content, columns or {}))
    return list(_text_lines(path, content))


def _text_lines(path: Path, content: str) -> Iterator[LabelLine]:
    for number, line in enumerate(content.split("\n"), start=1):
        line = line.removesuffix("\r")
        if not line.strip():
            continue
        file, separator, text = line.partition("\t")
        if not separator and path.suffix == ".txt":
            file, separator, text = line.partition(", ")
            text = text[1:-1] if len(text) > 1 and text[0] == text[-1] == '"' else text
        fault = None
        if not separator or not file:
            fault = (
                f"{path}, line {number}: expected `file name<TAB>label`, got {line[:80]!r}; mend the line."
            )
        yield LabelLine(file, text, fault)


def _json_lines(path: Path, content: str) -> Iterator[LabelLine]:
    try:
        pairs = json.loads(content, object_pairs_hook=list)
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is not JSON ({error}); write it again.") from error
    if not isinstance(pairs, list) or not all(isinstance(pair, tuple) for pair in pairs):
        raise ValueError(f"{path} must map file names to labels, got {content[:60]!r}.")
    seen: set[str] = set()
    for file, text in pairs:
        fault = None
        if not isinstance(text, str):
            fault = f"{path}, {file!r}: the label must be a string, got {str(text)[:60]!r}; mend the entry."
        elif file in seen:
            fault = f"{path}, {file!r}: labelled twice; keep one of the entries."
        seen.add(file)
        yield LabelLine(file, "" if fault else text, fault)


def _metadata_lines(path: Path, content: str, columns: dict[str, str]) -> Iterator[LabelLine]:
    rows: Iterable[dict[str, Any]]
    if path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(content, newline=""))
        rows, names = reader, list(reader.fieldnames or ())
    else:
        try:
            rows = [json.loads(line) for line in content.splitlines() if line.strip()]
        except json.JSONDecodeError as error:
            raise ValueError(f"{path} must hold one JSON object a line ({error}); write it again.") from error
        names = list(rows[0]) if rows else []
    file_column = columns.get("image", "file_name")
    text_column = columns.get("text") or next((c for c in TEXT_COLUMNS if c in names), "text")
    for role, column in (("image", file_column), ("text", text_column)):
        if column not in names:
            raise ValueError(f"{path}: no column {column!r} among {names}; name it with `?{role}=COLUMN`.")
    for number, row in enumerate(rows, start=1):
        file, text = row.get(file_column), row.get(text_column)
        fault = None
        if not file or text is None:
            fault = f"{path}, entry {number}: no file name or no label; mend the entry."
        yield LabelLine(str(file or ""), "" if fault else str(text), fault)


def _image_files(folder: str, below: str = "") -> Iterator[str]:
    """Image files below a folder, relative to it; a directory entry tells its kind without a further look."""
    with os.scandir(os.path.join(folder, below)) as entries:
        for entry in entries:
            path = os.path.join(below, entry.name)
            if entry.is_dir():
                yield from _image_files(folder, path)
            elif os.path.splitext(entry.name)[1].lower() in IMAGE_FILES:
                yield path
