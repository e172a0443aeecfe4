"""The example images' own painter: bends, perspectives and styles."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFont

from examples import render_examples
from examples.render_examples import EXAMPLES, Example, bent, flat, in_perspective, render, text_mask, texture

NO_SHIFT = ((0.0, 0.0),) * 4


def default_font() -> ImageFont.FreeTypeFont:
    """Pillow's own font in place of the named ones."""
    font = ImageFont.load_default(size=render_examples.FONT_SIZE)
    assert isinstance(font, ImageFont.FreeTypeFont)
    return font


def test_labels_are_the_texts() -> None:
    lines = (render_examples.FOLDER / "labels.tsv").read_text(encoding="utf-8").splitlines()
    assert lines == [
        f"word_{number:02d}.jpg\t{example.text}" for number, example in enumerate(EXAMPLES, start=1)
    ]


def test_committed_images_have_their_height() -> None:
    for number, example in enumerate(EXAMPLES, start=1):
        with Image.open(render_examples.FOLDER / f"word_{number:02d}.jpg") as image:
            assert image.height == example.height
            assert image.mode == "RGB"


def test_texture_keeps_its_mean_colour() -> None:
    picture = np.asarray(texture((400, 200), (100, 150, 200), 5, 10, np.random.default_rng(0)))
    np.testing.assert_allclose(picture.mean((0, 1)), (100, 150, 200), atol=2)


def test_no_perspective_changes_nothing() -> None:
    picture = texture((120, 40), (90, 90, 90), 30, 4, np.random.default_rng(0))
    shown = np.asarray(in_perspective(picture, NO_SHIFT), dtype=int)
    assert np.abs(shown - np.asarray(picture, dtype=int)).max() <= 1


def test_shifting_all_corners_moves_the_picture() -> None:
    picture = texture((120, 40), (90, 90, 90), 30, 4, np.random.default_rng(0))
    shown = np.asarray(in_perspective(picture, ((0.25, 0.0),) * 4), dtype=int)
    assert np.abs(shown[:, :-10] - np.asarray(picture, dtype=int)[:, 10:]).max() <= 1


def test_bend_lifts_the_middle_over_the_ends() -> None:
    mask = Image.new("L", (101, 50), 255)
    covered = np.asarray(bent(mask, 0.4)) > 0
    assert covered.shape == (70, 101)
    assert covered.argmax(0)[[0, 50, 100]].tolist() == [20, 0, 19]
    assert (covered.sum(0) == 50).all()


def test_no_bend_changes_nothing() -> None:
    mask = text_mask("Bend", default_font())
    assert bent(mask, 0.0).tobytes() == mask.tobytes()


def test_text_mask_leaves_a_margin() -> None:
    rows, columns = np.nonzero(np.asarray(text_mask("jQ", default_font())))
    mask = text_mask("jQ", default_font())
    assert min(rows.min(), columns.min()) >= 25
    assert max(rows.max() - mask.height, columns.max() - mask.width) <= -25


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.text)
def test_every_style_shows_its_word(example: Example) -> None:
    """The same seed gives the same picture; a wider word gives a wider one."""
    first, again = (render(example, default_font(), np.random.default_rng(3)) for _ in range(2))
    assert first.height == example.height
    assert first.tobytes() == again.tobytes()
    blank = Example(".", example.font, example.paint, example.height)
    assert render(blank, default_font(), np.random.default_rng(3)).width < first.width


def test_ink_is_where_the_mask_is() -> None:
    mask = Image.new("L", (80, 40))
    mask.paste(255, (20, 10, 60, 30))
    picture = np.asarray(flat((0, 0, 0), (255, 255, 255), amount=0)(mask, np.random.default_rng(0)))
    np.testing.assert_array_equal(picture[..., 0], 255 - np.asarray(mask))


def test_missing_fonts_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["render_examples", str(tmp_path)])
    with pytest.raises(SystemExit):
        render_examples.main()
    assert "lobster.otf" in capsys.readouterr().err
