"""Distortions for recognition training: one changed view of a word, as a list of named operations.

An operation is a pure function of its input, a generator and a strength in 0..1. Geometric operations answer
a 3x3 matrix (pixels to pixels); they are multiplied and the word is resampled once. Photometric operations
map an image to an image. An operation is drawn with its probability in `GEOMETRIC` and `PHOTOMETRIC`;
`augment` is the whole list. Nothing here resizes to the model's input: that is the image processor's,
afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np

# Larger words are shrunk to this height first: the model sees 32 rows, and a warp of a large photograph is
# slow.
WORKING_HEIGHT = 80


def augment(image: np.ndarray, generator: np.random.Generator, strength: float) -> np.ndarray:
    """Apply the named operations, each with its probability.

    Args:
        image: (H, W, 3) uint8, RGB.
        generator: source of every random choice.
        strength: 0 leaves the image as it is; 1 is as strong as the operations go.

    Returns:
        (H', W', 3) uint8, a new array unless nothing was changed.

    Raises:
        ValueError: if `strength` is outside 0..1 or the image is not (H, W, 3) uint8.
    """
    if not 0 <= strength <= 1:
        raise ValueError(f"`strength` must lie in 0 to 1, got {strength}.")
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"`image` must be (H, W, 3) uint8, got {image.dtype} {image.shape}.")
    if strength == 0:
        return image
    image = shrink(image, WORKING_HEIGHT)
    height, width = image.shape[:2]
    matrix = np.eye(3)
    for geometric in GEOMETRIC:
        if generator.random() < geometric.probability:
            matrix = geometric.make(height, width, generator, strength) @ matrix
    if not np.array_equal(matrix, np.eye(3)):
        image = warp(image, matrix)
    for photometric in PHOTOMETRIC:
        if generator.random() < photometric.probability * min(1.0, 2 * strength):
            image = photometric.apply(image, generator, strength)
    return image


def rotation(height: int, width: int, generator: np.random.Generator, strength: float) -> np.ndarray:
    """Turn about the centre: mostly a few degrees, up to 15."""
    angle = math.radians(15 * strength * generator.uniform(-1, 1) * generator.random())
    cosine, sine = math.cos(angle), math.sin(angle)
    turn = np.array([[cosine, -sine, 0], [sine, cosine, 0], [0, 0, 1.0]])
    return _about_centre(turn, height, width)


def shear(height: int, width: int, generator: np.random.Generator, strength: float) -> np.ndarray:
    """Slant the letters sideways by up to 0.5 of the height."""
    slant = 0.5 * strength * generator.uniform(-1, 1)
    return _about_centre(np.array([[1, slant, 0], [0, 1, 0], [0, 0, 1.0]]), height, width)


def stretch(height: int, width: int, generator: np.random.Generator, strength: float) -> np.ndarray:  # noqa: ARG001
    """Widen or narrow by a factor of up to 1.5."""
    factor = 1.5 ** (strength * generator.uniform(-1, 1))
    return np.diag([factor, 1.0, 1.0])


def perspective(height: int, width: int, generator: np.random.Generator, strength: float) -> np.ndarray:
    """Move each corner by up to 20 % of the height, sideways and up or down."""
    corners = _corners(height, width)
    moved = corners + 0.2 * strength * height * generator.uniform(-1, 1, size=(4, 2))
    return np.asarray(cv2.getPerspectiveTransform(corners.astype(np.float32), moved.astype(np.float32)))


def crop(height: int, width: int, generator: np.random.Generator, strength: float) -> np.ndarray:
    """Cut up to 8 % of the height off a side, or add up to 16 % there (the border is repeated).

    The matrix maps the wanted window to the image's own rectangle, so `warp` shows exactly the window.
    """
    left, top, right, bottom = strength * height * generator.uniform(-0.16, 0.08, size=4)
    horizontal = width / max(1.0, width - left - right)
    vertical = height / max(1.0, height - top - bottom)
    return np.array([[horizontal, 0, -left * horizontal], [0, vertical, -top * vertical], [0, 0, 1.0]])


def add_blur(image: np.ndarray, generator: np.random.Generator, strength: float) -> np.ndarray:
    """Out of focus (Gaussian, sigma up to 6 % of the height), or moved by up to 20 % of it."""
    height = image.shape[0]
    if generator.random() < 0.6:
        sigma = 0.01 + 0.06 * strength * height * generator.random() ** 2
        return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE))
    length = 1 + int(0.2 * strength * height * generator.random())
    angle = generator.uniform(0, math.pi)
    kernel = np.zeros((2 * length + 1, 2 * length + 1), dtype=np.float32)
    tip = (int(round(length * math.cos(angle))), int(round(length * math.sin(angle))))
    cv2.line(kernel, (length, length), (length + tip[0], length + tip[1]), 1.0)
    return np.asarray(cv2.filter2D(image, -1, kernel / kernel.sum(), borderType=cv2.BORDER_REPLICATE))


def noise(image: np.ndarray, generator: np.random.Generator, strength: float) -> np.ndarray:
    """Gaussian noise, standard deviation up to 25 of 255, coloured or grey."""
    sigma = 25 * strength * generator.random()
    channels = 3 if generator.random() < 0.5 else 1
    grain = sigma * generator.standard_normal((*image.shape[:2], channels), dtype=np.float32)
    return (image + grain).clip(0, 255).astype(np.uint8)


def colour(image: np.ndarray, generator: np.random.Generator, strength: float) -> np.ndarray:
    """Gain and offset per channel, contrast about the mean, gamma; one table of 256 values per channel."""
    values = np.linspace(0, 1, 256, dtype=np.float64)[:, None]  # (256, 1)
    gain = 1 + 0.25 * strength * generator.uniform(-1, 1, size=3)
    offset = 0.15 * strength * generator.uniform(-1, 1) + 0.08 * strength * generator.uniform(-1, 1, size=3)
    contrast = 2.0 ** (strength * generator.uniform(-1, 0.7))
    gamma = 2.0 ** (strength * generator.uniform(-0.8, 0.8))
    middle = float(image.mean()) / 255
    table = ((values**gamma - middle**gamma) * contrast + middle**gamma) * gain + offset  # (256, 3)
    table = (table * 255).clip(0, 255).astype(np.uint8)
    return np.asarray(cv2.LUT(image, table.reshape(256, 1, 3)))


def invert(image: np.ndarray, generator: np.random.Generator, strength: float) -> np.ndarray:  # noqa: ARG001
    """Light becomes dark."""
    return 255 - image


def grey(image: np.ndarray, generator: np.random.Generator, strength: float) -> np.ndarray:  # noqa: ARG001
    """Drop the colour."""
    return np.repeat(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[:, :, None], 3, axis=2)


def compress(image: np.ndarray, generator: np.random.Generator, strength: float) -> np.ndarray:
    """Store as JPEG, quality 90 down to 15."""
    quality = int(90 - 75 * strength * generator.random())
    _, encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    return np.asarray(cv2.imdecode(encoded, cv2.IMREAD_COLOR))


def downscale(image: np.ndarray, generator: np.random.Generator, strength: float) -> np.ndarray:
    """Shrink to as few as 10 rows and enlarge again."""
    height, width = image.shape[:2]
    rows = max(10.0, height * (1 - strength * generator.uniform(0, 0.8)))
    if rows >= height:
        return image
    small = (max(2, round(width * rows / height)), round(rows))
    method = cv2.INTER_AREA if generator.random() < 0.7 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(cv2.resize(image, small, interpolation=method), (width, height)))


def shrink(image: np.ndarray, height: int) -> np.ndarray:
    """The image at most `height` rows high, its shape kept."""
    rows, columns = image.shape[:2]
    if rows <= height:
        return image
    return np.asarray(
        cv2.resize(image, (max(1, round(columns * height / rows)), height), interpolation=cv2.INTER_AREA)
    )


def warp(image: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """Resample under a 3x3 matrix onto the smallest canvas that shows every corner.

    Outside the image its border is repeated.

    Args:
        image: (H, W, 3) uint8.
        matrix: maps homogeneous (x, y, 1) of the image to the result, up to a translation.

    Returns:
        (H', W', 3) uint8; each side at most twice as long as before.
    """
    height, width = image.shape[:2]
    corners = np.concatenate([_corners(height, width), np.ones((4, 1))], axis=1) @ matrix.T  # (4, 3)
    corners = corners[:, :2] / corners[:, 2:]
    low, high = corners.min(axis=0), corners.max(axis=0)
    size = np.clip(np.ceil(high - low), 2, (2 * width + 2, 2 * height + 2)).astype(int)
    shift = np.array([[1, 0, -low[0]], [0, 1, -low[1]], [0, 0, 1.0]])
    return np.asarray(
        cv2.warpPerspective(
            image,
            shift @ matrix,
            (int(size[0]), int(size[1])),
            flags=cv2.INTER_LINEAR,
            borderMode=cv2.BORDER_REPLICATE,
        )
    )


@dataclass(frozen=True)
class GeometricOperation:
    """A named matrix and how often it is used."""

    name: str
    make: Callable[[int, int, np.random.Generator, float], np.ndarray]
    probability: float


@dataclass(frozen=True)
class PhotometricOperation:
    """A named change of pixels and how often it is used at strength 0.5 and above (rarer below)."""

    name: str
    apply: Callable[[np.ndarray, np.random.Generator, float], np.ndarray]
    probability: float


GEOMETRIC = (
    GeometricOperation("crop", crop, 0.7),
    GeometricOperation("stretch", stretch, 0.5),
    GeometricOperation("shear", shear, 0.3),
    GeometricOperation("perspective", perspective, 0.4),
    GeometricOperation("rotation", rotation, 0.5),
)
PHOTOMETRIC = (
    PhotometricOperation("colour", colour, 0.6),
    PhotometricOperation("invert", invert, 0.1),
    PhotometricOperation("grey", grey, 0.1),
    PhotometricOperation("blur", add_blur, 0.25),
    PhotometricOperation("downscale", downscale, 0.2),
    PhotometricOperation("noise", noise, 0.25),
    PhotometricOperation("compress", compress, 0.25),
)


def _corners(height: int, width: int) -> np.ndarray:
    """(4, 2) corners (x, y), clockwise from the upper left."""
    return np.array([[0, 0], [width, 0], [width, height], [0, height]], dtype=np.float64)


def _about_centre(matrix: np.ndarray, height: int, width: int) -> np.ndarray:
    """The same matrix with the image's centre as its fixed point."""
    to_centre = np.array([[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1.0]])
    back = np.array([[1, 0, width / 2], [0, 1, height / 2], [0, 0, 1.0]])
    return back @ matrix @ to_centre
