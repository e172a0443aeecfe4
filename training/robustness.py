"""How accuracy falls as images get worse: five graded distortions, applied to a fixed sample of words.

Rotation, blur, noise, occlusion and low resolution, each in four grades. A distorted image is a pure function
of image, distortion, grade and the word's number, so two checkpoints meet the very same pixels. Large words
are shrunk to `augmentation.WORKING_HEIGHT` first, the undistorted ones too.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import cv2
import numpy as np

from modeling_rcmstr.image_reading import read_image
from training.augmentation import WORKING_HEIGHT, shrink
from training.benchmarks import normalise_alphanumeric
from training.error_analysis import GroupAccuracy, WordRecord, group_accuracy

# First number of every generator's seed, so that no other draw shares its stream.
STREAM = 11
# Words that are distorted, spread evenly over all.
SAMPLE = 250


@dataclass(frozen=True)
class Distortion:
    """A way to make an image worse.

    Args:
        name: of the curve.
        unit: of the grades, for people.
        grades: strengths, the weakest first.
        apply: (image (H, W, 3) uint8, grade, generator) → image.
    """

    name: str
    unit: str
    grades: tuple[float, ...]
    apply: Callable[[np.ndarray, float, np.random.Generator], np.ndarray]


@dataclass(frozen=True)
class RobustnessCurve:
    """Accuracy at every grade of one distortion; the first point is the undistorted sample."""

    name: str
    unit: str
    grades: tuple[float, ...]
    points: tuple[GroupAccuracy, ...]


def rotated(image: np.ndarray, degrees: float, generator: np.random.Generator) -> np.ndarray:
    """Turn by an angle to either side, on a canvas that holds the whole word; the border is repeated."""
    height, width = image.shape[:2]
    angle = degrees if generator.random() < 0.5 else -degrees
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), angle, 1.0)
    cosine, sine = abs(math.cos(math.radians(angle))), abs(math.sin(math.radians(angle)))
    size = math.ceil(width * cosine + height * sine), math.ceil(width * sine + height * cosine)
    matrix[:, 2] += (size[0] - width) / 2, (size[1] - height) / 2
    return np.asarray(
        cv2.warpAffine(image, matrix, size, flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    )


def blurred(image: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    """Gaussian blur, its sigma a share (in percent) of the image's height."""
    sigma = share / 100 * image.shape[0]
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma, borderType=cv2.BORDER_REPLICATE))


def noisy(image: np.ndarray, sigma: float, generator: np.random.Generator) -> np.ndarray:
    """Gaussian noise for each pixel and channel, its standard deviation in grey levels of 255."""
    values = image + sigma * generator.standard_normal(image.shape)
    return np.asarray(values.round().clip(0, 255).astype(np.uint8))


def occluded(image: np.ndarray, share: float, generator: np.random.Generator) -> np.ndarray:
    """Lay a grey bar over the whole height, as wide as a share (in percent) of the image, anywhere."""
    width = image.shape[1]
    covered = max(1, round(share / 100 * width))
    start = int(generator.random() * (width - covered + 1))
    result = image.copy()
    result[:, start : start + covered] = 128
    return result


def shrunk(image: np.ndarray, height: float, generator: np.random.Generator) -> np.ndarray:  # noqa: ARG001
    """Shrink to a height in pixels by averaging; an image that is not higher stays as it is."""
    rows, columns = image.shape[:2]
    if rows <= height:
        return image
    size = max(1, round(columns * height / rows)), round(height)
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))


DISTORTIONS = (
    Distortion("rotation", "degrees", (5, 10, 15, 25), rotated),
    Distortion("blur", "sigma, % of height", (2, 4, 7, 10), blurred),
    Distortion("noise", "standard deviation of 255", (10, 25, 50, 80), noisy),
    Distortion("occlusion", "% of width", (5, 10, 20, 30), occluded),
    Distortion("low resolution", "pixels high", (20, 16, 12, 8), shrunk),
)


def distort(image: np.ndarray, distortion: Distortion, grade: float, number: int) -> np.ndarray:
    """Make one image worse.

    Args:
        image: (H, W, 3) uint8, RGB.
        distortion: one of `DISTORTIONS`.
        grade: one of its grades.
        number: of the word; another word gets another noise.

    Returns:
        (H', W', 3) uint8.

    Raises:
        ValueError: if the image is not (H, W, 3) uint8 or is empty, or the grade is none of the distortion's.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
        raise ValueError(f"`image` must be (H, W, 3) uint8, got {image.dtype} {image.shape}.")
    if grade not in distortion.grades:
        raise ValueError(f"{distortion.name} has the grades {distortion.grades}, got {grade}.")
    kind = [one.name for one in DISTORTIONS].index(distortion.name)
    # Without the grade: a stronger one turns to the same side and covers about the same place.
    return distortion.apply(image, grade, np.random.default_rng([STREAM, kind, number]))


def choose_sample(records: Sequence[WordRecord], count: int = SAMPLE) -> list[WordRecord]:
    """At most `count` readable words, spread evenly over all."""
    readable = [record for record in records if record.height]
    if len(readable) <= count:
        return readable
    return [readable[i] for i in np.linspace(0, len(readable) - 1, count).astype(int)]


def measure_robustness(reader: Any, sample: Sequence[WordRecord]) -> list[RobustnessCurve]:
    """Read a sample at every grade of every distortion.

    Args:
        reader: the public pipeline, or anything that maps a list of (H, W, 3) uint8 arrays to answers with a
            "text".
        sample: readable words.

    Returns:
        One curve per distortion; none without words.
    """
    if not sample:
        return []
    images = [shrink(np.asarray(read_image(record.image)), WORKING_HEIGHT) for record in sample]
    labels = [normalise_alphanumeric(record.label) for record in sample]

    def read(name: str, pictures: list[np.ndarray]) -> GroupAccuracy:
        texts = [normalise_alphanumeric(answer["text"]) for answer in reader(pictures)]
        right = sum(text == label for text, label in zip(texts, labels, strict=True))
        return group_accuracy(name, right, len(labels))

    clean = read("none", images)
    curves = []
    for distortion in DISTORTIONS:
        points = [clean]
        for grade in distortion.grades:
            worse = [distort(image, distortion, grade, i) for i, image in enumerate(images)]
            points.append(read(f"{grade:g}", worse))
        curves.append(RobustnessCurve(distortion.name, distortion.unit, distortion.grades, tuple(points)))
    return curves


def describe_robustness(curves: Sequence[RobustnessCurve], words: int) -> dict[str, Any]:
    """What goes into `results.json`: the size of the sample and every curve."""
    return {"words": words, "curves": [asdict(curve) for curve in curves]}
