"""Where a C-arm sees a point, and pictures of many small things seen by it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["CArm", "rotation_matrix"]

Array = NDArray[np.float64]


def rotation_matrix(angles_rad: Array) -> Array:
    """[3, 3] of turns about x, then y, then z."""
    matrix = np.eye(3)
    for axis, angle in enumerate(angles_rad):
        c, s = np.cos(angle), np.sin(angle)
        turn = np.eye(3)
        i, j = [k for k in range(3) if k != axis]
        turn[i, i], turn[j, j] = c, c
        turn[i, j], turn[j, i] = (-s, s) if axis != 1 else (s, -s)
        matrix = turn @ matrix
    return matrix


@dataclass(frozen=True)
class CArm:
    """Point source and flat panel that turn about the z axis.

    Args:
        shape: [H, W] of the picture.
        pixel_mm: size of a pixel at the isocentre.
        source_axis_mm: source to isocentre.
        source_detector_mm: source to panel.
        centre_mm: (u, v) of the isocentre plane that the picture's centre looks at.
    """

    shape: tuple[int, int] = (512, 512)
    pixel_mm: float = 0.4
    source_axis_mm: float = 765.0
    source_detector_mm: float = 1200.0
    centre_mm: tuple[float, float] = (0.0, 0.0)

    def project(self, points_mm: Array, angle_deg: float) -> tuple[Array, Array]:
        """Pixel coordinates [n, 2] (column, row; 0 is a pixel's centre) and magnification [n] over the isocentre plane.

        Args:
            points_mm: [n, 3].
            angle_deg: 0 looks along y (frontal), 90 along x (lateral); the z axis points up in the picture.
        """
        a = np.deg2rad(angle_deg)
        x, y, z = np.moveaxis(points_mm, -1, 0)
        across, depth = x * np.cos(a) + y * np.sin(a), -x * np.sin(a) + y * np.cos(a)
        magnification = self.source_axis_mm / (self.source_axis_mm - depth)
        column = (across * magnification - self.centre_mm[0]) / self.pixel_mm + (self.shape[1] - 1) / 2
        row = -(z * magnification - self.centre_mm[1]) / self.pixel_mm + (self.shape[0] - 1) / 2
        return np.stack([column, row], -1), magnification
