"""Views: each operation against its formula, and the draw as a pure function of its numbers."""

from collections import Counter

import numpy as np
import pytest

from training import view_augmentation as views

OPERATIONS = {operation.name: operation.apply for operation in views.VIEW_OPERATIONS}


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def noise(height: int = 32, width: int = 100, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def ramp(height: int = 32, width: int = 128) -> np.ndarray:
    """Red grows with x, green with y: where a pixel comes from can be read off its colour."""
    image = np.zeros((height, width, 3), dtype=np.uint8)
    image[..., 0] = np.arange(width)
    image[..., 1] = 4 * np.arange(height)[:, None]
    return image


def test_the_seven_operations_of_the_released_code_in_its_order() -> None:
    assert list(OPERATIONS) == [
        "linear_contrast",
        "gaussian_blur",
        "crop_vertical",
        "crop_horizontal",
        "sharpen",
        "piecewise_affine",
        "perspective_transform",
    ]


@pytest.mark.parametrize("name", OPERATIONS)
@pytest.mark.parametrize("size", [(32, 100), (32, 16), (5, 7)])
def test_an_operation_keeps_size_and_type_and_its_input(name: str, size: tuple[int, int]) -> None:
    image = noise(*size)
    before = image.copy()
    result = OPERATIONS[name](image, generator())
    assert result.shape == image.shape
    assert result.dtype == np.uint8
    assert np.array_equal(image, before)


@pytest.mark.parametrize("name", sorted(set(OPERATIONS) - {"linear_contrast", "sharpen"}))
def test_an_operation_on_one_colour_changes_nothing(name: str) -> None:
    flat = np.full((32, 100, 3), (200, 30, 90), dtype=np.uint8)
    assert np.abs(OPERATIONS[name](flat, generator()).astype(int) - flat).max() <= 1


def test_view_is_a_pure_function_of_seed_epoch_index_and_view() -> None:
    image = noise()
    numbers = {"seed": 3, "epoch": 1, "index": 12, "view": 0}
    first = views.make_view(image, **numbers)
    np.random.seed(5)
    assert np.array_equal(first, views.make_view(image.copy(), **numbers))
    for name in numbers:
        assert not np.array_equal(first, views.make_view(image, **{**numbers, name: numbers[name] + 1})), name


def test_one_to_five_operations_all_numbers_and_operations_alike() -> None:
    source = generator()
    draws = [views.draw_operations(source) for _ in range(7000)]
    counts = Counter(len(drawn) for drawn in draws)
    assert set(counts) == {1, 2, 3, 4, 5}
    assert all(abs(counts[n] - 1400) < 150 for n in counts)
    assert all(len({operation.name for operation in drawn}) == len(drawn) for drawn in draws)
    # Each of seven is in a draw of n with n / 7; the mean of n is 3.
    names = Counter(operation.name for drawn in draws for operation in drawn)
    assert all(abs(names[name] - 3000) < 150 for name in OPERATIONS)
    firsts = Counter(drawn[0].name for drawn in draws)
    assert all(abs(firsts[name] - 1000) < 150 for name in OPERATIONS), "the order is random, too"


def test_linear_contrast_is_its_formula() -> None:
    image = noise()
    alpha = generator(4).uniform(0.5, 1.0)
    expected = (127.5 + alpha * (image.astype(np.float64) - 127.5)).astype(np.uint8)
    assert np.array_equal(views.linear_contrast(image, generator(4)), expected)


def test_sharpen_equals_a_written_out_filter() -> None:
    image = noise(9, 11)
    alpha, lightness = generator(2).uniform(0.0, 0.5, size=2)
    padded = np.pad(image.astype(np.float64), ((1, 1), (1, 1), (0, 0)), mode="reflect")
    neighbours = sum(padded[1 + y : 10 + y, 1 + x : 12 + x] for y in (-1, 0, 1) for x in (-1, 0, 1))
    edges = (9 + lightness) * image - neighbours
    expected = np.clip((1 - alpha) * image + alpha * edges, 0, 255)
    assert np.abs(views.sharpen(image, generator(2)) - expected).max() <= 1


def test_gaussian_blur_keeps_the_mean_and_spreads_a_point_by_sigma() -> None:
    point = np.zeros((31, 31, 3), dtype=np.uint8)
    point[15, 15] = 255
    sigma = generator(1).uniform(0.5, 1.5)
    weights = np.exp(-np.square(np.arange(-2, 3)) / (2 * sigma**2))
    weights /= weights.sum()
    blurred = views.gaussian_blur(point, generator(1))
    assert np.abs(blurred[13:18, 13:18, 0] - 255 * np.outer(weights, weights)).max() <= 1
    assert not blurred[:13].any()


def test_crops_show_the_rest_stretched() -> None:
    image = ramp()
    top, bottom = (round(32 * share) for share in generator(5).uniform(0.0, 0.4, size=2))
    cropped = views.crop_vertical(image, generator(5)).astype(int)
    assert abs(cropped[0, 0, 1] - 4 * top) <= 4
    assert abs(cropped[-1, 0, 1] - 4 * (31 - bottom)) <= 4
    assert np.abs(cropped[..., 0] - image[..., 0]).max() <= 1, "columns stay in place"
    left, right = (round(128 * share) for share in generator(6).uniform(0.0, 0.02, size=2))
    cropped = views.crop_horizontal(image, generator(6)).astype(int)
    assert abs(cropped[0, 0, 0] - left) <= 1
    assert abs(cropped[0, -1, 0] - (127 - right)) <= 1


@pytest.mark.parametrize("name", OPERATIONS)
def test_no_operation_moves_a_frame_of_four_pixels_to_its_neighbour_often(name: str) -> None:
    """Shifts sideways stay under half a frame (2 pixels) in the mean and under 3 frames at worst."""
    if name in ("linear_contrast", "sharpen"):
        return  # they change the ramp's values, not its places; their formulas are tested above
    image = ramp()
    changed = [OPERATIONS[name](image, generator(seed))[..., 0].astype(int) for seed in range(50)]
    shifts = [np.abs(view - image[..., 0]) for view in changed]
    assert np.mean(shifts) < 2.0
    assert np.max(shifts) < 12


def test_a_mesh_without_displacement_is_the_identity_and_a_constant_one_a_translation() -> None:
    image = noise()
    assert np.array_equal(views._warp_mesh(image, np.zeros((4, 4, 2))), image)
    moved = views._warp_mesh(image, np.tile([1.0, 2.0], (4, 4, 1)))
    assert np.array_equal(moved[:-1, :-2], image[1:, 2:])


def test_mesh_warp_equals_planes_through_the_corners_of_each_triangle() -> None:
    """Warped by hand, pixel by pixel: barycentric weights of the triangle that a pixel lies in."""
    height, width = 32, 128
    displacement = generator(3).normal(0, 1.5, size=(4, 4, 2))
    image = ramp(height, width)
    warped = views._warp_mesh(image, displacement).astype(float)
    for y in range(1, height, 5):
        for x in range(0, width, 3):
            row, column = y * 3 // height, x * 3 // width
            v, u = y * 3 / height - row, x * 3 / width - column
            third = (0, 1) if u >= v else (1, 0)
            corners = np.array([(0, 0), (1, 1), third])
            system = np.concatenate([corners.T, np.ones((1, 3))])
            weights = np.linalg.solve(system, [v, u, 1.0])
            shift = sum(
                weight * displacement[row + dy, column + dx]
                for weight, (dy, dx) in zip(weights, corners, strict=True)
            )
            wanted = np.clip([x + shift[1], 4 * (y + shift[0])], 0, [width - 1, 4 * (height - 1)])
            assert np.abs(warped[y, x, :2] - wanted).max() <= 1.0, (y, x)


def test_wrong_images_are_refused() -> None:
    with pytest.raises(ValueError, match="must be \\(H, W, 3\\) uint8"):
        views.make_view(np.zeros((32, 100, 3), dtype=np.float32), 0, 0, 0, 0)
    with pytest.raises(ValueError, match="must be \\(H, W, 3\\) uint8"):
        views.make_view(np.zeros((0, 100, 3), dtype=np.uint8), 0, 0, 0, 0)
