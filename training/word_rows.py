"""The rows of any source in order, each with its image still encoded, or with what is wrong with it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from training.collation import UNREADABLE
from training.source_interface import WordSource
from training.stream_source import StreamSource

# First bytes of image files, and what their names end in.
SIGNATURES = (
    (b"\xff\xd8\xff", ".jpg"),
    (b"\x89PNG\r\n\x1a\n", ".png"),
    (b"GIF8", ".gif"),
    (b"BM", ".bmp"),
    (b"RIFF", ".webp"),
    (b"II*\x00", ".tif"),
    (b"MM\x00*", ".tif"),
)


@dataclass(frozen=True)
class WordRow:
    """One row as it is stored.

    Args:
        index: its number.
        content: the encoded image.
        text: its label; empty in a source without labels.
        group: what it shares with others, where the source says so.
        fault: why there is no image or label; the rest is empty then.
    """

    index: int
    content: bytes
    text: str
    group: str | None = None
    fault: str | None = None

    @property
    def suffix(self) -> str:
        """What the name of its file ends in, told by the content; ".jpg" for what is no known image."""
        return next((suffix for start, suffix in SIGNATURES if self.content.startswith(start)), ".jpg")


def count_rows(source: WordSource, limit: int | None = None, repeat: int = 1) -> int | None:
    """How many rows are read: all `repeat` times, or at most `limit`; None until a stream ends.

    Raises:
        ValueError: for an endless source without a limit, or one that is to be repeated.
    """
    if source.size is None:
        if repeat > 1:
            raise ValueError(f"source {source.name!r} has no end, so it cannot be repeated; give --rows.")
        if limit is None and not isinstance(source, StreamSource):
            raise ValueError(f"source {source.name!r} has no end; give --rows.")
        return limit
    total = source.size * repeat
    return total if limit is None else min(limit, total)


def read_rows(source: WordSource, start: int, stop: int | None) -> Iterator[WordRow]:
    """Rows `start` to `stop`, the latter left out, a finite source repeated; no faulty row ends it.

    With `stop` None, a stream is read to its end.
    """
    index = start
    while stop is None or index < stop:
        row = read_word_row(source, index if source.size is None else index % source.size, index)
        if isinstance(source, StreamSource) and source.length is not None and index >= source.length:
            return  # the stream has started over
        yield row
        index += 1


def read_word_row(source: WordSource, index: int, number: int | None = None) -> WordRow:
    """Row `index` of a source, or why it cannot be read; `number` is what the row is called then."""
    number = index if number is None else number
    try:
        row = source.row(index)
        content = encoded_content(row["image"])
        return WordRow(number, content, row["text"], source.group(index) if source.has_groups else None)
    except UNREADABLE as error:
        if isinstance(source, StreamSource) and not source.is_open:
            raise  # not this row is at fault, but the stream
        return WordRow(number, b"", "", fault=" ".join(str(error).split()))


def encoded_content(image: Any) -> bytes:
    """The bytes of an image's file as they are; pixels are encoded as PNG.

    Raises:
        ValueError, OSError: when there is no image or no such file.
    """
    if isinstance(image, Mapping):
        image = image["bytes"] if image.get("bytes") is not None else image.get("path")
    if isinstance(image, bytes):
        return image
    if isinstance(image, str | os.PathLike):
        try:
            return Path(image).read_bytes()
        except FileNotFoundError as error:
            raise FileNotFoundError(f"there is no file {str(image)!r}; copy it there.") from error
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    if not isinstance(image, Image.Image):
        raise ValueError(f"an image must be bytes, a path or pixels, got {type(image).__name__}.")
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
