from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import ImageFont

from training.word_fonts import FontFace, NoUsableFontError, load_fonts
from training.word_rendering import RenderingConfig, WordRenderer
from training.word_texts import TextConfig

ENGLISH = TextConfig(languages=(("en", 1.0),))


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> list[FontFace]:
    """The font that Pillow carries: tests need none of the system's."""
    folder = tmp_path_factory.mktemp("fonts")
    font = ImageFont.load_default(size=20)
    assert isinstance(font, ImageFont.FreeTypeFont)
    (folder / "aileron.ttf").write_bytes(font.font_bytes)
    return load_fonts([folder], index_folder=folder / "index")


@pytest.fixture(scope="module")
def renderer(faces: list[FontFace]) -> WordRenderer:
    return WordRenderer(RenderingConfig(seed=3, texts=ENGLISH), faces)


def test_images_are_rgb_of_the_height_asked_for(renderer: WordRenderer) -> None:
    widths = set()
    for index in range(150):
        word = renderer.render(index)
        assert word.image.dtype == np.uint8
        assert word.image.shape[0] == 32
        assert word.image.shape[2] == 3
        assert word.image.flags.c_contiguous
        assert 12 <= word.image.shape[1] <= 512
        assert word.text == word.text.strip() != ""
        widths.add(word.image.shape[1])
    assert len(widths) > 50


def test_a_word_depends_on_seed_and_index_only(renderer: WordRenderer, faces: list[FontFace]) -> None:
    other = WordRenderer(renderer.config, faces)
    order = [7, 3, 2**40, 3, 0]
    expected = {index: renderer.render(index) for index in sorted(set(order))}
    for index in order:  # another renderer, in another order, with other words before
        word = other.render(index)
        assert word.text == expected[index].text
        np.testing.assert_array_equal(word.image, expected[index].image)


def test_global_generators_are_neither_read_nor_moved(renderer: WordRenderer) -> None:
    np.random.seed(1)
    first, state = renderer.render(11).image, np.random.get_state()[1].copy()  # type: ignore[index]
    np.random.seed(2)
    np.testing.assert_array_equal(renderer.render(11).image, first)
    np.random.seed(1)
    renderer.render(12)
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # type: ignore[index]


def test_seeds_and_indices_give_different_words(renderer: WordRenderer, faces: list[FontFace]) -> None:
    other = WordRenderer(replace(renderer.config, seed=4), faces)
    texts = [[r.render(index).text for index in range(40)] for r in (renderer, other)]
    assert len(set(texts[0])) > 35
    assert sum(a == b for a, b in zip(*texts, strict=True)) < 4


@pytest.mark.parametrize("height", [16, 48, 64])
def test_other_heights_give_the_same_kind_of_words(faces: list[FontFace], height: int) -> None:
    renderer = WordRenderer(RenderingConfig(height=height, texts=ENGLISH), faces)
    assert {renderer.render(index).image.shape[0] for index in range(30)} == {height}


def test_labels_keep_to_the_charset(faces: list[FontFace]) -> None:
    texts = replace(ENGLISH, charset="0123456789abcdefghijklmnopqrstuvwxyz")
    renderer = WordRenderer(RenderingConfig(texts=texts), faces)
    assert {c for index in range(200) for c in renderer.render(index).text} <= set(texts.charset)


def test_a_font_of_capitals_never_gets_a_lower_case_label(faces: list[FontFace]) -> None:
    capitals = replace(faces[0], case="upper", characters="ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ")
    renderer = WordRenderer(RenderingConfig(texts=ENGLISH), [capitals])
    for index in range(150):
        text = renderer.render(index).text
        assert capitals.can_write(text)
        assert text == text.upper()


def test_a_charset_that_no_font_writes_is_refused(faces: list[FontFace]) -> None:
    letters = replace(faces[0], characters="abc ")
    renderer = WordRenderer(RenderingConfig(texts=replace(ENGLISH, charset="XYZ")), [letters])
    with pytest.raises(ValueError, match="XYZ"):
        renderer.render(0)


def test_documents_alone_are_bright_paper(faces: list[FontFace]) -> None:
    documents = WordRenderer(RenderingConfig(document_share=1.0, texts=ENGLISH), faces)
    images = [documents.render(index).image for index in range(60)]
    assert np.mean([np.median(image) for image in images]) > 170  # paper
    plain = RenderingConfig(
        document_share=0,
        neighbour_share=0,
        board_share=0,
        occlusion_share=0,
        two_colour_share=0,
        texts=ENGLISH,
    )
    assert WordRenderer(plain, faces).render(0).image.shape[0] == 32


def test_wide_words_are_squeezed_into_the_maximum(faces: list[FontFace]) -> None:
    renderer = WordRenderer(RenderingConfig(max_width=40, texts=ENGLISH), faces)
    widths = [renderer.render(index).image.shape[1] for index in range(60)]
    assert max(widths) == 40


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"fonts": "folder"}, TypeError, "tuple"),
        ({"seed": -1}, ValueError, "seed"),
        ({"height": 8}, ValueError, "height"),
        ({"min_width": 600}, ValueError, "min_width"),
        ({"neighbour_share": 1.2}, ValueError, "neighbour_share"),
    ],
)
def test_wrong_settings_are_refused(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        RenderingConfig(**change)


def test_without_fonts_the_error_says_what_to_install(tmp_path: Path) -> None:
    with pytest.raises(NoUsableFontError, match=r"install_fonts\.sh.*fonts-dejavu-core"):
        WordRenderer(RenderingConfig(fonts=(str(tmp_path),)))


def test_plain_words_are_black_on_white_and_leave_the_others_alone(
    renderer: WordRenderer, faces: list[FontFace]
) -> None:
    plain = WordRenderer(replace(renderer.config, plain_share=1.0), faces)
    for index in range(20):
        word = plain.render(index)
        assert np.ptp(word.image, axis=2).max() == 0
        assert np.percentile(word.image, 99) == 255
        assert word.image.min() < 80
        assert word.image.shape[0] == 32
    mixed = WordRenderer(replace(renderer.config, plain_share=0.5), faces)
    grey = [np.ptp(mixed.render(index).image, axis=2).max() == 0 for index in range(200)]
    assert 70 < sum(grey) < 130


def test_characters_beyond_ascii_are_drawn_in_fonts_that_have_them(
    good_font: Path, accented_font: Path, tmp_path: Path
) -> None:
    texts = replace(ENGLISH, charset=ENGLISH.charset + "äß", emphasised="äß", emphasis=0.5)
    faces = load_fonts(
        [good_font, accented_font], index_folder=tmp_path, further_characters=texts.further_characters
    )
    assert [("ä" in face.characters) for face in sorted(faces, key=lambda face: face.family)] == [True, False]
    renderer = WordRenderer(RenderingConfig(seed=5, texts=texts), faces)
    words = [renderer.render(index).text for index in range(80)]
    assert 25 < sum(bool(set(word) & set("äß")) for word in words) < 55


def test_a_character_that_no_font_draws_is_refused(faces: list[FontFace]) -> None:
    texts = replace(ENGLISH, charset=ENGLISH.charset + "ж")
    with pytest.raises(ValueError, match="none of the 1 fonts draws 'ж' of `charset`"):
        WordRenderer(RenderingConfig(texts=texts), faces)
