"""The two views that contrastive pretraining compares: seven named operations of which one to five are drawn.

The list is that of the released RCLSTR code (arXiv:2308.00508), which calls imgaug's `SomeOf((1, 5))` on
words that are already resized; here each operation is a few lines of NumPy and OpenCV. Horizontal crops are
tiny on purpose: frame t of one view must still show what frame t of the other shows. There is no flip and no
change of colour. Distortions for recogniser training are in `augmentation`.

A view is a pure function of (seed, epoch, index, view): any process can make it, in any order, and a resumed
run makes it again.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

# How many operations one view gets, both ends included.
FEWEST_OPERATIONS, MOST_OPERATIONS = 1, 5
# First number of every generator's seed, so that views share no stream with other draws of the same run.
STREAM = 6
# The mesh of `piecewise_affine`, in points per side.
MESH_POINTS = 4
REPEAT_BORDER = cv2.BORDER_REPLICATE


def make_view(image: np.ndarray, seed: int, epoch: int, index: int, view: int) -> np.ndarray:
    """One view of a resized word.

    Args:
        image: (H, W, 3) uint8, RGB, at the size that the model reads.
        seed: of the run; 0 or more, as are the following three.
        epoch: pass over the words.
        index: number of the word, the same in every pass.
        view: number of the view, 0 or 1.

    Returns:
        (H, W, 3) uint8, a new array.

    Raises:
        ValueError: if the image is not (H, W, 3) uint8 or is empty.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"`image` must be (H, W, 3) uint8, got {image.dtype} {image.shape}.")
    generator = np.random.default_rng([STREAM, seed, epoch, index, view])
    result = image.copy()
    for operation in draw_operations(generator):
        result = operation.apply(result, generator)
    return result


def draw_operations(generator: np.random.Generator) -> list[ViewOperation]:
    """One to five different operations, in random order, each number and each choice equally likely."""
    count = int(generator.integers(FEWEST_OPERATIONS, MOST_OPERATIONS + 1))
    return [VIEW_OPERATIONS[i] for i in generator.permutation(len(VIEW_OPERATIONS))[:count]]


def linear_contrast(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Pull every value towards the middle of the range: 127.5 + alpha (v - 127.5), alpha in 0.5..1."""
    alpha = generator.uniform(0.5, 1.0)
    table = 127.5 + alpha * (np.arange(256) - 127.5)
    return np.asarray(cv2.LUT(image, table.astype(np.uint8)))


def gaussian_blur(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Blur with a Gaussian of sigma 0.5..1.5 pixels, cut to 5x5 (imgaug: 3.3 sigma, at least 5 and odd)."""
    sigma = generator.uniform(0.5, 1.5)
    return np.asarray(cv2.GaussianBlur(image, (5, 5), sigma, borderType=cv2.BORDER_REFLECT_101))


def crop_vertical(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Cut 0 to 40 % of the height off the top and off the bottom, and stretch the rest to the whole."""
    height = image.shape[0]
    top, bottom = (round(height * share) for share in generator.uniform(0.0, 0.4, size=2))
    return _stretch_to(image[top : height - bottom], image)


def crop_horizontal(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Cut 0 to 2 % of the width off the left and off the right, and stretch the rest to the whole."""
    width = image.shape[1]
    left, right = (round(width * share) for share in generator.uniform(0.0, 0.02, size=2))
    return _stretch_to(image[:, left : width - right], image)


def sharpen(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Mix image (1 - alpha) and its 3x3 edge filter of centre 8 + lightness (alpha); both in 0..0.5."""
    alpha, lightness = generator.uniform(0.0, 0.5, size=2)
    kernel = np.full((3, 3), -alpha)
    kernel[1, 1] = (1 - alpha) + alpha * (8 + lightness)
    return np.asarray(cv2.filter2D(image, -1, kernel))


def piecewise_affine(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Jitter a 4x4 mesh by a normal of 2 to 3 % of the sides, warp each triangle, repeat the border."""
    height, width = image.shape[:2]
    scale = generator.uniform(0.02, 0.03)
    sides = np.array([height, width], dtype=np.float64)
    rows, columns = (np.linspace(0.0, side, MESH_POINTS) for side in sides)
    mesh = np.stack(np.meshgrid(rows, columns, indexing="ij"), axis=-1)  # (4, 4, 2), (y, x) in pixels
    moved = mesh + generator.normal(0.0, scale, size=mesh.shape) * sides
    displacement = np.clip(moved, 0.0, sides - 1) - mesh
    return _warp_mesh(image, displacement)


def perspective_transform(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Move each corner inwards by the size of a normal draw of 1 to 2 % of the sides; show what lies between.

    imgaug resamples twice (to the corners' own rectangle, then back to the size); here once.
    """
    height, width = image.shape[:2]
    inwards = np.mod(np.abs(generator.normal(0.0, generator.uniform(0.01, 0.02), size=(4, 2))), 0.5)
    unit = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])  # (x, y), clockwise from the upper left
    size = np.array([width, height], dtype=np.float64)
    source = np.abs(unit - inwards) * size
    matrix = cv2.getPerspectiveTransform(source.astype(np.float32), (unit * size).astype(np.float32))
    return np.asarray(
        cv2.warpPerspective(image, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=REPEAT_BORDER)
    )


@dataclass(frozen=True)
class ViewOperation:
    """A named change of one word."""

    name: str
    apply: Callable[[np.ndarray, np.random.Generator], np.ndarray]


VIEW_OPERATIONS = (
    ViewOperation("linear_contrast", linear_contrast),
    ViewOperation("gaussian_blur", gaussian_blur),
    ViewOperation("crop_vertical", crop_vertical),
    ViewOperation("crop_horizontal", crop_horizontal),
    ViewOperation("sharpen", sharpen),
    ViewOperation("piecewise_affine", piecewise_affine),
    ViewOperation("perspective_transform", perspective_transform),
)


def _stretch_to(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """A part of an image at the size of the whole."""
    if part.shape == whole.shape:
        return whole
    height, width = whole.shape[:2]
    return np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_CUBIC))


def _warp_mesh(image: np.ndarray, displacement: np.ndarray) -> np.ndarray:
    """Show at each pixel what lies `displacement` away, which is given on a mesh and linear on its triangles.

    Args:
        image: (H, W, 3) uint8.
        displacement: (n, n, 2) of (y, x) in pixels at n x n points spread evenly from one corner to the
            opposite one. Each cell is cut into two triangles along its falling diagonal.
    """
    height, width = image.shape[:2]
    cells = displacement.shape[0] - 1
    y, v = _cell_of(height, cells)
    x, u = _cell_of(width, cells)
    y, v = y[:, None], v[:, None, None]
    x, u = x[None, :], u[None, :, None]
    corner, right = displacement[y, x], displacement[y, x + 1]
    below, opposite = displacement[y + 1, x], displacement[y + 1, x + 1]  # each (H, W, 2)
    # Above the diagonal the triangle is (corner, right, opposite), below it (corner, below, opposite).
    upper = corner + u * (right - corner) + v * (opposite - right)
    lower = corner + v * (below - corner) + u * (opposite - below)
    shift = np.where(u >= v, upper, lower)
    map_y = np.arange(height)[:, None] + shift[..., 0]
    map_x = np.arange(width)[None, :] + shift[..., 1]
    return np.asarray(
        cv2.remap(
            image,
            map_x.astype(np.float32),
            map_y.astype(np.float32),
            cv2.INTER_LINEAR,
            borderMode=REPEAT_BORDER,
        )
    )


def _cell_of(side: int, cells: int) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel of a side: the mesh cell it lies in, and where in the cell, 0..1."""
    position = np.arange(side) * (cells / side)
    cell = np.minimum(position.astype(np.int64), cells - 1)
    return cell, position - cell
