"""Sample an implicit voxel network on any output grid, within a stated amount of memory."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.data.utils import list_data_collate
from monai.inferers import Inferer
from tqdm import tqdm

from custom_nets.data.volumes.padding import measured_box
from custom_nets.geometry import Grid, as_triple
from custom_nets.inferers.measured_blur import UNSEEN, BlurOptions, MeasuredBlur, to_measured
from custom_nets.inferers.overshoot import OvershootLimits, way_of
from custom_nets.inferers.streaming import PlaneStreamer
from custom_nets.operators.data_consistency import (
    DAMPING,
    ENDS_AT,
    LARGEST_OVERREACH,
    LEAST_AGREEMENT,
    STEPS,
    TOLERANCE,
    VolumeMeasurement,
    agreement,
    disagreement,
    overreach,
    too_wide,
)
from custom_nets.operators.interpolation import (
    apply_separable,
    bspline_coefficients,
    bspline_matrix,
    linear_taps,
    mirror_pad,
    sample_bspline,
    sample_trilinear,
)
from custom_nets.operators.slice_profile import slice_profile_matrix

__all__ = ["ImplicitVolumeInferer", "PublishedProcedureInferer", "resolve_grid"]

_GIB = 2**30
_PROCESS_BYTES = int(1.1 * _GIB)  # Python with torch, monai and itk loaded
_ROWS = 8192  # points decoded at once on a CPU: their activations stay in its cache
_ROWS_CUDA = 524288
_ROUNDS = 4  # between what was measured and how far a result may go
_ACTIVATION_BYTES = 24 * 2**20  # of one tensor on a CPU: larger ones leave the cache, and the allocator's reuse
_ACTIVATION_BYTES_CUDA = 2**30


def resolve_grid(
    source: Grid,
    spacing: float | Sequence[float] | None = None,
    scale: float | Sequence[float] | None = None,
    like: Any = None,
) -> Grid:
    """The output grid that a user names in one of three ways.

    Args:
        source: grid of the input.
        spacing: wanted voxel size in mm, one number or one per axis (x, y, z of the input's array).
        scale: how many times more voxels, one number or one per axis.
        like: a NIfTI file, an image with an affine, or a :class:`Grid` to sample on, oblique or not.

    Raises:
        ValueError: not exactly one way, or a value that makes no grid.
        FileNotFoundError: ``like`` names a file that is not there.
    """
    given = [name for name, value in (("spacing", spacing), ("scale", scale), ("like", like)) if value is not None]
    if len(given) != 1:
        raise ValueError(
            "give exactly one of spacing (mm), scale and like (a reference image), "
            f"got {' and '.join(given) or 'none'}."
        )
    if spacing is not None:
        return source.with_spacing(spacing)
    if scale is not None:
        return source.rescaled(scale)
    if isinstance(like, Grid):
        return like
    if not isinstance(like, str | os.PathLike):
        return Grid.of(like)
    if not os.path.exists(like):
        raise FileNotFoundError(f"the reference image of 'like' does not exist: {like}")
    from custom_nets.transforms import LoadVolumed

    return Grid.of(LoadVolumed("image", check_values=False)({"image": str(like)})["image"])


@dataclass
class _Plan:
    """How one volume is encoded: walk along ``axis`` ``slab`` planes at a time, in tiles of ``tile_axis``."""

    axis: int
    slab: int
    tile_axis: int
    tile: int
    halo: int


@dataclass
class _AxisSampling:
    """The output positions along one axis: features to blend, what the decoder is told, what the spline adds."""

    taps: tuple[torch.Tensor, ...]
    code: torch.Tensor
    spline: torch.Tensor | None


class ImplicitVolumeInferer(Inferer):
    """Encode a volume once and decode it on any grid.

    - The encoder walks along the longest axis a slab at a time (:class:`PlaneStreamer`): every plane is computed once.
      When even single planes are too large for the budget, tiles that overlap by the receptive field are walked.
    - Grids that lie along the input's axes are decoded separably, others point by point.
    - The result does not depend on slab, tile, chunk or number of threads beyond float32 rounding.

    An axis asked for *coarser* than it was measured is decoded as measured and then averaged over the wanted voxel.
    Points outside of the input's field of view get its minimum.

    Args:
        spacing, scale, like: the output grid, see :func:`resolve_grid`.
        memory_gb: what the whole process may use, in GiB (on CUDA: of the GPU's memory).
        precision: "float32" or "bfloat16" (network only; interpolation stays float32).
        rows: points decoded at once; None chooses.
        slab: planes encoded at once; None takes what the budget allows and a processor's cache likes.
        tile: width of tiles in voxels; None tiles only when the budget asks for it.
        profile, thickness_mm, mtf: how the scan was measured, see
            :class:`custom_nets.inferers.measured_blur.BlurOptions`; by default ("auto") it is found out.
        data_consistency: make the result, measured again, give the input (where the blur is known).
        limit_overshoot: keep the result within what is measured around it
            (:mod:`custom_nets.inferers.overshoot`); part of ``data_consistency``.
        strength: share of what the network adds to the interpolation that is kept, 0 to 1.
        flips: mean over the eight mirror images of the input: eight times the work.
        geometry: "centre" (voxels keep their outer edge), or "align_corners" for the published weights when their
            learned end-to-end warp is believed: first and last centres coincide. It changes the affine alone.
        progress: show a bar.

    Raises:
        ValueError: unknown option values; a memory budget that cannot hold the result.
    """

    def __init__(
        self,
        spacing: float | Sequence[float] | None = None,
        scale: float | Sequence[float] | None = None,
        like: Any = None,
        memory_gb: float = 4.0,
        precision: str = "float32",
        rows: int | None = None,
        slab: int | None = None,
        tile: int | None = None,
        profile: str = "auto",
        thickness_mm: float | Sequence[float] | None = None,
        mtf: Sequence[Any] | None = None,
        data_consistency: bool = True,
        limit_overshoot: bool = True,
        strength: float = 1.0,
        flips: bool = False,
        geometry: str = "centre",
        progress: bool = False,
    ) -> None:
        super().__init__()
        if precision not in ("float32", "bfloat16"):
            raise ValueError(f"precision must be 'float32' or 'bfloat16', got {precision!r}.")
        if geometry not in ("centre", "align_corners"):
            raise ValueError(f"geometry must be 'centre' or 'align_corners', got {geometry!r}.")
        if memory_gb is None or not memory_gb > 0:
            raise ValueError(f"memory_gb must be above zero, got {memory_gb}.")
        for name, value in (("rows", rows), ("slab", slab), ("tile", tile)):
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        for name, triple in (("spacing", spacing), ("scale", scale)):
            if triple is not None:
                as_triple(triple, name)
        if strength is None or not 0 <= strength <= 1:
            raise ValueError(f"strength must lie between 0 (interpolation) and 1 (all of the network), got {strength}.")
        self.blur = BlurOptions(profile, thickness_mm, mtf)
        self.data_consistency, self.strength = bool(data_consistency), float(strength)
        self.limit_overshoot = bool(limit_overshoot and data_consistency)
        self.flips = bool(flips)
        self.spacing, self.scale, self.like = spacing, scale, like
        self.memory_gb = float(memory_gb)
        self.precision = precision
        self.rows, self.slab, self.tile = rows, slab, tile
        self.geometry = geometry
        self.progress = progress

    # ---- MONAI's interface ----

    def __call__(self, inputs: Any, network: Any, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Sample every channel (time point) of every item on the output grid.

        Args:
            inputs: MetaTensor [B, C, X, Y, Z], intensities of about [0, 1].
            network: :class:`custom_nets.networks.ResidualArSSR` or :class:`custom_nets.networks.ArSSR`.

        Returns:
            MetaTensor [B, C, X', Y', Z'] with the affine of the output grid.
        """
        items = []
        for item in inputs:
            source = Grid.of(item)
            target = self.target_grid(source)
            source.check_overlap(target)
            affine = torch.as_tensor(self.stored_affine(source, target))
            item = measured_box(item)
            source = Grid.of(item)
            meta = {key: value for key, value in item.meta.items() if key != "affine"}
            blur = None
            if network.adds_interpolation:  # the published network knows nothing of it
                blur = self.blur.resolve(item[0].as_tensor().float().cpu(), source, item.meta)  # type: ignore[attr-defined]
            reports: list[dict[str, Any]] = []
            volumes = [self.sample(network, volume, source, target, blur, reports) for volume in item.as_tensor()]
            if blur is not None:
                report = max(reports, key=lambda r: r["data_consistency"]["largest_deviation_after"] or 0.0)
                meta["inference"] = json.dumps({"blur": blur.record(source.spacing_mm), **report})
            items.append(MetaTensor(torch.stack(volumes), affine=affine, meta=meta))
        return list_data_collate(items)

    def target_grid(self, source: Grid) -> Grid:
        """The output grid for an input grid."""
        return resolve_grid(source, self.spacing, self.scale, self.like)

    def stored_affine(self, source: Grid, target: Grid) -> np.ndarray:
        """Affine written with the result: the target's own, or the one of ``geometry="align_corners"``."""
        if self.geometry == "centre":
            return target.affine
        if self.scale is None:
            raise ValueError("geometry='align_corners' is defined for scale only, not for spacing or like.")
        n, m = np.array(source.shape), np.array(target.shape)
        return source.affine @ np.diag([*((n - 1) / np.maximum(m - 1, 1)), 1.0])

    # ---- one volume ----

    @torch.no_grad()
    def sample(
        self,
        network: Any,
        volume: torch.Tensor,
        source: Grid,
        target: Grid,
        blur: MeasuredBlur | None = None,
        reports: list[dict[str, Any]] | None = None,
    ) -> torch.Tensor:
        """One volume [X, Y, Z] on ``source`` -> float32 [X', Y', Z'] on ``target``, on the CPU.

        Args:
            blur: how it was measured; None: not known.
            reports: takes what was found on the way.

        Raises:
            ValueError: the memory budget is too small.
        """
        if tuple(volume.shape) != source.shape:
            raise ValueError(f"the volume {tuple(volume.shape)} does not have the shape of its grid {source.shape}.")
        if blur is not None and min(blur.shares) < 1:
            # what the scanner put between the measured voxels says nothing, and hides how coarse they are
            volume, source = to_measured(volume, source, blur.shares)
        positions = source.axis_positions(target)  # along each axis of the input; None: oblique
        _warn_of_coarser(source, target, oblique=positions is None)
        if positions is not None:
            return self._along_the_axes(network, volume, source, target, positions, blur, reports)
        if self.strength < 1:
            raise ValueError(
                "strength below 1 is for grids that lie along the input's axes: give --spacing or --scale, and "
                "resample the result onto the reference afterwards."
            )
        if reports is not None:
            reports.append(self._not_consistent("the output grid is oblique to the input"))
        matrix = source.index_map(target)
        scale, order = self._asked_for(network, source.scale_to(target))

        def decoded(mirrored: tuple[int, ...]) -> torch.Tensor:
            rows = matrix.copy()
            for axis in mirrored:
                rows[axis] = (source.shape[axis] - 1) * np.eye(4)[3] - rows[axis]
            run = self._decoder(network, _mirrored(volume, mirrored), scale, order, blur)
            return run.points(rows, target.shape, order)

        return _mean(decoded(mirrored) for mirrored in self._views())

    def _along_the_axes(
        self,
        network: Any,
        volume: torch.Tensor,
        source: Grid,
        target: Grid,
        positions: Sequence[np.ndarray],
        blur: MeasuredBlur | None,
        reports: list[dict[str, Any]] | None,
    ) -> torch.Tensor:
        """:meth:`sample` where the output voxels lie at ``positions`` along the input's axes."""
        scale = source.scale_to(target)
        seen = tuple(_inside(p, n) for p, n in zip(positions, source.shape, strict=True))
        if any(part.start == part.stop for part in seen):
            return torch.full(target.shape, float(volume.min()))
        positions = [p[part] for p, part in zip(positions, seen, strict=True)]
        means: list[torch.Tensor | None] = [None, None, None]
        for axis in _coarser(scale):  # decoded at the input's own voxels, and averaged in the end
            step = float(1 / scale[axis])
            means[axis] = slice_profile_matrix(source.shape[axis], positions[axis], step, "gaussian").float()
            positions[axis] = np.arange(source.shape[axis], dtype=np.float64)
        scale, order = self._asked_for(network, scale)
        places = [positions[axis] for axis in order]

        def decoded(mirrored: tuple[int, ...]) -> torch.Tensor:
            axes = [k for k, axis in enumerate(order) if axis in mirrored]
            ends = [volume.shape[axis] - 1 for axis in order]
            there = [(ends[k] - p)[::-1].copy() if k in axes else p for k, p in enumerate(places)]
            run = self._decoder(network, _mirrored(volume, mirrored), scale, order, blur)
            out = run.regular([torch.as_tensor(p) for p in there])
            return _mirrored(out, axes)

        out = _mean(decoded(mirrored) for mirrored in self._views())  # [N0, N1, N2] in the network's order of axes
        if blur is not None:
            image = volume.permute(*order).float().cpu().contiguous()
            largest = getattr(network, "largest_overreach", LARGEST_OVERREACH)
            report = self._agree(out, image, places, scale[list(order)], blur, order, largest)
            if reports is not None:
                reports.append(report)
        out = out.permute(*np.argsort(order).tolist()).contiguous()  # in the input's
        out = apply_separable(out, means)
        if tuple(out.shape) == target.shape:
            return out
        whole = torch.full(target.shape, float(volume.min()))
        whole[seen] = out
        return whole

    def _views(self) -> list[tuple[int, ...]]:
        """Axes along which the input is mirrored, for each look at it."""
        if not self.flips:
            return [()]
        return [axes for count in range(4) for axes in combinations(range(3), count)]

    @staticmethod
    def _asked_for(network: Any, scale: np.ndarray) -> tuple[np.ndarray, tuple[int, int, int]]:
        """The scale [3] that a network is asked for, in the input's order of axes, and the network's order."""
        scale = np.maximum(scale, 1.0)
        max_scale = getattr(network, "max_scale", None)
        if max_scale is not None and (scale > max_scale * 1.001).any():
            warnings.warn(
                f"scale {scale.round(2).tolist()} is beyond the {max_scale:g} of the training: "
                "expect smooth, not sharper.",
                stacklevel=4,
            )
        return scale, network.axis_order(scale)

    def _decoder(
        self, network: Any, volume: torch.Tensor, scale: np.ndarray, order: Sequence[int], blur: MeasuredBlur | None
    ) -> _VolumeDecoder:
        """The volume on its way through the network, its axes in the network's ``order``."""
        mtf = None if blur is None else blur.transfer(scale)[list(order)]
        told = torch.as_tensor(scale[list(order)], dtype=torch.float32)
        return _VolumeDecoder(self, network, volume.permute(*order), told, mtf)

    def _agree(
        self,
        out: torch.Tensor,
        image: torch.Tensor,
        positions: Sequence[np.ndarray],
        scale: np.ndarray,
        blur: MeasuredBlur,
        order: Sequence[int],
        largest_overreach: float,
    ) -> dict[str, Any]:
        """Bring ``out`` to agree with ``image``, in place; what was found on the way.

        What the network adds to the interpolation is shrunk where what was measured speaks against it, and the rest is
        corrected until it is measured as ``image``.
        """
        finer = scale > 1 + 1e-3
        spreads = [blur.spreads[axis] if fine else None for axis, fine in zip(order, finer, strict=True)]
        slices = VolumeMeasurement(positions, image.shape, scale.tolist(), spreads)
        strength = self.strength
        guessed = [blur.guessed[axis] for axis, fine in zip(order, finer, strict=True) if fine]
        known = all(s is not None for s, fine in zip(spreads, finer, strict=True) if fine) and UNSEEN not in guessed
        if not (known and finer.any() and _cover(positions, image.shape, scale, finer)):
            if strength < 1:
                slices.add_interpolated(out, (1 - strength) * image, strength)
            if self.limit_overshoot and finer.any():
                OvershootLimits(image, positions).clip(out)
            why = "the blur is not known" if not known else "the output does not cover the input"
            return self._not_consistent(why if finer.any() else "nothing is made finer")
        low, high = np.percentile(image.numpy(), (0.1, 99.9))
        span = max(float(high - low), 1e-12)
        tolerance = TOLERANCE * span
        result, interpolated = slices.forward(out), slices.forward_interpolated(image)
        share = agreement(result - interpolated, image - interpolated)
        said: list[str] = []
        if share < LEAST_AGREEMENT and self.data_consistency:
            said.append(disagreement(share))
            strength *= share
        before = image - (strength * result + (1 - strength) * interpolated)
        rest, after = torch.zeros_like(image), before
        consistent, reach = self.data_consistency, 0.0
        if consistent:
            rest, after = slices.correction(before, ENDS_AT * tolerance, STEPS)
            reach = overreach(rest, before, slices.sample(out) - image)
            amplifies = any(s is not None and not s.takes_nothing for s in spreads)
            consistent = not amplifies or reach <= largest_overreach
            if not consistent:
                said.append(too_wide(reach / largest_overreach))
                rest, after = torch.zeros_like(rest), before
            else:
                rest, after = _finished(slices, rest, after, ENDS_AT * tolerance)
        if any(deviation is not None for deviation in guessed):
            said = []  # taken on the sharp side, a blur is expected to disagree
        for words in said:
            warnings.warn(words, stacklevel=5)
        if strength < 1 or consistent:
            slices.add_interpolated(out, (1 - strength) * image + rest, strength)
        beyond = 0.0
        if self.limit_overshoot:
            limits = OvershootLimits(image, positions, way_of(spreads, consistent))
            beyond, after = self._limit(out, image, slices, limits, tolerance, consistent)
        return {
            "strength": round(strength, 4),
            "agreement": round(share, 4),
            "overshoot_cut": round(beyond / span, 4),
            **({"warnings": said} if said else {}),
            "data_consistency": {
                "asked_for": self.data_consistency,
                "applied": consistent,
                "overreach": round(reach, 3),
                "largest_deviation_before": float(before.abs().max()) / span,
                "largest_deviation_after": float(after.abs().max()) / span,
                "tolerance": TOLERANCE,
                "unit": "share of the input's 0.1-99.9 percentile range",
            },
        }

    @staticmethod
    def _limit(
        out: torch.Tensor,
        image: torch.Tensor,
        slices: VolumeMeasurement,
        limits: OvershootLimits,
        tolerance: float,
        consistent: bool,
    ) -> tuple[float, torch.Tensor]:
        """Bring ``out`` within ``limits``, in place, and with ``consistent`` still measured as ``image``.

        Both sets are convex, so going from one to the other in turn ends where they meet (projections onto convex
        sets). The measurement has the last word.

        Returns:
            how far ``out`` was beyond the limits; what is left to ``image``.
        """
        beyond = 0.0
        for _ in range(_ROUNDS):
            beyond = max(beyond, limits.clip(out))
            after = image - slices.forward(out)
            if not consistent or float(after.abs().max()) <= tolerance:
                break
            rest, after = _finished(slices, *slices.correction(after, tolerance, STEPS), tolerance)
            slices.add_interpolated(out, rest)
        return beyond, after

    def _not_consistent(self, why: str) -> dict[str, Any]:
        return {
            "strength": self.strength,
            "data_consistency": {
                "asked_for": self.data_consistency,
                "applied": False,
                "reason": why,
                "largest_deviation_after": None,
            },
        }


def _mirrored(volume: torch.Tensor, axes: Sequence[int]) -> torch.Tensor:
    return volume.flip(tuple(axes)) if axes else volume  # without axes, flip would copy


def _mean(parts: Iterable[torch.Tensor]) -> torch.Tensor:
    """Of tensors that come one after the other, in the memory of the first."""
    found = iter(parts)
    total, count = next(found), 1
    for part in found:
        total += part
        count += 1
    return total.div_(count) if count > 1 else total


def _finished(
    slices: VolumeMeasurement, rest: torch.Tensor, after: torch.Tensor, tolerance: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """A correction and what it leaves, with damped steps where plain ones have not sufficed."""
    if float(after.abs().max()) <= tolerance:
        return rest, after
    more, after = slices.correction(after, tolerance, STEPS, DAMPING)
    return rest + more, after


def _cover(positions: Sequence[np.ndarray], shape: Sequence[int], scale: np.ndarray, axes: np.ndarray) -> bool:
    """Whether the output reaches the edges of the input along ``axes`` [3], up to half of an output voxel."""
    return all(
        p[0] - 0.5 / s <= -0.5 + 0.51 / s and p[-1] + 0.5 / s >= n - 0.5 - 0.51 / s
        for p, n, s, asked in zip(positions, shape, scale, axes, strict=True)
        if asked
    )


def _coarser(scale: np.ndarray) -> list[int]:
    """Axes along which the output is coarser than the input."""
    return [axis for axis in range(3) if scale[axis] < 1 - 1e-6]


def _warn_of_coarser(source: Grid, target: Grid, oblique: bool) -> None:
    own, wanted = source.spacing_mm, target.spacing_mm
    if not oblique and (coarser := _coarser(source.scale_to(target))):
        warnings.warn(
            f"the wanted spacing is coarser than the input's {own.round(3).tolist()} mm along "
            f"{', '.join('xyz'[axis] for axis in coarser)}: no super-resolution there.",
            stacklevel=3,
        )
    # oblique: the axes are not each other's, so compare the finest with the finest and so on
    if oblique and (np.sort(wanted) > 1.001 * np.sort(own)).any():
        warnings.warn(
            f"the wanted spacing {wanted.round(3).tolist()} mm is coarser than the input's "
            f"{own.round(3).tolist()} mm: on an oblique grid, values are sampled and not averaged.",
            stacklevel=3,
        )


def _inside(positions: np.ndarray, n: int) -> slice:
    """Which positions along an axis lie in the field of view of its n voxels (they run one way)."""
    found = np.flatnonzero((positions >= -0.5 - 1e-6) & (positions <= n - 0.5 + 1e-6))
    return slice(int(found[0]), int(found[-1]) + 1) if len(found) else slice(0, 0)


class _VolumeDecoder:
    """One volume, axes already in the network's order, on its way through the network.

    What it needs of a network stands in :class:`custom_nets.networks.ArSSR`: ``encoder``, ``encoder_input``,
    ``decoder``, ``position_code``, ``scale_code``, ``sampling_padding``, ``adds_interpolation`` and ``border``.
    """

    def __init__(
        self,
        options: ImplicitVolumeInferer,
        network: Any,
        image: torch.Tensor,
        scale: torch.Tensor,
        mtf: torch.Tensor | None = None,
    ) -> None:
        self.options = options
        self.network = network
        self.encoder = network.encoder.to(memory_format=torch.channels_last_3d)
        self.device = next(network.parameters()).device
        self.image = image.to(self.device, torch.float32).contiguous()
        self.scale = scale.to(self.device)[None]
        self.border = int(network.border)
        self.padded = mirror_pad(self.image, self.border)
        self.size = tuple(image.shape)
        self.n = tuple(self.padded.shape)  # what is encoded; positions in it are those in the image plus the border
        self.background = float(image.min())
        self.rows = options.rows or (_ROWS_CUDA if self.device.type == "cuda" else _ROWS)
        self.mtf = None if mtf is None else mtf.to(self.device)[None]
        self.scale_code = network.scale_code(self.scale, self.mtf)[0]
        self.padding = network.sampling_padding
        self.coefficients = bspline_coefficients(self.image[None, None]) if network.adds_interpolation else None

    # ---- encoding ----

    def plan(self, out_voxels: int) -> _Plan:
        """Choose slab and tiles so that the whole stays inside the budget."""
        options, voxels = self.options, math.prod(self.n)
        convs = [m for m in self.encoder.modules() if isinstance(m, torch.nn.Conv3d)]
        widest = max(conv.out_channels for conv in convs)
        halo = sum(conv.kernel_size[0] // 2 for conv in convs)
        left, need = self._budget(out_voxels)
        axis = int(np.argmax(self.n))
        liked = _ACTIVATION_BYTES_CUDA if self.device.type == "cuda" else _ACTIVATION_BYTES
        everything = 8 * sum(conv.out_channels for conv in convs) * voxels  # all layers and their joined copies
        small = 4 * widest * voxels <= liked and everything <= left
        if small and options.slab is None and options.tile is None:
            return _Plan(axis, self.n[axis], (axis + 1) % 3, self.n[(axis + 1) % 3], halo)

        tile_axis, other = sorted((a for a in range(3) if a != axis), key=lambda a: -self.n[a])
        width = options.tile or self.n[tile_axis]
        most = min(self.n[axis], options.slab or max(1, liked * self.n[axis] // (4 * widest * voxels)))
        for slab in [most] if options.slab else [m for m in (most, 16, 8, 4, 2, 1) if m <= most]:
            line = self._bytes_per_voxel(convs, axis, slab, halo) * self.n[other]  # bytes for each voxel of a tile
            fits = int(left / line)
            if fits >= min(width + 2 * halo, self.n[tile_axis]):
                return _Plan(axis, slab, tile_axis, width, halo)
        if not options.tile and fits - 2 * halo >= 8:
            return _Plan(axis, slab, tile_axis, fits - 2 * halo, halo)
        raise ValueError(
            f"memory budget of {options.memory_gb:g} GiB is too small: {need}, and "
            f"{line * (2 * halo + 8) / _GIB:.1f} GiB for the smallest tile of the network. "
            "Give a larger --memory_gb, or --precision bfloat16."
        )

    def _budget(self, out_voxels: int) -> tuple[float, str]:
        """Bytes left for features, and what the volumes take in words."""
        # input, normalised copy, coefficients and their temporary; result (and the mean's), its de-normalised copy, the
        # file's bytes
        fixed = 4 * (5 * math.prod(self.n) + (4 if self.options.flips else 3) * out_voxels)
        fixed += self.rows * 4 * 4 * 300  # decoder activations
        if self.device.type == "cpu":
            fixed += _PROCESS_BYTES
        need = f"{(fixed / _GIB):.1f} GiB for the volumes alone ({out_voxels:,} output voxels)"
        if fixed >= self.options.memory_gb * _GIB:
            raise ValueError(
                f"memory budget of {self.options.memory_gb:g} GiB is too small: {need}. Ask for a coarser spacing, "
                "a smaller field of view, or give a larger --memory_gb."
            )
        return self.options.memory_gb * _GIB - fixed, need

    def _bytes_per_voxel(self, convs: Sequence[torch.nn.Conv3d], axis: int, slab: int, halo: int) -> float:
        """Of a plane across the walk: 30 % for what convolutions set aside; features of the slab and the plane kept
        from the last one."""
        item = 2 if self.options.precision == "bfloat16" else 4
        planes = min(self.n[axis], 2 * halo + 3 * slab)
        streamed = PlaneStreamer(self.encoder, axis).bytes_per_voxel(convs[0].in_channels, slab, planes)
        return 1.3 * streamed * item / 4 + 4 * convs[-1].out_channels * (slab + 2)

    def features(self, plan: _Plan) -> Iterator[tuple[list[int], list[int], torch.Tensor]]:
        """Pieces of the feature volume: (first voxel [3], end [3], features [1, F, d, h, w]) that cover it all.

        Along the axis of the walk and along tiles, each piece also carries the plane after or before it that linear
        interpolation between pieces needs.
        """
        n = self.n
        dim, tile_dim = 2 + plan.axis, 2 + plan.tile_axis
        streamer = PlaneStreamer(self.encoder, plan.axis)
        autocast = torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.precision == "bfloat16")
        for low in range(0, n[plan.tile_axis], plan.tile):
            high = min(low + plan.tile, n[plan.tile_axis])
            last = min(high + 1, n[plan.tile_axis])  # one more for interpolation across the border
            outer_low, outer_high = max(low - plan.halo, 0), min(last + plan.halo, n[plan.tile_axis])
            image = self.padded[None, None].narrow(tile_dim, outer_low, outer_high - outer_low)
            x = self.network.encoder_input(image, self.scale, self.mtf)
            kept: torch.Tensor | None = None
            start = 0
            with autocast:
                whole = plan.slab >= n[plan.axis]
                for piece in [self.encoder(x)] if whole else streamer(x, plan.slab):
                    piece = piece.narrow(tile_dim, low - outer_low, last - low)
                    if kept is not None:
                        piece = torch.cat([kept, piece], dim)
                    stop = start + piece.shape[dim]
                    first, end = [0, 0, 0], list(n)
                    first[plan.axis], end[plan.axis] = start, stop
                    first[plan.tile_axis], end[plan.tile_axis] = low, last
                    yield first, end, piece
                    kept = piece.narrow(dim, piece.shape[dim] - 1, 1).clone()
                    start = stop - 1

    def _owned(self, plan: _Plan, first: list[int], end: list[int], axis: int, position: torch.Tensor) -> torch.Tensor:
        """Which positions along ``axis`` the piece [first, end) answers for: both neighbours in it, and no other."""
        lower = position.floor().clamp(0, self.n[axis] - 1)
        if axis not in (plan.axis, plan.tile_axis):
            return torch.ones_like(position, dtype=torch.bool)
        if end[axis] == self.n[axis]:
            return lower >= first[axis]
        return (lower >= first[axis]) & (lower < end[axis] - 1)

    # ---- decoding ----

    def decode(self, rows: torch.Tensor) -> torch.Tensor:
        """[K, columns] -> [K]."""
        enabled = self.options.precision == "bfloat16"
        with torch.autocast(self.device.type, torch.bfloat16, enabled=enabled):
            return self.network.decoder(rows)[:, 0].float()

    def _bar(self, total: int) -> Any:
        return tqdm(total=total, unit="voxel", unit_scale=True, desc="sampling", disable=not self.options.progress)

    def regular(self, positions: list[torch.Tensor]) -> torch.Tensor:
        """Decode a grid along the input's axes: three float64 arrays of positions -> [N0, N1, N2]."""
        size = [len(p) for p in positions]
        plan = self.plan(math.prod(size))
        out = torch.full(size, self.background)
        # interpolation goes axis by axis: that of the walk first, then the two in the plane
        order = (plan.axis, *(axis for axis in range(3) if axis != plan.axis))
        sized = list(zip(positions, self.size, strict=True))
        codes = [self.network.position_code(p, n).float().to(self.device) for p, n in sized]
        inside = [(p >= -0.5 - 1e-6) & (p <= n - 0.5 + 1e-6) for p, n in sized]
        with self._bar(math.prod(size)) as bar:
            for first, end, piece in self.features(plan):
                # positions run one way along an axis, so those that this piece answers for lie together
                own = []
                for axis, p in enumerate(positions):
                    index = (self._owned(plan, first, end, axis, p + self.border) & inside[axis]).nonzero()[:, 0]
                    own.append(slice(int(index[0]), int(index[-1]) + 1) if len(index) else slice(0, 0))
                if any(o.start == o.stop for o in own):
                    continue
                ordered_out = out.permute(order)
                lines = [
                    _AxisSampling(
                        self._taps(axis, positions[axis][own[axis]] + self.border, first, end),
                        codes[axis][own[axis]],
                        self._spline(axis, positions[axis][own[axis]]),
                    )
                    for axis in order
                ]
                table = piece[0].permute(*(1 + axis for axis in order), 0).float()
                if table.stride(-1) != 1:
                    table = table.contiguous()
                for number, plane in enumerate(self._planes(table, lines, order)):
                    ordered_out[own[order[0]].start + number, own[order[1]], own[order[2]]] = plane.cpu()
                    bar.update(plane.numel())
        return out

    def _taps(self, axis: int, positions: torch.Tensor, first: list[int], end: list[int]) -> tuple[torch.Tensor, ...]:
        """Linear interpolation along one axis of a piece: local indices (i0, i1) and float32 weights (w0, w1), still on
        the CPU: those of the walk are looked at one by one."""
        i0, i1, w0, w1 = linear_taps(self.n[axis], positions, self.padding)
        i0, i1 = ((i - first[axis]).clamp(0, end[axis] - 1 - first[axis]) for i in (i0, i1))
        return i0, i1, w0.float(), w1.float()

    def _spline(self, axis: int, positions: torch.Tensor) -> torch.Tensor | None:
        """Matrix [N, n] from spline coefficients to positions of one axis."""
        if self.coefficients is None:
            return None
        return bspline_matrix(self.size[axis], positions, prefilter=False).float().to(self.device)

    def _planes(
        self, table: torch.Tensor, lines: list[_AxisSampling], order: tuple[int, ...]
    ) -> Iterator[torch.Tensor]:
        """Intensities of a piece, plane after plane: features [n0, n1, n2, F] and a line for each of the three axes
        (in this ``order``) -> [N1, N2], N0 times."""
        walk, b, c = lines
        channels, n1, n2 = table.shape[-1], len(b.code), len(c.code)
        columns, code_of = self._columns(channels, lines, order)
        step = max(1, self.rows // n2)  # lines of a plane that are decoded at once
        # a whole number of 64 rows, which RowLinear's fast way needs; the rows too many are thrown away
        padded = torch.zeros(-(-step * n2 // 64) * 64, columns, device=self.device)
        buffer = padded[: step * n2].view(step, n2, columns)
        buffer[..., columns - len(self.scale_code) :] = self.scale_code
        buffer[..., code_of[2]] = c.code
        base = self._half_interpolated(walk, b, order)  # [N0, N1, n2]
        i0, i1, w0, w1 = (taps.tolist() for taps in walk.taps)
        j0, j1, v0, v1 = (taps.to(self.device) for taps in b.taps)
        k0, k1, u0, u1 = (taps.to(self.device) for taps in c.taps)
        v0, v1, u0, u1 = v0[:, None, None], v1[:, None, None], u0[:, None], u1[:, None]
        for i in range(len(walk.code)):
            plane = table[i0[i]] * w0[i] + table[i1[i]] * w1[i]  # [n1, n2, F]
            buffer[..., code_of[0]] = walk.code[i]
            values = torch.empty(n1, n2, device=self.device)  # [N1, N2]
            for low in range(0, n1, step):
                part = slice(low, min(low + step, n1))
                m = part.stop - low
                rows = plane.index_select(0, j0[part]) * v0[part] + plane.index_select(0, j1[part]) * v1[part]
                # rows [m, n2, F] -> [m, N2, F]
                torch.mul(rows.index_select(1, k0), u0, out=buffer[:m, :, :channels])
                buffer[:m, :, :channels].addcmul_(rows.index_select(1, k1), u1)
                buffer[:m, :, code_of[1]] = b.code[part, None]
                values[part] = self.decode(padded[: -(-m * n2 // 64) * 64])[: m * n2].view(m, n2)
                if base is not None:
                    values[part] += base[i, part] @ c.spline.T  # type: ignore[union-attr]
            yield values

    def _columns(self, channels: int, lines: list[_AxisSampling], order: tuple[int, ...]) -> tuple[int, list[slice]]:
        """Columns of a row for the decoder, and those of each line's code: features, codes in the network's order of
        axes, scale."""
        widths = [lines[order.index(axis)].code.shape[1] for axis in range(3)]
        code_of = [slice(channels + sum(widths[:axis]), channels + sum(widths[: axis + 1])) for axis in order]
        return channels + sum(widths) + len(self.scale_code), code_of

    def _half_interpolated(self, walk: _AxisSampling, b: _AxisSampling, order: tuple[int, ...]) -> torch.Tensor | None:
        """The spline along two of three axes, [N0, N1, n2]; None where the network adds none."""
        if self.coefficients is None:
            return None
        base = torch.einsum("ai,ijk->ajk", walk.spline, self.coefficients[0, 0].permute(order))
        return torch.einsum("bj,ajk->abk", b.spline, base)

    def points(self, matrix: np.ndarray, shape: tuple[int, int, int], order: Sequence[int]) -> torch.Tensor:
        """Decode any affine grid: ``matrix`` maps its index to the input's (x, y, z) index -> [shape]."""
        plan = self.plan(math.prod(shape))
        out = torch.full((math.prod(shape),), self.background)
        rotation = torch.as_tensor(matrix[:3, :3][list(order)])
        shift = torch.as_tensor(matrix[:3, 3][list(order)])
        n = torch.tensor(self.size, dtype=torch.float64)
        axes = (torch.arange(m, dtype=torch.float64) for m in shape[1:])
        index_yz = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 2)  # [N1 N2, 2]
        in_plane = index_yz @ rotation[:, 1:].T + shift  # [N1 N2, 3]
        with self._bar(math.prod(shape)) as bar:
            for first, end, piece in self.features(plan):
                for x in range(shape[0]):
                    position = in_plane + x * rotation[:, 0]
                    keep = ((position >= -0.5 - 1e-6) & (position <= n - 0.5 + 1e-6)).all(1)
                    for axis in (plan.axis, plan.tile_axis):
                        keep &= self._owned(plan, first, end, axis, position[:, axis] + self.border)
                    chosen = keep.nonzero()[:, 0]
                    for part in chosen.split(self.rows):
                        out[x * len(index_yz) + part] = self._decode_points(piece, first, position[part]).cpu()
                    bar.update(len(chosen))
        return out.view(shape)

    def _decode_points(self, piece: torch.Tensor, first: list[int], positions: torch.Tensor) -> torch.Tensor:
        """Intensities [K] at ``positions`` [K, 3] within a piece of features that starts at voxel ``first``."""
        origin = torch.tensor(first, dtype=torch.float64)
        local = (positions + self.border - origin).to(self.device)[None]
        codes = [
            self.network.position_code(positions[:, axis], self.size[axis]).float().to(self.device) for axis in range(3)
        ]
        features = sample_trilinear(piece.float(), local, self.padding)[0]  # [K, F]
        value = self.decode(torch.cat([features, *codes, self.scale_code.expand(len(positions), -1)], 1))
        if self.coefficients is not None:
            value = value + sample_bspline(self.coefficients, positions.to(self.device)[None])[0].float()
        return value


class PublishedProcedureInferer(Inferer):
    """What the published command does, as the oracle of tests and benchmark: the whole network, encoder included, for
    every output plane, at ``int(n * scale)`` voxels per axis, on coordinates in [-1, 1].

    Args:
        scale: one factor for all axes.
    """

    def __init__(self, scale: float = 2.0) -> None:
        super().__init__()
        self.scale = float(as_triple(scale, "scale")[0])

    @torch.no_grad()
    def __call__(self, inputs: torch.Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> torch.Tensor:
        """[1, 1, D, H, W] in the network's own axes (z, y, x) -> [1, 1, D', H', W']."""
        size = [int(n * self.scale) for n in inputs.shape[2:]]
        axes = [(2 * torch.arange(m, device=inputs.device, dtype=torch.float32) + 1) / m - 1 for m in size]
        grid = torch.stack(torch.meshgrid(*axes, indexing="ij"), -1)
        planes = [network(inputs, grid[i].reshape(1, -1, 3)).reshape(size[1:]) for i in range(size[0])]
        return torch.stack(planes)[None, None]
