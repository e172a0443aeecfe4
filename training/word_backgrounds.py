"""What words are written on, and in which colours; made from numbers, no photographs.

A bank of grey textures (grain, plaster, brushed metal, wood, brick, clutter of a street out of focus) is
drawn once from a fixed seed; an image takes a random window of one, so a background costs no more than a
copy.
"""

from dataclasses import dataclass

import cv2
import numpy as np

Colour = tuple[float, float, float]
# (background, ink) of common signs and prints, as painted, before light falls on them.
SIGN_COLOURS: tuple[tuple[Colour, Colour], ...] = (
    ((245, 245, 240), (20, 20, 25)),
    ((245, 245, 240), (20, 20, 25)),
    ((20, 20, 22), (245, 245, 245)),
    ((20, 20, 22), (235, 220, 160)),
    ((200, 25, 35), (250, 250, 245)),
    ((250, 250, 245), (205, 30, 40)),
    ((20, 60, 150), (250, 250, 250)),
    ((245, 245, 250), (25, 60, 155)),
    ((10, 110, 70), (245, 250, 245)),
    ((250, 215, 30), (15, 15, 15)),
    ((20, 20, 20), (250, 210, 40)),
    ((205, 35, 30), (250, 220, 60)),
    ((250, 220, 70), (200, 30, 35)),
    ((240, 130, 30), (250, 250, 245)),
    ((95, 60, 35), (240, 225, 190)),
    ((190, 150, 100), (70, 40, 25)),
    ((150, 150, 150), (30, 30, 35)),
    ((130, 20, 45), (235, 225, 215)),
    ((30, 150, 200), (250, 250, 250)),
    ((170, 200, 225), (25, 45, 110)),
    ((235, 225, 200), (120, 30, 35)),
    ((60, 60, 65), (215, 215, 220)),
    ((200, 190, 170), (90, 85, 80)),
    ((245, 245, 245), (20, 120, 60)),
    ((25, 35, 60), (190, 205, 230)),
    ((110, 110, 105), (200, 195, 185)),
    ((120, 80, 60), (60, 40, 35)),
    ((40, 70, 60), (160, 190, 170)),
    ((60, 30, 90), (240, 235, 245)),
    ((240, 190, 210), (190, 30, 110)),
)
_PAPERS: tuple[Colour, ...] = (
    (250, 250, 250),
    (240, 240, 236),
    (222, 222, 220),
    (248, 244, 228),
    (205, 203, 200),
)
_INKS: tuple[Colour, ...] = (
    (15, 15, 15),
    (45, 45, 50),
    (85, 85, 90),
    (130, 130, 132),
    (110, 105, 190),
    (70, 45, 40),
)


@dataclass(frozen=True)
class Palette:
    """The colours of one image, each three values from 0 to 255 (float32).

    Args:
        background: what the word stands on.
        ink: the letters.
        second: another colour near the background's, for patches and gradients.
        accent: outlines, plates and neighbours.
    """

    background: np.ndarray
    ink: np.ndarray
    second: np.ndarray
    accent: np.ndarray


def sample_palette(rng: np.random.Generator, document: bool = False) -> Palette:
    """Draw colours; ink and background always differ enough to be told apart.

    Args:
        rng: where all chance comes from.
        document: paper and print instead of signs.
    """
    if document:
        background, ink = _one_of(rng, _PAPERS), _one_of(rng, _INKS)
        spread = 4.0
    elif rng.random() < 0.5:
        pair = SIGN_COLOURS[int(rng.random() * len(SIGN_COLOURS))]
        background, ink = np.array(pair[0], np.float32), np.array(pair[1], np.float32)
        spread = 16.0
    else:
        background, ink = _free_pair(rng)
        spread = 8.0
    background = np.clip(background + rng.normal(0, spread, 3), 0, 255).astype(np.float32)
    ink = np.clip(ink + rng.normal(0, spread, 3), 0, 255).astype(np.float32)
    second = np.clip(background + rng.normal(0, 18, 3) + rng.normal() * 35, 0, 255).astype(np.float32)
    kind = rng.random()
    if kind < 0.35:
        accent = np.full(3, 250.0 if luminance(ink) < 128 else 12.0, np.float32)
    elif kind < 0.6:
        accent = np.full(3, 12.0 if luminance(ink) < 128 else 250.0, np.float32)
    else:
        accent = _free_colour(rng)
    return Palette(background, ink, second, accent)


def luminance(colour: np.ndarray) -> float:
    """Return the brightness of an RGB colour (Rec. 601)."""
    return float(0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2])


def _one_of(rng: np.random.Generator, colours: tuple[Colour, ...]) -> np.ndarray:
    return np.array(colours[int(rng.random() * len(colours))], np.float32)


def _free_colour(rng: np.random.Generator) -> np.ndarray:
    """Draw a colour: any brightness, greys more often than bright hues."""
    value = rng.random()
    # Paint, brick, wood and skin are warm, skies and shadows blue; pink, violet and bright green are rare.
    warm = rng.random()
    hue = rng.normal(0.4, 0.45) if warm < 0.5 else rng.normal(3.7, 0.4) if warm < 0.8 else rng.random() * 6.0
    saturation = min(rng.exponential(0.27), 1.0)
    ramp = np.clip(np.abs((hue + np.array([0.0, 4.0, 2.0])) % 6.0 - 3.0) - 1.0, 0, 1)
    return (255.0 * value * (1 - saturation * (1 - ramp))).astype(np.float32)


def _free_pair(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    for _ in range(6):
        background, ink = _free_colour(rng), _free_colour(rng)
        if abs(luminance(background) - luminance(ink)) > 42.0:
            return background, ink
    dark = rng.random() < 0.5
    light = np.full(3, 225.0, np.float32)
    return (light, ink * 0.3) if dark else (background * 0.3, light)


class TextureBank:
    """Grey textures, made when first needed and kept.

    Args:
        height: tallest window that will be asked for.
        width: widest window.
        count: how many different ones.
        seed: of their making; part of what makes an image a function of its index.
    """

    def __init__(self, height: int, width: int, count: int = 96, seed: int = 7) -> None:
        self._shape = (2 * height, width + 4 * height)
        self._seed = seed
        self._made: list[np.ndarray | None] = [None] * count

    def window(self, rng: np.random.Generator, height: int, width: int) -> np.ndarray:
        """Take a random window of a random texture.

        Returns:
            (height, width) float32 between -1 and 1, mean about 0.
        """
        place = int(rng.random() * len(self._made))
        texture = self._made[place]
        if texture is None:
            texture = self._made[place] = self._make(place)
        top = int(rng.random() * (texture.shape[0] - height + 1))
        left = int(rng.random() * (texture.shape[1] - width + 1))
        window = texture[top : top + height, left : left + width]
        if rng.random() < 0.5:
            window = window[:, ::-1]
        return window.astype(np.float32) * (1 / 127.0)

    def _make(self, place: int) -> np.ndarray:
        rng = np.random.Generator(np.random.Philox(key=[self._seed, place]))
        makers = (
            _grain,
            _plaster,
            _plaster,
            _brushed,
            _brushed,
            _bricks,
            _clutter,
            _clutter,
            _clutter,
            _stripes,
        )
        texture = makers[place % len(makers)](rng, *self._shape).astype(np.float32)
        texture -= texture.mean()
        texture /= max(float(np.abs(texture).max()), 1e-6) * 0.6
        return np.round(np.clip(texture, -1, 1) * 127).astype(np.int8)


def _smooth(rng: np.random.Generator, height: int, width: int, cell_y: float, cell_x: float) -> np.ndarray:
    """Noise whose features are cell_y x cell_x pixels large."""
    rows, columns = max(2, round(height / cell_y)), max(2, round(width / cell_x))
    coarse = rng.standard_normal((rows, columns)).astype(np.float32)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)


def _grain(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    return np.sum(
        [_smooth(rng, height, width, c, c) * w for c, w in ((1.5, 0.3), (3, 0.6), (6, 0.6))], axis=0
    )


def _plaster(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    roughness = rng.uniform(0.4, 1.1)
    return np.sum([_smooth(rng, height, width, c, c) * c**roughness for c in (2, 4, 8, 16, 32, 64)], axis=0)


def _brushed(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    long, short = rng.uniform(20, 200), rng.uniform(1, 6)
    cells = (short, long) if rng.random() < 0.6 else (long, short)
    return _smooth(rng, height, width, *cells) + 0.5 * _smooth(rng, height, width, 24, 60)


def _bricks(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    tall = int(rng.integers(7, 20))
    long = int(tall * rng.uniform(1.5, 3.5))
    image = 0.3 * _plaster(rng, height, width) / 10
    for row, top in enumerate(range(0, height, tall)):
        for left in range(-(row % 2) * long // 2, width, long):
            image[top : top + tall, max(left, 0) : max(left + long, 0)] += 0.5 * rng.standard_normal()
            image[top : top + tall, max(left, 0) : max(left + 1, 0)] -= 1.5
        image[top : top + 1] -= 1.5
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.4, 1.2))


def _clutter(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Boxes, discs and bars of any brightness: windows, cars, people, other signs, out of focus."""
    image = 0.5 * _smooth(rng, height, width, 30, 60)
    for _ in range(width // 4):
        x, y = int(rng.random() * width), int(rng.random() * height)
        value = float(rng.normal())
        kind = rng.random()
        if kind < 0.45:
            size = (x + int(rng.exponential(14)) + 1, y + int(rng.exponential(14)) + 1)
            cv2.rectangle(image, (x, y), size, value, -1 if rng.random() < 0.7 else 1)
        elif kind < 0.65:
            cv2.circle(image, (x, y), int(rng.exponential(7)) + 1, value, -1)
        else:
            end = (x + int(rng.normal() * 50), y + int(rng.normal() * 20))
            cv2.line(image, (x, y), end, value, int(rng.integers(1, 4)))
    return cv2.GaussianBlur(image, (0, 0), rng.uniform(0.5, 3.0))


def _stripes(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    period = rng.uniform(3, 24)
    angle = rng.uniform(0, np.pi)
    y, x = np.mgrid[:height, :width].astype(np.float32)
    wave = np.sin((x * np.cos(angle) + y * np.sin(angle)) * (2 * np.pi / period))
    return np.sign(wave) * np.abs(wave) ** 0.5 + 0.3 * _smooth(rng, height, width, 12, 24)


def paint_background(
    rng: np.random.Generator, palette: Palette, textures: TextureBank, height: int, width: int, document: bool
) -> np.ndarray:
    """Paint what the word stands on.

    Returns:
        (height, width, 3) float32, 0 to 255.
    """
    image = np.empty((height, width, 3), np.float32)
    image[:] = palette.background
    kind = rng.random()
    if document or kind < 0.3:
        strength = rng.random() * 6.0
        image += (textures.window(rng, height, width) * strength)[:, :, None]
    elif kind < 0.7:
        # Words are put where they can be read: the surface varies less than the ink differs from it.
        contrast = float(np.abs(palette.background - palette.ink).max())
        strength = min(rng.exponential(13.0), 0.3 * contrast)
        image += (textures.window(rng, height, width) * strength)[:, :, None]
    else:
        # Two colours, mixed as a texture says or along a ramp.
        if rng.random() < 0.5:
            share = np.clip(0.5 + textures.window(rng, height, width), 0, 1)
        else:
            share = ramp(rng, height, width)
        image += share[:, :, None] * (palette.second - palette.background)
    return image


def ramp(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a (height, width) float32 ramp from 0 to 1 in a random direction."""
    down, right = float(rng.normal()), float(rng.normal())
    low = min(down, 0.0) + min(right, 0.0)
    span = abs(down) + abs(right) + 1e-6
    y = np.linspace(0, down, height, dtype=np.float32)[:, None]
    x = np.linspace(0, right, width, dtype=np.float32)[None]
    return (y + x - low) / span
