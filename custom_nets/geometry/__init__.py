"""Where voxels and pixels lie; numpy only."""

from __future__ import annotations

from .cone_beam import ConeBeam, circular_trajectory, positioner_trajectory
from .grid import Grid, as_triple, nearest_axes

__all__ = ["ConeBeam", "Grid", "as_triple", "circular_trajectory", "nearest_axes", "positioner_trajectory"]
