"""From a flat canvas of ink to a word seen by a camera: curve, slant, rotation, perspective, crop.

A canvas point (x, y) is first measured from the ink's centre in units of the ink's height, (u, v); then bent
onto an arc or a wave, then stretched, slanted and turned, then seen in perspective. The crop is the box
around the outcome plus margins, scaled to the wanted height: axis-aligned, as the boxes of real data sets
are. All steps are undone for every pixel of the crop, so each image is sampled once.
"""

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Pose:
    """How a word lies before the camera; lengths are in heights of the ink.

    Args:
        stretch: width factor.
        slant: sideways shift per height; positive leans to the right.
        rotation: degrees, positive turns the right end down.
        perspective: (horizontal, vertical) change of inverse depth per length.
        curvature: 1 / radius of the baseline; positive arches up in the middle.
        wave: (amplitude, radians per length, phase) of a wavy baseline.
    """

    stretch: float = 1.0
    slant: float = 0.0
    rotation: float = 0.0
    perspective: tuple[float, float] = (0.0, 0.0)
    curvature: float = 0.0
    wave: tuple[float, float, float] = (0.0, 0.0, 0.0)


@dataclass(frozen=True)
class InkBox:
    """Where the word's ink lies on the canvas, in pixels: left, top, width, height."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class View:
    """The crop's own frame: its size, and the way from its pixels back to the canvas.

    Args:
        height: pixels.
        width: pixels.
        scale: crop pixels per height of ink.
        matrix: (3, 3) from crop pixels to flat (u, v) before bending, homogeneous.
        pose: for the bend.
        box: for the canvas.
    """

    height: int
    width: int
    scale: float
    matrix: np.ndarray
    pose: Pose
    box: InkBox

    def warp(self, canvas: np.ndarray) -> np.ndarray:
        """Sample a canvas.

        Args:
            canvas: (h, w) or (h, w, c) uint8, c at most 4; outside it everything is 0.

        Returns:
            (height, width) or (height, width, c) uint8.
        """
        shrink = self.box.height / self.scale
        ratio = 1.0
        if shrink > 1.5:  # sampling alone would skip pixels
            ratio = 1.0 / shrink
            canvas = cv2.resize(canvas, None, fx=ratio, fy=ratio, interpolation=cv2.INTER_AREA)
        pose, box = self.pose, self.box
        unit = box.height * ratio
        centre = ((box.left + box.width / 2) * ratio, (box.top + box.height / 2) * ratio)
        if pose.curvature == 0 and pose.wave[0] == 0:
            to_canvas = (
                np.array([[unit, 0, centre[0] - 0.5], [0, unit, centre[1] - 0.5], [0, 0, 1]]) @ self.matrix
            )
            flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
            return cv2.warpPerspective(canvas, to_canvas, (self.width, self.height), flags=flags)
        x, y = np.meshgrid(np.arange(self.width, dtype=np.float32), np.arange(self.height, dtype=np.float32))
        m = self.matrix.astype(np.float32)
        depth = m[2, 0] * x + m[2, 1] * y + m[2, 2]
        u, v = unbend(
            (m[0, 0] * x + m[0, 1] * y + m[0, 2]) / depth, (m[1, 0] * x + m[1, 1] * y + m[1, 2]) / depth, pose
        )
        map_x = (u * unit + (centre[0] - 0.5)).astype(np.float32)
        map_y = (v * unit + (centre[1] - 0.5)).astype(np.float32)
        return cv2.remap(canvas, map_x, map_y, cv2.INTER_LINEAR)


def bend(u: np.ndarray, v: np.ndarray, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Lay flat points on the pose's wave and arc.

    Args:
        u: lengths along the baseline, in heights of ink from the centre.
        v: lengths down from the centre line.
        pose: only `wave` and `curvature` are used.

    Returns:
        bent (u, v), same shapes.
    """
    amplitude, frequency, phase = pose.wave
    if amplitude:
        v = v + amplitude * np.sin(frequency * u + phase)
    if pose.curvature:
        radius = 1.0 / pose.curvature
        u, v = (radius - v) * np.sin(u / radius), radius - (radius - v) * np.cos(u / radius)
    return u, v


def unbend(u: np.ndarray, v: np.ndarray, pose: Pose) -> tuple[np.ndarray, np.ndarray]:
    """Undo `bend` (for points nearer to the arc than to its centre)."""
    if pose.curvature:
        radius = 1.0 / pose.curvature
        side = np.sign(radius)
        distance = side * np.hypot(u, radius - v)
        u, v = radius * np.arctan2(side * u, side * (radius - v)), radius - distance
    amplitude, frequency, phase = pose.wave
    if amplitude:
        v = v - amplitude * np.sin(frequency * u + phase)
    return u, v


def pose_matrix(pose: Pose) -> np.ndarray:
    """Return the (3, 3) homography of stretch, slant, rotation and perspective, bent (u, v) to view."""
    angle = np.deg2rad(pose.rotation)
    cos, sin = np.cos(angle), np.sin(angle)
    linear = np.array([[cos, -sin], [sin, cos]]) @ np.array([[pose.stretch, -pose.slant], [0.0, 1.0]])
    matrix = np.eye(3)
    matrix[:2, :2] = linear
    projection = np.eye(3)
    projection[2, :2] = pose.perspective
    return projection @ matrix


def look(
    box: InkBox, pose: Pose, margins: tuple[float, float, float, float], height: int, widths: tuple[int, int]
) -> View:
    """Frame a word.

    Args:
        box: its ink on the canvas.
        pose: how it lies.
        margins: left, top, right, bottom room around the posed ink, in heights of ink; negative cuts into it.
        height: of the crop in pixels.
        widths: narrowest and widest crop in pixels; outside them the crop is squeezed.
    """
    along = np.linspace(-0.5, 0.5, 9) * (box.width / box.height)
    u, v = bend(np.concatenate([along, along]), np.repeat([-0.5, 0.5], 9), pose)
    forward = pose_matrix(pose)
    points = forward @ np.stack([u, v, np.ones_like(u)])
    x, y = points[0] / points[2], points[1] / points[2]
    left, right = x.min() - margins[0], x.max() + margins[2]
    top, bottom = y.min() - margins[1], y.max() + margins[3]
    scale = height / max(bottom - top, 1e-3)
    width = int(np.clip(round((right - left) * scale), *widths))
    scale_x = width / max(right - left, 1e-3)
    # Crop pixel centres to the plane of view, then back through the homography.
    to_plane = np.array(
        [[1 / scale_x, 0, left + 0.5 / scale_x], [0, 1 / scale, top + 0.5 / scale], [0, 0, 1]]
    )
    return View(height, width, scale, np.linalg.inv(forward) @ to_plane, pose, box)


def sample_pose(rng: np.random.Generator, aspect: float, strength: float = 1.0) -> Pose:
    """Draw a pose as photographs of signs show them: mostly nearly straight, rarely turned far.

    Args:
        rng: where all chance comes from.
        aspect: width over height of the ink; long words are turned and bent less, or they would fill no crop.
        strength: 0 for a scanned page, 1 for the street.
    """
    kind = rng.random()
    spread = 1.2 if kind < 0.4 else 4.0 if kind < 0.75 else 10.0 if kind < 0.965 else 22.0
    rotation = float(rng.normal()) * spread * max(strength, 0.25)
    limit = min(45.0, float(np.rad2deg(np.arctan(1.3 / max(aspect, 0.5)))))
    rotation = float(np.clip(rotation, -limit, limit))
    if kind > 0.4 and rng.random() < 0.4 * strength:
        # A sign seen from the side: its lines tilt, its uprights stay upright, its width shrinks.
        upright = -float(np.tan(np.deg2rad(rotation)))
        narrowing = 0.25
    else:
        upright = narrowing = 0.0
    lean = upright + float(rng.normal()) * (0.05 if rng.random() < 0.6 else 0.17) * strength
    stretch = float(np.exp(np.clip(rng.normal(-0.05 - narrowing, 0.22), -0.8, 0.4)))
    perspective, curvature, wave = (0.0, 0.0), 0.0, (0.0, 0.0, 0.0)
    if rng.random() < 0.55 * strength:
        # Inverse depth differs by at most 45 % between the ends, 16 % between top and bottom.
        span = stretch * aspect / 2
        perspective = (
            float(np.clip(rng.normal() * 0.13, -0.45, 0.45)) / max(span, 0.5),
            float(np.clip(rng.normal() * 0.07, -0.16, 0.16)),
        )
    bent = rng.random()
    if bent < 0.13 * strength and aspect > 1.2:
        turn = float(rng.uniform(0.15, 1.3)) * (1 if rng.random() < 0.7 else -1)  # radians from end to end
        # The centre must stay outside the letters.
        curvature = float(np.clip(turn / aspect, -0.9, 0.9))
    elif bent < 0.18 * strength:
        wave = (float(rng.uniform(0.03, 0.16)), float(rng.uniform(0.5, 2.0)), float(rng.uniform(0.0, 6.28)))
    return Pose(stretch, lean, rotation, perspective, curvature, wave)
