"""Thin-plate-spline rectifier of word images (RARE, arXiv:1603.03915; the "T" of TRBA).

A small network finds control points along the upper and lower edge of the text; the spline through them tells
where each pixel of the straightened word comes from. It learns from the recogniser's loss alone: no point is
ever labelled.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def fiducial_points(num_points: int, top: tuple[float, float], bottom: tuple[float, float]) -> Tensor:
    """Place control points on an upper and a lower line, evenly from left to right.

    Args:
        num_points: how many in all; even.
        top: y of the upper line at its left and right end, in -1 (top of the image) .. 1 (bottom).
        bottom: the same for the lower line.

    Returns:
        (num_points, 2) x and y, the upper line first.
    """
    half = num_points // 2
    x = torch.linspace(-1.0, 1.0, half)
    upper = torch.stack([x, torch.linspace(top[0], top[1], half)], dim=1)
    lower = torch.stack([x, torch.linspace(bottom[0], bottom[1], half)], dim=1)
    return torch.cat([upper, lower])  # (num_points, 2)


def thin_plate_grid(points: Tensor, height: int, width: int) -> Tensor:
    """Turn control points into a sampling grid.

    The output's control points are the edges of the straightened image (y = -1 and y = 1); the spline maps
    each of its pixel centres into the input, passing through `points`.

    Args:
        points: (B, F, 2) where the control points lie in the input, in -1 .. 1.
        height: rows of the output.
        width: columns of the output.

    Returns:
        (B, height, width, 2) x and y in -1 .. 1 for `grid_sample`.
    """
    weights = thin_plate_weights(points.shape[1], height, width, points.device).to(points.dtype)
    return (weights @ points).reshape(-1, height, width, 2)


def thin_plate_weights(
    num_points: int, height: int, width: int, device: torch.device | None = None
) -> Tensor:
    """Say how much of each control point is in the place that each pixel comes from.

    Args:
        num_points: control points, half of them on either edge.
        height: rows of the output.
        width: columns of the output.
        device: where to compute.

    Returns:
        (height · width, num_points) float64.
    """
    control = fiducial_points(num_points, (-1.0, -1.0), (1.0, 1.0)).to(device, torch.float64)
    ones = control.new_ones(num_points, 1)
    radial = _radial_basis(torch.cdist(control, control))
    system = control.new_zeros(num_points + 3, num_points + 3)
    system[:num_points] = torch.cat([ones, control, radial], dim=1)
    system[num_points:, 3:] = torch.cat([control, ones], dim=1).T
    y = (torch.arange(height, device=device, dtype=torch.float64) + 0.5) * 2 / height - 1
    x = (torch.arange(width, device=device, dtype=torch.float64) + 0.5) * 2 / width - 1
    pixels = torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1).reshape(-1, 2)  # (H·W, 2)
    basis = torch.cat(
        [pixels.new_ones(len(pixels), 1), pixels, _radial_basis(torch.cdist(pixels, control))], dim=1
    )  # (H·W, F + 3)
    return (basis @ torch.linalg.inv(system))[:, :num_points]  # (H·W, F)


def _radial_basis(distance: Tensor) -> Tensor:
    return distance.square() * torch.log(distance + 1e-6)


class ControlPoints(nn.Linear):
    """Linear layer to control points that starts as a constant: training begins with a fixed, known grid."""

    def __init__(self, in_features: int, num_points: int, initialization: str) -> None:
        """Build; `initialization` is "identity" (the image's edges) or "curved" (RARE, Fig. 6a)."""
        super().__init__(in_features, num_points * 2)
        self.num_points = num_points
        self.initialization = initialization

    def initial_bias(self) -> Tensor:
        """Return the (num_points * 2,) bias before training; the weight starts at zero."""
        if self.initialization == "curved":
            return fiducial_points(self.num_points, (0.0, -1.0), (1.0, 0.0)).flatten()
        return fiducial_points(self.num_points, (-1.0, -1.0), (1.0, 1.0)).flatten()

    def forward(self, features: Tensor) -> Tensor:
        """Map (B, in_features) to (B, num_points, 2) in float64, which autocast leaves alone.

        In bfloat16 the coordinates would be off by a quarter of a pixel.
        """
        points = F.linear(features.double(), self.weight.double(), self.bias.double())
        return points.reshape(-1, self.num_points, 2)


class ThinPlateSplineRectifier(nn.Module):
    """Find control points in a word image and straighten it."""

    def __init__(self, num_channels: int, num_points: int = 20, initialization: str = "identity") -> None:
        """Build the localisation network: convolutions (64, 128, 256, 512 channels) and two linear layers."""
        super().__init__()
        layers: list[nn.Module] = []
        sizes = [num_channels, 64, 128, 256, 512]
        for index, (before, after) in enumerate(zip(sizes, sizes[1:], strict=False)):
            layers += [
                nn.Conv2d(before, after, 3, padding=1, bias=False),
                nn.BatchNorm2d(after),
                nn.ReLU(inplace=True),
            ]
            layers.append(nn.MaxPool2d(2, 2) if index < 3 else nn.AdaptiveAvgPool2d(1))
        self.localization = nn.Sequential(*layers)
        self.hidden = nn.Linear(512, 256)
        self.points = ControlPoints(256, num_points, initialization)

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Straighten (B, C, H, W) images; the result has the same shape."""
        features = self.localization(pixel_values).flatten(1)  # (B, 512)
        points = self.points(F.relu(self.hidden(features)))
        grid = thin_plate_grid(points, pixel_values.shape[-2], pixel_values.shape[-1]).float()
        # The grid holds pixel centres and `align_corners` addresses corner pixels: the image shrinks by at
        # most half a pixel at its borders. Kept, because released TRBA weights were trained with it.
        straightened = F.grid_sample(pixel_values.float(), grid, padding_mode="border", align_corners=True)
        return straightened.to(pixel_values.dtype)
