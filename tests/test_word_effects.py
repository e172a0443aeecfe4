import numpy as np
import pytest

from training.word_effects import (
    NoiseBank,
    add_noise,
    blur,
    expose,
    is_legible,
    jpeg,
    keep_readable,
    light,
    motion_kernel,
    separation,
)


def stripes(dark: float = 40.0, bright: float = 200.0) -> tuple[np.ndarray, np.ndarray]:
    """Letters that are upright bars: (32, 96, 3) image and (32, 96, 1) ink."""
    ink = np.zeros((32, 96, 1), np.float32)
    for left in range(8, 90, 12):
        ink[6:26, left : left + 4] = 1.0
    image = dark + (bright - dark) * np.repeat(ink, 3, axis=2)
    return image.astype(np.float32), ink


def test_separation_is_the_difference_of_means() -> None:
    image, ink = stripes(40.0, 200.0)
    assert separation(image, ink) == pytest.approx(160.0, rel=1e-4)
    assert separation(255.0 - image, ink) == pytest.approx(-160.0, rel=1e-4)


def test_colour_of_one_brightness_counts_for_a_third() -> None:
    image, ink = stripes(100.0, 100.0)
    image[:, :, 0] += 58.7 * ink[:, :, 0]
    image[:, :, 1] -= 29.9 * ink[:, :, 0]
    assert separation(image, ink) == pytest.approx(58.7 / 3, rel=1e-3)


def test_faint_letters_are_brought_to_the_floor_and_clear_ones_left() -> None:
    faint, ink = stripes(100.0, 104.0)
    assert keep_readable(faint, ink, floor=22.0) == pytest.approx(22.0, rel=1e-3)
    assert separation(faint, ink) == pytest.approx(22.0, rel=1e-3)
    clear, ink = stripes()
    before = clear.copy()
    keep_readable(clear, ink)
    np.testing.assert_array_equal(clear, before)


def test_letters_are_legible_until_contrast_or_noise_drowns_them() -> None:
    image, ink = stripes()
    assert is_legible(image.astype(np.uint8), ink)
    assert is_legible(255 - image.astype(np.uint8), ink)
    faint, _ = stripes(100.0, 105.0)
    assert not is_legible(faint.astype(np.uint8), ink)
    noise = np.random.default_rng(0).normal(0, 120, image.shape)
    assert not is_legible(np.clip(faint + noise, 0, 255).astype(np.uint8), ink)


def test_letters_lost_at_one_end_are_not_legible() -> None:
    image, ink = stripes()
    image[:, 64:] = 40.0
    assert not is_legible(image.astype(np.uint8), ink)


def test_a_ramp_of_light_is_not_taken_for_contrast() -> None:
    _, ink = stripes()
    image = np.repeat(np.linspace(0, 255, 96, dtype=np.float32)[None, :, None], 32, axis=0)
    assert not is_legible(np.repeat(image, 3, axis=2).astype(np.uint8), ink)


@pytest.mark.parametrize("angle", [0.0, 0.7, np.pi / 2])
def test_motion_keeps_brightness_and_points_its_way(angle: float) -> None:
    kernel = motion_kernel(6.0, angle)
    assert kernel.sum() == pytest.approx(1.0)
    centre = len(kernel) // 2
    spread_x = (kernel.sum(0) * (np.arange(len(kernel)) - centre) ** 2).sum()
    spread_y = (kernel.sum(1) * (np.arange(len(kernel)) - centre) ** 2).sum()
    assert np.arctan2(np.sqrt(spread_y), np.sqrt(spread_x)) == pytest.approx(angle, abs=0.25)


def test_noise_has_the_strength_asked_for() -> None:
    bank, grey = NoiseBank(), np.full((64, 64, 3), 128, np.uint8)
    values = [add_noise(grey, np.random.default_rng(s), bank, 8.0).std() for s in range(20)]
    assert 7.0 < min(values) < 9.0
    assert max(values) < 12.0


def test_noise_larger_than_the_bank_is_made_anew() -> None:
    noise = NoiseBank(size=100).take(np.random.default_rng(0), (32, 32))
    assert noise.shape == (32, 32)
    assert noise.std() == pytest.approx(1.0, abs=0.1)


def test_jpeg_keeps_colours_and_loses_with_quality() -> None:
    image = np.zeros((32, 64, 3), np.uint8)
    image[:] = (200, 60, 30)
    assert np.abs(jpeg(image, 95).astype(int) - image).max() <= 4
    detail = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    errors = [np.abs(jpeg(detail, q).astype(int) - detail).mean() for q in (95, 60, 20)]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("width", [4, 33, 400])
def test_light_and_camera_keep_shape_and_type(width: int) -> None:
    bank = NoiseBank()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        image = light(np.full((32, width, 3), 120.0, np.float32), rng, document=seed % 3 == 0)
        assert image.dtype == np.float32
        assert np.isfinite(image).all()
        pixels = expose(blur(np.clip(image, 0, 255).astype(np.uint8), rng), rng, bank, 60.0)
        assert pixels.shape == (32, width, 3)
        assert pixels.dtype == np.uint8
