"""A rotational acquisition: projections from many angles, each at its own time, and the volume to make of them.

The C-arm turns while the contrast agent flows in, so every projection has an angle *and* a time of its own. Pixels are
line integrals of the agent's attenuation, ``ln mask - ln fill``, without unit, and noise makes some of them negative.
Nothing here knows a file format (see :func:`custom_nets.data.angiography.acquisition_reader.read_acquisition`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.angiography.parts import RunOrigin
from custom_nets.geometry.cone_beam import ConeBeam

__all__ = ["Acquisition", "default_volume", "volume_affine_ras"]

_FEWEST = 2
_DEFAULT_VOXELS = 96  # along the longest side; a laptop fits it in minutes


@dataclass(frozen=True, eq=False)
class Acquisition:
    """Projections of one rotational run, checked when made.

    Args:
        projections: [N, H, W] float32, line integrals (no unit), neither clipped nor normalised.
        times_s: [N] seconds since the first fill frame, strictly increasing.
        source_mm, panel_mm, column_step_mm, row_step_mm: [N, 3] as :class:`custom_nets.geometry.cone_beam.ConeBeam`
            has them: LPS, isocentre at the origin.
        weights: [N, H, W] float32, inverse variance of each pixel up to a common factor, 0 where nothing was measured;
            None: all pixels count alike.
        volume_shape: (nx, ny, nz) of the volume to make, which is centred on the isocentre.
        volume_spacing_mm: (sx, sy, sz).
        quantitative: whether pixels are line integrals, so that a volume has the unit 1/mm; False for pictures of
            which only grey values are known.
        notes: what had to be assumed, for people; each a sentence.
        warnings: what the files contradict themselves in, likewise.
        origin: the run that was read, for files that are written of its patient; None where there is none.

    Raises:
        ValueError: fewer than two frames, wrong shapes, NaN or infinite values, times that do not increase, negative
            weights, no volume.
    """

    projections: NDArray[np.float32]
    times_s: NDArray[np.float64]
    source_mm: NDArray[np.float64]
    panel_mm: NDArray[np.float64]
    column_step_mm: NDArray[np.float64]
    row_step_mm: NDArray[np.float64]
    weights: NDArray[np.float32] | None = None
    volume_shape: tuple[int, int, int] = (_DEFAULT_VOXELS,) * 3
    volume_spacing_mm: tuple[float, float, float] = (2.0, 2.0, 2.0)
    quantitative: bool = True
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    origin: RunOrigin | None = None

    def __post_init__(self) -> None:
        projections = np.asarray(self.projections, dtype=np.float32)
        if projections.ndim != 3 or len(projections) < _FEWEST or min(projections.shape[1:]) < 2:
            raise ValueError(f"projections [N, H, W] of at least {_FEWEST} frames are needed, got {projections.shape}.")
        count = len(projections)
        _finite(projections, "projections")
        times = np.array(self.times_s, dtype=np.float64)
        if times.shape != (count,) or not np.isfinite(times).all():
            raise ValueError(f"{count} frames need {count} finite times in seconds, got {times.tolist()}.")
        if (wrong := np.flatnonzero(np.diff(times) <= 0)).size:
            first = int(wrong[0])
            raise ValueError(
                f"times must grow from frame to frame, but frame {first + 1} is at {times[first]:g} s and frame "
                f"{first + 2} at {times[first + 1]:g} s."
            )
        geometry = ConeBeam(self.source_mm, self.panel_mm, self.column_step_mm, self.row_step_mm, projections.shape[1:])
        if len(geometry) != count:
            raise ValueError(f"{count} frames need {count} places of the source, got {len(geometry)}.")
        weights = None if self.weights is None else np.asarray(self.weights, dtype=np.float32)
        if weights is not None:
            if weights.shape != projections.shape:
                raise ValueError(f"weights must be {projections.shape} as the projections, got {weights.shape}.")
            _finite(weights, "weights")
            if weights.min() < 0 or not weights.any():
                raise ValueError("weights must be 0 or more, and above 0 somewhere.")
        shape, spacing = tuple(int(n) for n in self.volume_shape), tuple(float(s) for s in self.volume_spacing_mm)
        if (
            len(shape) != 3
            or min(shape) < 1
            or len(spacing) != 3
            or not (np.isfinite(spacing).all() and min(spacing) > 0)
        ):
            raise ValueError(f"a volume needs three axes and voxels above zero, got {shape} voxels of {spacing} mm.")
        checked = {
            "projections": projections, "times_s": times, "weights": weights, "volume_shape": shape,
            "volume_spacing_mm": spacing, "notes": list(self.notes),
            **{name: getattr(geometry, name) for name in ("source_mm", "panel_mm", "column_step_mm", "row_step_mm")},
        }  # fmt: skip
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def __len__(self) -> int:
        return len(self.projections)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of a projection."""
        return self.projections.shape[1], self.projections.shape[2]

    @property
    def geometry(self) -> ConeBeam:
        """Source and panel of all frames."""
        return ConeBeam(self.source_mm, self.panel_mm, self.column_step_mm, self.row_step_mm, self.size)

    def views(self, count: int) -> NDArray[np.int64]:
        """Evenly chosen frames as the papers choose them: ``floor(k N / count)``.

        Raises:
            ValueError: fewer than two, or more than there are.
        """
        if not _FEWEST <= count <= len(self):
            raise ValueError(f"views must be {_FEWEST} to {len(self)} (all frames), got {count}.")
        return np.arange(count) * len(self) // count

    def left_out(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[np.int64]:
        """The frames that are not among ``indices``."""
        return np.setdiff1d(np.arange(len(self)), np.asarray(indices))

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> Acquisition:
        """The acquisition as if only these frames had been taken; volume and clock stay."""
        index = np.asarray(indices)
        names = ("projections", "times_s", "source_mm", "panel_mm", "column_step_mm", "row_step_mm")
        kept = {name: getattr(self, name)[index] for name in names}
        return replace(self, **kept, weights=None if self.weights is None else self.weights[index])

    def with_volume(self, shape: Sequence[int] | None = None, spacing_mm: Sequence[float] | None = None) -> Acquisition:
        """The acquisition with another grid for its volume."""
        new_shape = self.volume_shape if shape is None else tuple(shape)
        new_spacing = self.volume_spacing_mm if spacing_mm is None else tuple(spacing_mm)
        return replace(self, volume_shape=new_shape, volume_spacing_mm=new_spacing)  # type: ignore[arg-type]

    def affine_ras(self) -> NDArray[np.float64]:
        """(4, 4) voxel index of the volume -> mm, RAS, for NIfTI."""
        return volume_affine_ras(self.volume_shape, self.volume_spacing_mm)

    def voxel_centres_mm(self) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
        """Places of the voxel centres along x, y and z (LPS)."""
        x, y, z = (
            (np.arange(n, dtype=np.float64) - (n - 1) / 2) * s
            for n, s in zip(self.volume_shape, self.volume_spacing_mm, strict=True)
        )
        return x, y, z  # type: ignore[return-value]


def _finite(values: NDArray, name: str) -> None:
    for number, frame in enumerate(values, 1):
        if bad := int(frame.size - np.isfinite(frame).sum()):
            raise ValueError(f"{name} of frame {number}: {bad} of {frame.size} values are NaN or infinite.")


def volume_affine_ras(shape: Sequence[int], spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """(4, 4) voxel index -> mm, RAS, of a volume [x, y, z] along LPS axes that is centred on the isocentre."""
    signed = np.array([-1.0, -1.0, 1.0]) * np.asarray(spacing_mm, dtype=np.float64)
    affine = np.diag([*signed, 1.0])
    affine[:3, 3] = -signed * (np.asarray(shape) - 1) / 2
    return affine


def default_volume(
    geometry: ConeBeam, voxels: int = _DEFAULT_VOXELS, voxel_mm: float | None = None
) -> tuple[tuple[int, int, int], tuple[float, float, float]]:
    """A grid that holds what every frame can see around the isocentre: shape and spacing.

    Args:
        geometry: of the frames.
        voxels: along the longest side, where ``voxel_mm`` is not given.
        voxel_mm: edge of a voxel.
    """
    height, width = geometry.shape
    enlarged = float(np.median(geometry.magnification))
    across = width * float(np.median(np.linalg.norm(geometry.column_step_mm, axis=1))) / enlarged
    along = height * float(np.median(np.linalg.norm(geometry.row_step_mm, axis=1))) / enlarged
    if voxel_mm is None:
        voxel_mm = max(across, along) / voxels
    if not 0 < voxel_mm < min(across, along):
        raise ValueError(f"voxels must be above 0 and below the field of view of {across:.0f} x {along:.0f} mm.")
    n, nz = (max(1, int(np.floor(length / voxel_mm + 1e-6))) for length in (across, along))
    return (n, n, nz), (voxel_mm,) * 3
