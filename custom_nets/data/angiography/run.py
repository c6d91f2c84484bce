"""An angiography run as a data type: frames as stored, their times, and all that is needed to write them again.

Nothing here knows a file format (see :mod:`custom_nets.data.angiography.reader`) or a network. Measured frames are
never touched: what a network makes is put between them by :meth:`AngiographyRun.with_inserted`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from custom_nets.data.angiography.field_of_view import find_active_area, find_padding
from custom_nets.data.angiography.intensity import BACKGROUND, IntensityMapping, MaskSubtraction, fit_mapping
from custom_nets.data.angiography.parts import Gap, RunGeometry, RunOrigin, check_frames, check_times, wrap_degrees

__all__ = ["AngiographyRun", "Gap", "RunGeometry", "RunOrigin", "active_area", "bounding_box", "make_run"]

_TABLE_JUMP_MM = 0.5
_ARM_JUMP_DEG = 1.0
_ARM_FAR_DEG = 10.0  # a jump however steadily the C-arm moves


@dataclass(frozen=True, eq=False)
class AngiographyRun:
    """One run; checked when made.

    Attributes:
        frames: [T, H, W], grey values as stored (uint8, uint16, int8, int16 or float32).
        times_s: [T] seconds, strictly increasing; numbers of frames where ``has_times`` is False.
        synthetic: [T] which frames were made.
        mapping: stored values <-> network units.
        mask_frames: indices from 0 of the frames that serve as mask; nothing is made beside them.
        geometry: spacing, angles, table.
        origin: file, header, notes.
        source_index: [T] number (from 0) of each frame in the file it was read from, -1 for frames made since; left
            out: the measured frames are those of the file, in their order.
        has_times: False where the file says nothing about time and nobody gave it: frames are then taken as evenly
            spaced, and ``times_s`` counts frames.

    Raises:
        ValueError: fewer than two frames, wrong shape or type, NaN or infinite values, times that are not strictly
            increasing or not as many as frames.
    """

    frames: NDArray
    times_s: NDArray[np.float64]
    synthetic: NDArray[np.bool_]
    mapping: IntensityMapping
    mask_frames: tuple[int, ...] = ()
    geometry: RunGeometry = field(default_factory=RunGeometry)
    origin: RunOrigin = field(default_factory=RunOrigin)
    source_index: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    has_times: bool = True

    def __post_init__(self) -> None:
        name = self.origin.path or "the run"
        check_frames(self.frames, name)
        count = len(self.frames)
        check_times(self.times_s, count, name)
        if not self.source_index.size:
            order = np.where(self.synthetic, -1, np.cumsum(~np.asarray(self.synthetic)) - 1)
            object.__setattr__(self, "source_index", order)
        if np.shape(self.synthetic) != (count,) or np.shape(self.source_index) != (count,):
            raise ValueError(f"{name}: one 'synthetic' mark and source number per frame is needed ({count} frames).")
        if wrong := [index for index in self.mask_frames if not 0 <= index < count or self.synthetic[index]]:
            raise ValueError(
                f"{name}: mask frames {[index + 1 for index in wrong]} are not among the measured frames 1..{count}."
            )

    def __len__(self) -> int:
        return len(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W)."""
        return self.frames.shape[1], self.frames.shape[2]

    @property
    def stored_range(self) -> tuple[float, float]:
        """Smallest and largest value that the stored bits can hold (infinite for float32)."""
        if not np.issubdtype(self.frames.dtype, np.integer):
            return -np.inf, np.inf
        limits = np.iinfo(self.frames.dtype)
        bits = int(self.origin.meta.get("bits_stored") or limits.bits)
        return (
            (float(-(1 << (bits - 1))), float((1 << (bits - 1)) - 1)) if limits.min else (0.0, float((1 << bits) - 1))
        )

    @cached_property
    def active(self) -> NDArray[np.bool_]:
        """[H, W] where the picture is: see :func:`active_area`."""
        return _measured_area(self.frames, self.origin)

    @cached_property
    def _uniform(self) -> list[bool]:
        return [frame.min() == frame.max() for frame in self.frames]

    @cached_property
    def _masks(self) -> dict[int, NDArray[np.float64]]:
        return {}

    def _mask(self, position: float) -> NDArray[np.float64] | None:
        number = self.mapping.item_for(position)
        if number is None:
            return None
        item = self.mapping.subtraction[number]
        if item.operation != "AVG_SUB":
            return self.mapping.item_mask(self.frames, item, position)
        if number not in self._masks:
            self._masks[number] = self.mapping.item_mask(self.frames, item, position)
        return self._masks[number]

    def normalize(self, index: int | slice | Sequence[int] | NDArray[np.int64]) -> NDArray[np.float32]:
        """Frames in network units, [n, H, W] float32: dark vessels, the ground near 0.75, mostly within 0..1.

        Values are not clipped; a mask is subtracted where the mapping says so; padding is ground.
        """
        indices = np.atleast_1d(np.arange(len(self))[index])
        units = np.empty((len(indices), *self.size), dtype=np.float32)
        for k, frame in enumerate(indices):
            values = self.mapping.forward(self.frames[frame])
            if (mask := self._mask(float(frame))) is not None:
                values -= mask
            units[k] = values * self.mapping.scale + self.mapping.offset
        if self.origin.padding is not None:
            units[:, self.origin.padding] = BACKGROUND
        return units

    def denormalize(self, units: NDArray, positions: Sequence[float] | NDArray | float) -> NDArray:
        """Network units to stored values: mask added back, rounded to the nearest value, clipped to the stored bits.

        Args:
            units: [n, H, W].
            positions: frame position of each, 3.25 being a quarter of the way from frame 3 to frame 4 (indices from
                0; one number serves for all). It says which mask is added back.

        Returns:
            [n, H, W] of the run's data type.

        Raises:
            ValueError: NaN or infinite values, wrong shape.
        """
        units = np.asarray(units)
        if units.ndim != 3 or units.shape[1:] != self.size:
            raise ValueError(f"frames of shape {units.shape} do not belong to a run of [n, {self.size}].")
        positions = np.broadcast_to(np.asarray(positions, dtype=np.float64), len(units))
        low, high = self.stored_range
        stored = np.empty(units.shape, dtype=self.frames.dtype)
        for k, position in enumerate(positions):
            values = (units[k].astype(np.float64) - self.mapping.offset) / self.mapping.scale
            if not np.isfinite(values).all():
                raise ValueError(f"the made frame at position {position:.3f} has NaN or infinite values.")
            if (mask := self._mask(float(position))) is not None:
                values += mask
            with np.errstate(over="ignore"):
                values = self.mapping.backward(values)
            if np.issubdtype(self.frames.dtype, np.integer):
                values = np.clip(np.rint(values), low, high)
            stored[k] = values
        if self.origin.padding is not None:
            stored[:, self.origin.padding] = self.origin.padding_value
        return stored

    def gaps(self, max_gap_s: float = 1.5) -> list[Gap]:
        """The pairs that frames may be made between: neighbours, both measured, neither a mask frame.

        Args:
            max_gap_s: longer gaps get a warning (networks are trained on steps of up to about a second).
        """
        found = []
        masks = set(self.mask_frames)
        for index in range(len(self) - 1):
            pair = {index, index + 1}
            mask_changes = self.mapping.item_for(index) != self.mapping.item_for(index + 1)
            if self.synthetic[index] or self.synthetic[index + 1] or pair & masks or mask_changes:
                continue
            t0, t1 = (float(t) for t in self.times_s[index : index + 2])
            found.append(Gap(index, t0, t1, tuple(self._warnings(index, t1 - t0, max_gap_s))))
        return found

    def _warnings(self, index: int, seconds: float, max_gap_s: float) -> Iterable[str]:
        pair = f"between frames {index + 1} and {index + 2}"
        if self.has_times and seconds > max_gap_s:
            yield f"{seconds:.2f} s {pair}, more than {max_gap_s:g} s"
        for number in (index, index + 1):
            if self._uniform[number]:
                value = self.frames[number].flat[0]
                yield f"frame {number + 1} shows nothing (all values are {value:g}), and what is made fades into it"
        table = self.geometry.table_mm
        if table is not None and (moved := float(np.linalg.norm(table[index + 1] - table[index]))) > _TABLE_JUMP_MM:
            yield f"the table moves by {moved:.1f} mm {pair}"
        for name in ("primary", "secondary"):
            angles = getattr(self.geometry, f"{name}_deg")
            if angles is not None:
                steps = np.abs(wrap_degrees(np.diff(angles)))
                if steps[index] > min(3 * np.median(steps) + _ARM_JUMP_DEG, _ARM_FAR_DEG):
                    yield f"the C-arm jumps by {steps[index]:.1f} degrees ({name} angle) {pair}"

    def position_of(self, times_s: NDArray | Sequence[float]) -> NDArray[np.float64]:
        """Frame positions (fractions between frames) of times within the run."""
        times = np.asarray(times_s, dtype=np.float64)
        if times.size and (times.min() < self.times_s[0] or times.max() > self.times_s[-1]):
            raise ValueError(
                f"times {times.min():g} to {times.max():g} s reach beyond the run ({self.times_s[0]:g} to "
                f"{self.times_s[-1]:g} s): nothing is extrapolated."
            )
        return np.interp(times, self.times_s, np.arange(len(self)))

    def with_inserted(self, times_s: Sequence[float] | NDArray, frames: NDArray) -> AngiographyRun:
        """A longer run: the measured frames bit for bit as they are, the made ones marked and at their times.

        Mask frames are renumbered, angles and table positions interpolated.

        Args:
            times_s: [n] of the new frames, in any order, each within a gap of :meth:`gaps`.
            frames: [n, H, W] stored values in the run's data type (see :meth:`denormalize`).

        Raises:
            ValueError: a time outside the run, at a measured frame, beside a mask frame, or twice; wrong shape or
                type.
        """
        times = np.asarray(times_s, dtype=np.float64).reshape(-1)
        frames = np.asarray(frames)
        if frames.shape != (len(times), *self.size) or frames.dtype != self.frames.dtype:
            raise ValueError(
                f"{len(times)} frames of {self.size} and type {self.frames.dtype} are needed, got {frames.shape} of "
                f"{frames.dtype}."
            )
        positions = self.position_of(times)
        allowed = {gap.index for gap in self.gaps()}
        for time, position in zip(times, positions, strict=True):
            if position == int(position) or int(position) not in allowed:
                raise ValueError(
                    f"no frame can be put at {time:g} s: it is a measured time, or beside a mask frame or a made one."
                )
        all_times = np.concatenate([self.times_s, times])
        order = np.argsort(all_times, kind="stable")
        result = np.empty((len(order), *self.size), dtype=self.frames.dtype)
        for place, index in enumerate(order):
            result[place] = self.frames[index] if index < len(self) else frames[index - len(self)]
        new_index = np.argsort(order)[: len(self)]
        sources = np.concatenate([self.source_index, np.full(len(times), -1)])
        made = np.concatenate([self.synthetic, np.ones(len(times), dtype=bool)])
        return self._rebuilt(
            result, all_times[order], made[order], sources[order], new_index,
            np.concatenate([np.arange(len(self)), positions])[order],
        )  # fmt: skip

    def select(self, indices: Sequence[int] | NDArray[np.int64]) -> AngiographyRun:
        """A run of some of the frames (in the order of time), as if the others had never been taken.

        The intensity mapping stays; mask frames must be among the kept ones.
        """
        kept = np.unique(np.arange(len(self))[np.asarray(indices)])
        new_index = np.full(len(self), -1)
        new_index[kept] = np.arange(len(kept))
        if gone := [index + 1 for index in self.mask_frames if new_index[index] < 0]:
            raise ValueError(f"mask frames {gone} must be kept: the subtraction needs them.")
        return self._rebuilt(
            self.frames[kept], self.times_s[kept], self.synthetic[kept], self.source_index[kept], new_index,
            kept.astype(np.float64),
        )  # fmt: skip

    def _rebuilt(
        self,
        frames: NDArray,
        times_s: NDArray[np.float64],
        synthetic: NDArray[np.bool_],
        source_index: NDArray[np.int64],
        new_index: NDArray[np.int64],
        positions: NDArray[np.float64],
    ) -> AngiographyRun:
        mapping, origin = self.mapping.renumbered(new_index), self.origin
        if mapping is None:
            note = "mask subtraction was left out: its frame offset does not hold for the new numbering of the frames"
            origin = replace(origin, notes=(*origin.notes, note), meta={**origin.meta, "subtraction_dropped": True})
            mapping, _ = fit_mapping(
                frames, self.active, IntensityMapping(log=self.mapping.log, zero=self.mapping.zero)
            )
        return AngiographyRun(
            frames=frames,
            times_s=times_s,
            synthetic=synthetic,
            mapping=mapping,
            mask_frames=tuple(int(new_index[index]) for index in self.mask_frames),
            geometry=self.geometry.at(positions),
            origin=origin,
            source_index=source_index,
            has_times=self.has_times,
        )


def _measured_area(frames: NDArray, origin: RunOrigin) -> NDArray[np.bool_]:
    area = find_active_area(frames, origin.shutter)
    inside = area if origin.padding is None else area & ~origin.padding
    return inside if inside.any() else area


def active_area(run: AngiographyRun) -> NDArray[np.bool_]:
    """Where the picture is, [H, W]: inside shutter and collimator as the header has them, without constant borders."""
    return run.active


def bounding_box(area: NDArray[np.bool_]) -> tuple[slice, slice]:
    """Smallest rectangle (rows, columns) around an area."""
    rows, columns = np.flatnonzero(area.any(1)), np.flatnonzero(area.any(0))
    if not rows.size:
        raise ValueError("the active area is empty.")
    return slice(int(rows[0]), int(rows[-1]) + 1), slice(int(columns[0]), int(columns[-1]) + 1)


def make_run(
    frames: NDArray,
    times_s: NDArray | Sequence[float] | None,
    *,
    synthetic: NDArray[np.bool_] | None = None,
    mask_frames: Sequence[int] = (),
    subtraction: Sequence[MaskSubtraction] = (),
    log: bool = False,
    zero: float = 0.0,
    inverted: bool | None = None,
    intensity: str = "auto",
    window: tuple[float, float] | None = None,
    geometry: RunGeometry | None = None,
    origin: RunOrigin | None = None,
) -> AngiographyRun:
    """Check frames and times, fit the intensity mapping, and make a run: what every reader ends with.

    Args:
        frames: [T, H, W] stored values.
        times_s: [T]; None: nothing is known about time, frames are counted.
        mask_frames: indices from 0; with ``subtraction`` those of its items are added.
        log, zero, subtraction: see :class:`IntensityMapping`.
        inverted, intensity, window: see :func:`custom_nets.data.angiography.intensity.fit_mapping`.
    """
    origin = origin or RunOrigin()
    name = origin.path or "the run"
    frames = np.asarray(frames)
    frames = frames.astype(frames.dtype.newbyteorder("="), copy=False)
    check_frames(frames, name)
    times = np.arange(len(frames), dtype=np.float64) if times_s is None else np.array(times_s, dtype=np.float64)
    masks = sorted({*mask_frames, *(index for item in subtraction for index in item.mask_frames)})
    if wrong := [index + 1 for index in masks if not 0 <= index < len(frames)]:
        raise ValueError(f"{name}: mask frames {wrong} are not among the frames 1..{len(frames)}.")
    if (
        padding := find_padding(frames, None if origin.padding is None else (origin.padding, origin.padding_value))
    ) is None:
        origin = replace(origin, padding=None)
    else:
        share = (
            f"{100 * padding[0].mean():.2g} % of the pixels are padding ({padding[1]:g}): not measured, and put back"
        )
        origin = replace(origin, padding=padding[0], padding_value=padding[1], notes=(*origin.notes, share))
    try:
        mapping, note = fit_mapping(
            frames, _measured_area(frames, origin), IntensityMapping(log=log, zero=zero,
            subtraction=tuple(subtraction)), intensity, inverted, window, masks,
        )  # fmt: skip
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from error
    if note:
        origin = replace(origin, notes=(*origin.notes, note))
    return AngiographyRun(
        frames=frames,
        times_s=times,
        synthetic=np.zeros(len(frames), dtype=bool) if synthetic is None else np.asarray(synthetic, dtype=bool),
        mapping=mapping,
        mask_frames=tuple(masks),
        geometry=geometry or RunGeometry(),
        origin=origin,
        source_index=np.arange(len(frames)),
        has_times=times_s is not None,
    )
