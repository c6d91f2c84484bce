"""Stacks of thick slices to volumes of thin ones, plane after plane, within a stated amount of memory."""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import list_data_collate
from monai.inferers import Inferer
from numpy.typing import NDArray
from tqdm import tqdm

from custom_nets.data.volumes.padding import measured_box
from custom_nets.geometry import Grid, as_triple, nearest_axes
from custom_nets.inferers.implicit import resolve_grid
from custom_nets.inferers.measured_blur import BlurOptions, MeasuredBlur
from custom_nets.inferers.overshoot import OvershootLimits, way_of
from custom_nets.operators.data_consistency import (
    ENDS_AT,
    LARGEST_OVERREACH,
    LEAST_AGREEMENT,
    TOLERANCE,
    SliceMeasurement,
    agreement,
    disagreement,
    not_exact,
    too_much_taken,
    too_wide,
)
from custom_nets.operators.interpolation import apply_separable, bspline_matrix
from custom_nets.operators.slice_profile import PointSpread, slice_profile_matrix

__all__ = ["ThickSliceInferer", "find_thick_axis"]

_GIB = 2**30
_PROCESS_BYTES = int(1.1 * _GIB)  # Python with torch, monai and itk loaded
_PIXEL_BYTES = 4000  # of activations, for a pixel of a plane; 1,700 to 2,100 measured with the default network
_LIKED_PIXELS = 65536  # of planes at once on a CPU: more leaves its cache
_LIKED_PIXELS_CUDA = 2**21
_SMALLEST_TILE = 64
_OVERLAP = 32  # of tiles; a quarter of it on each side does not count at all
_THICK = 1.5  # times both other spacings: from here on an axis counts as thick
_SAME = 0.01  # spacings that differ by less are the same: no resampling
_FACTORS = (1.5, 8.0)
_HEAD = 0.02  # of the intensity range: what is below everywhere is left as interpolation has it
_MARGIN = 8  # pixels around the head
_ROUNDS = 8  # between what was measured and how far a result may go


def find_thick_axis(grid: Grid, chosen: str | int | None = None) -> int:
    """Which array axis of a stack holds the slices.

    Args:
        grid: of the stack.
        chosen: "x", "y", "z" (axes of the array) or 0, 1, 2 instead of the one that the spacing tells.

    Raises:
        ValueError: no axis, or more than one, is at least 1.5 times as coarse as the others; fewer than 4 slices.
    """
    spacing = grid.spacing_mm
    found = " x ".join(f"{value:.4g}" for value in spacing)
    if chosen is not None:
        names = {"x": 0, "y": 1, "z": 2, 0: 0, 1: 1, 2: 2}
        if isinstance(chosen, bool) or chosen not in names:
            raise ValueError(f"thick_axis must be 'x', 'y' or 'z' (axes of the array), got {chosen!r}.")
        axis = names[chosen]
    else:
        axis = int(spacing.argmax())
        others = np.delete(spacing, axis)
        if spacing[axis] < _THICK * others.min():
            raise ValueError(
                f"the input has no thick slices: voxels of {found} mm, an axis {_THICK} times as coarse as both others "
                "is needed. Other bundles sample such a volume at any spacing; --thick_axis z sharpens it along z "
                "all the same."
            )
        if spacing[axis] < _THICK * others.max():
            raise ValueError(
                f"the input has no unique thick axis: voxels of {found} mm (x, y, z), one axis {_THICK} times as "
                "coarse as both others is needed. Name it with --thick_axis x, y or z, or take a bundle that samples "
                "at any spacing."
            )
    if grid.shape[axis] < 4:
        raise ValueError(
            f"the input has only {grid.shape[axis]} slices along {'xyz'[axis]} (shape {grid.shape}): at least 4 are "
            "needed to see through them."
        )
    return axis


@dataclass
class _AxisSampling:
    """One axis of the output: positions in input voxels, all those in the field of view and those asked for."""

    positions: NDArray[np.float64]
    wanted: slice  # of the output axis, that ``inside`` goes to
    inside: slice  # of ``positions``

    @classmethod
    def of(cls, positions: NDArray[np.float64], step: float, n: int, name: str) -> _AxisSampling:
        first = math.ceil((-0.5 - positions[0]) / step - 1e-6)
        last = math.floor((n - 0.5 - positions[0]) / step + 1e-6)
        low, high = max(first, 0), min(last, len(positions) - 1)
        if high < low:
            raise ValueError(f"the output grid lies outside of the input's field of view (along {name}).")
        places = positions[0] + step * np.arange(first, last + 1)
        return cls(places, slice(low, high + 1), slice(low - first, high + 1 - first))

    def matrix(self, n: int) -> torch.Tensor | None:
        """[N, n] from n voxels to the positions; None if they are the voxels."""
        if len(self.positions) == n and np.abs(self.positions - np.arange(n)).max() < 1e-4:
            return None
        step = self.positions[1] - self.positions[0] if len(self.positions) > 1 else 1.0
        if step > 1 + _SAME:
            return slice_profile_matrix(n, self.positions, step, "gaussian").float()
        return bspline_matrix(n, self.positions).float()


class ThickSliceInferer(Inferer):
    """Sharpen a stack of thick slices along its thick axis: isotropic, in the same place, in the same units.

    The stack is interpolated along the thick axis (cubic B-spline, outer edges aligned); planes that contain this axis
    go through the network, neighbouring planes as channels, and what the network adds is gathered. Then a smooth
    correction makes the result reproduce the measured slices (:mod:`custom_nets.operators.data_consistency`).

    - The result does not depend on how the array's axes are ordered or flipped, only on where the voxels lie.
    - What is empty (below 2 % of the intensity range everywhere) stays as interpolated and costs nothing.
    - All planes are treated alike, none is normalised by itself: there is nothing that could flicker.

    Args:
        spacing: mm, one number or one per axis; by default the smallest spacing of the input on all axes. Axes within
            1 % of it keep their voxels, others are interpolated.
        like: a NIfTI file, an image with an affine or a :class:`custom_nets.geometry.Grid` instead; along the
            input's axes, in any order and direction.
        thick_axis: "x", "y" or "z" (axes of the array); by default the one with the coarsest spacing, see
            :func:`find_thick_axis`.
        directions: "one": planes along one of the two axes besides the thick one; "both": mean over both.
        flips: mean over planes as they are and mirrored (rows, columns, both): four times the work.
        data_consistency: make the result, measured again, give the measured slices.
        limit_overshoot: keep the result within what is measured around it
            (:mod:`custom_nets.inferers.overshoot`); part of ``data_consistency``.
        profile, thickness_mm, mtf: how the slices were measured, see
            :class:`custom_nets.inferers.measured_blur.BlurOptions`; by default ("auto") it is found out.
        thickness: slice thickness / slice spacing, instead of ``thickness_mm``.
        strength: share of what the network adds to the interpolation that is kept, 0 to 1.
        uncertainty: also give the standard deviation over directions and flips, as channels after those of the result.
        memory_gb: what the whole process may use, in GiB (on CUDA: of the GPU's memory).
        precision: "float32" or "bfloat16" (network only).
        batch: planes at once; None chooses.
        tile: side of tiles in pixels, for planes that are larger; None tiles only when the budget asks for it.
        progress: show a bar.

    Raises:
        ValueError: unknown option values; a memory budget that is too small.

    Example::

        >>> from custom_nets.networks import AnySizeTransMRSR
        >>> network = AnySizeTransMRSR(slices=3, widths=(8, 16), style_dim=16, head_width=4, num_centroids=0).eval()
        >>> stack = MetaTensor(torch.rand(1, 1, 20, 22, 6), affine=torch.diag(torch.tensor([1.0, 1.0, 5.0, 1.0])))
        >>> ThickSliceInferer()(stack, network).shape
        torch.Size([1, 1, 20, 22, 30])
    """

    def __init__(
        self,
        spacing: float | Sequence[float] | None = None,
        like: Any = None,
        thick_axis: str | int | None = None,
        directions: str = "one",
        flips: bool = False,
        data_consistency: bool = True,
        limit_overshoot: bool = True,
        profile: str = "auto",
        thickness: float | None = None,
        thickness_mm: float | Sequence[float] | None = None,
        mtf: Sequence[Any] | None = None,
        strength: float = 1.0,
        uncertainty: bool = False,
        memory_gb: float = 4.0,
        precision: str = "float32",
        batch: int | None = None,
        tile: int | None = None,
        progress: bool = False,
    ) -> None:
        super().__init__()
        for name, value, allowed in (
            ("directions", directions, ("one", "both")),
            ("precision", precision, ("float32", "bfloat16")),
        ):
            if value not in allowed:
                raise ValueError(f"{name} must be {' or '.join(map(repr, allowed))}, got {value!r}.")
        if spacing is not None and like is not None:
            raise ValueError("give spacing (mm) or like (a reference image), not both.")
        if spacing is not None:
            as_triple(spacing, "spacing")
        if thick_axis is not None:
            find_thick_axis(Grid((4, 4, 4), np.eye(4)), thick_axis)
        if thickness is not None and not thickness > 0:
            raise ValueError(f"thickness (slice thickness / slice spacing) must be above zero, got {thickness}.")
        if thickness is not None and thickness_mm is not None:
            raise ValueError("give thickness (a share of the slice spacing) or thickness_mm, not both.")
        if strength is None or not 0 <= strength <= 1:
            raise ValueError(f"strength must lie between 0 (interpolation) and 1 (all of the network), got {strength}.")
        if memory_gb is None or not memory_gb > 0:
            raise ValueError(f"memory_gb must be above zero, got {memory_gb}.")
        if batch is not None and batch < 1:
            raise ValueError(f"batch must be at least 1, got {batch}.")
        if tile is not None and tile < _SMALLEST_TILE:
            raise ValueError(f"tile must be at least {_SMALLEST_TILE}, got {tile}.")
        if uncertainty and directions == "one" and not flips:
            raise ValueError(
                "uncertainty is the spread of several estimates: give it with --directions both, --flips True, or both."
            )
        self.spacing, self.like, self.thick_axis = spacing, like, thick_axis
        self.directions, self.flips = directions, bool(flips)
        self.data_consistency, self.limit_overshoot = bool(data_consistency), bool(limit_overshoot and data_consistency)
        self.thickness = thickness
        self.blur, self.strength = BlurOptions(profile, thickness_mm, mtf), float(strength)
        self.uncertainty = bool(uncertainty)
        self.memory_gb, self.precision = float(memory_gb), precision
        self.batch, self.tile, self.progress = batch, tile, progress

    # ---- MONAI's interface ----

    def __call__(
        self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, like: Any = None, **kwargs: Any
    ) -> torch.Tensor:
        """Sharpen every channel (time point) of every item.

        Args:
            inputs: MetaTensor [B, C, X, Y, Z], intensities of about [0, 1], background at the lower end.
            network: :class:`custom_nets.networks.AnySizeTransMRSR` or another with its ``slices``, ``divisor`` and
                ``forward`` (and ``largest``, the largest side of a plane, where there is one); or the published
                :class:`custom_nets.networks.TransMRSR`, which is told neither factor nor places.
            like: the output grid of this call, instead of the one that the options name.

        Returns:
            MetaTensor [B, C, X', Y', Z'] with the affine of the output grid ([B, 2C, ...] with ``uncertainty``: C
            results, then C standard deviations). ``meta["inference"]`` tells as JSON what was done.
        """
        network = _any_size(network)
        items = []
        for item in inputs:
            source = Grid.of(item)
            axis = find_thick_axis(source, self.thick_axis)
            target = self.target_grid(source) if like is None else resolve_grid(source, like=like)
            source.check_overlap(target)
            item = measured_box(item)
            source = Grid.of(item)
            find_thick_axis(source, axis)
            blur = self._blur_of(item, source, axis)
            values, deviations, reports = [], [], []
            for volume in item.as_tensor():
                value, deviation, report = self.sample(network, volume, source, target, axis, blur)
                values.append(value)
                deviations += [] if deviation is None else [deviation]
                reports.append(report)
            meta = {key: value for key, value in item.meta.items() if key != "affine"}
            said = blur.record(source.spacing_mm)
            meta["inference"] = json.dumps({"thick_axis": "xyz"[axis], "blur": said, **_worst(reports)})
            affine = torch.as_tensor(target.affine)
            items.append(MetaTensor(torch.stack(values + deviations), affine=affine, meta=meta))
        return list_data_collate(items)

    def check_input(self, source: Grid) -> None:
        """Refuse a volume that is no stack of thick slices, before the work.

        Raises:
            ValueError: see :func:`find_thick_axis`.
        """
        find_thick_axis(source, self.thick_axis)

    def target_grid(self, source: Grid) -> Grid:
        """The output grid for an input grid."""
        if self.like is not None:
            return resolve_grid(source, like=self.like)
        own = source.spacing_mm
        wanted = as_triple(float(own.min()) if self.spacing is None else self.spacing, "spacing")
        return resolve_grid(source, spacing=np.where(np.abs(own / wanted - 1) < _SAME, own, wanted).tolist())

    def _blur_of(self, item: Any, source: Grid, axis: int) -> MeasuredBlur:
        """How the slices of one item [C, X, Y, Z] were measured."""
        options, meta = self.blur, item.meta
        if self.thickness is not None:
            meta = {**meta, "slice_thickness_mm": self.thickness * float(source.spacing_mm[axis])}
            meta["acquisition_type"] = "2D"
        return options.resolve(item[0].as_tensor().float().cpu(), source, meta, axis, find_interpolated=False)

    # ---- one volume ----

    @torch.no_grad()
    def sample(
        self,
        network: Any,
        volume: torch.Tensor,
        source: Grid,
        target: Grid,
        axis: int,
        blur: MeasuredBlur | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, dict[str, Any]]:
        """One volume [X, Y, Z] on ``source`` -> float32 [X', Y', Z'] on ``target``, its deviation (or None), a report.

        Args:
            axis: the thick one, of the array.
            blur: how it was measured; None: not known.
        """
        # the network sees the same planes whatever the order of the axes in the file
        order, flips = nearest_axes(source.affine)
        turned = source.turned(order, flips)
        target_order, target_flips = _axes_along(turned, target)
        target_turned = target.turned(target_order, target_flips)
        positions = turned.axis_positions(target_turned, tolerance_voxels=1e-3)
        if positions is None:
            raise ValueError(
                "the reference grid is oblique to the input: this method makes thin slices along the input's axes. "
                "Name a --spacing, and resample the result onto the reference afterwards."
            )
        step = np.diag(turned.index_map(target_turned))[:3]
        lines = [
            _AxisSampling.of(p, float(s), n, f"the input's {'xyz'[old]}")
            for p, s, n, old in zip(positions, step, turned.shape, order, strict=True)
        ]
        thick = order.index(axis)
        stack_order = [thick, *(a for a in range(3) if a != thick)]
        self._check_steps(step, thick, source, target, axis)

        rows, voxels = len(lines[thick].positions), math.prod(len(line.positions) for line in lines)
        budget = self._budget(rows, voxels, voxels // rows * turned.shape[thick], _device_of(network))

        image = _turn(volume.float().cpu(), order, flips)  # [X, Y, Z], turned
        background = float(image.min())
        in_plane = [None if a == thick else line.matrix(turned.shape[a]) for a, line in enumerate(lines)]
        measured = apply_separable(image, in_plane).permute(*stack_order).contiguous()  # [slices, A, B]
        factor = float(1 / step[thick])
        run = _StackSharpener(self, network, measured, lines[thick].positions, factor, blur, axis, budget)
        values, deviation, report = run.result()  # [rows, A, B]

        def placed(result: torch.Tensor, outside: float) -> torch.Tensor:
            """[rows, A, B] on the target grid, [X', Y', Z']."""
            out = torch.full(target_turned.shape, outside)
            result = result.permute(*np.argsort(stack_order).tolist())
            out[tuple(line.wanted for line in lines)] = result[tuple(line.inside for line in lines)]
            back = out.flip([a for a in range(3) if target_flips[a]])
            return back.permute(*np.argsort(target_order).tolist()).contiguous()

        report = {"factor": round(factor, 4), **report}
        return placed(values, background), None if deviation is None else placed(deviation, 0.0), report

    def _budget(self, rows: int, voxels: int, measured: int, device: torch.device) -> float:
        """Bytes that are left for the network beside ``voxels`` of the result and those of the ``measured`` slices."""
        # input and measured slices, their interpolation and bounds; result, its de-normalised copy, the file's bytes,
        # and the same for the deviation; matrices
        fixed = 4 * (6 * measured + (8 if self.uncertainty else 4) * voxels) + 100 * rows**2
        fixed += _PROCESS_BYTES if device.type == "cpu" else 0
        left = self.memory_gb * _GIB - fixed
        if left <= 0:
            raise ValueError(
                f"memory budget of {self.memory_gb:g} GiB is too small: {fixed / _GIB:.1f} GiB for the volumes alone "
                f"({voxels:,} output voxels). Ask for a coarser spacing, or give a larger --memory_gb."
            )
        return left

    @staticmethod
    def _check_steps(step: NDArray[np.float64], thick: int, source: Grid, target: Grid, axis: int) -> None:
        factor = float(1 / step[thick])
        slices = f"the slices' {source.spacing_mm[axis]:.4g} mm"
        if factor < 1 + _SAME:
            raise ValueError(f"the wanted spacing is no finer than {slices} along {'xyz'[axis]}: give a smaller one.")
        if not _FACTORS[0] * 0.999 <= factor <= _FACTORS[1] * 1.001:
            warnings.warn(
                f"factor {factor:.3g} along the thick axis is outside of what the network was trained for "
                f"({_FACTORS[0]:g} to {_FACTORS[1]:g}): expect less.",
                stacklevel=3,
            )
        if any(step[a] > 1 + _SAME for a in range(3) if a != thick):
            warnings.warn(
                f"the wanted spacing is coarser than the input's {source.spacing_mm.round(3).tolist()} mm within the "
                "slices: detail that was measured is averaged away.",
                stacklevel=3,
            )


def _axes_along(source: Grid, target: Grid) -> tuple[list[int], list[bool]]:
    """For each axis of ``source``: which axis of ``target`` runs along it, and whether against it."""
    return nearest_axes(source.index_map(target))


def _turn(volume: torch.Tensor, order: Sequence[int], flips: Sequence[bool]) -> torch.Tensor:
    return volume.permute(*order).flip([a for a in range(3) if flips[a]])


def _any_size(network: Any) -> Any:
    """The network itself, or what it says that takes planes of any size."""
    as_plane_network = getattr(network, "as_plane_network", None)
    return network if as_plane_network is None else as_plane_network()


def _device_of(network: Any) -> torch.device:
    parameter = next(iter(network.parameters()), None) if hasattr(network, "parameters") else None
    return torch.device("cpu") if parameter is None else parameter.device


def _worst(reports: list[dict[str, Any]]) -> dict[str, Any]:
    """Reports of all channels in one: the largest deviations count."""
    report = dict(reports[0])
    deviations = [r["data_consistency"] for r in reports]
    report["data_consistency"] = {
        key: max(d[key] for d in deviations) if isinstance(value, float) else value
        for key, value in deviations[0].items()
    }
    report["overshoot_cut"] = max(r["overshoot_cut"] for r in reports)
    return report


class _StackSharpener:
    """One volume [slices, A, B] (thick axis first, in-plane axes on the output grid) on its way to [rows, A, B].

    ``positions`` of the rows count slices.
    """

    def __init__(
        self,
        options: ThickSliceInferer,
        network: Any,
        measured: torch.Tensor,
        positions: NDArray[np.float64],
        scale: float,
        blur: MeasuredBlur | None,
        axis: int,
        budget: float,
    ) -> None:
        self.budget = budget  # bytes for planes on their way through the network
        self.options = options
        self.network = network
        self.measured = measured
        self.positions = positions
        self.scale = scale
        self.device = _device_of(network)
        self.slices = int(network.slices)
        self.divisor = int(network.divisor)
        self.rows = len(positions)
        self.spline = bspline_matrix(len(measured), positions).float()
        centres = (np.arange(len(measured)) - positions[0]) * scale
        self.told = {}
        spread = None if blur is None else blur.spreads[axis]
        self.known = spread is not None
        if getattr(network, "takes_mtf", False) and blur is not None:
            self.told["mtf"] = blur.transfer([scale] * 3)[axis : axis + 1].to(self.device)
        # where nothing is known, slices are taken for what most pulses make
        self.spread = spread = spread or PointSpread("trapezoid")
        self.measurement = SliceMeasurement(self.rows, centres, scale, spread)
        self.consistent = options.data_consistency
        self.strength, self.agreement, self.reach = options.strength, 1.0, 0.0
        self.said: list[str] = []  # warnings
        self.box = self._head()

    def _head(self) -> tuple[slice, slice, slice]:
        """Rows and the two in-plane axes of what is not empty, with a margin, in whole windows where there is room."""
        low, high = float(self.measured.min()), float(self.measured.max())
        bright = self.measured > low + _HEAD * (high - low)
        box = []
        for axis, n in enumerate((self.rows, *self.measured.shape[1:])):
            found = bright.flatten(1) if axis == 0 else bright.movedim(axis, 0).flatten(1)
            where = np.flatnonzero(found.any(1).numpy())
            if len(where) == 0:
                return slice(0, 0), slice(0, 0), slice(0, 0)
            first, last = int(where[0]), int(where[-1])
            if axis == 0:  # a slice is seen in rows up to one slice away
                inside = np.flatnonzero((self.positions > first - 1) & (self.positions < last + 1))
                first, last = int(inside[0]), int(inside[-1])
            first, last = max(first - _MARGIN, 0), min(last + _MARGIN, n - 1)
            extra = -(last + 1 - first) % self.divisor
            last = min(last + extra - extra // 2, n - 1)
            first = max(last + 1 - math.ceil((last + 1 - first) / self.divisor) * self.divisor, 0)
            box.append(slice(first, last + 1))
        return box[0], box[1], box[2]

    # ---- the volume ----

    def result(self) -> tuple[torch.Tensor, torch.Tensor | None, dict[str, Any]]:
        """[rows, A, B], its standard deviation (or None), and what was found on the way."""
        options = self.options
        added, deviations = self._added()
        self._shrink(added)
        deviation = None
        if deviations:  # of a corrected result, and of one whose correction is left out
            deviation = deviations[0 if self.consistent else -1].mul_(self.strength)
        added += torch.tensordot(self.spline, self.measured, 1)
        report = {"directions": options.directions, "flips": options.flips, **self._make_consistent(added)}
        report |= {"strength": round(self.strength, 4), "agreement": round(self.agreement, 4)}
        if self.said:
            report["warnings"] = self.said
        return added, deviation, report

    def _added(self) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """What the network adds to the interpolation: mean and standard deviations [rows, A, B] over all ways to look
        at it (directions, flips): what is left of them after the correction, and without it where it may be left out;
        none where they are not asked for."""
        columns = self._columns()
        flips = [(False, False), (True, False), (False, True), (True, True)] if self.options.flips else [(False, False)]
        members = len(columns) * len(flips)
        batches = {column: self._batch(column) for column in columns}
        mean = torch.zeros(self.rows, *self.measured.shape[1:])
        keeps = [self._kept()] if self.options.uncertainty else []
        if keeps and self.consistent and self.known and not self.spread.takes_nothing:
            keeps.append(torch.eye(self.rows)[:, self.box[0]])
        squares = [torch.zeros_like(mean) for _ in keeps]
        total = len(flips) * sum(self.box[3 - column].stop - self.box[3 - column].start for column in columns)
        with tqdm(total=total, unit="plane", desc="sharpening", disable=not self.options.progress) as bar:
            for column in columns:
                stack = 3 - column
                inside = mean[self.box[0]].movedim(stack, 0)[:, :, self.box[column]]  # [planes, box rows, columns]
                # [planes, rows, columns]
                spreads = [each.movedim(stack, 0)[:, :, self.box[column]] for each in squares]
                for planes, image in self._planes(column, batches[column]):
                    for flip in flips:
                        delta = self._network(image, *flip)  # [B, box rows, columns]
                        inside[planes] += delta / members
                        for spread, keep in zip(spreads, keeps, strict=True):
                            spread[planes] += (keep @ delta).square() / members
                        bar.update(len(planes))
        for each, keep in zip(squares, keeps, strict=True):
            kept = torch.tensordot(keep, mean[self.box[0]], 1)  # [rows, A, B]
            each.sub_(kept.square()).clamp_(min=0).mul_(members / (members - 1)).sqrt_()
        return mean, squares

    def _kept(self) -> torch.Tensor:
        """[rows, box rows]: what a consistent result keeps of what is added."""
        keep = torch.eye(self.rows, dtype=torch.float64)
        if self.consistent:
            keep = keep - self.measurement.inverse @ self.measurement.matrix
        return keep[:, self.box[0]].float()

    def _shrink(self, added: torch.Tensor) -> None:
        """Keep of what the network adds (in place) the share that is asked for, and less where it does not agree with
        what was measured."""
        if self.known:
            interpolation = torch.tensordot(self.spline, self.measured, 1)  # [rows, A, B]
            interpolated = self.measurement.forward(interpolation)
            change, missing = self.measurement.forward(added), self.measured - interpolated
            self.agreement = agreement(change, missing)
            if self.agreement < LEAST_AGREEMENT and self.options.data_consistency:
                self.said.append(disagreement(self.agreement))
                warnings.warn(self.said[0], stacklevel=5)
                self.strength *= self.agreement
            elif self.consistent and not self.spread.takes_nothing:
                self.reach = self.measurement.overreach(missing - change, added)
                largest = getattr(self.network, "largest_overreach", LARGEST_OVERREACH)
                if self.reach > largest:
                    gain = self.measurement.gain
                    self.said.append(too_wide(self.reach / largest) if self.measurement.exact else too_much_taken(gain))
                    warnings.warn(self.said[0], stacklevel=5)
                    self.consistent = False
        if self.consistent and not self.measurement.possible:
            self.said.append(too_much_taken(self.measurement.gain))
            warnings.warn(self.said[-1], stacklevel=5)
            self.consistent = False
        if self.strength < 1:
            added *= self.strength

    def _make_consistent(self, volume: torch.Tensor) -> dict[str, Any]:
        """Correct ``volume`` in place; how far it was, and is, from the measured slices."""
        low, high = np.percentile(self.measured.numpy(), (0.1, 99.9))
        span = max(float(high - low), 1e-12)
        tolerance = TOLERANCE * span
        before = after = beyond = 0.0
        limits = None
        if self.options.limit_overshoot:
            how = way_of([self.spread], corrected=self.known and self.consistent)
            limits = OvershootLimits(self.measured, [self.positions, None, None], how)
        for part in range(0, volume.shape[1], 32):  # the correction needs a copy
            columns = slice(part, part + 32)
            piece, measured = volume[:, columns], self.measured[:, columns]
            before = max(before, float((self.measurement.forward(piece) - measured).abs().max()))
            if self.consistent:
                piece.copy_(self.measurement.make_consistent(piece, measured, tolerance=ENDS_AT * tolerance))
            if limits is not None:
                beyond = max(beyond, self._limit(piece, measured, limits, columns, tolerance))
            after = max(after, float((self.measurement.forward(piece) - measured).abs().max()))
        report = {
            "asked_for": self.options.data_consistency,
            "applied": self.consistent,
            "overreach": round(self.reach, 3),
            "profile": self.spread.profile,
            "thickness_over_spacing": float(round(self.spread.thickness, 4)),
            "largest_deviation_before": before / span,
            "largest_deviation_after": after / span,
            "tolerance": TOLERANCE,
            "unit": "share of the measured slices' 0.1-99.9 percentile range",
        }
        if self.consistent and after > tolerance:
            if self.measurement.exact:
                raise RuntimeError(
                    f"the result reproduces the measured slices only to {after / span:.2g} of their range: the network "
                    "gave values that are far off. Check the checkpoint, or give --data_consistency False."
                )
            self.said.append(not_exact(after / span, self.measurement.gain))
            warnings.warn(self.said[-1], stacklevel=5)
        return {"data_consistency": report, "overshoot_cut": round(beyond / span, 4)}

    def _limit(
        self, piece: torch.Tensor, measured: torch.Tensor, limits: OvershootLimits, columns: slice, tolerance: float
    ) -> float:
        """Bring ``columns`` of the volume within ``limits``, in place, and where it is consistent, leave it so.

        Both sets are convex, so going from one to the other in turn ends where they meet. The slices have the last
        word.

        Returns:
            how far it was beyond the limits.
        """
        beyond = 0.0
        for _ in range(_ROUNDS):
            step = limits.clip(piece, columns)
            beyond = max(beyond, step)
            if not self.consistent or step == 0:
                break
            piece.copy_(self.measurement.make_consistent(piece, measured, tolerance=tolerance))
        return beyond

    def _columns(self) -> list[int]:
        """Axes (1, 2) that are the columns of planes, the cheaper direction first."""

        def pixels(column: int) -> int:
            width = self.box[column].stop - self.box[column].start
            planes = self.box[3 - column].stop - self.box[3 - column].start
            return -(-width // self.divisor) * planes

        columns = sorted((2, 1), key=pixels)
        return columns if self.options.directions == "both" else columns[:1]

    # ---- planes ----

    def _planes(self, column: int, batch: int) -> Iterator[tuple[list[int], torch.Tensor]]:
        """Planes that are not empty: their numbers, and [B, slices, rows, columns] within the box."""
        stack = 3 - column
        rows, columns, range_ = self.box[0], self.box[column], self.box[stack]
        volume = self.measured.movedim(stack, 0)[:, :, columns]  # [planes, slices, columns]
        n, half = len(volume), self.slices // 2
        spline = self.spline[rows]
        numbers = [j for j in range(range_.start, range_.stop) if float(volume[j].max()) > float(volume[j].min())]
        for start in range(0, len(numbers), batch):
            planes = numbers[start : start + batch]
            around = torch.tensor([[_mirrored(j + d, n) for d in range(-half, half + 1)] for j in planes])
            wanted, where = around.unique(return_inverse=True)
            thin = spline @ volume[wanted]  # [wanted, rows, columns]
            yield planes, thin[where].to(self.device)

    def _batch(self, column: int) -> int:
        """Planes at once, within the budget; sets the size of tiles."""
        height, width = (-(-(s.stop - s.start) // self.divisor) * self.divisor for s in (self.box[0], self.box[column]))
        self.tile = self._tile(height, width)
        pixels = max(min(height, self.tile or height) * min(width, self.tile or width), 1)
        liked = _LIKED_PIXELS if self.device.type == "cpu" else _LIKED_PIXELS_CUDA
        return self.options.batch or max(1, min(liked // pixels, int(self.budget // (_PIXEL_BYTES * pixels))))

    def _tile(self, height: int, width: int) -> int | None:
        """Side of tiles for planes of this size in pixels; None where a plane goes through the network whole.

        Raises:
            ValueError: the side that was asked for, or the one that the budget allows, is too small.
        """
        tile = self.options.tile
        smallest = max(_SMALLEST_TILE, 2 * self.divisor)
        largest = getattr(self.network, "largest", None)
        if largest is not None and max(height, width) > min(largest, tile or largest):
            tile = min(largest, tile or largest)
        if tile is not None and tile < smallest:
            raise ValueError(f"tile must be at least {smallest} for this network, got {tile}.")
        if tile is None and self.budget < _PIXEL_BYTES * height * width:
            tile = int(math.sqrt(self.budget / _PIXEL_BYTES)) // self.divisor * self.divisor
            if tile < smallest:
                raise ValueError(
                    f"memory budget of {self.options.memory_gb:g} GiB is too small: beside the volumes, "
                    f"{self.budget / _GIB:.3f} GiB are left, the smallest tile takes "
                    f"{_PIXEL_BYTES * smallest**2 / _GIB:.3f}. "
                    "Ask for a coarser spacing, or give a larger --memory_gb."
                )
        return tile

    def _network(self, image: torch.Tensor, flip_rows: bool, flip_columns: bool) -> torch.Tensor:
        """[B, slices, R, C] -> what the network adds to the middle planes, [B, R, C] on the CPU."""
        positions = self.positions[self.box[0]]
        axes = [axis for axis, flip in ((2, flip_rows), (3, flip_columns)) if flip]
        # rows run backwards: their places between slices do so, too
        first = -float(positions[-1]) if flip_rows else float(positions[0])
        x = image.flip(axes) if axes else image
        out = self._tiled(x, first) if self.tile else self._forward(x, first)
        return (out - x[:, self.slices // 2]).flip([axis - 1 for axis in axes]).cpu()

    def _forward(self, x: torch.Tensor, first: float) -> torch.Tensor:
        enabled = self.options.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            told = {name: value.expand(len(x), -1) for name, value in self.told.items()}
            return self.network(x, scale=self.scale, position=first, **told)[:, 0].float()

    def _tiled(self, x: torch.Tensor, first: float) -> torch.Tensor:
        """Overlapping tiles, blended by weights that go smoothly to zero before a tile's cut edges."""
        assert self.tile is not None
        out, weights = torch.zeros_like(x[:, 0]), torch.zeros_like(x[0, 0])
        for top, bottom, down in _tiles(x.shape[2], self.tile, self.divisor):
            for left, right, across in _tiles(x.shape[3], self.tile, self.divisor):
                weight = torch.outer(down, across).to(x)
                tile = self._forward(x[:, :, top:bottom, left:right], first + top / self.scale)
                out[:, top:bottom, left:right] += weight * tile
                weights[top:bottom, left:right] += weight
        return out / weights


def _mirrored(index: int, n: int) -> int:
    """Half-sample symmetric, as planes are continued in the training."""
    index = -1 - index if index < 0 else index
    index = 2 * n - 1 - index if index >= n else index
    return min(max(index, 0), n - 1)


def _tiles(n: int, tile: int, divisor: int) -> list[tuple[int, int, torch.Tensor]]:
    """Start, end and weights of tiles that cover n pixels; they start where windows of the whole plane do."""
    if n <= tile:
        return [(0, n, torch.ones(n))]
    stride = (tile - _OVERLAP) // divisor * divisor
    count = 1 + math.ceil((n - tile) / stride)
    margin = _OVERLAP // 4
    found = []
    for start in range(0, count * stride, stride):
        end = min(start + tile, n)
        place = torch.arange(start, end) + 0.5
        weight = torch.ones(end - start)
        if start > 0:
            weight *= ((place - start - margin) / (_OVERLAP - 2 * margin)).clamp(0, 1)
        if end < n:
            weight *= ((end - place - margin) / (_OVERLAP - 2 * margin)).clamp(0, 1)
        found.append((start, end, weight))
    return found
