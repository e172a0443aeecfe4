"""Pictures of codes: colours by rank, cells where they belong, attention by window, patches of one entry."""

import numpy as np
import pytest
from PIL import Image

from training.code_pictures import (
    LABEL_WIDTH,
    MARGIN,
    SCALE,
    PerceivedLevel,
    PerceivedWord,
    cells_with_ink,
    draw_code_maps,
    draw_level_windows,
    draw_shared_codes,
    draw_usage,
    draw_windows,
    enlarge,
    paint_cells,
    rank_colours,
    window_attention_of,
)


def level(
    rows: int, columns: int, window: tuple[int, int], left: float = 0.0, batch_columns: int | None = None
) -> PerceivedLevel:
    """A level whose every query attends to its own place with weight 1 and to place 0 with weight 2."""
    count = -(-rows // window[0]) * -(-(batch_columns or columns) // window[1])
    length = window[0] * window[1]
    attention = np.tile(np.eye(length), (count, 1, 1))
    attention[:, :, 0] += 2
    codes = np.arange(rows * columns * 2).reshape(rows, columns, 2) % 5
    return PerceivedLevel(codes, np.zeros((rows, columns), dtype=bool), attention, window, left, 4)


def word(columns: int = 10, frames: int = 11) -> PerceivedWord:
    """A white word with a black bar at pixels 8..11, as a CNN sees it."""
    pixels = np.full((32, 4 * columns, 3), 255, dtype=np.uint8)
    pixels[:, 8:10] = 0
    return PerceivedWord(pixels, level(8, columns, (4, 4)), level(1, frames, (1, 10), left=-2.0))


def test_colours_go_by_frequency() -> None:
    colours = rank_colours([np.array([[3, 3, 1]]), np.array([3, 0, 1, 3])])
    assert colours.shape == (4, 3)
    used = {tuple(colours[entry]) for entry in (0, 1, 3)}
    assert len(used) == 3
    # The most frequent entry has the first hue, red; the order of entries does not matter.
    assert tuple(colours[3])[0] == 242
    assert np.array_equal(rank_colours([np.array([2, 2, 0])])[2], colours[3])


def test_cells_are_painted_where_they_are() -> None:
    colours = np.full((8, 10, 3), 255, dtype=np.uint8)
    colours[3, 2] = (255, 0, 0)
    subject = word()
    painted = paint_cells(subject, subject.stroke, colours)
    cell = painted[3 * 4 * SCALE : 4 * 4 * SCALE, 2 * 4 * SCALE : 3 * 4 * SCALE]
    assert (cell[..., 0] > cell[..., 1]).all()
    outside = painted.copy()
    outside[3 * 4 * SCALE : 4 * 4 * SCALE, 2 * 4 * SCALE : 3 * 4 * SCALE] = 0
    assert (outside[..., 0] == outside[..., 1]).all()
    # The bar shows through.
    assert painted[0, 8 * SCALE].max() < 255


def test_frames_of_a_cnn_stand_half_a_stride_to_the_left() -> None:
    colours = np.zeros((1, 11, 3), dtype=np.uint8)
    colours[0, 0] = (255, 0, 0)
    colours[0, 10] = (0, 255, 0)
    subject = word()
    strip = paint_cells(subject, subject.semantic, colours)
    assert strip.shape[1] == 40 * SCALE
    assert np.flatnonzero(strip[0, :, 0]).tolist() == list(range(2 * SCALE))  # -2..2 of the word, cut at 0
    assert np.flatnonzero(strip[0, :, 1]).tolist() == list(range(38 * SCALE, 40 * SCALE))


def test_attention_is_read_from_the_positions_own_window() -> None:
    subject = level(8, 10, (4, 4), batch_columns=24)  # the batch had two more words' worth of windows per row
    marked = subject.attention.copy()
    marked[6 + 1] = 0.0  # second row of windows, second window
    marked[6 + 1, 2 * 4 + 3, 5] = 8.0
    marked[6 + 1, 2 * 4 + 3, 1] = 2.0
    subject = PerceivedLevel(subject.codes, subject.mask, marked, subject.window, 0.0, 4)
    found = window_attention_of(subject, 6, 7)
    assert set(found) == {(row, column) for row in range(4, 8) for column in range(4, 8)}
    assert found[(5, 5)] == 1.0
    assert found[(4, 5)] == 0.25
    # The last window is cut off by the end of the word.
    assert set(window_attention_of(subject, 0, 9)) == {(row, c) for row in range(4) for c in (8, 9)}


def test_masked_positions_and_windows_are_marked() -> None:
    subject = word()
    subject.stroke.mask[5, 6] = True
    plain, attended = draw_level_windows(subject, subject.stroke)
    assert plain.shape == attended.shape == (32 * SCALE, 40 * SCALE, 3)
    assert tuple(plain[5 * 16 + 8, 6 * 16 + 8]) == (214, 120, 28)
    for column in (0, 16 * SCALE, 32 * SCALE):  # windows begin at 0, 4 and 8 cells
        assert tuple(plain[5, column]) == (200, 40, 60)
    assert tuple(attended[5 * 16, 6 * 16 + 8]) == (24, 120, 200)
    untouched = draw_level_windows(word(), word().stroke)[1]
    assert np.array_equal(untouched, draw_level_windows(word(), word().stroke)[0])


def test_ink_is_where_brightness_varies() -> None:
    subject = word()
    ink = cells_with_ink(subject)
    assert ink[:, 2].all()
    assert int(ink.sum()) == 8
    blank = PerceivedWord(np.full_like(subject.pixels, 200), subject.stroke, subject.semantic)
    assert cells_with_ink(blank).all()


def test_shared_codes_cut_the_patches_around_their_cells() -> None:
    subject = word()
    codes = np.zeros((8, 10, 2), dtype=int)
    codes[:, 2, 0] = [7] * 6 + [4] * 2
    subject = PerceivedWord(
        subject.pixels,
        PerceivedLevel(codes, subject.stroke.mask, subject.stroke.attention, (4, 4), 0.0, 4),
        subject.semantic,
    )
    picture = np.asarray(draw_shared_codes([subject], count=5, patches=3))
    side = 12 * SCALE
    # First codebook: a row for entry 7 with three patches, one for entry 4 with two.
    top, left = MARGIN + 28, MARGIN + LABEL_WIDTH
    patch = picture[top : top + side, left : left + side]
    # The bar is 2 pixels wide, the cell 4: it begins half a cell left of the patch's middle.
    dark = np.flatnonzero((patch[-1] < 50).all(-1))  # above it the first cell has no word
    assert dark.tolist() == list(range(side // 2 - 2 * SCALE, side // 2))
    for row, patches in enumerate((3, 2)):
        framed = (picture[top + row * (side + MARGIN // 2) + side // 2, left:] == (200, 40, 60)).all(-1)
        assert int(framed.sum()) == 2 * patches  # two sides of each frame


def test_usage_has_a_bar_per_used_entry() -> None:
    counts = {
        "stroke": np.array([[4, 0, 2, 0], [1, 1, 1, 1]]),
        "semantic": np.array([[0, 0, 0, 0], [0, 9, 0, 0]]),
    }
    picture = np.asarray(draw_usage(counts))
    heights = []
    for card in range(4):
        top = MARGIN + card * (28 + 90 + 2 * MARGIN) + 28
        bars = (picture[top : top + 89, MARGIN : MARGIN + 4 * 192] == (38, 110, 160)).all(-1)
        heights.append([int(bars[:, 192 * number + 5].sum()) for number in range(4)])
    assert heights[0][0] > heights[0][1] > 0
    assert heights[0][2:] == [0, 0]
    assert len(set(heights[1])) == 1
    assert heights[1][0] > 80
    assert heights[2] == [0, 0, 0, 0]
    assert heights[3][1:] == [0, 0, 0]


def test_maps_stand_below_their_words() -> None:
    words = [word(10, 11), word(20, 21)]
    picture = draw_code_maps(words)
    assert isinstance(picture, Image.Image)
    gap, strip = MARGIN // 2, 6 * SCALE
    card = 3 * (32 * SCALE + gap) + 2 * (strip + gap)
    assert picture.size == (2 * MARGIN + LABEL_WIDTH + 80 * SCALE, 2 * (card + 2 * MARGIN))
    shown = np.asarray(picture)[MARGIN : MARGIN + 32 * SCALE, MARGIN + LABEL_WIDTH :][:, : 40 * SCALE]
    assert np.array_equal(shown, enlarge(words[0].pixels))


def test_windows_are_drawn_without_codes() -> None:
    stroke, semantic = (
        PerceivedLevel(None, part.mask, part.attention, part.window, part.left, 4)
        for part in (word().stroke, word().semantic)
    )
    words = [PerceivedWord(word().pixels, stroke, semantic)]
    assert draw_windows(words).size[0] > 40 * SCALE
    with pytest.raises(ValueError, match="built with `quantize_targets=False`"):
        draw_code_maps(words)
