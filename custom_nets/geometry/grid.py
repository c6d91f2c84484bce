"""The geometry contract of all bundles: where a resampled volume lies in the world.

A volume is a regular grid of voxel *centres*: voxel index ``i`` (x, y, z) lies at ``affine @ [i, 1]`` in
millimetres (RAS, as nibabel and MONAI have it). Input and output share direction and the outer edge of the first
voxel, not its centre: with input spacing ``s``, output spacing ``s'`` and ``r = s' / s`` per axis,

    A' = A @ [[diag(r), (r - 1) / 2], [0, 1]]        (the half-voxel rule)

so that an output index ``j`` lies at input index ``r (j + 0.5) - 0.5``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Grid", "as_triple", "nearest_axes"]


def as_triple(value: float | Sequence[float], name: str) -> NDArray[np.float64]:
    """One positive number or three of them, as three float64.

    Raises:
        ValueError: not one or three finite numbers above zero.
    """
    try:
        if isinstance(value, bool):  # an option without its value
            raise TypeError
        array = np.atleast_1d(np.asarray(value, dtype=np.float64))
    except (TypeError, ValueError):
        raise ValueError(f"{name} must be one number or three (x, y, z), got {value!r}.") from None
    if array.shape == (1,):
        array = np.repeat(array, 3)
    if array.shape != (3,):
        raise ValueError(f"{name} must be one number or three (x, y, z), got {value!r}.")
    if not np.isfinite(array).all() or (array <= 0).any():
        raise ValueError(f"{name} must be above zero on every axis, got {value!r}.")
    return array


def _edge_aligned(ratio: NDArray[np.float64]) -> NDArray[np.float64]:
    """4x4 map from output to input index for voxels ``ratio`` times as large that share the first outer edge."""
    matrix = np.diag([*ratio, 1.0])
    matrix[:3, 3] = (ratio - 1) / 2
    return matrix


@dataclass(frozen=True, eq=False)
class Grid:
    """A regular grid of voxel centres.

    Attributes:
        shape: number of voxels along x, y, z.
        affine: (4, 4) float64, voxel index -> millimetres (RAS).

    Raises:
        ValueError: shape or affine that no volume can have.
    """

    shape: tuple[int, int, int]
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = tuple(int(n) for n in self.shape)
        affine = np.array(self.affine, dtype=np.float64)
        if len(shape) != 3 or min(shape) < 1:
            raise ValueError(f"a grid needs three axes of at least one voxel, got shape {tuple(self.shape)}.")
        if affine.shape != (4, 4) or not np.isfinite(affine).all() or abs(np.linalg.det(affine[:3, :3])) < 1e-12:
            raise ValueError(f"the affine must be an invertible 4x4 matrix of finite numbers, got {affine.tolist()}.")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "affine", affine)

    @classmethod
    def of(cls, image) -> Grid:
        """The grid of a MONAI ``MetaTensor`` [..., X, Y, Z] (its last three axes and its affine)."""
        if not hasattr(image, "affine"):
            raise ValueError(f"the image has no affine (a {type(image).__name__}): load it with LoadVolumed.")
        return cls(tuple(image.shape[-3:]), image.affine.cpu().numpy())

    @property
    def spacing_mm(self) -> NDArray[np.float64]:
        """Distance between neighbouring voxel centres along x, y, z in mm."""
        return np.sqrt((self.affine[:3, :3] ** 2).sum(0))

    @property
    def voxels(self) -> int:
        return int(np.prod(self.shape))

    def rescaled(self, scale: float | Sequence[float]) -> Grid:
        """``scale`` times as many voxels per axis, rounded; the field of view is kept exactly."""
        n = np.array(self.shape)
        shape = np.maximum(1, np.round(n * as_triple(scale, "scale"))).astype(int)
        return Grid(tuple(shape), self.affine @ _edge_aligned(n / shape))

    def with_spacing(self, spacing_mm: float | Sequence[float]) -> Grid:
        """Voxels of exactly ``spacing_mm``; the far edge moves by less than half an output voxel to fit a whole
        number of them."""
        ratio = as_triple(spacing_mm, "spacing") / self.spacing_mm
        # 1e-6: headers hold spacings in float32, so a length of 179.50001 voxels is meant to be 179.5
        shape = np.maximum(1, np.floor(np.array(self.shape) / ratio + 0.5 - 1e-6)).astype(int)
        return Grid(tuple(shape), self.affine @ _edge_aligned(ratio))

    def turned(self, order: Sequence[int], flips: Sequence[bool]) -> Grid:
        """The grid of ``volume.permute(order).flip(...)``: the same places, axes in another order, some backwards.

        Args:
            order: which axis of this grid becomes axis 0, 1, 2.
            flips: which of the new axes run backwards.
        """
        turn = np.zeros((4, 4))
        turn[3, 3] = 1
        for new, old in enumerate(order):
            turn[old, new] = -1 if flips[new] else 1
            turn[old, 3] = self.shape[old] - 1 if flips[new] else 0
        x, y, z = (self.shape[old] for old in order)
        return Grid((x, y, z), self.affine @ turn)

    def index_map(self, other: Grid) -> NDArray[np.float64]:
        """(4, 4): index on ``other`` -> (fractional) index on this grid, for the same point in the world."""
        return np.linalg.inv(self.affine) @ other.affine

    def axis_positions(self, other: Grid, tolerance_voxels: float = 1e-5) -> list[NDArray[np.float64]] | None:
        """Positions of ``other``'s voxel centres in units of this grid's index, one float64 array per axis.

        Returns:
            Three arrays if axis k of ``other`` runs along axis k of this grid; None if the grids are oblique or
            permuted to each other by more than ``tolerance_voxels`` over the whole of ``other``.
        """
        matrix = self.index_map(other)
        extent = np.array(other.shape, dtype=np.float64)
        off_axis = matrix[:3, :3] - np.diag(np.diag(matrix)[:3])
        if (np.abs(off_axis) * extent).max() > tolerance_voxels:
            return None
        return [matrix[a, a] * np.arange(other.shape[a]) + matrix[a, 3] for a in range(3)]

    def share_inside(self, other: Grid) -> float:
        """How much of ``other`` lies in this grid's field of view: 0 (no voxel centre) to 1 (all).

        Exact where the axes of both run alike; otherwise from 64 places along each axis.
        """
        matrix = self.index_map(other)
        along = self.axis_positions(other)
        if along is not None:
            inside = [(p > -0.5 - 1e-6) & (p < n - 0.5 + 1e-6) for p, n in zip(along, self.shape, strict=True)]
            return float(np.prod([axis.mean() for axis in inside]))
        ticks = [np.linspace(0, n - 1, min(n, 64)) for n in other.shape]
        points = np.stack(np.meshgrid(*ticks, indexing="ij"), axis=-1) @ matrix[:3, :3].T + matrix[:3, 3]
        return float(((points > -0.5) & (points < np.array(self.shape) - 0.5)).all(-1).mean())

    def check_overlap(self, other: Grid) -> str:
        """Refuse a grid that has nothing in common with this one.

        Returns:
            What is to be said of a grid that lies in it in part only; "" where next to all of it does.

        Raises:
            ValueError: no voxel of ``other`` lies in the field of view.
        """
        share = self.share_inside(other)
        if share == 0:
            ends = [grid.affine[:3, :3] @ (np.array(grid.shape) - 1) / 2 + grid.affine[:3, 3] for grid in (self, other)]
            own, theirs = ("(" + ", ".join(f"{v:.0f}" for v in end) + ")" for end in ends)
            raise ValueError(
                f"the wanted grid has no voxel in common with the scan (centres at {theirs} and {own} mm): is the "
                "reference image ('like') of another person, or has it lost its place?"
            )
        return "" if share > 0.9 else f"only {100 * share:.2g} % of the wanted grid lies in the scan, the rest is empty"

    def scale_to(self, other: Grid) -> NDArray[np.float64]:
        """How many times finer ``other`` samples each of this grid's axes (1 / step along the axis); >= 1 is
        super-resolution. For oblique grids: the step of ``other`` measured along each axis of this grid."""
        steps = np.abs(self.index_map(other)[:3, :3])
        return 1.0 / steps.max(1)


def nearest_axes(affine: NDArray[np.float64]) -> tuple[list[int], list[bool]]:
    """For world axes x, y, z: which array axis runs along it, and whether against it."""
    direction = affine[:3, :3] / np.linalg.norm(affine[:3, :3], axis=0)
    order, left = [0, 0, 0], np.abs(direction)
    for _ in range(3):  # the best match first; each axis is used once
        world, axis = np.unravel_index(left.argmax(), left.shape)
        order[world] = int(axis)
        left[world], left[:, axis] = -1, -1
    return order, [bool(direction[world, axis] < 0) for world, axis in enumerate(order)]
