"""The thin-plate spline goes through its control points, and starts as the identity or as RARE's curve."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from modeling_rcmstr.rectification import ThinPlateSplineRectifier, fiducial_points, thin_plate_grid
from tests.recognisers import class_of

EDGES = fiducial_points(20, (-1.0, -1.0), (1.0, 1.0))


def numpy_grid(points: np.ndarray, height: int, width: int) -> np.ndarray:
    """The spline as RARE writes it (arXiv:1603.03915, Eq. 1 to 4), for one image, in float64."""
    count = len(points)
    half = np.linspace(-1, 1, count // 2)
    control = np.concatenate(
        [np.stack([half, -np.ones_like(half)], 1), np.stack([half, np.ones_like(half)], 1)]
    )

    def radial(distance: np.ndarray) -> np.ndarray:
        return np.where(distance == 0, 0.0, distance**2 * np.log(np.where(distance == 0, 1.0, distance)))

    between = radial(np.linalg.norm(control[:, None] - control[None], axis=-1))
    delta = np.zeros((count + 3, count + 3))
    delta[:count] = np.concatenate([np.ones((count, 1)), control, between], 1)
    delta[count, 3:] = control[:, 0]
    delta[count + 1, 3:] = control[:, 1]
    delta[count + 2, 3:] = 1
    coefficients = np.linalg.solve(delta, np.concatenate([points, np.zeros((3, 2))]))  # (F + 3, 2)
    grid = np.zeros((height, width, 2))
    for row, column in np.ndindex(height, width):
        pixel = np.array([(2 * column + 1) / width - 1, (2 * row + 1) / height - 1])
        distances = radial(np.linalg.norm(pixel - control, axis=-1))
        grid[row, column] = np.concatenate([[1], pixel, distances]) @ coefficients
    return grid


def regular_grid(height: int, width: int) -> Tensor:
    x = (torch.arange(width) * 2 + 1) / width - 1
    y = (torch.arange(height) * 2 + 1) / height - 1
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def test_parameter_count_is_the_papers() -> None:
    assert sum(p.numel() for p in ThinPlateSplineRectifier(3, 20).parameters()) == 1_693_544


@pytest.mark.parametrize(("top", "bottom"), [((-1.0, -1.0), (1.0, 1.0)), ((0.0, -1.0), (1.0, 0.0))])
def test_fiducial_points_run_along_both_lines(top: tuple[float, float], bottom: tuple[float, float]) -> None:
    points = fiducial_points(20, top, bottom).numpy()
    x = np.linspace(-1, 1, 10)
    upper = np.stack([x, np.linspace(*top, 10)], 1)
    lower = np.stack([x, np.linspace(*bottom, 10)], 1)
    np.testing.assert_allclose(points, np.concatenate([upper, lower]), atol=1e-6)


@pytest.mark.parametrize("size", [(32, 100), (32, 128)])
def test_points_on_the_edges_give_the_regular_grid(size: tuple[int, int]) -> None:
    grid = thin_plate_grid(EDGES[None], *size)[0]
    torch.testing.assert_close(grid, regular_grid(*size), rtol=0, atol=2e-5)
    # Sampled with `align_corners`, the image shrinks by at most half a pixel and does not move.
    for axis, length in ((0, size[1]), (1, size[0])):
        sampled = (grid[..., axis] + 1) / 2 * (length - 1)
        index = torch.arange(length).float()
        index = index.expand(size) if axis == 0 else index[:, None].expand(size)
        assert (sampled - index).abs().max() <= 0.5
        assert (sampled - index).mean().abs() < 1e-4


@pytest.mark.parametrize("count", [4, 10, 20])
def test_grid_equals_the_published_equations(count: int) -> None:
    points = torch.rand(2, count, 2) * 2 - 1
    grid = thin_plate_grid(points, 6, 9)
    for image in range(2):
        np.testing.assert_allclose(grid[image], numpy_grid(points[image].numpy(), 6, 9), atol=3e-5)


def test_affine_maps_of_the_points_are_affine_maps_of_the_grid() -> None:
    matrix, shift = torch.tensor([[0.7, 0.2], [-0.1, 0.9]]), torch.tensor([0.1, -0.2])
    grid = thin_plate_grid((EDGES @ matrix.T + shift)[None], 8, 20)[0]
    torch.testing.assert_close(grid, regular_grid(8, 20) @ matrix.T + shift, rtol=0, atol=2e-5)


def test_spline_passes_through_its_control_points() -> None:
    # The outer pixel centres of a large image lie close to the four corners, which are control points.
    points = fiducial_points(4, (-0.8, -0.3), (0.4, 0.9))[None]
    grid = thin_plate_grid(points, 2001, 2001)[0]
    corners = torch.stack([grid[0, 0], grid[0, -1], grid[-1, 0], grid[-1, -1]])
    torch.testing.assert_close(corners, points[0], rtol=0, atol=3e-3)


@pytest.fixture
def rectifier(request: Any, tiny_config: Callable[..., Any]) -> ThinPlateSplineRectifier:
    """A rectifier as a new model has it."""
    config = tiny_config(rectifier_type="tps", rectifier_initialization=request.param)
    return class_of("rcmstr")(config).eval().rectifier


@pytest.mark.parametrize("rectifier", ["identity"], indirect=True)
def test_new_rectifier_hardly_moves_the_image(rectifier: ThinPlateSplineRectifier) -> None:
    ramp = torch.linspace(-1, 1, 100).expand(1, 3, 32, 100)  # a pixel is worth 2/99
    assert (rectifier(ramp) - ramp).abs().max() <= 0.5 * 2 / 99 + 1e-5
    assert torch.equal(rectifier.points.bias, EDGES.flatten())
    assert torch.count_nonzero(rectifier.points.weight) == 0


@pytest.mark.parametrize("rectifier", ["curved"], indirect=True)
def test_curved_start_is_the_papers_and_warps(rectifier: ThinPlateSplineRectifier) -> None:
    expected = fiducial_points(20, (0.0, -1.0), (1.0, 0.0)).flatten()
    assert torch.equal(rectifier.points.bias, expected)
    ramp = torch.linspace(-1, 1, 32)[:, None].expand(1, 3, 32, 100)
    assert (rectifier(ramp) - ramp).abs().max() > 0.4


@pytest.mark.parametrize("rectifier", ["identity"], indirect=True)
def test_recogniser_loss_teaches_the_points(rectifier: ThinPlateSplineRectifier) -> None:
    rectifier.train()
    (rectifier(torch.randn(2, 3, 32, 64)) * torch.randn(2, 3, 32, 64)).sum().backward()
    for parameter in (rectifier.points.weight, rectifier.points.bias):
        assert parameter.grad is not None
        assert parameter.grad.abs().max() > 0


@pytest.mark.parametrize("rectifier", ["identity"], indirect=True)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_does_not_blur_the_grid(
    rectifier: ThinPlateSplineRectifier, dtype: torch.dtype
) -> None:
    """A ramp shows where each pixel came from; bfloat16 coordinates would be off by a quarter of a pixel."""
    ramp = torch.linspace(0, 1, 128).expand(1, 3, 32, 128)
    expected = rectifier(ramp)
    with torch.autocast("cpu", dtype):
        torch.testing.assert_close(rectifier(ramp).float(), expected, rtol=0, atol=0.05 / 128)
    half = rectifier.to(dtype)(ramp.to(dtype))
    assert half.dtype == dtype
    # What the output and the stored points themselves can tell.
    torch.testing.assert_close(half.float(), expected, rtol=0, atol=torch.finfo(dtype).eps)
