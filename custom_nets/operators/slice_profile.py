"""The point spread of an acquisition: what a scanner with thicker voxels would have measured, as one matrix per axis.

One concept for all that blurs a scan along an axis (:class:`PointSpread`): a Gaussian, a box, a trapezoid (what a real
slice-selective pulse comes near to), and the crop of k-space of a 3D acquisition, with or without the filter that the
scanner lays over it. Slice gaps and overlaps are widths below and above 1; voxels that the scanner interpolated by
filling k-space with zeros are a k-space crop of a width above 1.

Networks are told it by one description for all kinds, ``mtf``: what is left of the wanted voxels' contrast at half and
at the whole Nyquist frequency of the measured voxels (:meth:`PointSpread.transfer`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray

from custom_nets.operators.interpolation import (
    SeparableOperator,
    bspline_matrix,
    bspline_weights,
    mirror_index,
    prefilter_matrix,
)

__all__ = [
    "PROFILES",
    "Degradation",
    "PointSpread",
    "degrade",
    "point_spread_matrix",
    "published_zoom_matrix",
    "sampled_profile_matrix",
    "slice_profile_matrix",
]

PROFILES = ("gaussian", "box", "trapezoid", "kspace", "kspace_hann", "kspace_hamming", "kspace_tukey")
_SHAPES = {"trapezoid": 0.3, "kspace_tukey": 0.5}  # usual shape of the profiles that have one
_FWHM = 2 * math.sqrt(2 * math.log(2))  # full width at half maximum of a Gaussian, in standard deviations
# bands of frequency (shares of Nyquist) that the description is the mean of: the value at one frequency would jump
# where a sharp cut of k-space passes over it
_BANDS = ((0.375, 0.625), (0.75, 1.0))
_kept_prefilter = lru_cache(maxsize=64)(prefilter_matrix)


@dataclass(frozen=True)
class PointSpread:
    """How a scan blurs along one axis.

    Args:
        profile: one of :data:`PROFILES`.
        thickness: resolution over the distance of voxels. Full width at half maximum of the Gaussian, the box and the
            trapezoid; below 1 is a gap, above 1 overlaps. For k-space the measured voxel over the stored one: 1, or
            above 1 where the scanner interpolated.
        shape: of a trapezoid, its ramps over its width (0 is a box, 1 a triangle); of a Tukey filter, the share of
            k-space that it rolls off over (0 is none, 1 a Hann filter). None for the usual ones, 0.3 and 0.5.

    Raises:
        ValueError: unknown profile; thickness not above zero, or below 1 in k-space; shape outside of [0, 1] or of a
            profile that has none.

    Example::

        >>> [round(m, 2) for m in PointSpread("box").transfer(scale=4.0)]
        [0.9, 0.74]
    """

    profile: str = "gaussian"
    thickness: float = 1.0
    shape: float | None = None

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got '{self.profile}'.")
        if not self.thickness > 0:
            raise ValueError(f"thickness (slice thickness / slice spacing) must be above zero, got {self.thickness}.")
        if self.in_kspace and self.thickness < 1:
            raise ValueError(
                f"thickness must be at least 1 for the profile {self.profile} (voxels cannot be larger than what was "
                f"measured of k-space), got {self.thickness}."
            )
        if self.shape is not None and (self.profile not in _SHAPES or not 0 <= self.shape <= 1):
            raise ValueError(
                f"shape must lie within [0, 1] and is for {' and '.join(_SHAPES)} only, got {self.shape} for "
                f"{self.profile}."
            )

    @classmethod
    def of(cls, profile: str | PointSpread, thickness: float = 1.0) -> PointSpread:
        """The point spread itself, or the one of that name and thickness; "box:0.8" names both."""
        if isinstance(profile, PointSpread):
            return profile
        name, *numbers = profile.split(":")
        return cls(name, *(float(n) for n in numbers)) if numbers else cls(name, thickness)

    def __str__(self) -> str:
        """As :meth:`of` reads it."""
        return ":".join(str(part) for part in (self.profile, self.thickness, self.shape) if part is not None)

    @classmethod
    def from_transfer(cls, half: float, whole: float, scale: float = 4.0) -> PointSpread:
        """The point spread whose :meth:`transfer` at ``scale`` comes nearest to ``half`` and ``whole``.

        Raises:
            ValueError: numbers outside of [0, 1].
        """
        if not (0 <= half <= 1 and 0 <= whole <= 1):
            raise ValueError(f"a modulation transfer lies between 0 and 1, got {half} and {whole}.")
        return min(_family(), key=lambda s: float(np.square(np.subtract(s.transfer(scale), (half, whole))).sum()))

    @property
    def in_kspace(self) -> bool:
        """Whether it is a crop of k-space."""
        return self.profile.startswith("kspace")

    @property
    def takes_nothing(self) -> bool:
        """Whether all that the measured voxels can hold is measured: an unfiltered crop of k-space of their size."""
        return self.profile == "kspace" and self.thickness == 1

    def wider(self, factor: float) -> PointSpread:
        """The same profile, ``factor`` times as thick; a crop of k-space no thinner than 1."""
        return replace(self, thickness=max(factor * self.thickness, 1.0 if self.in_kspace else 0.0))

    def response(self, frequency: NDArray[np.float64], scale: float) -> NDArray[np.float64]:
        """What is left of a wave of the wanted voxels.

        Args:
            frequency: in cycles per wanted voxel, 0 to 0.5.
            scale: distance of measured voxels in wanted ones.

        Returns:
            Transfer at each frequency, 1 where nothing is lost. The wanted voxel's own width is not counted: it is
            there already.
        """
        f = np.asarray(frequency, dtype=np.float64)
        width = scale * self.thickness
        if width <= 1.0:  # finer than the wanted voxel: only sampled
            return np.ones_like(f)
        if self.profile == "gaussian":
            return np.exp(-2 * (math.pi * f) ** 2 * (width**2 - 1) / _FWHM**2)
        if self.in_kspace:
            return self._filter(2 * f * width)
        ramp = width * self._shape() if self.profile == "trapezoid" else 0.0
        return np.sinc(width * f) * np.sinc(ramp * f) / np.sinc(f)

    def transfer(self, scale: float) -> tuple[float, float]:
        """Description that networks are told: transfer around half of, and up to, the measured voxels' Nyquist
        frequency, as means over a quarter of the band (3/8 to 5/8, and 3/4 to 1 of Nyquist).

        Args:
            scale: distance of measured voxels in wanted ones; at 1 nothing is to be undone: (1, 1).
        """
        if scale <= 1.0 + 1e-6 and self.thickness <= 1.0 + 1e-6:
            return 1.0, 1.0
        steps = (np.arange(16) + 0.5) / 16
        low, high = (float(self.response((a + (b - a) * steps) / (2 * scale), scale).mean()) for a, b in _BANDS)
        return low, high

    def _shape(self) -> float:
        return _SHAPES.get(self.profile, 0.0) if self.shape is None else self.shape

    def _filter(self, v: NDArray[np.float64]) -> NDArray[np.float64]:
        """The filter over k-space, ``v`` in shares of the measured band; on its edge, half of what is left."""
        if self.profile == "kspace_hamming":
            kept = 0.54 + 0.46 * np.cos(math.pi * v)
        else:
            roll = {"kspace": 0.0, "kspace_hann": 1.0}.get(self.profile, self._shape())
            kept = np.ones_like(v)
            if roll > 0:
                kept = 0.5 + 0.5 * np.cos(math.pi * np.clip((v - 1 + roll) / roll, 0, 1))
        return kept * np.where(v < 1 - 1e-9, 1.0, np.where(v > 1 + 1e-9, 0.0, 0.5))


@lru_cache(maxsize=1)
def _family() -> tuple[PointSpread, ...]:
    """All kinds in small steps."""
    return (
        PointSpread("kspace"),
        PointSpread("kspace_hamming"),
        *(PointSpread("kspace_tukey", 1.0, round(0.05 * i, 2)) for i in range(1, 21)),
        *(PointSpread("gaussian", round(0.02 * i, 2)) for i in range(15, 100)),
        *(PointSpread("box", round(0.02 * i, 2)) for i in range(15, 90)),
    )


def point_spread_matrix(
    n: int, centres: torch.Tensor | NDArray[np.float64], scale: float, spread: PointSpread
) -> torch.Tensor:
    """[N, n] float64: measured voxels at ``centres`` [N] (positions on the fine axis) from n fine ones.

    Args:
        n: voxels of the fine axis.
        centres: where the measured voxels lie.
        scale: distance between measured voxels in fine ones.
        spread: what blurs.

    A fine voxel is itself an integral over its width. The Gaussian's width is therefore what has to be *added* to one
    fine voxel (in quadrature), a box or trapezoid counts each fine voxel by its overlap, and a crop of k-space leaves
    out frequencies: scale 1 without a gap is the identity.
    """
    centres = torch.as_tensor(centres, dtype=torch.float64)
    width = scale * spread.thickness
    if width <= 1.0:  # thinner than a fine voxel: nothing to average, only to sample
        return bspline_matrix(n, centres)
    if spread.in_kspace:
        # waves that fit the mirrored axis: the cosines of DCT-II, of which every place between voxels has a value
        cosines, forward = _cosines(n)
        kept = torch.from_numpy(spread.response(np.arange(n) / (2 * n), scale))
        used = int((kept != 0).sum())  # low ones come first
        order = torch.arange(used, dtype=torch.float64)
        waves = torch.cos(torch.outer(centres + 0.5, order) * (math.pi / n))
        return (waves * kept[:used]) @ forward[:used]
    if spread.profile == "gaussian":
        sigma = math.sqrt(width**2 - 1) / _FWHM
        offsets = torch.linspace(-3.5, 3.5, 2 * math.ceil(14 * sigma) + 1, dtype=torch.float64) * sigma
        weights = torch.exp(-0.5 * (offsets / sigma) ** 2)
        # between the fine voxels the spline tells the value: exact for any place of the centre, however narrow
        points = bspline_matrix(n, (centres[:, None] + offsets).flatten(), prefilter=False)
        matrix = (points.view(len(centres), -1, n) * (weights / weights.sum())[:, None]).sum(1)
        return matrix @ _kept_prefilter(n)
    ramp = width * spread._shape() if spread.profile == "trapezoid" else 0.0
    reach = math.ceil((width + ramp) / 2) + 1
    taps = centres.round().long()[:, None] + torch.arange(-reach, reach + 1)
    distance = taps - centres[:, None]
    if ramp > 1e-6:
        weights = _trapezoid_integral(distance + 0.5, width, ramp) - _trapezoid_integral(distance - 0.5, width, ramp)
    else:
        weights = (distance + 0.5).clamp(max=width / 2) - (distance - 0.5).clamp(min=-width / 2)
    weights = weights.clamp(min=0)
    weights = weights / weights.sum(1, keepdim=True)
    return torch.zeros(len(centres), n, dtype=torch.float64).scatter_add_(1, mirror_index(taps, n), weights)


def _trapezoid_integral(x: torch.Tensor, width: float, ramp: float) -> torch.Tensor:
    """Integral up to ``x`` of a trapezoid of height 1, ``width`` wide at half height, that rises over ``ramp``."""
    outer, inner = (width + ramp) / 2, (width - ramp) / 2
    signs = ((outer, 1), (inner, -1), (-inner, -1), (-outer, 1))
    return sum(sign * (x + edge).clamp(min=0).square() for edge, sign in signs) / (2 * ramp)  # type: ignore[return-value]


@lru_cache(maxsize=64)
def _cosines(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The waves [n, n] of DCT-II (order, voxel), and the same scaled so that they give a wave's amplitude."""
    order = torch.arange(n, dtype=torch.float64)
    cosines = torch.cos(torch.outer(order, order + 0.5) * (math.pi / n))
    return cosines, cosines / cosines.square().sum(1, keepdim=True)


def slice_profile_matrix(
    n: int,
    centres: torch.Tensor | NDArray[np.float64],
    scale: float,
    profile: str | PointSpread,
    thickness: float = 1.0,
) -> torch.Tensor:
    """[N, n] float64: :func:`point_spread_matrix` of a profile by its name.

    Args:
        n, centres, scale: see :func:`point_spread_matrix`.
        profile: one of :data:`PROFILES`, or a :class:`PointSpread`.
        thickness: slice thickness / slice spacing, of a profile by its name.

    Raises:
        ValueError: see :class:`PointSpread`.
    """
    return point_spread_matrix(n, centres, scale, PointSpread.of(profile, thickness))


def sampled_profile_matrix(n: int, scale: float, profile: str = "gaussian", thickness: float = 1.0) -> torch.Tensor:
    """[floor(n / scale), n] float64: thick slices of fine ones that count as samples, the first edge to edge.

    The plain operator that published numbers can be compared on: the Gaussian's full width at half maximum is the
    thickness itself (cut at 4 standard deviations), and where a slice reaches over the edge, what is inside counts.
    :func:`slice_profile_matrix` knows that a fine slice is an average already.

    Args:
        n: fine slices.
        scale: distance between thick slices in fine ones.
        profile: "gaussian" or "box".
        thickness: slice thickness / slice spacing.
    """
    if profile not in ("gaussian", "box"):
        raise ValueError(f"profile must be gaussian or box, got '{profile}'.")
    centres = (scale - 1) / 2 + torch.arange(int(n // scale), dtype=torch.float64) * scale
    distance = torch.arange(n, dtype=torch.float64) - centres[:, None]
    width = scale * thickness
    if profile == "gaussian":
        sigma = width / _FWHM
        weights = torch.exp(-0.5 * (distance / sigma) ** 2) * (distance.abs() <= 4 * sigma)
    else:
        weights = (distance + 0.5).clamp(max=width / 2) - (distance - 0.5).clamp(min=-width / 2)
        weights = weights.clamp(min=0)
    return weights / weights.sum(1, keepdim=True)


class Degradation(SeparableOperator):
    """The same field of view measured with fewer voxels, centre-aligned: ``shape`` [3] to ``coarse_shape`` [3].

    Args:
        shape: voxels along X, Y, Z.
        coarse_shape: voxels of the result; an axis that keeps its number of voxels is left as it is.
        profile, thickness: see :func:`slice_profile_matrix`.
    """

    def __init__(
        self,
        shape: Sequence[int],
        coarse_shape: Sequence[int],
        profile: str | PointSpread = "gaussian",
        thickness: float = 1.0,
    ) -> None:
        matrices: list[torch.Tensor | None] = []
        for n, m in zip(shape, coarse_shape, strict=True):
            scale = n / m
            centres = (torch.arange(m, dtype=torch.float64) + 0.5) * scale - 0.5
            matrices.append(None if n == m else slice_profile_matrix(n, centres, scale, profile, thickness))
        super().__init__(matrices)


def degrade(
    volume: torch.Tensor, shape: Sequence[int], profile: str | PointSpread = "gaussian", thickness: float = 1.0
) -> torch.Tensor:
    """Measure ``volume`` [..., X, Y, Z] with ``shape`` voxels, see :class:`Degradation`."""
    return Degradation(volume.shape[-3:], shape, profile, thickness).forward(volume)


def published_zoom_matrix(n: int, m: int) -> torch.Tensor:
    """[m, n] float64: the down-sampling of the published code (``scipy.ndimage.zoom(x, m / n, order=3)``).

    No anti-alias filter, and the first and last *centres* coincide instead of the outer edges: the pairs that it
    makes are magnified about the centre. For parity only. Whole-sample symmetric boundary.
    """

    def mirror(index: torch.Tensor) -> torch.Tensor:
        period = max(2 * (n - 1), 1)
        index = index.abs() % period
        return torch.minimum(index, period - index).clamp(0, n - 1)

    rows = torch.arange(n)
    basis = torch.zeros(n, n, dtype=torch.float64)
    for shift, weight in ((-1, 1 / 6), (0, 4 / 6), (1, 1 / 6)):
        basis.index_put_((rows, mirror(rows + shift)), torch.full((n,), weight, dtype=torch.float64), accumulate=True)
    positions = torch.arange(m, dtype=torch.float64) * ((n - 1) / max(m - 1, 1))
    floor = positions.floor()
    weights = bspline_weights(positions - floor)
    taps = mirror(floor.long()[:, None] + torch.arange(-1, 3))
    matrix = torch.zeros(m, n, dtype=torch.float64).scatter_add_(1, taps, weights)
    return matrix @ torch.linalg.inv(basis)
