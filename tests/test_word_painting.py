import numpy as np

from training.word_backgrounds import TextureBank, sample_palette
from training.word_effects import separation
from training.word_painting import occlude, paint
from training.word_styles import Style


def test_painted_letters_stand_out_whatever_the_style() -> None:
    ink = np.zeros((32, 96, 1), np.float32)
    for left in range(8, 90, 12):
        ink[6:26, left : left + 4] = 1.0
    bank = TextureBank(32, 96, count=10)
    for seed in range(200):
        rng = np.random.default_rng(seed)
        style = Style(wear=0.5 * rng.random(), gradient=rng.random(), grain=30.0, relief=20.0, opacity=0.6)
        image = paint(rng, {"ink": ink.copy()}, style, sample_palette(rng), bank, document=False)
        assert image.shape == (32, 96, 3)
        assert abs(separation(image, ink)) > 25.0


def test_what_hangs_before_a_word_hides_little_of_it() -> None:
    hidden = []
    for seed in range(200):
        image = np.full((32, 96, 3), -1.0, np.float32)
        occlude(image, np.random.default_rng(seed))
        hidden.append((image[:, :, 0] != -1.0).mean())
    assert 0.0 < np.mean(hidden) < 0.12
    assert max(hidden) < 0.3
