import numpy as np
import pytest

from training.word_styles import dilate, dotted, extrude, relief, sample_style, shift


def canvas() -> np.ndarray:
    """Two blocks with a gap between them."""
    ink = np.zeros((90, 120), np.uint8)
    ink[30:60, 30:55] = 255
    ink[30:60, 65:90] = 255
    return ink


def test_growing_adds_the_radius_on_every_side() -> None:
    grown = dilate(canvas(), 3) > 0
    assert np.flatnonzero(grown.any(1))[[0, -1]].tolist() == [27, 62]
    assert (dilate(dilate(canvas(), 3), -3) == canvas()).all()
    assert dilate(canvas(), 0).sum() == canvas().sum()


@pytest.mark.parametrize(("right", "down"), [(3, 5), (-4, 2), (0, -7), (200, 0)])
def test_shift_equals_index_arithmetic(right: int, down: int) -> None:
    mask = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)
    expected = np.zeros_like(mask)
    for y in range(12):
        for x in range(20):
            if 0 <= y - down < 12 and 0 <= x - right < 20:
                expected[y, x] = mask[y - down, x - right]
    np.testing.assert_array_equal(shift(mask, right, down), expected)


def test_extrusion_is_the_union_of_its_steps() -> None:
    swept = extrude(canvas(), (4, 0), 6)
    assert np.flatnonzero(swept.any(0))[-1] == 89 + 6
    assert (swept >= canvas()).all()
    assert np.flatnonzero(swept.any(0))[0] == 30


def test_lamps_leave_dark_gaps_and_stay_inside() -> None:
    lamps = dotted(canvas(), 6, 30.0)
    assert lamps[30:60, 30:55].mean() > 80
    assert lamps[30:60, 30:55].min() < 128
    assert lamps[:25].max() == 0


def test_relief_is_lit_on_one_side_and_dark_on_the_other() -> None:
    edges = relief(canvas().astype(np.float32) / 255)
    assert edges[29, 35] > 0 > edges[60, 45]
    assert edges[45, 45] == 0


def test_styles_suit_the_font_and_the_medium() -> None:
    rng = np.random.default_rng(0)
    thin = [sample_style(rng, 0.04) for _ in range(400)]
    assert not any(style.hollow or style.dots or style.embolden < 0 for style in thin)
    prints = [sample_style(rng, 0.12, document=True) for _ in range(400)]
    assert not any(style.outline or style.depth or style.glow for style in prints)
    bold = [sample_style(rng, 0.2) for _ in range(400)]
    assert 0.08 < np.mean([style.outline > 0 for style in bold]) < 0.3
