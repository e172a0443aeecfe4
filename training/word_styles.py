"""How letters are made: rims, shadows, depth, lamps, worn ink; on the flat canvas, before the camera.

Masks are (h, w) uint8 coverage in the canvas's pixels (word_glyphs.CAPITAL_HEIGHT to the height of capitals).
"""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Style:
    """How letters are made.

    Args:
        outline: thickness in canvas pixels of a rim in another colour; 0 for none.
        shadow: (right, down) offset in canvas pixels of a shadow; (0, 0) for none.
        shadow_blur: standard deviation in canvas pixels.
        shadow_opacity: 0 to 1.
        depth: length in canvas pixels of an extrusion along `shadow`'s direction; 0 for flat letters.
        embolden: canvas pixels by which strokes grow (shrink if negative).
        relief: brightness of lit edges, 0 for flat ink; negative is carved.
        gradient: strength 0 to 1 of a change of colour over the letters.
        hollow: only the rim is inked.
        glow: strength 0 to 1 of light around the letters.
        dots: rows of lamps or needles that a letter's height is made of; 0 for solid ink.
        wear: share 0 to 1 of ink rubbed off.
        grain: brightness by which the letters' surface varies, of 255.
        opacity: of the ink.
    """

    outline: int = 0
    shadow: tuple[int, int] = (0, 0)
    shadow_blur: float = 0.0
    shadow_opacity: float = 0.0
    depth: int = 0
    embolden: int = 0
    relief: float = 0.0
    gradient: float = 0.0
    hollow: bool = False
    glow: float = 0.0
    dots: int = 0
    wear: float = 0.0
    grain: float = 0.0
    opacity: float = 1.0


def sample_style(rng: np.random.Generator, stroke: float, document: bool = False) -> Style:
    """Draw a style.

    Args:
        rng: where all chance comes from.
        stroke: the font's stroke thickness over its capitals' height; thin letters carry no rims and are not
            thinned.
        document: print on paper, plain but for worn or dotted ink.
    """
    if document:
        return Style(
            embolden=int(rng.random() < 0.2) - int(rng.random() < 0.1 and stroke > 0.12),
            wear=float(rng.random()) * 0.5 if rng.random() < 0.35 else 0.0,
            dots=int(rng.integers(9, 16)) if rng.random() < 0.12 else 0,
            opacity=float(rng.uniform(0.7, 1.0)),
        )
    return Style(**_rims(rng, stroke), **_shadows(rng), **_surfaces(rng, stroke))  # type: ignore[arg-type]


def _rims(rng: np.random.Generator, stroke: float) -> dict[str, object]:
    kind = rng.random()
    if kind < 0.13:
        return {"outline": int(rng.integers(1, 5))}
    if kind < 0.17 and stroke > 0.1:
        return {"hollow": True, "outline": int(rng.integers(1, 3))}
    if kind < 0.20 and stroke > 0.06:
        return {"dots": int(rng.integers(8, 20))}
    return {"glow": float(rng.uniform(0.3, 1.0))} if kind < 0.24 else {}


def _shadows(rng: np.random.Generator) -> dict[str, object]:
    kind = rng.random()
    if kind > 0.3:
        return {}
    angle, length = rng.uniform(-0.6, 3.7), rng.uniform(1.0, 6.0)
    offset = (round(float(np.cos(angle) * length)), round(float(np.sin(angle) * length)))
    if kind < 0.14:
        return {"shadow": offset, "depth": int(rng.integers(2, 8)), "shadow_opacity": 1.0}
    blur, opacity = float(rng.uniform(0.0, 3.0)), float(rng.uniform(0.3, 0.95))
    return {"shadow": offset, "shadow_blur": blur, "shadow_opacity": opacity}


def _surfaces(rng: np.random.Generator, stroke: float) -> dict[str, object]:
    values: dict[str, object] = {}
    if rng.random() < 0.16:
        values["relief"] = float(rng.normal() * 45.0)
    if rng.random() < 0.2:
        values["gradient"] = float(rng.uniform(0.2, 1.0))
    if rng.random() < 0.06:
        values["wear"] = float(rng.random() * 0.5)
    if rng.random() < 0.2:
        values["grain"] = min(float(rng.exponential(15.0)), 60.0)
    weight = rng.random()
    if weight < 0.15:
        values["embolden"] = int(rng.integers(1, 4))
    elif weight < 0.2 and stroke > 0.15:
        values["embolden"] = -1
    if rng.random() < 0.1:
        values["opacity"] = float(rng.uniform(0.5, 1.0))
    return values


def dilate(mask: np.ndarray, radius: int) -> np.ndarray:
    """Grow (or, if `radius` is negative, shrink) ink by a disc."""
    if radius == 0:
        return mask
    size = 2 * abs(radius) + 1
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (size, size))
    return cv2.dilate(mask, kernel) if radius > 0 else cv2.erode(mask, kernel)


def shift(mask: np.ndarray, right: int, down: int) -> np.ndarray:
    """Move ink; what leaves the canvas is lost, what enters is empty."""
    moved = np.zeros_like(mask)
    height, width = mask.shape
    rows, columns = height - abs(down), width - abs(right)
    if rows <= 0 or columns <= 0:
        return moved
    y, x = max(down, 0), max(right, 0)
    moved[y : y + rows, x : x + columns] = mask[y - down : y - down + rows, x - right : x - right + columns]
    return moved


def extrude(mask: np.ndarray, direction: tuple[int, int], depth: int) -> np.ndarray:
    """Sweep ink along a direction: the union of `mask` moved by every length up to `depth`."""
    length = max(1.0, float(np.hypot(*direction)))
    swept = mask
    for step in range(1, depth + 1):
        moved = shift(mask, round(direction[0] * step / length), round(direction[1] * step / length))
        swept = np.maximum(swept, moved)
    return swept


def dotted(mask: np.ndarray, rows: int, letter_height: float) -> np.ndarray:
    """Redraw ink with round lamps, `rows` of them to the letters' height."""
    pitch = max(2.0, letter_height / rows)
    height, width = mask.shape
    grid = (max(1, round(width / pitch)), max(1, round(height / pitch)))
    lit = cv2.resize(mask, grid, interpolation=cv2.INTER_AREA) > 95
    lamps = cv2.resize(lit.astype(np.uint8) * 255, (width, height), interpolation=cv2.INTER_NEAREST)
    y = np.cos((np.arange(height) + 0.5) * (2 * np.pi * grid[1] / height))
    x = np.cos((np.arange(width) + 0.5) * (2 * np.pi * grid[0] / width))
    # The product of two waves is highest in the middle of each cell.
    bump = np.clip(1.25 - 0.5 * (y[:, None] + x[None] + 2) / 2, 0.0, 1.0)
    return (lamps * bump).astype(np.uint8)


def relief(ink: np.ndarray) -> np.ndarray:
    """Return the lit (positive) and shaded edges of ink, light from the upper left.

    Args:
        ink: (H, W) float32 coverage, 0 to 1.

    Returns:
        (H, W) float32, -1 to 1.
    """
    lit = np.zeros_like(ink)
    lit[1:-1, 1:-1] = ink[2:, 2:] - ink[:-2, :-2]
    return lit
