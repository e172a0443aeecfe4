"""Drawing what PerSec's perceivers made of words: maps of codes, patches that share a code, use, windows.

Works on NumPy arrays alone; running the model is in `draw_codes`. All pictures are RGB, with Pillow's own
font.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

SCALE = 4  # drawn pixels per pixel of a word
MARGIN = 12
LABEL_WIDTH = 150
FONT_SIZE = 14
INK, FAINT, PAPER = (25, 28, 32), (110, 116, 124), (255, 255, 255)
MASKED, QUERY, WINDOW, ATTENDED = (214, 120, 28), (24, 120, 200), (200, 40, 60), (90, 20, 120)
BAR, BAR_HEIGHT = (38, 110, 160), 90
STRIP_HEIGHT = 6  # pixels of a word, for a row of frames
# Share of a cell's colour over the word beneath it.
OPACITY = 0.6
# Brightness of 0..255 within which a cell counts as flat.
FLAT = 24
# Successive hues are a golden section of the circle apart, so that few neighbours look alike.
HUE_STEP = 0.61803398875


@dataclass(frozen=True)
class PerceivedLevel:
    """What one perceiver made of a word of h x w positions.

    Args:
        codes: (h, w, G) entry that each codebook chose; None without a quantiser.
        mask: (h, w) True where the feature was masked.
        attention: (windows, positions, positions) weights of the first layer, mean over heads, query by key.
        window: (rows, columns) of a window in positions.
        left: pixel column at which position 0 begins; may be negative.
        stride: pixels per column of positions.
    """

    codes: np.ndarray | None
    mask: np.ndarray
    attention: np.ndarray
    window: tuple[int, int]
    left: float
    stride: int


@dataclass(frozen=True)
class PerceivedWord:
    """A word's pixels (H, W, 3) uint8 without padding, and its two levels."""

    pixels: np.ndarray
    stroke: PerceivedLevel
    semantic: PerceivedLevel

    @property
    def levels(self) -> dict[str, PerceivedLevel]:
        """Both levels by name."""
        return {"stroke": self.stroke, "semantic": self.semantic}


def draw_code_maps(words: Sequence[PerceivedWord]) -> Image.Image:
    """Each word, below it its strokes and its frames coloured by entry, codebook by codebook.

    Colours are the same in all words: entries are ranked by how often they occur, and close ranks have far
    hues.
    """
    palettes = {
        (name, book): rank_colours(
            [word.levels[name].codes[..., book] for word in words]  # type: ignore[index]
        )
        for name in ("stroke", "semantic")
        for book in range(_codebooks(words))
    }
    cards = []
    for word in words:
        rows = [("word", enlarge(word.pixels))]
        for (name, book), colours in palettes.items():
            level = word.levels[name]
            assert level.codes is not None
            rows.append(
                (f"{name}, codebook {book}", paint_cells(word, level, colours[level.codes[..., book]]))
            )
        cards.append(_labelled_rows(rows))
    return _stack(cards)


def rank_colours(maps: Sequence[np.ndarray]) -> np.ndarray:
    """A colour (uint8 RGB) for each entry up to the largest in the maps, by its rank in frequency."""
    counts = np.bincount(np.concatenate([codes.ravel() for codes in maps]))
    colours = np.zeros((len(counts), 3), dtype=np.uint8)
    for rank, entry in enumerate(np.argsort(-counts, kind="stable")):
        # Every round of hues is a little paler than the one before.
        red, green, blue = colorsys.hsv_to_rgb(rank * HUE_STEP % 1, 0.95 - 0.4 * (rank % 3) / 2, 0.95)
        colours[entry] = (round(255 * red), round(255 * green), round(255 * blue))
    return colours


def paint_cells(word: PerceivedWord, level: PerceivedLevel, colours: np.ndarray) -> np.ndarray:
    """Lay (h, w, 3) colours over an enlarged word; a single row of positions is a strip of its own."""
    height, width = word.pixels.shape[:2]
    rows = colours.shape[0]
    if rows == 1:
        canvas = np.full((STRIP_HEIGHT * SCALE, width * SCALE, 3), 255, dtype=np.uint8)
        opacity = 1.0
    else:
        canvas, opacity = enlarge(word.pixels), OPACITY
    for row in range(rows):
        for column in range(colours.shape[1]):
            top, left, bottom, right = _cell(level, canvas.shape[:2], row, column)
            part = canvas[top:bottom, left:right]
            part[:] = np.round((1 - opacity) * part + opacity * colours[row, column])
    return canvas


def draw_shared_codes(words: Sequence[PerceivedWord], count: int = 12, patches: int = 16) -> Image.Image:
    """For each codebook of the stroke level, patches around cells that chose the same entry, a row per entry.

    Cells of flat background say nothing and are left out; a word that is all flat counts with all of them.

    Args:
        words: where to look.
        count: entries shown of each codebook, the most frequent first.
        patches: patches per entry, spread over all words.
    """
    places = [
        (number, row, column)
        for number, word in enumerate(words)
        for row, column in np.argwhere(cells_with_ink(word)).tolist()
    ]
    cards = []
    for book in range(_codebooks(words)):
        chosen = np.array([_stroke_codes(words[number])[row, column, book] for number, row, column in places])
        entries, totals = np.unique(chosen, return_counts=True)
        rows = []
        for entry in entries[np.argsort(-totals, kind="stable")][:count]:
            found = np.flatnonzero(chosen == entry)
            spread = np.linspace(0, len(found) - 1, min(patches, len(found))).round().astype(int)
            cut = [_patch(words[places[i][0]], *places[i][1:]) for i in found[spread]]
            rows.append((f"entry {entry}, {len(found)} cells", np.concatenate(_with_gaps(cut), axis=1)))
        title = f"stroke level, codebook {book}: cells with ink (framed) that chose one entry"
        cards.append(_titled(title, _labelled_rows(rows)))
    return _stack(cards)


def cells_with_ink(word: PerceivedWord) -> np.ndarray:
    """(h, w) True for stroke cells whose brightness varies; all of them in a word without any such cell."""
    level, grey = word.stroke, word.pixels.mean(-1)
    varies = np.zeros(level.mask.shape, dtype=bool)
    for row, column in np.ndindex(*varies.shape):
        top, left, bottom, right = (side // SCALE for side in _cell(level, _enlarged(word), row, column))
        cell = grey[top : max(bottom, top + 1), left : max(right, left + 1)]
        varies[row, column] = bool(cell.size) and float(np.ptp(cell)) > FLAT
    return varies if varies.any() else ~varies


def draw_usage(counts: dict[str, np.ndarray]) -> Image.Image:
    """Bars of how often each entry was chosen, most used first, per level and codebook.

    Args:
        counts: (G, V) choices of each level.
    """
    cards = []
    for level, books in counts.items():
        for book, row in enumerate(books):
            shares = row / max(1, row.sum())
            positive = shares[shares > 0]
            perplexity = float(np.exp(-(positive * np.log(positive)).sum()))
            title = (
                f"{level} level, codebook {book}: {len(positive)} of {len(row)} entries used by "
                f"{int(row.sum())} positions, perplexity {perplexity:.1f}"
            )
            cards.append(_titled(title, _bars(np.sort(shares)[::-1])))
    return _stack(cards)


def draw_windows(words: Sequence[PerceivedWord]) -> Image.Image:
    """The windows of both levels over each word, masked positions marked, and how one of those attends.

    The marked query is the masked position nearest to the middle of the word; the darker a position of its
    window, the more it attends to it.
    """
    cards = []
    for word in words:
        rows = []
        for name, level in word.levels.items():
            marked, attended = draw_level_windows(word, level)
            rows += [(f"{name} windows", marked), ("attention of one", attended)]
        cards.append(_labelled_rows(rows))
    legend = "red: windows; orange: masked; blue: a masked position; purple: what it attends to"
    return _stack([_titled(legend, cards[0]), *cards[1:]])


def draw_level_windows(word: PerceivedWord, level: PerceivedLevel) -> tuple[np.ndarray, np.ndarray]:
    """Two pictures of a word: windows with masked positions, and the attention of one masked position."""
    white = np.full((*level.mask.shape, 3), 255, dtype=np.uint8)
    base = enlarge(word.pixels) if level.mask.shape[0] > 1 else paint_cells(word, level, white)
    marked, attended = Image.fromarray(base.copy()), Image.fromarray(base.copy())
    shape = base.shape[:2]
    draw = ImageDraw.Draw(marked)
    for row, column in np.argwhere(level.mask):
        top, left, bottom, right = _cell(level, shape, row, column)
        draw.rectangle([left + 1, top + 1, right - 2, bottom - 2], fill=MASKED)
    _draw_window_borders(draw, level, shape)
    draw = ImageDraw.Draw(attended)
    _draw_window_borders(draw, level, shape)
    masked = np.argwhere(level.mask)
    if len(masked):
        middle = (np.array(level.mask.shape) - 1) / 2
        row, column = min(masked, key=lambda place: float(np.abs(place - middle).sum()))
        for (key_row, key_column), share in window_attention_of(level, int(row), int(column)).items():
            top, left, bottom, right = _cell(level, shape, key_row, key_column)
            box = (left + 1, top + 1, right - 1, bottom - 1)
            tint = Image.new("RGB", (max(0, box[2] - box[0]), max(0, box[3] - box[1])), ATTENDED)
            attended.paste(tint, box[:2], Image.new("L", tint.size, round(200 * share)))
        top, left, bottom, right = _cell(level, shape, int(row), int(column))
        draw.rectangle([left, top, right - 1, bottom - 1], outline=QUERY, width=3)
    return np.asarray(marked), np.asarray(attended)


def window_attention_of(level: PerceivedLevel, row: int, column: int) -> dict[tuple[int, int], float]:
    """How a position attends to each position of its window that the word has, the largest set to 1."""
    height, width = level.window
    columns = -(-level.mask.shape[1] // width)
    # Words stand at the left of their batch, whose windows are counted row by row over its whole width.
    per_row = len(level.attention) // -(-level.mask.shape[0] // height)
    assert per_row >= columns
    window = (row // height) * per_row + column // width
    weights = level.attention[window, (row % height) * width + column % width]
    found = {}
    for place, weight in enumerate(weights):
        key = (row // height * height + place // width, column // width * width + place % width)
        if key[0] < level.mask.shape[0] and key[1] < level.mask.shape[1]:
            found[key] = float(weight)
    largest = max(found.values())
    return {key: weight / largest for key, weight in found.items()}


def enlarge(pixels: np.ndarray) -> np.ndarray:
    """Repeat every pixel `SCALE` times in both directions."""
    return pixels.repeat(SCALE, 0).repeat(SCALE, 1)


def _enlarged(word: PerceivedWord) -> tuple[int, int]:
    return word.pixels.shape[0] * SCALE, word.pixels.shape[1] * SCALE


def _codebooks(words: Sequence[PerceivedWord]) -> int:
    return _stroke_codes(words[0]).shape[-1]


def _stroke_codes(word: PerceivedWord) -> np.ndarray:
    if word.stroke.codes is None:
        raise ValueError("these words have no codes: the model was built with `quantize_targets=False`.")
    return word.stroke.codes


def _cell(level: PerceivedLevel, shape: tuple[int, int], row: int, column: int) -> tuple[int, int, int, int]:
    """(top, left, bottom, right) of a position in a picture of that (height, width)."""
    rows = level.mask.shape[0]
    sides = [round((level.left + (column + step) * level.stride) * SCALE) for step in (0, 1)]
    left, right = (min(max(side, 0), shape[1]) for side in sides)
    return row * shape[0] // rows, left, (row + 1) * shape[0] // rows, right


def _draw_window_borders(draw: ImageDraw.ImageDraw, level: PerceivedLevel, shape: tuple[int, int]) -> None:
    rows, columns = level.mask.shape
    for row in range(0, rows, level.window[0]):
        for column in range(0, columns, level.window[1]):
            top, left, _, _ = _cell(level, shape, row, column)
            last = (min(row + level.window[0], rows) - 1, min(column + level.window[1], columns) - 1)
            _, _, bottom, right = _cell(level, shape, *last)
            draw.rectangle([left, top, right - 1, bottom - 1], outline=WINDOW, width=1)


def _patch(word: PerceivedWord, row: int, column: int, side: int = 12) -> np.ndarray:
    """Enlarged pixels around a stroke cell, the cell framed; white beyond the word."""
    height, width = word.pixels.shape[:2]
    level = word.stroke
    cell_height = height / level.mask.shape[0]
    middle = (round((row + 0.5) * cell_height), round(level.left + (column + 0.5) * level.stride))
    padded = np.pad(word.pixels, ((side, side), (side, side), (0, 0)), constant_values=255)
    top, left = middle[0] + side - side // 2, middle[1] + side - side // 2
    picture = Image.fromarray(enlarge(padded[top : top + side, left : left + side]))
    half = (round(cell_height * SCALE / 2), round(level.stride * SCALE / 2))
    centre = side * SCALE // 2
    box = [centre - half[1], centre - half[0], centre + half[1] - 1, centre + half[0] - 1]
    ImageDraw.Draw(picture).rectangle(box, outline=WINDOW)
    return np.asarray(picture)


def _with_gaps(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    gap = np.full((images[0].shape[0], MARGIN // 2, 3), 255, dtype=np.uint8)
    return [part for image in images for part in (image, gap)]


def _bars(shares: np.ndarray) -> Image.Image:
    width = max(2, 768 // len(shares))
    picture = Image.new("RGB", (width * len(shares), BAR_HEIGHT), PAPER)
    draw = ImageDraw.Draw(picture)
    for number, share in enumerate(shares):
        if share > 0:
            top = round((BAR_HEIGHT - 1) * (1 - share / shares[0]))
            draw.rectangle(
                [width * number, top, width * number + max(0, width - 2), BAR_HEIGHT - 1], fill=BAR
            )
    draw.line([0, BAR_HEIGHT - 1, picture.width, BAR_HEIGHT - 1], fill=FAINT)
    return picture


def _labelled_rows(rows: Sequence[tuple[str, np.ndarray]]) -> Image.Image:
    """Pictures below each other, each with its label on the left."""
    width = LABEL_WIDTH + max(picture.shape[1] for _, picture in rows)
    height = sum(picture.shape[0] + MARGIN // 2 for _, picture in rows)
    canvas = Image.new("RGB", (width, height), PAPER)
    draw, top = ImageDraw.Draw(canvas), 0
    for label, picture in rows:
        canvas.paste(Image.fromarray(picture), (LABEL_WIDTH, top))
        middle = top + picture.shape[0] // 2
        draw.text((0, middle), label, font=ImageFont.load_default(size=FONT_SIZE), fill=INK, anchor="lm")
        top += picture.shape[0] + MARGIN // 2
    return canvas


def _titled(title: str, picture: Image.Image) -> Image.Image:
    font = ImageFont.load_default(size=FONT_SIZE)
    width = max(picture.width, round(font.getlength(title)) + 1)
    canvas = Image.new("RGB", (width, picture.height + 2 * FONT_SIZE), PAPER)
    ImageDraw.Draw(canvas).text((0, FONT_SIZE), title, font=font, fill=INK, anchor="lm")
    canvas.paste(picture, (0, 2 * FONT_SIZE))
    return canvas


def _stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other with margins around."""
    width = max(picture.width for picture in pictures) + 2 * MARGIN
    height = sum(picture.height + 2 * MARGIN for picture in pictures)
    canvas = Image.new("RGB", (width, height), PAPER)
    top = MARGIN
    for picture in pictures:
        canvas.paste(picture, (MARGIN, top))
        top += picture.height + 2 * MARGIN
    return canvas
