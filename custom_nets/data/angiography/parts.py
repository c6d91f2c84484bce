"""The parts of an angiography run besides its frames: geometry, origin, gaps; and what no run may be."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from custom_nets.geometry.cone_beam import CArm, positioner_trajectory

__all__ = ["Gap", "RunGeometry", "RunOrigin", "check_frames", "check_times", "wrap_degrees"]


def wrap_degrees(angles: NDArray[np.float64] | float) -> NDArray[np.float64]:
    """Angles in (-180, 180]; those that are there already keep their bits."""
    values = np.asarray(angles, dtype=np.float64)
    return np.where((values > -180) & (values <= 180), values, 180 - (180 - values) % 360)


@dataclass(frozen=True)
class RunGeometry:
    """Where source, detector and table were.

    Attributes:
        pixel_spacing_mm: (between rows, between columns), at the detector.
        primary_deg, secondary_deg: [T] positioner angles of each frame; positive: LAO, cranial.
        table_mm: [T, 3] vertical, longitudinal, lateral table position, relative to the first frame.
        source_detector_mm, source_isocenter_mm: distances.
    """

    pixel_spacing_mm: tuple[float, float] | None = None
    primary_deg: NDArray[np.float64] | None = None
    secondary_deg: NDArray[np.float64] | None = None
    table_mm: NDArray[np.float64] | None = None
    source_detector_mm: float | None = None
    source_isocenter_mm: float | None = None

    @staticmethod
    def of_simulated(carm: CArm, primary_deg: NDArray[np.float64]) -> RunGeometry:
        """The geometry of a simulated run whose C-arm stands at these angles [T]."""
        return RunGeometry(
            pixel_spacing_mm=(carm.panel_pixel_mm,) * 2,
            primary_deg=primary_deg,
            secondary_deg=np.zeros(len(primary_deg)),
            source_detector_mm=carm.source_detector_mm,
            source_isocenter_mm=carm.source_axis_mm,
        )

    def turn(self, first: int, last: int, depth_mm: float = 50.0) -> NDArray[np.float32]:
        """Give what the C-arm's turn from one frame to another does to the picture.

        A point that stays where it is in the patient, ``depth_mm`` nearer to the source than the isocentre (on the
        central ray half-way), moves by x columns and y rows; one as far beyond moves about as far the other way. Of
        the frames in the other order it is the opposite. Pictures are taken to be seen from the panel, head up, as
        :func:`custom_nets.geometry.positioner_trajectory` has them.

        Args:
            first, last: numbers of the frames from 0.
            depth_mm: of the point.

        Returns:
            [3]: x and y in pixels, and 1. All are 0 where not both angles are known, or where the C-arm turns and the
            size of the pixels is unknown. Where the distances are missing or cannot be, usual ones stand in (765 and
            1200 mm from the source to the isocentre and to the panel: 1.57 times as large).
        """
        unknown = np.zeros(3, dtype=np.float32)
        if self.primary_deg is None or self.secondary_deg is None:
            return unknown
        primary, secondary = (np.unwrap(a[[first, last]], period=360) for a in (self.primary_deg, self.secondary_deg))
        if not np.ptp(primary) and not np.ptp(secondary):
            return np.array([0, 0, 1], dtype=np.float32)
        if self.pixel_spacing_mm is None:
            return unknown
        sad, sid = self.source_isocenter_mm or 0.0, self.source_detector_mm or 0.0
        if not depth_mm < sad < sid:
            sad, sid = CArm.source_axis_mm, CArm.source_detector_mm
        primary, secondary = (np.append(a, a.mean()) for a in (primary, secondary))
        views = positioner_trajectory(primary, secondary, sad, sid, (1, 1), self.pixel_spacing_mm[::-1])
        point = views.source_mm[2] * depth_mm / sad
        start, end = (views.project(point, frame)[0] for frame in (0, 1))
        return np.append(end - start, 1).astype(np.float32)

    def at(self, positions: NDArray[np.float64]) -> RunGeometry:
        """The geometry at frame positions (fractions between frames): linear in between, angles the shorter way."""

        def between(values: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
            if values is None:
                return None
            index = np.arange(len(values))
            columns = values.reshape(len(values), -1).T
            found = np.stack([np.interp(positions, index, column) for column in columns], axis=1)
            return found.reshape(len(positions), *values.shape[1:])

        def turned(angles: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
            found = between(None if angles is None else np.unwrap(angles, period=360))
            return None if found is None else wrap_degrees(found)

        return replace(
            self,
            primary_deg=turned(self.primary_deg),
            secondary_deg=turned(self.secondary_deg),
            table_mm=between(self.table_mm),
        )


@dataclass(frozen=True)
class RunOrigin:
    """Where a run comes from, and what its writer needs.

    Attributes:
        path: file or folder.
        format: ``"dicom"``, ``"png"``, ``"nifti"``, ``"npz"`` or ``"memory"``.
        meta: plain values about the file (``modality``, ``bits_stored``, ``photometric``, ``time_source``, ...).
        notes: what was unusual or had to be assumed, for people; each a sentence.
        dataset: header of the DICOM file without pixel data (of the first file of a folder).
        sources: (SOP class, SOP instance) of the files, one, or one per frame.
        shutter: the display shutter and collimator tags as plain values.
        padding: [H, W] pixels where nothing was measured in some frame; None: nowhere.
        padding_value: what stands there.
    """

    path: str = ""
    format: str = "memory"
    meta: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    dataset: Any = None
    sources: tuple[tuple[str, str], ...] = ()
    shutter: dict[str, Any] = field(default_factory=dict)
    padding: NDArray[np.bool_] | None = None
    padding_value: float = 0.0


@dataclass(frozen=True)
class Gap:
    """A pair of neighbouring measured frames that frames may be made between.

    Attributes:
        index: of the earlier frame in the run; the later one is ``index + 1``.
        t0_s, t1_s: times of the two.
        warnings: why the result may be poor here; empty if nothing speaks against it.
    """

    index: int
    t0_s: float
    t1_s: float
    warnings: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        return self.t1_s - self.t0_s


def check_frames(frames: NDArray, name: str) -> None:
    """Refuse what is no run of grey frames."""
    if frames.ndim != 3:
        raise ValueError(f"{name}: grey frames [T, H, W] are needed, got an array of shape {frames.shape}.")
    if frames.dtype not in (np.uint8, np.uint16, np.int8, np.int16, np.float32):
        raise ValueError(f"{name}: frames must be uint8, uint16, int8, int16 or float32, got {frames.dtype}.")
    if len(frames) < 2:
        raise ValueError(f"{name} has {len(frames)} frame(s): a run of at least 2 is needed, there is no time between.")
    if min(frames.shape[1:]) < 2:
        raise ValueError(f"{name}: frames of {frames.shape[1]} x {frames.shape[2]} pixels are no pictures.")
    if frames.dtype == np.float32:
        for number, frame in enumerate(frames, 1):
            if bad := int(frame.size - np.isfinite(frame).sum()):
                raise ValueError(
                    f"{name}: frame {number} has {bad} NaN or infinite values of {frame.size}: replace them first."
                )


def check_times(times_s: NDArray, count: int, name: str) -> None:
    """Refuse times that no run can have."""
    times = np.asarray(times_s)
    if times.shape != (count,):
        raise ValueError(f"{name}: {count} frames need {count} times, got {times.size}.")
    if not np.isfinite(times).all():
        raise ValueError(f"{name}: NaN or infinite times: {times.tolist()}.")
    if (wrong := np.flatnonzero(np.diff(times) <= 0)).size:
        first = int(wrong[0])
        raise ValueError(
            f"{name}: times must grow from frame to frame, but frame {first + 1} is at {times[first]:g} s and frame "
            f"{first + 2} at {times[first + 1]:g} s."
        )
