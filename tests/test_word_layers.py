import numpy as np

from training.word_geometry import InkBox, Pose, look
from training.word_layers import board_layers, paste, style_layers, tail_of, warp_layers
from training.word_styles import Style

BOX = InkBox(30, 30, 60, 30)


def canvas() -> np.ndarray:
    """Two blocks with a gap between them."""
    ink = np.zeros((90, 120), np.uint8)
    ink[30:60, 30:55] = 255
    ink[30:60, 65:90] = 255
    return ink


def test_a_plain_style_leaves_ink_alone() -> None:
    layers = style_layers(canvas(), Style(), BOX, 30)
    assert set(layers) == {"ink"}
    np.testing.assert_array_equal(layers["ink"], canvas())


def test_every_style_makes_its_layer() -> None:
    assert set(style_layers(canvas(), Style(outline=2), BOX, 30)) == {"ink", "outline"}
    assert set(style_layers(canvas(), Style(shadow=(2, 2), shadow_opacity=0.5), BOX, 30)) == {"ink", "shadow"}
    assert set(style_layers(canvas(), Style(shadow=(2, 2), depth=4), BOX, 30)) == {"ink", "shadow"}
    assert set(style_layers(canvas(), Style(glow=0.5), BOX, 30)) == {"ink", "glow"}


def test_hollow_letters_are_inked_on_their_rim_only() -> None:
    ink = style_layers(canvas(), Style(hollow=True, outline=2), BOX, 30)["ink"]
    assert ink[45, 42] == 0
    assert ink[29, 42] == 255


def test_the_tail_begins_at_a_gap() -> None:
    tail = tail_of(np.random.default_rng(0), canvas(), BOX)
    assert tail is not None
    assert tail[:, :55].max() == 0
    assert (tail[30:60, 65:90] == 255).all()
    solid = np.full((90, 120), 255, np.uint8)
    assert tail_of(np.random.default_rng(0), solid, BOX) is None


def test_pasting_over_an_edge_cuts_off() -> None:
    target, piece = np.zeros((10, 10), np.uint8), np.full((6, 6), 9, np.uint8)
    for x, y in ((-3, -3), (7, 7), (50, 0), (0, -50)):
        paste(target, piece, x, y)
    assert target.sum() == 2 * 9 * 9


def test_boards_surround_the_word() -> None:
    rng = np.random.default_rng(0)
    kinds = set()
    for _ in range(40):
        layers = board_layers(rng, (90, 120), BOX)
        kinds |= set(layers)
        if "inside" in layers:
            assert (layers["inside"][30:60, 30:90] == 255).all()
        if "frame" in layers:
            assert layers["frame"][32:58, 34:86].max() == 0
    assert kinds == {"inside", "frame"}


def test_more_than_four_layers_are_warped_each_as_alone() -> None:
    view = look(BOX, Pose(rotation=4.0), (0.1, 0.1, 0.1, 0.1), 32, (8, 512))
    layers = {name: canvas() // divisor for divisor, name in enumerate(("ink", "a", "b", "c", "d"), 1)}
    together = warp_layers(view, layers)
    for name, layer in layers.items():
        alone = warp_layers(view, {name: layer})[name]
        np.testing.assert_array_equal(together[name], alone)
        assert alone.shape == (32, view.width, 1)
        assert alone.max() <= 1.0


def test_what_is_not_inside_a_board_is_outside() -> None:
    view = look(BOX, Pose(), (0.3, 0.3, 0.3, 0.3), 32, (8, 512))
    seen = warp_layers(view, {"ink": canvas(), "inside": canvas()})
    assert "inside" not in seen
    np.testing.assert_allclose(seen["outside"], 1 - seen["ink"])
