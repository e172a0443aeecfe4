"""Words on one picture, each over its label, so that a person sees whether labels and images fit."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from PIL import Image, ImageDraw, ImageFont

from training.word_checks import ShownWord

COLUMNS, CELL_WIDTH, PICTURE_HEIGHT, LINE_HEIGHT = 6, 200, 48, 16


def draw_contact_sheet(sections: Sequence[tuple[str, Sequence[ShownWord]]]) -> Image.Image:
    """Draw words in rows of six under headings.

    Args:
        sections: heading and words; a section without words is left out. A word without a picture gets a
            crossed frame.
    """
    filled = [(heading, words) for heading, words in sections if words]
    cell_height = PICTURE_HEIGHT + 2 * LINE_HEIGHT + 6
    heights = [2 * LINE_HEIGHT + cell_height * -(-len(words) // COLUMNS) for _, words in filled]
    sheet = Image.new("RGB", (COLUMNS * CELL_WIDTH, max(1, sum(heights))), "white")
    draw = ImageDraw.Draw(sheet)
    font = _font(12)
    top = 0
    for (heading, words), height in zip(filled, heights, strict=True):
        draw.text((4, top + 6), heading, fill="black", font=_font(15))
        for number, word in enumerate(words):
            x = (number % COLUMNS) * CELL_WIDTH + 4
            y = top + 2 * LINE_HEIGHT + (number // COLUMNS) * cell_height
            _draw_picture(sheet, draw, word.picture, x, y)
            draw.text((x, y + PICTURE_HEIGHT), _fitting(f"{word.row}: {word.text}", font), "black", font)
            draw.text((x, y + PICTURE_HEIGHT + LINE_HEIGHT), _fitting(word.reason, font), "firebrick", font)
        top += height
    return sheet


def _draw_picture(
    sheet: Image.Image, draw: ImageDraw.ImageDraw, picture: Image.Image | None, x: int, y: int
) -> None:
    room = CELL_WIDTH - 8, PICTURE_HEIGHT - 2
    if picture is None:
        draw.rectangle((x, y, x + room[0], y + room[1]), outline="firebrick")
        draw.line((x, y, x + room[0], y + room[1]), fill="firebrick")
        return
    scale = min(room[0] / picture.width, room[1] / picture.height)
    size = max(1, round(picture.width * scale)), max(1, round(picture.height * scale))
    sheet.paste(picture.resize(size, Image.Resampling.BICUBIC), (x, y))


def _fitting(text: str, font: ImageFont.FreeTypeFont) -> str:
    """A text cut to the width of a cell; line breaks and the like are shown as escapes."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)[:80]
    while text and font.getlength(text) > CELL_WIDTH - 8:
        text = text[:-2] + "…"
    return text


def _font(size: int) -> ImageFont.FreeTypeFont:
    """DejaVu Sans, which Matplotlib carries: Latin, Greek, Cyrillic, Arabic and more."""
    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/DejaVuSans.ttf", size)
