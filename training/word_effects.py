"""What happens to a painted word on its way into a file: light, lens, sensor, JPEG.

The camera's order is kept: light, blur of lens and motion, coarse sampling, sensor noise, sharpening, JPEG,
and only then enlargement to the height asked for, so that noise and blocks have the size that they have in
small real crops. How the letters themselves are made is in word_styles.
"""

import cv2
import numpy as np

from training.word_backgrounds import ramp


def light(image: np.ndarray, rng: np.random.Generator, document: bool = False) -> np.ndarray:
    """Let light fall on a painted crop: exposure, tint, haze, a ramp, a hard shadow, glare.

    Args:
        image: (H, W, 3) float32, 0 to 255; changed in place.
        rng: where all chance comes from.
        document: a scanner's even light.
    """
    height, width = image.shape[:2]
    if document:
        image *= rng.uniform(0.8, 1.05)
        image += rng.random() * 20.0
        if rng.random() < 0.35:  # a scanner set to black and white, not quite
            middle = 0.5 * (float(image.max()) + float(image.min()))
            image -= middle
            image *= rng.uniform(1.5, 4.0)
            image += middle
        return image
    # Mean brightness of street crops is about 110 of 255: most are darker than the paint.
    gain = float(np.exp(rng.normal(-0.2, 0.38)))
    tint = np.exp(rng.normal(0.0, 0.07, 3)).astype(np.float32)
    compression = float(np.clip(rng.beta(4.0, 2.0), 0.15, 1.0))
    haze = rng.uniform(10, 190) * tint
    image *= tint * min(gain, 1.35)
    if rng.random() < 0.42:
        image *= compression
        image += haze * (1 - compression)
    if rng.random() < 0.04:
        image[:] = image.mean(-1, keepdims=True)
    event = rng.random()
    if event < 0.3:
        low = rng.uniform(0.4, 1.0)
        image *= (low + (rng.uniform(0.9, 1.4) - low) * ramp(rng, height, width))[:, :, None]
    elif event < 0.36:
        edge = np.clip((ramp(rng, height, width) - rng.uniform(0.2, 0.8)) * rng.uniform(6, 40), 0, 1)
        image *= (1 - rng.uniform(0.25, 0.6) * edge)[:, :, None]
    elif event < 0.41:
        y = (np.arange(height, dtype=np.float32)[:, None] / height - rng.random()) ** 2
        x = ((np.arange(width, dtype=np.float32)[None] - rng.random() * width) / height) ** 2
        image += (rng.uniform(40, 200) * np.exp(-(x + y) / rng.uniform(0.02, 0.6)))[:, :, None]
    elif event < 0.48:
        # Lit signs at night and white walls at noon bleed into their surroundings.
        np.maximum(
            image,
            cv2.GaussianBlur(image, (0, 0), height * rng.uniform(0.03, 0.1)) * rng.uniform(1.0, 1.6),
            out=image,
        )
    return image


def separation(image: np.ndarray, ink: np.ndarray) -> float:
    """Return how much brighter letters are than what is around them; negative if darker.

    Colour counts for a third: red on green of one brightness is readable, though badly.

    Args:
        image: (H, W, 3) float32.
        ink: (H, W, 1) float32 coverage, 0 to 1.
    """
    weight = ink.reshape(-1)
    inked = weight @ image.reshape(-1, 3)
    total, everything = float(weight.sum()), np.array(cv2.mean(image)[:3]) * len(weight)
    difference = inked / max(total, 1e-6) - (everything - inked) / max(len(weight) - total, 1e-6)
    brightness = float(difference @ np.array([0.299, 0.587, 0.114]))
    hue = float(np.abs(difference).max()) / 3
    return brightness if abs(brightness) > hue else hue


def keep_readable(image: np.ndarray, ink: np.ndarray, floor: float = 22.0) -> float:
    """Stretch the contrast of a crop whose letters the light has all but drowned; in place.

    Args:
        image: (H, W, 3) float32, 0 to 255.
        ink: (H, W, 1) float32 coverage, 0 to 1.
        floor: smallest difference in brightness between ink and its surroundings, of 255.

    Returns:
        the contrast kept: the absolute `separation`, at least about `floor`.
    """
    contrast = abs(separation(image, ink))
    if contrast >= floor:
        return contrast
    stretch = min(floor / max(contrast, 1.0), 6.0)
    mean = np.array(cv2.mean(image)[:3], np.float32)
    image -= mean
    image *= stretch
    image += np.clip(mean, 25.0, 230.0)
    return contrast * stretch


def is_legible(image: np.ndarray, ink: np.ndarray, floor: float = 14.0, ratio: float = 0.55) -> bool:
    """Tell whether the letters can still be told from what is around them, in each third of the word.

    Both are compared after their local means are taken away, so a ramp of light or a dark corner does not
    pass for
    contrast: brightness is regressed on ink, the slope being the local contrast and the rest clutter.

    Args:
        image: (H, W, 3) uint8, finished.
        ink: (H, W, 1) float32 coverage, 0 to 1.
        floor: smallest slope over the whole word, in brightness of 255; half of it suffices in a third.
        ratio: smallest slope over the standard deviation of the rest.
    """
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    both = np.dstack([grey, ink[:, :, 0]])
    both = both - cv2.blur(both, (image.shape[0] // 2 + 1, image.shape[0] // 2 + 1))
    grey, wanted = both[:, :, 0], both[:, :, 1]
    width = grey.shape[1]
    thirds = (
        slice(0, width),
        slice(0, width // 3),
        slice(width // 3, 2 * width // 3),
        slice(2 * width // 3, width),
    )
    least = floor
    for part in thirds:
        seen, hoped = grey[:, part].ravel(), wanted[:, part].ravel()
        energy = float(hoped @ hoped)
        if energy < 0.01 * len(hoped):
            continue  # a gap between words, or a third of the margin
        slope = float(seen @ hoped) / energy
        rest = float(np.sqrt(max(float(seen @ seen) - slope * slope * energy, 0.0) / len(seen)))
        if abs(slope) < least or abs(slope) < ratio * rest:
            return False
        least = 0.5 * floor
    return True


def blur(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Blur a (H, W, 3) uint8 crop by lens or motion, or not at all."""
    kind = rng.random()
    scale = image.shape[0] / 32.0
    if kind < 0.5:
        sigma = min(0.25 + rng.exponential(0.48), 1.7) * scale
        return cv2.GaussianBlur(image, (0, 0), sigma)
    if kind < 0.62:
        length = rng.uniform(1.0, 4.5) * scale
        angle = rng.random() * np.pi if rng.random() < 0.5 else 0.0
        return cv2.filter2D(image, -1, motion_kernel(length, angle))
    return image


def motion_kernel(length: float, angle: float) -> np.ndarray:
    """Return the blur of a straight movement.

    Args:
        length: pixels.
        angle: radians from the horizontal.

    Returns:
        (k, k) float32 with sum 1, k odd.
    """
    half = max(1, int(np.ceil(length / 2)))
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    for at in np.linspace(-length / 2, length / 2, 4 * half + 1):
        x, y = half + at * np.cos(angle), half + at * np.sin(angle)
        left, top = int(np.floor(x)), int(np.floor(y))
        for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
            if 0 <= row < len(kernel) and 0 <= column < len(kernel):
                kernel[row, column] += (1 - abs(y - row)) * (1 - abs(x - column))
    return kernel / kernel.sum()


class NoiseBank:
    """Standard normal noise made once; an image adds a random stretch of it.

    Args:
        size: values kept; larger than any crop.
        seed: of their making.
    """

    def __init__(self, size: int = 1 << 18, seed: int = 11) -> None:
        self._values = np.random.Generator(np.random.Philox(key=[seed, 0])).standard_normal(size, np.float32)

    def take(self, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
        """Return (nearly) fresh noise of `shape`, float32; not to be written to."""
        count = int(np.prod(shape))
        if count > len(self._values):
            return rng.standard_normal(shape, np.float32)
        start = int(rng.random() * (len(self._values) - count + 1))
        return self._values[start : start + count].reshape(shape)


def expose(image: np.ndarray, rng: np.random.Generator, noise: NoiseBank, contrast: float) -> np.ndarray:
    """Photograph a crop: coarse sampling, noise, sharpening, JPEG, enlargement back to its size.

    Args:
        image: (H, W, 3) uint8.
        rng: where all chance comes from.
        noise: sensor noise.
        contrast: of the letters, in brightness; noise stays below it.

    Returns:
        (H, W, 3) uint8.
    """
    height, width = image.shape[:2]
    if rng.random() < 0.6:
        rows = max(8, round(height * (0.34 + 0.6 * rng.random() ** 0.8)))
        size = (max(4, round(width * rows / height)), rows)
        image = cv2.resize(
            image, size, interpolation=cv2.INTER_AREA if rng.random() < 0.7 else cv2.INTER_LINEAR
        )
    if rng.random() < 0.65:
        image = add_noise(image, rng, noise, min(rng.exponential(2.5), 12.0, 0.25 * contrast))
    if rng.random() < 0.25:
        amount = rng.uniform(0.4, 1.8)
        image = cv2.addWeighted(
            image, 1 + amount, cv2.GaussianBlur(image, (0, 0), rng.uniform(0.8, 2.0)), -amount, 0
        )
    if rng.random() < 0.65:
        image = jpeg(image, int(100 - min(rng.exponential(28.0), 82.0)))
    if image.shape[0] != height:
        way = (cv2.INTER_CUBIC, cv2.INTER_CUBIC, cv2.INTER_LINEAR)[int(rng.random() * 3)]
        image = cv2.resize(image, (width, height), interpolation=way)
    return image


def add_noise(image: np.ndarray, rng: np.random.Generator, noise: NoiseBank, strength: float) -> np.ndarray:
    """Add grey, and often coloured, noise of standard deviation `strength` to a (H, W, 3) uint8 image."""
    grain = noise.take(rng, image.shape[:2])[:, :, None] * strength
    if rng.random() < 0.5:
        grain = grain + noise.take(rng, image.shape) * (strength * 0.6)
    return np.clip(image + grain, 0, 255).astype(np.uint8)


def jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Encode and decode a (H, W, 3) RGB uint8 image."""
    # OpenCV writes BGR; the same swap twice cancels, but chroma is coded for the right colours only after it.
    encoded, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, quality])
    decoded = cv2.imdecode(data, cv2.IMREAD_COLOR)
    assert encoded
    assert decoded is not None
    return decoded[:, :, ::-1]
