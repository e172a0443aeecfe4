"""Ink of a line of text: glyphs rasterised once per font, kept, and set side by side.

Glyphs are kept as masks whose capitals are `CAPITAL_HEIGHT` pixels high in every font, somewhat more than a
finished word has, so that one warp (word_effects) makes position, perspective, curve and size at once.
Keeping glyphs instead of rasterising whole words makes drawing ten times faster, and leaves room for letter
spacing and small capitals. Kerning comes from the font's `kern` table.
"""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ImageFont

from training.word_fonts import FontFace

CAPITAL_HEIGHT = 34  # pixels
_LARGEST_SIZE = 160  # em pixels; a font that needs more for such capitals is drawn smaller


@dataclass(frozen=True)
class Glyph:
    """One character's ink.

    Args:
        mask: (h, w) uint8 coverage; 0 x 0 for a space.
        left: pixels from the pen to the mask's first column.
        top: pixels from the baseline up to the mask's first row.
        advance: pixels from this pen position to the next.
    """

    mask: np.ndarray
    left: int
    top: int
    advance: float


@dataclass(frozen=True)
class Line:
    """The ink of a line of text.

    Args:
        mask: (h, w) uint8, cropped to the ink.
        top: rows from the mask's first row down to the baseline; the capitals' height for most words.
    """

    mask: np.ndarray
    top: int


class GlyphSource:
    """Glyphs of many fonts, rasterised when first asked for.

    Args:
        faces: the fonts; they are spoken of by their position.
        capacity: fonts whose glyphs are kept; the longest unused are dropped (about 60 kB each).
    """

    def __init__(self, faces: Sequence[FontFace], capacity: int = 2048) -> None:
        self.faces = list(faces)
        self.capacity = capacity
        self._open: OrderedDict[int, _OpenFont] = OrderedDict()

    def font(self, position: int) -> "_OpenFont":
        """Return the glyphs of font `position`."""
        font = self._open.get(position)
        if font is None:
            font = self._open[position] = _OpenFont(self.faces[position])
            if len(self._open) > self.capacity:
                self._open.popitem(last=False)
        else:
            self._open.move_to_end(position)
        return font

    def line(
        self,
        position: int,
        text: str,
        spacing: float = 0.0,
        initial_scale: float = 1.0,
        rises: Sequence[float] | np.ndarray = (),
    ) -> Line:
        """Set `text` in font `position` on a straight baseline.

        Args:
            position: which font.
            text: characters; a character without ink only moves the pen.
            spacing: pixels added between letters; may be negative.
            initial_scale: size of each word's first letter over the others' (over 1 with capitals: small
                capitals).
            rises: pixels that each character stands over the baseline; empty for none.

        Returns:
            the ink; 1 x 1 and empty if the text has none.
        """
        font = self.font(position)
        pieces: list[tuple[int, int, np.ndarray]] = []
        pen, before = 0.0, ""
        for place, character in enumerate(text):
            large = initial_scale != 1.0 and before in ("", " ") and character != " "
            glyph = font.glyph(character, initial_scale if large else 1.0)
            if before and not large:
                pen += font.kerning(before, character)
            if glyph.mask.size:
                rise = round(rises[place]) if len(rises) else 0
                pieces.append((round(pen) + glyph.left, -glyph.top - rise, glyph.mask))
            pen += glyph.advance + spacing
            before = character
        return _paste(pieces)


class _OpenFont:
    """One font's glyphs and kerning at one size."""

    def __init__(self, face: FontFace) -> None:
        self._path = face.path
        self._size = min(_LARGEST_SIZE, max(8, round(CAPITAL_HEIGHT / max(face.capital_height, 0.05))))
        self._fonts = {1.0: self._sized(1.0)}
        self._glyphs: dict[tuple[str, float], Glyph] = {}
        self._kerning: dict[str, float] = {}

    def _sized(self, scale: float) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(self._path, round(self._size * scale), layout_engine=ImageFont.Layout.BASIC)

    def glyph(self, character: str, scale: float = 1.0) -> Glyph:
        glyph = self._glyphs.get((character, scale))
        if glyph is None:
            if scale not in self._fonts:
                self._fonts[scale] = self._sized(scale)
            font = self._fonts[scale]
            # "ls": the pen stands on the baseline, so the offset's second part is minus the height above it.
            core, (left, top) = font.getmask2(character, mode="L", anchor="ls")
            width, height = core.size
            mask = np.asarray(core, dtype=np.uint8).reshape(height, width)
            glyph = self._glyphs[character, scale] = Glyph(mask, left, -top, font.getlength(character))
        return glyph

    def kerning(self, first: str, second: str) -> float:
        pair = first + second
        value = self._kerning.get(pair)
        if value is None:
            apart = self.glyph(first).advance + self.glyph(second).advance
            value = self._kerning[pair] = self._fonts[1.0].getlength(pair) - apart
        return value


def _paste(pieces: Sequence[tuple[int, int, np.ndarray]]) -> Line:
    """Lay masks at (left, top) on one canvas; where letters touch, the darker ink stays."""
    if not pieces:
        return Line(np.zeros((1, 1), np.uint8), 0)
    x0 = min(x for x, _, _ in pieces)
    y0 = min(y for _, y, _ in pieces)
    width = max(x + mask.shape[1] for x, _, mask in pieces) - x0
    height = max(y + mask.shape[0] for _, y, mask in pieces) - y0
    canvas = np.zeros((height, width), np.uint8)
    for x, y, mask in pieces:
        window = canvas[y - y0 : y - y0 + mask.shape[0], x - x0 : x - x0 + mask.shape[1]]
        np.maximum(window, mask, out=window)
    return Line(canvas, -y0)
