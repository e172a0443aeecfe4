"""Pictures: what is hidden is hidden, what is shown is exact, and the script writes them."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from modeling_rcmstr import TextRecognitionImageProcessor
from tests.pretraining_models import make
from tests.pretraining_settings import write_words
from training.draw_pretraining import (
    CELL,
    GAP,
    HIDDEN_GREY,
    colour_map,
    draw_reconstructions,
    draw_relations,
    main,
    to_pixels,
)


@pytest.fixture
def image_processor() -> Any:
    return TextRecognitionImageProcessor(size={"height": 32, "width": 100})


def test_pixels_come_back_from_the_normalised_word(image_processor: Any) -> None:
    word = np.random.default_rng(0).integers(0, 256, (32, 100, 3), dtype=np.uint8)
    pixel_values = image_processor(Image.fromarray(word), return_tensors="pt")["pixel_values"]
    assert np.array_equal(to_pixels(pixel_values, image_processor)[0], word)


def test_a_row_shows_the_masked_the_filled_and_the_real_word(image_processor: Any) -> None:
    original = torch.zeros(2, 3, 32, 100)  # mid grey, 128
    drawn = torch.ones(2, 3, 32, 100)  # white
    visible = torch.ones(2, 1, 8, 25, dtype=torch.bool)
    visible[:, :, :, 5:8] = False
    picture = draw_reconstructions(original, drawn, visible, image_processor)
    assert picture.shape == (2 * 32 + GAP, 3 * 100 + 2 * GAP, 3)
    masked, filled, real = (picture[:32, start : start + 100] for start in (0, 100 + GAP, 200 + 2 * GAP))
    hidden = slice(20, 32)
    assert (masked[:, hidden] == HIDDEN_GREY).all()
    assert (filled[:, hidden] == 255).all()
    shown = np.delete(np.arange(100), np.arange(20, 32))
    for part in (masked, filled):
        assert np.array_equal(part[:, shown], real[:, shown])


def test_colours_of_the_heat_map() -> None:
    assert colour_map(np.array([0.0])).tolist() == [[255, 255, 255]]
    assert colour_map(np.array([1.0])).tolist() == colour_map(np.array([3.0])).tolist() == [[150, 30, 40]]
    assert colour_map(np.array([-1.0])).tolist() == [[33, 62, 130]]


def test_relations_are_cosines_of_subwords_and_frames_of_a_pair() -> None:
    vectors = F.normalize(torch.randn(4, 5, 8), dim=-1)
    picture = draw_relations(vectors, vectors[:, :2])
    assert picture.shape == (2 * (4 * CELL) + GAP, 10 * CELL, 3)
    centre = CELL // 2
    own = picture[centre, centre]
    assert own.tolist() == [150, 30, 40], "frame 0 with itself"
    cosine = float(vectors[0, 1] @ vectors[1, 3])
    found = picture[CELL + centre, 8 * CELL + centre]
    assert found.tolist() == colour_map(np.array([cosine]))[0].tolist(), (
        "sub-word 1 of word 0, frame 3 of word 1"
    )


@pytest.mark.parametrize(
    ("preset", "files"),
    [("rcmstr", ["reconstructions.png", "relations.png"]), ("seqmoco", []), ("hier", ["relations.png"])],
)
def test_the_script_draws_what_the_model_has(
    tmp_path: Path, image_processor: Any, preset: str, files: list[str]
) -> None:
    make(preset=preset).save_pretrained(tmp_path / "model")
    image_processor.save_pretrained(tmp_path / "model")
    words = write_words(tmp_path / "words", 4)
    options = ["--words", str(words), "--output", str(tmp_path / "out"), "--count", "4"]
    assert main([str(tmp_path / "model"), *options]) == 0
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == files
    for file in files:
        assert np.asarray(Image.open(tmp_path / "out" / file)).std() > 0


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    words = str(write_words(tmp_path / "words", 2))
    with pytest.raises(ValueError, match="--count must be even"):
        main([str(tmp_path), "--words", words, "--count", "3"])
    with pytest.raises(ValueError, match="holds no config.json"):
        main([str(tmp_path), "--words", words])
    (tmp_path / "config.json").write_text('{"model_type": "persec"}')
    with pytest.raises(ValueError, match="is a persec model"):
        main([str(tmp_path), "--words", words])
    make().save_pretrained(tmp_path / "model")
    TextRecognitionImageProcessor(size={"height": 32, "width": 100}).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="holds 2 words, --count asks for 8"):
        main([str(tmp_path / "model"), "--words", words])
