import numpy as np
import pytest

from training.word_backgrounds import TextureBank, luminance, paint_background, ramp, sample_palette


def test_a_ramp_runs_from_0_to_1() -> None:
    for seed in range(10):
        values = ramp(np.random.default_rng(seed), 20, 50)
        assert values.min() == pytest.approx(0.0, abs=1e-5)
        assert values.max() == pytest.approx(1.0, abs=1e-5)


def test_textures_are_the_same_in_every_bank_and_balanced() -> None:
    first, second = (TextureBank(32, 64, count=10) for _ in range(2))
    for seed in range(30):
        one = first.window(np.random.default_rng(seed), 32, 60)
        np.testing.assert_array_equal(one, second.window(np.random.default_rng(seed), 32, 60))
        assert one.shape == (32, 60)
        assert np.abs(one).max() <= 1.0


def test_ink_differs_from_its_background() -> None:
    rng = np.random.default_rng(0)
    contrasts = []
    for number in range(300):
        palette = sample_palette(rng, document=number % 5 == 0)
        contrasts.append(abs(luminance(palette.background) - luminance(palette.ink)))
    assert np.quantile(contrasts, 0.02) > 20
    assert 60 < np.median(contrasts) < 200


def test_documents_are_dark_on_light() -> None:
    rng, bank = np.random.default_rng(0), TextureBank(32, 64, count=10)
    for _ in range(50):
        palette = sample_palette(rng, document=True)
        assert luminance(palette.background) > luminance(palette.ink) + 30
        assert paint_background(rng, palette, bank, 32, 64, document=True).mean() > 150
