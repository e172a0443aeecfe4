from pathlib import Path

import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import ImageFont

from training.word_fonts import look_at_fonts
from training.word_glyphs import CAPITAL_HEIGHT, GlyphSource


@pytest.fixture(scope="module")
def good_font(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The font that Pillow carries, as a file."""
    path = tmp_path_factory.mktemp("fonts") / "aileron.ttf"
    font = ImageFont.load_default(size=20)
    assert isinstance(font, ImageFont.FreeTypeFont)
    path.write_bytes(font.font_bytes)
    return path


def test_capitals_have_the_same_height_in_every_font(good_font: Path, tmp_path: Path) -> None:
    font = TTFont(good_font)
    font["head"].unitsPerEm *= 2  # the same outlines, half as large at any nominal size
    font.save(tmp_path / "small.ttf")
    faces = [look[0] for look in look_at_fonts([str(good_font), str(tmp_path / "small.ttf")])]
    heights = [GlyphSource(faces).line(position, "H").mask.shape[0] for position in (0, 1)]
    assert all(abs(height - CAPITAL_HEIGHT) <= 2 for height in heights)


def test_letter_spacing_widens_the_line_by_its_gaps(good_font: Path) -> None:
    source = GlyphSource([look[0] for look in look_at_fonts([str(good_font)])])
    plain, spaced = (source.line(0, "HHHH", spacing=s).mask for s in (0.0, 10.0))
    assert spaced.shape[1] - plain.shape[1] == 30
    assert np.array_equal(plain[:, :10], spaced[:, :10])


def test_small_capitals_only_enlarge_first_letters(good_font: Path) -> None:
    source = GlyphSource([look[0] for look in look_at_fonts([str(good_font)])])
    plain, scaled = source.line(0, "HH HH"), source.line(0, "HH HH", initial_scale=1.4)
    assert scaled.mask.shape[0] == pytest.approx(1.4 * plain.mask.shape[0], abs=2)
    # Where only the first letter of each word is tall, the top row is inked in two places.
    inked = np.flatnonzero(np.diff((scaled.mask[2] > 127).astype(int)) == 1)
    assert len(inked) + int(scaled.mask[2, 0] > 127) == 4  # two letters H, two uprights each


def test_a_line_without_ink_is_empty(good_font: Path) -> None:
    source = GlyphSource([look[0] for look in look_at_fonts([str(good_font)])])
    assert source.line(0, " ").mask.shape == (1, 1)
    assert source.line(0, "").mask.sum() == 0


def test_dropped_fonts_come_back_equal(good_font: Path) -> None:
    faces = [look[0] for look in look_at_fonts([str(good_font)])] * 3
    source = GlyphSource(faces, capacity=1)
    first = source.line(0, "Word").mask
    source.line(1, "Word")
    source.line(2, "Word")
    assert np.array_equal(source.line(0, "Word").mask, first)
