from typing import Any

import numpy as np
import pytest

from training.augmentation import WORKING_HEIGHT
from training.error_analysis import WordRecord
from training.robustness import DISTORTIONS, choose_sample, distort, measure_robustness

BY_NAME = {distortion.name: distortion for distortion in DISTORTIONS}


def picture(height: int = 40, width: int = 120) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def record(number: int, height: int = 40) -> WordRecord:
    return WordRecord("set", picture(max(1, height)), f"w{number}", "", 0.5, True, height, 120)


@pytest.mark.parametrize("distortion", DISTORTIONS, ids=lambda one: one.name)
def test_a_distorted_image_is_a_function_of_image_grade_and_number(distortion: Any) -> None:
    image = picture()
    before = image.copy()
    for grade in distortion.grades:
        first, again = (distort(image, distortion, grade, 3) for _ in range(2))
        assert np.array_equal(first, again)
        assert first.dtype == np.uint8
        assert first.shape != image.shape or not np.array_equal(first, image)
    assert np.array_equal(image, before)
    assert len(distortion.grades) == 4


def test_a_turned_image_holds_its_corners() -> None:
    """A canvas of |w cos| + |h sin| by |w sin| + |h cos|; a flat image stays flat."""
    flat = np.full((40, 120, 3), 77, np.uint8)
    turned = distort(flat, BY_NAME["rotation"], 25, 0)
    angle = np.radians(25)
    height = int(np.ceil(120 * np.sin(angle) + 40 * np.cos(angle)))
    width = int(np.ceil(120 * np.cos(angle) + 40 * np.sin(angle)))
    assert turned.shape == (height, width, 3)
    assert (turned == 77).all()


def test_words_turn_to_both_sides() -> None:
    image = picture()
    turned = [distort(image, BY_NAME["rotation"], 10, number) for number in range(20)]
    assert len({one.tobytes() for one in turned}) == 2


def test_noise_has_its_standard_deviation_and_no_offset() -> None:
    grey = np.full((80, 400, 3), 128, np.uint8)
    noise = distort(grey, BY_NAME["noise"], 25, 1).astype(float) - 128
    assert noise.std() == pytest.approx(25, rel=0.02)
    assert abs(noise.mean()) < 0.5


@pytest.mark.parametrize("grade", BY_NAME["occlusion"].grades)
def test_occlusion_covers_its_share_and_nothing_else(grade: float) -> None:
    image = np.zeros((10, 200, 3), np.uint8)
    covered = distort(image, BY_NAME["occlusion"], grade, 5)
    columns = (covered == 128).all(axis=(0, 2))
    assert columns.sum() == round(2 * grade)
    assert np.diff(np.flatnonzero(columns)).max(initial=1) == 1
    assert (covered[:, ~columns] == 0).all()


def test_blur_keeps_brightness_and_loses_detail() -> None:
    image = picture()
    softer = [distort(image, BY_NAME["blur"], grade, 0) for grade in BY_NAME["blur"].grades]
    assert [one.mean() for one in softer] == pytest.approx([image.mean()] * 4, abs=2)
    spread = [one.std() for one in softer]
    assert image.std() > spread[0] > spread[1] > spread[2] > spread[3]


def test_low_resolution_averages_pixels_and_never_enlarges() -> None:
    image = np.zeros((32, 64, 3), np.uint8)
    image[:, ::2] = 200
    small = distort(image, BY_NAME["low resolution"], 8, 0)
    assert small.shape == (8, 16, 3)
    assert (small == 100).all()
    assert np.array_equal(distort(small, BY_NAME["low resolution"], 16, 0), small)


def test_tiny_images_survive_every_distortion() -> None:
    for distortion in DISTORTIONS:
        for grade in distortion.grades:
            assert distort(picture(1, 1), distortion, grade, 0).size


def test_what_is_no_image_or_no_grade_is_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        distort(picture().astype(float), DISTORTIONS[0], 5, 0)
    with pytest.raises(ValueError, match=r"rotation has the grades \(5, 10, 15, 25\), got 90"):
        distort(picture(), DISTORTIONS[0], 90, 0)


def test_a_sample_is_spread_over_all_readable_words() -> None:
    records = [record(number, height=0 if number == 1 else 40) for number in range(11)]
    assert [one.label for one in choose_sample(records, 4)] == ["w0", "w4", "w7", "w10"]
    assert len(choose_sample(records, 50)) == 10


def test_every_curve_starts_at_the_undistorted_words() -> None:
    """A reader that reads an image only while it is as it was."""
    sample = [record(number) for number in range(3)] + [record(3, height=200)]
    clean = [one.image for one in sample]
    calls = []

    def reader(images: list[np.ndarray]) -> list[dict[str, str]]:
        calls.append(max(image.shape[0] for image in images))
        return [
            {"text": f"W{i}" if image.shape == old.shape and np.array_equal(image, old) else "?"}
            for i, (image, old) in enumerate(zip(images, clean, strict=True))
        ]

    curves = measure_robustness(reader, sample)
    assert [curve.name for curve in curves] == [distortion.name for distortion in DISTORTIONS]
    # The fourth is shrunk first, so that this reader never reads it.
    assert all(curve.points[0].accuracy == 3 / 4 for curve in curves)
    assert all(point.accuracy == 0 for curve in curves for point in curve.points[1:])
    assert [point.name for point in curves[0].points] == ["none", "5", "10", "15", "25"]
    assert calls[0] == WORKING_HEIGHT
    assert len(calls) == 1 + 5 * 4


def test_without_words_there_are_no_curves() -> None:
    assert measure_robustness(None, []) == []
