"""What stands beside and around a word on the flat canvas, as masks: boards, frames, coloured endings.

Masks are (h, w) uint8 coverage; word_geometry warps them into the crop and word_rendering colours them.
"""

import cv2
import numpy as np

from training.word_geometry import InkBox, View
from training.word_styles import Style, dilate, dotted, extrude, shift


def style_layers(
    canvas: np.ndarray, style: Style, box: InkBox, letter_height: float
) -> dict[str, np.ndarray]:
    """Make the layers of styled letters from their plain ink.

    Args:
        canvas: the ink.
        style: how it is made up.
        box: where the word stands.
        letter_height: of capitals in pixels.

    Returns:
        "ink", and as the style asks "outline", "shadow" and "glow", all of the canvas's size.
    """
    # Emboldening must not fill the letters of small print.
    canvas = dilate(canvas, int(np.clip(style.embolden, -1, max(1, box.height // 14))))
    if style.dots:
        canvas = dotted(canvas, style.dots, letter_height)
    layers, solid = {"ink": canvas}, canvas
    if style.outline:
        solid = dilate(canvas, style.outline)
        if style.hollow:
            layers["ink"] = cv2.subtract(solid, canvas)
        else:
            layers["outline"] = solid
    if style.depth:
        layers["shadow"] = extrude(solid, style.shadow, style.depth)
    elif style.shadow_opacity:
        layers["shadow"] = shift(solid, *style.shadow)
        if style.shadow_blur > 0.3:
            layers["shadow"] = cv2.GaussianBlur(layers["shadow"], (0, 0), style.shadow_blur)
    if style.glow:
        layers["glow"] = cv2.GaussianBlur(dilate(canvas, 3), (0, 0), 5.0)
    return layers


def board_layers(rng: np.random.Generator, shape: tuple[int, ...], box: InkBox) -> dict[str, np.ndarray]:
    """Draw a board around the word, a frame, or a line under it."""
    kind = rng.random()
    near = [round(float(rng.uniform(0.08, 0.6)) * box.height) for _ in range(4)]
    first = (int(box.left) - near[0], int(box.top) - near[1])
    last = (int(box.left + box.width) + near[2], int(box.top + box.height) + near[3])
    layers = {}
    if kind < 0.65:
        layers["inside"] = np.zeros(shape, np.uint8)
        cv2.rectangle(layers["inside"], first, last, 255, -1)
    if kind > 0.45:
        layers["frame"] = np.zeros(shape, np.uint8)
        thickness = int(rng.integers(1, 5))
        if kind < 0.85:
            inset = thickness + int(rng.integers(0, 3))
            # The frame runs inside the board's edge, but never through the letters.
            left, top, right, bottom = (max(gap - inset, thickness + 1) for gap in near)
            first = (int(box.left) - left, int(box.top) - top)
            last = (int(box.left + box.width) + right, int(box.top + box.height) + bottom)
            cv2.rectangle(layers["frame"], first, last, 255, thickness)
        else:
            gap = max(near[0], thickness + 1)
            y = int(box.top + box.height) + gap if rng.random() < 0.7 else int(box.top) - gap
            cv2.line(layers["frame"], (first[0], y), (last[0], y), 255, thickness)
    return layers


def tail_of(rng: np.random.Generator, ink: np.ndarray, box: InkBox) -> np.ndarray | None:
    """Return the ink right of a random gap between letters, or None where letters touch."""
    left, top = int(box.left), int(box.top)
    gaps = np.flatnonzero(ink[top : top + int(box.height), left : left + int(box.width)].max(0) < 40)
    if not len(gaps):
        return None
    tail = ink.copy()
    tail[:, : left + int(gaps[int(rng.random() * len(gaps))])] = 0
    return tail


def paste(canvas: np.ndarray, mask: np.ndarray, x: int, y: int) -> None:
    """Lay `mask` on `canvas` at (x, y); what lies outside is cut off."""
    x0, y0 = max(x, 0), max(y, 0)
    x1, y1 = min(x + mask.shape[1], canvas.shape[1]), min(y + mask.shape[0], canvas.shape[0])
    if x0 < x1 and y0 < y1:
        window = canvas[y0:y1, x0:x1]
        np.maximum(window, mask[y0 - y : y1 - y, x0 - x : x1 - x], out=window)


def warp_layers(view: View, layers: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Warp all layers, four at a time; each comes back (H, W, 1) float32 from 0 to 1."""
    names = list(layers)
    seen = {}
    for start in range(0, len(names), 4):
        group = names[start : start + 4]
        stacked = layers[group[0]] if len(group) == 1 else cv2.merge([layers[name] for name in group])
        warped = view.warp(stacked).astype(np.float32) * (1 / 255.0)
        warped = warped[:, :, None] if warped.ndim == 2 else warped
        for place, name in enumerate(group):
            seen[name] = warped[:, :, place : place + 1]
    if "inside" in seen:
        seen["outside"] = 1.0 - seen.pop("inside")
    return seen
