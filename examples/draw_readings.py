"""Read word images and draw what was read: each image with its text, confidence and character spans.

    python -m examples.draw_readings                          # the twelve images of this folder
    python -m examples.draw_readings photo.jpg folder --output readings.png
    python -m examples.draw_readings --checkpoint path/to/folder

Prints a table and writes one picture. A `labels.tsv` beside an image is held against what was read.
"""

import argparse
import os
import sys
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont, ImageOps
from transformers import pipeline
from transformers.utils import logging

from modeling_rcmstr import default_checkpoint
from modeling_rcmstr.cli import find_images

FOLDER = Path(__file__).resolve().parent

# The picture, in pixels
CARD_WIDTH, CARD_HEIGHT = 580, 190
MARGIN = 16
IMAGE_HEIGHT = 84
COLUMNS = 2
LEGEND_HEIGHT = 34

INK, FAINT, RIGHT, WRONG = (25, 28, 32), (110, 116, 124), (24, 120, 72), (186, 44, 40)
SURE, UNSURE = (38, 132, 92), (214, 120, 28)
SURE_FROM = 0.9


@dataclass(frozen=True)
class Reading:
    """What was read in one image, and what its label says (None without one)."""

    path: Path
    text: str
    score: float
    characters: list[dict[str, Any]]
    label: str | None

    @property
    def verdict(self) -> str:
        """How the text stands to the label, in a word or two."""
        if self.label is None:
            return ""
        return "as labelled" if self.text == self.label else f"labelled {self.label}"


def read_labels(folder: Path) -> dict[str, str]:
    """File name → text of a folder's `labels.tsv`; empty without one."""
    file = folder / "labels.tsv"
    if not file.is_file():
        return {}
    return dict(line.split("\t", 1) for line in file.read_text(encoding="utf-8").splitlines() if line)


def read(paths: list[Path], checkpoint: str) -> list[Reading]:
    """Read the images with a checkpoint, a folder or a Hub name; what fails is said and left out."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    # The library's annotations know its own tasks only.
    reader = pipeline("text-recognition", model=checkpoint)  # type: ignore[call-overload]
    labels = {folder: read_labels(folder) for folder in {path.parent for path in paths}}
    readings = []
    answers = reader([str(path) for path in paths], return_characters=True, on_error="return")
    for path, answer in zip(paths, answers, strict=True):
        if "error" in answer:
            print(f"{os.path.relpath(path)} could not be read: {answer['error']}", file=sys.stderr)
            continue
        label = labels[path.parent].get(path.name)
        readings.append(Reading(path, answer["text"], answer["score"], answer["characters"], label))
    return readings


def table(readings: list[Reading]) -> str:
    """Set the readings in columns, with a closing line that counts those read as labelled."""
    rows = [(os.path.relpath(r.path), r.text, f"{r.score:6.1%}", r.verdict) for r in readings]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]
    labelled = [reading for reading in readings if reading.label is not None]
    if labelled:
        lines.append(f"{sum(r.text == r.label for r in labelled)} of {len(labelled)} exactly as labelled")
    return "\n".join(lines)


def font(size: int) -> Any:
    """Pillow's own font, so that no font of the system is needed."""
    return ImageFont.load_default(size=size)


def draw_characters(draw: ImageDraw.ImageDraw, reading: Reading, left: int, width: int, top: int) -> None:
    """Draw each character under the part of the image that it was read from, below a bracket."""
    for character in reading.characters:
        if character["start"] is None:  # beam search does not say where it looked
            continue
        start, end = (left + width * character[side] for side in ("start", "end"))
        colour = SURE if character["score"] >= SURE_FROM else UNSURE
        draw.line(
            [(start + 2, top + 5), (start + 2, top), (end - 2, top), (end - 2, top + 5)], fill=colour, width=2
        )
        draw.text(
            ((start + end) / 2, top + 8), character["character"], font=font(20), fill=colour, anchor="ma"
        )


def draw_card(reading: Reading) -> Image.Image:
    """Draw one reading: the image, its characters under it, then text, confidence and verdict."""
    card = Image.new("RGB", (CARD_WIDTH, CARD_HEIGHT), "white")
    draw = ImageDraw.Draw(card)
    image = ImageOps.exif_transpose(Image.open(reading.path)).convert("RGB")
    scale = min(IMAGE_HEIGHT / image.height, (CARD_WIDTH - 2 * MARGIN) / image.width)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    card.paste(image.resize(size, Image.Resampling.LANCZOS), (MARGIN, MARGIN))
    draw_characters(draw, reading, MARGIN, size[0], MARGIN + size[1] + 4)
    bottom = CARD_HEIGHT - MARGIN
    draw.text((MARGIN, bottom), reading.text, font=font(28), fill=INK, anchor="ls")
    after = MARGIN + draw.textlength(reading.text, font=font(28)) + 14
    draw.text((after, bottom), f"{reading.score:.1%}", font=font(18), fill=FAINT, anchor="ls")
    colour = RIGHT if reading.text == reading.label else WRONG
    draw.text((CARD_WIDTH - MARGIN, bottom), reading.verdict, font=font(18), fill=colour, anchor="rs")
    draw.rectangle([4, 4, CARD_WIDTH - 5, CARD_HEIGHT - 5], outline=(222, 225, 229))
    return card


def draw_readings(readings: list[Reading]) -> Image.Image:
    """Draw all readings, in columns, left to right and down."""
    rows = -(-len(readings) // COLUMNS)
    size = (CARD_WIDTH * min(COLUMNS, len(readings)), CARD_HEIGHT * rows + LEGEND_HEIGHT)
    picture = Image.new("RGB", size, "white")
    for number, reading in enumerate(readings):
        picture.paste(
            draw_card(reading), (CARD_WIDTH * (number % COLUMNS), CARD_HEIGHT * (number // COLUMNS))
        )
    legend = f"A bracket spans what its character was read from; orange: less than {SURE_FROM:.0%} sure."
    ImageDraw.Draw(picture).text((MARGIN, size[1] - MARGIN), legend, font=font(16), fill=FAINT, anchor="ls")
    return picture


def main(arguments: Sequence[str] | None = None) -> int:
    """Read, print, draw; the exit status is 1 when an image could not be read."""
    parser = argparse.ArgumentParser(
        description=textwrap.dedent(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("images", nargs="*", default=[str(FOLDER)], help="files or folders")
    parser.add_argument(
        "--checkpoint", default=str(default_checkpoint()), help="folder or Hub name; default: the bundled one"
    )
    parser.add_argument("--output", type=Path, default=Path("readings.png"), help="picture to write")
    given = parser.parse_args(arguments)
    names, problems = find_images(given.images)
    readings = [] if problems else read([Path(name) for name in names], given.checkpoint)
    if not readings:
        parser.error("; ".join(problems) or "none of the images could be read")
    draw_readings(readings).save(given.output)
    print(table(readings))
    print(f"The picture of them: {given.output}")
    return int(len(readings) < len(names))


if __name__ == "__main__":
    sys.exit(main())
