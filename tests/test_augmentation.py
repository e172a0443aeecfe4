import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from training import augmentation
from training.augmentation import GEOMETRIC, PHOTOMETRIC, augment, crop, shrink, warp

Words = list[tuple[Image.Image, str]]


@pytest.fixture
def picture(eight_words: Words) -> np.ndarray:
    return np.asarray(eight_words[0][0])


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


class Extreme:
    """A generator whose uniform draws all lie at one end; `random` answers 1."""

    def __init__(self, end: str) -> None:
        self.end = end

    def uniform(self, low: float, high: float, size: Any = None) -> Any:
        value = low if self.end == "low" else high
        return value if size is None else np.full(size, value)

    def random(self) -> float:
        return 1.0


def test_the_same_generator_gives_the_same_view(picture: np.ndarray) -> None:
    assert np.array_equal(augment(picture, generator(3), 0.7), augment(picture, generator(3), 0.7))
    assert not np.array_equal(augment(picture, generator(3), 0.7), augment(picture, generator(4), 0.7))


def test_the_global_generators_are_neither_read_nor_moved(picture: np.ndarray) -> None:
    before = np.random.get_state()[1].tolist()  # type: ignore[index]
    first = augment(picture, generator(5), 1.0)
    assert np.random.get_state()[1].tolist() == before  # type: ignore[index]
    np.random.seed(99)
    assert np.array_equal(first, augment(picture, generator(5), 1.0))


def test_strength_zero_leaves_the_image_as_it_is(picture: np.ndarray) -> None:
    assert augment(picture, generator(), 0.0) is picture


def test_the_input_is_never_written_to(picture: np.ndarray) -> None:
    kept = picture.copy()
    for seed in range(20):
        augment(picture, generator(seed), 1.0)
    assert np.array_equal(picture, kept)


@pytest.mark.parametrize("size", [(32, 128), (1, 1), (1, 300), (400, 7), (33, 32)])
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_every_size_gives_a_usable_image(size: tuple[int, int], strength: float) -> None:
    image = generator().integers(0, 256, (*size, 3), dtype=np.uint8)
    for seed in range(15):
        view = augment(image, generator(seed), strength)
        assert view.dtype == np.uint8
        assert view.ndim == 3
        assert view.shape[2] == 3
        assert min(view.shape) >= 1


def test_a_stronger_setting_changes_more(picture: np.ndarray) -> None:
    def change(strength: float) -> float:
        views = [augment(picture, generator(seed), strength) for seed in range(40)]
        return float(np.mean([abs(int(view.mean()) - int(picture.mean())) for view in views]))

    assert change(0.1) < change(1.0)


@pytest.mark.parametrize("operation", GEOMETRIC, ids=lambda operation: operation.name)
def test_geometry_of_strength_zero_is_the_identity(operation: augmentation.GeometricOperation) -> None:
    assert operation.make(32, 128, generator(), 0.0) == pytest.approx(np.eye(3), abs=1e-6)


@pytest.mark.parametrize("operation", GEOMETRIC, ids=lambda operation: operation.name)
@pytest.mark.parametrize("end", ["low", "high"])
def test_no_corner_moves_further_than_promised(operation: augmentation.GeometricOperation, end: str) -> None:
    height, width = 32, 128
    extreme: Any = Extreme(end)
    matrix = operation.make(height, width, extreme, 1.0)
    corners = np.array([[0, 0, 1], [width, 0, 1], [width, height, 1], [0, height, 1]]) @ matrix.T
    moved = corners[:, :2] / corners[:, 2:] - np.array([[0, 0], [width, 0], [width, height], [0, height]])
    furthest = {
        "rotation": 2 * math.hypot(height, width) / 2 * math.sin(math.radians(15) / 2),
        "shear": 0.5 * height / 2,
        "stretch": 0.5 * width,
        "perspective": 0.2 * height * math.sqrt(2),
        # A window 16 % wider on both sides, or 8 % narrower, seen at the image's own size.
        "crop": 0.2 * width,
    }[operation.name]
    assert np.linalg.norm(moved, axis=1).max() <= furthest + 1e-3


def test_rotation_keeps_lengths_and_the_centre() -> None:
    matrix = augmentation.rotation(32, 128, generator(1), 1.0)
    assert matrix @ np.array([64, 16, 1]) == pytest.approx([64, 16, 1])
    assert matrix[:2, :2] @ matrix[:2, :2].T == pytest.approx(np.eye(2))


def test_warp_by_the_identity_returns_the_image(picture: np.ndarray) -> None:
    assert np.array_equal(warp(picture, np.eye(3)), picture)


def test_warp_by_whole_pixels_is_undone_by_its_canvas(picture: np.ndarray) -> None:
    """A translation moves the canvas with it: nothing changes."""
    shift = np.array([[1, 0, 7], [0, 1, -3], [0, 0, 1.0]])
    assert np.array_equal(warp(picture, shift), picture)


def test_warp_by_a_factor_of_two_doubles_the_width(picture: np.ndarray) -> None:
    assert warp(picture, np.diag([2.0, 1.0, 1.0])).shape == (32, 256, 3)


def test_crop_shows_its_window() -> None:
    """The window's corners become the image's corners."""
    extreme: Any = Extreme("high")
    matrix = crop(100, 200, extreme, 1.0)
    assert matrix @ np.array([8, 8, 1]) == pytest.approx([0, 0, 1])
    assert matrix @ np.array([192, 92, 1]) == pytest.approx([200, 100, 1])


@pytest.mark.parametrize("operation", PHOTOMETRIC, ids=lambda operation: operation.name)
def test_photometry_keeps_size_and_type(
    operation: augmentation.PhotometricOperation, picture: np.ndarray
) -> None:
    for seed in range(10):
        view = operation.apply(picture, generator(seed), 1.0)
        assert view.shape == picture.shape
        assert view.dtype == np.uint8


def test_inverting_twice_restores(picture: np.ndarray) -> None:
    once = augmentation.invert(picture, generator(), 1.0)
    assert np.array_equal(augmentation.invert(once, generator(), 1.0), picture)
    assert np.array_equal(once, 255 - picture)


def test_grey_has_equal_channels_and_keeps_grey(picture: np.ndarray) -> None:
    view = augmentation.grey(picture, generator(), 1.0)
    assert np.array_equal(view[..., 0], view[..., 1])
    assert np.array_equal(augmentation.grey(view, generator(), 1.0), view)


def test_noise_has_the_strength_it_says() -> None:
    flat = np.full((64, 256, 3), 128, np.uint8)

    class Loud(Extreme):
        def standard_normal(self, size: Any, dtype: Any) -> Any:
            return generator().standard_normal(size, dtype=dtype)

    loud: Any = Loud("high")
    assert augmentation.noise(flat, loud, 1.0).std() == pytest.approx(25, rel=0.03)


def test_blurring_keeps_the_mean_and_calms_the_edges(picture: np.ndarray) -> None:
    for seed in range(12):
        view = augmentation.add_blur(picture, generator(seed), 1.0)
        assert abs(float(view.mean()) - float(picture.mean())) < 6
        assert (
            np.abs(np.diff(view.astype(int), axis=1)).sum()
            <= np.abs(np.diff(picture.astype(int), axis=1)).sum()
        )


@pytest.mark.parametrize(
    ("size", "expected"),
    [((160, 640), (80, 320)), ((80, 10), (80, 10)), ((20, 10), (20, 10)), ((800, 3), (80, 1))],
)
def test_shrink_keeps_the_shape(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert shrink(np.zeros((*size, 3), np.uint8), 80).shape[:2] == expected


@pytest.mark.parametrize(
    ("make", "strength", "message"),
    [
        (lambda: np.zeros((4, 4, 3), np.uint8), 1.1, "0 to 1"),
        (lambda: np.zeros((4, 4), np.uint8), 0.5, r"\(H, W, 3\) uint8"),
        (lambda: np.zeros((4, 4, 3), np.float32), 0.5, r"\(H, W, 3\) uint8"),
        (lambda: np.zeros((0, 4, 3), np.uint8), 0.5, r"\(H, W, 3\) uint8"),
    ],
)
def test_unusable_input_is_refused(make: Callable[[], np.ndarray], strength: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        augment(make(), generator(), strength)
