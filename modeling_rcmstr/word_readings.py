"""Many pictures read for a person: a record of each, also of what could not be read, and files of all.

What a picture may be is said in `image_reading`; how a record looks on a page, in `reading_card`.
"""

import csv
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from io import BytesIO, StringIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .image_reading import read_image

# What is kept for showing, in pixels; larger pictures are shrunk.
SHOWN_HEIGHT, SHOWN_WIDTH = 240, 960
COLUMNS = ("file", "text", "score", "width", "height", "error")


@dataclass(frozen=True)
class WordReading:
    """What was read in one picture, or why nothing was.

    Args:
        name: of the file, without its folder.
        text: what was read; None when the picture could not be.
        score: the model's own probability of the whole text, 0 to 1.
        characters: {"character", "score", "start", "end"} each, as `post_process_text_recognition` gives.
        size: (width, height) of the upright picture in pixels; None when the file is no picture.
        error: why the picture could not be read; empty otherwise.
        picture: the upright picture as JPEG, at most `SHOWN_WIDTH` x `SHOWN_HEIGHT`; empty after an error.
        word: (H, W, 3) uint8 that the model was given; None after an error.
    """

    name: str
    text: str | None
    score: float
    characters: list[dict[str, Any]]
    size: tuple[int, int] | None
    error: str = ""
    picture: bytes = field(default=b"", repr=False)
    word: np.ndarray | None = field(default=None, repr=False, compare=False)


def read_files(
    reader: Any, paths: Sequence[str | Path], on_read: Callable[[int], None] | None = None
) -> list[WordReading]:
    """Read picture files; one that cannot be read costs itself alone.

    Args:
        reader: a text-recognition pipeline.
        paths: the files.
        on_read: called with the number of files read so far.

    Returns:
        A record of each file, in order.
    """
    answers = reader(iter(map(str, paths)), batch_size=8, return_characters=True, on_error="return")
    readings = []
    for path, answer in zip(map(Path, paths), answers, strict=True):
        readings.append(_record(reader.image_processor, path, answer))
        if on_read is not None:
            on_read(len(readings))
    return readings


def as_records(readings: Iterable[WordReading]) -> list[dict[str, Any]]:
    """Describe readings by plain values: those of `COLUMNS` and the characters."""
    return [
        {
            "file": reading.name,
            "text": reading.text,
            "score": reading.score,
            "width": reading.size[0] if reading.size else None,
            "height": reading.size[1] if reading.size else None,
            "error": reading.error or None,
            "characters": reading.characters,
        }
        for reading in readings
    ]


def to_json(readings: Iterable[WordReading]) -> str:
    """Write readings as a JSON array, with their characters."""
    return json.dumps(as_records(readings), ensure_ascii=False, indent=1) + "\n"


def to_csv(readings: Iterable[WordReading]) -> str:
    """Write readings as CSV with a header; any value comes back whole."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_cells(record) for record in as_records(readings))
    return text.getvalue()


def to_tsv(readings: Iterable[WordReading]) -> str:
    """Write readings as tab-separated lines with a header, escaped like those of `rcmstr read --tsv`."""
    lines = [COLUMNS, *(tuple(map(_escaped, _cells(record))) for record in as_records(readings))]
    return "".join("\t".join(line) + "\n" for line in lines)


def _cells(record: dict[str, Any]) -> list[str]:
    values = {**record, "score": f"{record['score']:.6f}"}
    return ["" if values[column] is None else str(values[column]) for column in COLUMNS]


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")


def _record(image_processor: Any, path: Path, answer: dict[str, Any]) -> WordReading:
    """Complete the answer for a file with what is shown of it."""
    size = _size(path)
    error = answer.get("error", "")
    if not error:
        try:
            picture = read_image(path, image_processor.max_image_pixels, wanted_size=_shown_size)
            word = image_processor.read_word(path)
            # JPEG files may have been decoded at a part of their size, turned ones have another.
            size = _upright(size, picture)
            picture.thumbnail((SHOWN_WIDTH, SHOWN_HEIGHT))
            content = BytesIO()
            picture.save(content, format="JPEG", quality=90)
            text, score, characters = answer["text"], answer["score"], answer["characters"]
            return WordReading(
                path.name, text, score, characters, size, picture=content.getvalue(), word=word
            )
        except (OSError, ValueError) as problem:
            error = str(problem)
    # A server's folders are nobody's business.
    return WordReading(path.name, None, 0.0, [], size, error.replace(str(path), path.name))


def _size(path: Path) -> tuple[int, int] | None:
    """Read the (width, height) that a file's header states; None when it states none that Pillow trusts."""
    try:
        with Image.open(path) as image:
            return image.size
    except Exception:  # whatever a plugin of Pillow raises; the reader's own error says what the file is
        return None


def _shown_size(height: int, width: int) -> tuple[int, int]:
    """Fit a picture of (height, width) into the page."""
    scale = min(1.0, SHOWN_HEIGHT / height, SHOWN_WIDTH / width)
    return max(1, round(height * scale)), max(1, round(width * scale))


def _upright(size: tuple[int, int] | None, picture: Image.Image) -> tuple[int, int]:
    """Turn a stated (width, height) as its picture was turned."""
    if size is None:
        return picture.size
    stands = (picture.height > picture.width) == (size[1] > size[0])
    return size if stands else (size[1], size[0])
