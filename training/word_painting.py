"""Colours for the layers of a word, after the warp and before light and camera, and for what hangs before it.

Layers are (H, W, 1) float32 coverage from 0 to 1, by the names that word_layers gives them.
"""

import cv2
import numpy as np

from training.word_backgrounds import Palette, TextureBank, luminance, paint_background
from training.word_effects import separation
from training.word_styles import Style, relief


def paint(
    rng: np.random.Generator,
    layers: dict[str, np.ndarray],
    style: Style,
    palette: Palette,
    textures: TextureBank,
    document: bool,
) -> np.ndarray:
    """Colour the layers of a crop, the farthest first.

    Args:
        rng: where all chance comes from.
        layers: coverage by name; "ink" is always there.
        style: how the letters are made.
        palette: the colours.
        textures: surfaces.
        document: paper instead of walls and signs.

    Returns:
        (H, W, 3) float32, about 0 to 255.
    """
    height, width = layers["ink"].shape[:2]
    image = paint_background(rng, palette, textures, height, width, document)
    if "outside" in layers:
        outside = palette.second + textures.window(rng, height, width)[:, :, None] * 50.0
        image += layers["outside"] * (outside - image)
    if "frame" in layers:
        image += layers["frame"] * ((palette.accent if rng.random() < 0.4 else palette.ink) - image)
    if "glow" in layers:
        image += layers["glow"] * (style.glow * (palette.ink - image))
    if "neighbour" in layers:
        image += layers["neighbour"] * (palette.accent - image)
    if "shadow" in layers:
        # The sides of deep letters are as often their own colour in the shade as the wall's.
        own = style.depth > 0 and rng.random() < 0.5
        dark = palette.ink * 0.5 if own else palette.background * np.float32(rng.uniform(0.1, 0.6))
        image += layers["shadow"] * (style.shadow_opacity * (dark - image))
    if "outline" in layers:
        image += layers["outline"] * (palette.accent - image)
    _paint_letters(rng, image, layers, style, palette, textures)
    if abs(separation(image, layers["ink"])) < 30.0:
        # Colours met by chance: paint over in whatever stands out.
        around = luminance(np.array(cv2.mean(image)))
        image += layers["ink"] * (0.7 * ((245.0 if around < 128 else 10.0) - image))
    return image


def _paint_letters(
    rng: np.random.Generator,
    image: np.ndarray,
    layers: dict[str, np.ndarray],
    style: Style,
    palette: Palette,
    textures: TextureBank,
) -> None:
    height, width = image.shape[:2]
    ink, colour = layers["ink"], palette.ink
    if style.wear:
        # Never all of it: the word stays readable.
        rubbed = np.clip(textures.window(rng, height, width) + (style.wear - 0.3), 0.0, 1.0)
        ink = ink * np.maximum(1.0 - 2.5 * rubbed, 0.3)[:, :, None]
    if style.gradient:
        towards_second = rng.random() < 0.5
        change = palette.second - palette.background if towards_second else palette.accent - palette.ink
        colour = colour + _ramp_down(rng, height, width) * (change * (style.gradient * 0.7))
    if style.grain:
        colour = colour + (textures.window(rng, height, width) * style.grain)[:, :, None]
    image += ink * (style.opacity * (colour - image))
    if "tail" in layers:
        distinct = abs(luminance(palette.accent) - luminance(palette.background)) > 50.0
        image += layers["tail"] * ((palette.accent if distinct else 0.6 * palette.ink) - image)
    if style.relief:
        image += relief(ink[:, :, 0])[:, :, None] * style.relief


def _ramp_down(rng: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Return a (height, width, 1) ramp from top to bottom, now and then with a sheen in the middle."""
    y = np.linspace(0.0, 1.0, height, dtype=np.float32)
    if rng.random() < 0.4:
        y = 1 - np.abs(2 * y - 1)
    return np.repeat(y[:, None, None], width, axis=1)


def occlude(image: np.ndarray, rng: np.random.Generator) -> None:
    """Put a pole, a wire or a leaf in front of the word; in place."""
    height, width = image.shape[:2]
    colour = [float(c) for c in rng.uniform(0, 230, 3)]
    x, y = rng.random() * width, rng.random() * height
    if rng.random() < 0.7:
        angle = rng.random() * np.pi
        reach = np.array([np.cos(angle), np.sin(angle)]) * (height + width)
        start = (round(float(x - reach[0])), round(float(y - reach[1])))
        end = (round(float(x + reach[0])), round(float(y + reach[1])))
        # Along the word only a wire, or nothing could be read.
        thick = 1 if abs(np.sin(angle)) < 0.5 else int(rng.integers(1, max(2, height // 8)))
        cv2.line(image, start, end, colour, thick, cv2.LINE_AA)
    else:
        axes = (int(rng.integers(2, max(3, height // 6))), int(rng.integers(2, max(3, height // 5))))
        cv2.ellipse(
            image, (round(x), round(y)), axes, float(rng.random() * 180), 0, 360, colour, -1, cv2.LINE_AA
        )
