"""The C-arm: where source and panel stand at each frame, and where on the panel a point is seen.

There is one convention, that of a bench with calibrated frames (ASTRA's ``cone_vec``): for each frame the source, the
centre of the panel's picture, and the vectors from pixel to pixel along columns and rows, all in mm. The world is LPS
(x to the patient's left, y to the back, z to the head) with the isocentre as its origin. A ray runs from the source
``S`` to the centre of pixel (column c, row r), counted from 0, of a picture of H x W pixels:

    D + (c - (W - 1) / 2) u + (r - (H - 1) / 2) v
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["CArm", "ConeBeam", "SeenFrom", "circular_trajectory", "positioner_trajectory", "rotation_matrix"]

Array = NDArray[np.float64]
SeenFrom = Literal["source", "panel"]
_NEAREST_MM = 1e-6  # a point this close to the source's plane is seen nowhere


@dataclass(frozen=True, eq=False)
class ConeBeam:
    """Source and panel of N frames.

    Args:
        source_mm: [N, 3].
        panel_mm: [N, 3] centre of the picture on the panel.
        column_step_mm: [N, 3] from a pixel to its neighbour in the next column.
        row_step_mm: [N, 3] from a pixel to its neighbour in the next row.
        shape: (H, W) of a picture.

    Raises:
        ValueError: arrays that do not belong together or are not finite, a panel without size, a source in its plane.
    """

    source_mm: Array
    panel_mm: Array
    column_step_mm: Array
    row_step_mm: Array
    shape: tuple[int, int]

    def __post_init__(self) -> None:
        names = ("source_mm", "panel_mm", "column_step_mm", "row_step_mm")
        for name in names:
            values = np.array(getattr(self, name), dtype=np.float64)
            if values.ndim != 2 or values.shape[1] != 3 or len(values) != len(np.asarray(self.source_mm)):
                raise ValueError(f"{name} must be [N, 3] with one row per frame, got {values.shape}.")
            if not np.isfinite(values).all():
                raise ValueError(f"{name} has NaN or infinite values: every frame needs a place.")
            object.__setattr__(self, name, values)
        height, width = (int(n) for n in self.shape)
        if min(height, width) < 1:
            raise ValueError(f"a picture needs at least one pixel, got {tuple(self.shape)}.")
        object.__setattr__(self, "shape", (height, width))
        distance = self.source_panel_mm
        area = np.linalg.norm(self._normal, axis=1)
        if len(self) and not ((area > 0).all() and (distance > _NEAREST_MM).all()):
            frame = int(np.flatnonzero((area <= 0) | (distance <= _NEAREST_MM))[0])
            raise ValueError(
                f"frame {frame + 1}: the source must lie outside of the panel's plane and the steps along columns and "
                f"rows must differ; got source {self.source_mm[frame].tolist()}, panel {self.panel_mm[frame].tolist()}."
            )

    def __len__(self) -> int:
        return len(self.source_mm)

    @property
    def _normal(self) -> Array:
        return np.cross(self.column_step_mm, self.row_step_mm)

    @property
    def source_panel_mm(self) -> Array:
        """[N] distance of the source from the panel's plane."""
        normal = self._normal
        length = np.linalg.norm(normal, axis=1)
        return np.abs(((self.panel_mm - self.source_mm) * normal).sum(1)) / np.where(length > 0, length, 1)

    @property
    def source_isocentre_mm(self) -> Array:
        """[N] distance of the source from the isocentre."""
        return np.linalg.norm(self.source_mm, axis=1)

    @property
    def steps_deg(self) -> Array:
        """[N - 1] angles between a frame's source and the next one's, seen from the isocentre."""
        way = self.source_mm / self.source_isocentre_mm[:, None]
        return np.rad2deg(np.arccos(np.clip((way[1:] * way[:-1]).sum(1), -1, 1)))

    @property
    def magnification(self) -> Array:
        """[N] of the plane through the isocentre parallel to the panel: panel mm per isocentre mm."""
        normal = self._normal / np.linalg.norm(self._normal, axis=1, keepdims=True)
        return self.source_panel_mm / np.abs((self.source_mm * normal).sum(1))

    def at(self, frames: Sequence[int] | NDArray[np.int64]) -> ConeBeam:
        """Some of the frames."""
        k = np.asarray(frames)
        return ConeBeam(self.source_mm[k], self.panel_mm[k], self.column_step_mm[k], self.row_step_mm[k], self.shape)

    def pixels_mm(self, frame: int) -> Array:
        """Places of all pixel centres of a frame, [H, W, 3]."""
        height, width = self.shape
        columns = (np.arange(width) - (width - 1) / 2)[None, :, None] * self.column_step_mm[frame]
        rows = (np.arange(height) - (height - 1) / 2)[:, None, None] * self.row_step_mm[frame]
        return self.panel_mm[frame] + columns + rows

    def project(self, points_mm: ArrayLike, frame: int = 0) -> tuple[Array, Array]:
        """Where a frame sees points.

        Args:
            points_mm: [..., 3].
            frame: its number from 0.

        Returns:
            Column and row of each point, [..., 2] (0 is the centre of the first pixel), and how much larger things
            there appear on the panel, [...] (panel mm per mm). NaN for points not in front of the source.
        """
        points = np.asarray(points_mm, dtype=np.float64)
        source, panel = self.source_mm[frame], self.panel_mm[frame]
        steps = np.stack([self.column_step_mm[frame], self.row_step_mm[frame]])  # [2, 3]
        normal = np.cross(*steps)
        depth = (points - source) @ normal
        reach = (panel - source) @ normal
        with np.errstate(divide="ignore", invalid="ignore"):
            magnification = np.where(depth * reach > 0, reach / depth, np.nan)
        hit = source + (points - source) * magnification[..., None] - panel  # [..., 3] in the panel's plane
        along = hit @ steps.T @ np.linalg.inv(steps @ steps.T)  # [..., 2]; the steps need not be at right angles
        height, width = self.shape
        return along + np.array([(width - 1) / 2, (height - 1) / 2]), magnification


def _trajectory(
    towards_source: Array,
    across: Array,
    down: Array,
    sad_mm: ArrayLike,
    sid_mm: ArrayLike,
    shape: tuple[int, int],
    spacing_mm: Sequence[float] | Array,
    offset_mm: Sequence[float] | Array,
) -> ConeBeam:
    """A C-arm from unit vectors [N, 3]: isocentre to source, along the columns' order, along the rows' order."""
    count = len(towards_source)
    sad, sid = (np.broadcast_to(np.asarray(v, dtype=np.float64), count)[:, None] for v in (sad_mm, sid_mm))
    if not (np.isfinite(sad).all() and np.isfinite(sid).all() and (sad > 0).all() and (sid > sad).all()):
        raise ValueError(
            "distances must be above zero and the panel behind the isocentre: got source to isocentre (SAD) "
            f"{np.unique(sad).tolist()} mm, source to panel (SID) {np.unique(sid).tolist()} mm."
        )
    du, dv = (float(v) for v in spacing_mm)
    if not (du > 0 and dv > 0):
        raise ValueError(f"pixels need a size above zero, got {du:g} x {dv:g} mm.")
    ou, ov = (float(v) for v in offset_mm)
    return ConeBeam(
        source_mm=sad * towards_source,
        panel_mm=(sad - sid) * towards_source + ou * across + ov * down,
        column_step_mm=du * across,
        row_step_mm=dv * down,
        shape=shape,
    )


def circular_trajectory(
    angles_rad: ArrayLike,
    sad_mm: ArrayLike,
    sid_mm: ArrayLike,
    shape: tuple[int, int],
    spacing_mm: Sequence[float] | Array,
    offset_mm: Sequence[float] | Array = (0.0, 0.0),
) -> ConeBeam:
    """A turn about the z axis as public folders of rotational runs have it, pictures as seen from the source.

    At angle a the source stands at ``sad (cos a, sin a, 0)``, columns run along ``u = (-sin a, cos a, 0)``, rows along
    ``v = (0, 0, -1)``.

    Args:
        angles_rad: [N]; 0 is the patient's left, pi/2 the back.
        sad_mm: source to isocentre, one or [N].
        sid_mm: source to panel, one or [N].
        shape: (H, W) of a picture.
        spacing_mm: (between columns, between rows) at the panel.
        offset_mm: (along u, along v) from where the central ray meets the panel to the picture's centre.

    Raises:
        ValueError: distances or sizes that no C-arm has.
    """
    a = np.atleast_1d(np.asarray(angles_rad, dtype=np.float64))
    zero, one = np.zeros_like(a), np.ones_like(a)
    towards_source = np.stack([np.cos(a), np.sin(a), zero], -1)
    across = np.stack([-np.sin(a), np.cos(a), zero], -1)
    down = np.stack([zero, zero, -one], -1)
    return _trajectory(towards_source, across, down, sad_mm, sid_mm, shape, spacing_mm, offset_mm)


def positioner_trajectory(
    primary_deg: ArrayLike,
    secondary_deg: ArrayLike,
    sad_mm: ArrayLike,
    sid_mm: ArrayLike,
    shape: tuple[int, int],
    spacing_mm: Sequence[float] | Array,
    offset_mm: Sequence[float] | Array = (0.0, 0.0),
    seen_from: SeenFrom = "panel",
) -> ConeBeam:
    """A C-arm by DICOM's positioner angles (PS3.3 C.8.7.5): the panel's place about the patient.

    Args:
        primary_deg: [N], positive towards the patient's left (LAO); 0: the panel is in front, the source behind.
        secondary_deg: [N] or one, positive towards the head (CRA).
        sad_mm, sid_mm: source to isocentre, source to panel; one or [N].
        shape: (H, W) of a picture.
        spacing_mm: (between columns, between rows) at the panel.
        offset_mm: (along columns, along rows) from where the central ray meets the panel to the picture's centre.
        seen_from: ``"panel"``: pictures as radiologists look at them, facing the patient (the patient's left is on the
            right at primary 0); ``"source"``: their mirror image, as seen along the rays.

    Raises:
        ValueError: distances or sizes that no C-arm has, another ``seen_from``.
    """
    if seen_from not in ("panel", "source"):
        raise ValueError(f"seen_from must be 'panel' or 'source', got {seen_from!r}.")
    p = np.atleast_1d(np.deg2rad(np.asarray(primary_deg, dtype=np.float64)))
    s = np.broadcast_to(np.deg2rad(np.asarray(secondary_deg, dtype=np.float64)), p.shape)
    towards_panel = np.stack([np.sin(p) * np.cos(s), -np.cos(p) * np.cos(s), np.sin(s)], -1)
    up = np.stack([-np.sin(p) * np.sin(s), np.cos(p) * np.sin(s), np.cos(s)], -1)
    across = np.stack([np.cos(p), np.sin(p), np.zeros_like(p)], -1) * (1 if seen_from == "panel" else -1)
    return _trajectory(-towards_panel, across, -up, sad_mm, sid_mm, shape, spacing_mm, offset_mm)


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
    """A C-arm in the transverse plane, described as the simulator of runs needs it.

    Args:
        shape: [H, W] of the picture.
        pixel_mm: size of a pixel at the isocentre.
        source_axis_mm: source to isocentre.
        source_detector_mm: source to panel.
        centre_mm: (u, v) of the isocentre plane that the picture's centre looks at, v up.
    """

    shape: tuple[int, int] = (512, 512)
    pixel_mm: float = 0.4
    source_axis_mm: float = 765.0
    source_detector_mm: float = 1200.0
    centre_mm: tuple[float, float] = (0.0, 0.0)

    @property
    def panel_pixel_mm(self) -> float:
        """Size of a pixel at the panel."""
        return self.pixel_mm * self.source_detector_mm / self.source_axis_mm

    def geometry(self, angle_deg: ArrayLike) -> ConeBeam:
        """Source and panel at one or several positioner angles; pictures as seen from the panel."""
        enlarged = self.source_detector_mm / self.source_axis_mm
        return positioner_trajectory(
            angle_deg, 0.0, self.source_axis_mm, self.source_detector_mm, self.shape, (self.panel_pixel_mm,) * 2,
            (enlarged * self.centre_mm[0], -enlarged * self.centre_mm[1]),
        )  # fmt: skip

    def project(self, points_mm: Array, angle_deg: float) -> tuple[Array, Array]:
        """Pixel coordinates [n, 2] (column, row; 0 is a pixel's centre) and magnification [n] over the isocentre plane.

        Args:
            points_mm: [n, 3].
            angle_deg: 0 looks along y (frontal), 90 along x (lateral); the z axis points up in the picture.
        """
        pixels, magnification = self.geometry(angle_deg).project(points_mm)
        return pixels, magnification * self.source_axis_mm / self.source_detector_mm
