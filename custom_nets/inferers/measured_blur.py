"""What a scan's blur is taken to be, and who says so: the user, the header, the image, or nobody."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from custom_nets.checkpoints import load_network
from custom_nets.geometry import Grid
from custom_nets.operators.blur_estimate import compare_axes, measured_share, spectral_features
from custom_nets.operators.slice_profile import PROFILES, PointSpread, degrade

__all__ = ["UNSEEN", "BlurOptions", "MeasuredBlur", "from_spectra", "to_measured"]

_INTERPOLATED = 1.08  # measured over stored voxel from which on the scanner is said to have interpolated
_CAUTION = 1.5  # standard deviations by which a blur is taken sharper than its spectra say: the lesser harm
_SHARP = PointSpread("kspace")  # taken where nothing can be seen, and for what measures less than 0.7 of a voxel
UNSEEN = 0.5  # "standard deviation" of a transfer of which nothing is seen
_THICKEST_MM = 1000
_UNSURE = 0.2  # standard deviation of the transfer at Nyquist beyond which an estimate is not told to the network


def _is_thickness(value: Any) -> bool:
    try:
        numbers = np.asarray(value, dtype=float)
    except (TypeError, ValueError):
        return False
    return value is not True and numbers.shape in ((), (3,)) and bool(((numbers > 0) & (numbers < _THICKEST_MM)).all())


@dataclass(frozen=True)
class BlurOptions:
    """What the user says about the blur.

    Args:
        profile: one of :data:`custom_nets.operators.slice_profile.PROFILES`, or "auto": by the header, otherwise from
            the image.
        thickness_mm: slice thickness (the axis with the largest voxels) in mm, or one number per axis.
        mtf: transfer at half and at the whole Nyquist frequency, [2] for all axes or [3, 2], instead of a profile.

    Raises:
        ValueError: unknown profile; a thickness not above zero; an mtf of another shape or range, or beside a profile.
    """

    profile: str = "auto"
    thickness_mm: float | Sequence[float] | None = None
    mtf: Sequence[Any] | None = None

    def __post_init__(self) -> None:
        if self.profile != "auto" and str(self.profile).split(":")[0] not in PROFILES:
            raise ValueError(f"profile must be auto or one of {', '.join(PROFILES)}, got {self.profile!r}.")
        if self.profile != "auto":
            PointSpread.of(self.profile)
        if self.thickness_mm is not None and not _is_thickness(self.thickness_mm):
            raise ValueError(
                f"thickness_mm must be one number or three (x, y, z), above zero and below {_THICKEST_MM}, got "
                f"{self.thickness_mm!r}."
            )
        if self.mtf is not None:
            if self.profile != "auto":
                raise ValueError("give profile or mtf, not both: each says how the scan is blurred.")
            if np.shape(self.mtf) not in ((2,), (3, 2)):
                raise ValueError(
                    "mtf must be two numbers (transfer at half and at the whole Nyquist frequency), or two for each of "
                    f"three axes, got {self.mtf!r}."
                )
            for half, whole in np.reshape(np.asarray(self.mtf, dtype=float), (-1, 2)):
                PointSpread.from_transfer(half, whole)

    def resolve(
        self,
        volume: torch.Tensor,
        source: Grid,
        meta: Mapping[str, Any],
        thick: int | None = None,
        find_interpolated: bool = True,
    ) -> MeasuredBlur:
        """Look at one scan.

        Args:
            volume: [X, Y, Z] on ``source``.
            source: its grid.
            meta: of the image: ``point_spread`` (said by data that knows), ``acquisition_type``,
                ``slice_thickness_mm``, ``measured_in_plane_mm``.
            thick: the axis of the slices, and the only one that is asked about; by default the one with the largest
                voxels, or the last, and all others by their spectra.
            find_interpolated: look for axes that the scanner interpolated.
        """
        spacing = source.spacing_mm
        named = thick
        thick = _slice_axis(spacing) if named is None else named
        if self.mtf is not None or self.profile != "auto" or meta.get("point_spread"):
            return MeasuredBlur(self._told(spacing, thick, meta), (1.0, 1.0, 1.0), "told")
        shares = self._shares(volume, spacing, meta) if find_interpolated else (1.0, 1.0, 1.0)
        if min(shares) < 1:
            volume, source = to_measured(volume, source, shares)
            spacing = source.spacing_mm
            thick = _slice_axis(spacing) if named is None else named
        spreads: list[PointSpread | None] = [None, None, None]
        known = self._thickness(thick, meta)
        said_by, deviation = "image", None
        if known is not None and (meta.get("acquisition_type") != "3D" or self.thickness_mm is not None):
            spreads[thick] = PointSpread("trapezoid", max(known / float(spacing[thick]), 0.05))
            said_by = "header"
        elif (found := compare_axes(volume, spacing.tolist(), thick)) is not None:
            spreads[thick], deviation = found[0], round(found[1], 3)
        guessed: list[float | None] = [None, None, None]
        for axis in range(3):
            if spreads[axis] is None and named is None:
                spreads[axis], guessed[axis] = from_spectra(volume, axis, spacing.tolist())
        if all(spread is None for spread in spreads):
            said_by = "unknown"
        return MeasuredBlur(
            (spreads[0], spreads[1], spreads[2]), shares, said_by, deviation, (guessed[0], guessed[1], guessed[2])
        )

    def _told(self, spacing: Any, thick: int, meta: Mapping[str, Any]) -> tuple[PointSpread, PointSpread, PointSpread]:
        if self.mtf is not None:
            pairs = np.broadcast_to(np.asarray(self.mtf, dtype=float), (3, 2))
            a, b, c = (PointSpread.from_transfer(float(half), float(whole)) for half, whole in pairs)
            return a, b, c
        spread = PointSpread.of(str(meta["point_spread"]) if self.profile == "auto" else self.profile)
        widths = [spread.thickness] * 3
        if self.thickness_mm is not None and np.ndim(self.thickness_mm) > 0:
            widths = [float(t) / float(s) for t, s in zip(self.thickness_mm, spacing, strict=True)]  # type: ignore[arg-type]
        elif (known := self._thickness(thick, meta)) is not None and ":" not in self.profile:
            widths[thick] = known / float(spacing[thick])
        least = 1.0 if spread.in_kspace else 0.05
        a, b, c = (PointSpread(spread.profile, max(width, least), spread.shape) for width in widths)
        return a, b, c

    def _thickness(self, axis: int, meta: Mapping[str, Any]) -> float | None:
        """Slice thickness in mm that the user or the header says."""
        if self.thickness_mm is not None:
            return float(np.broadcast_to(np.asarray(self.thickness_mm, dtype=float), (3,))[axis])
        if meta.get("point_spread"):
            return None
        known = float(meta.get("slice_thickness_mm") or 0)
        return known if known > 0 else None

    @staticmethod
    def _shares(volume: torch.Tensor, spacing: Any, meta: Mapping[str, Any]) -> tuple[float, float, float]:
        """Share of each axis' band that was measured."""
        in_plane = meta.get("measured_in_plane_mm")
        found = []
        for axis in range(3):
            if axis < 2 and in_plane is not None:
                share = float(spacing[axis]) / float(in_plane[axis])
            elif axis == 2 and meta.get("acquisition_type") == "3D" and meta.get("slice_thickness_mm"):
                share = float(spacing[2]) / float(meta["slice_thickness_mm"])
            else:
                share = measured_share(volume, axis)
            found.append(share if share < 1 / _INTERPOLATED else 1.0)
        return found[0], found[1], found[2]


@dataclass(frozen=True)
class MeasuredBlur:
    """How a scan was measured.

    Attributes:
        spreads: point spread of each axis (of the array), in voxels that were measured; None: not known.
        shares: of each axis' band that was measured; below 1 the scanner interpolated.
        said_by: "told", "header", "image" or "unknown".
        deviation: standard deviation of the transfer at Nyquist, of a thick axis that was compared with the others.
        guessed: the same of each axis that was judged by its own spectra (:func:`from_spectra`), None for the others.
    """

    spreads: tuple[PointSpread | None, PointSpread | None, PointSpread | None]
    shares: tuple[float, float, float]
    said_by: str
    deviation: float | None = None
    guessed: tuple[float | None, float | None, float | None] = (None, None, None)

    def transfer(self, scale: Sequence[float] | NDArray[Any]) -> torch.Tensor:
        """[3, 2] for the network: see :meth:`PointSpread.transfer`; not a number where an axis that is made finer is
        not known, or an estimate is too unsure to be told."""
        if (self.deviation or 0.0) > _UNSURE:
            return torch.full((3, 2), torch.nan)
        rows = [
            (1.0, 1.0) if s <= 1 + 1e-3 else (np.nan, np.nan) if spread is None else spread.transfer(float(s))
            for spread, s in zip(self.spreads, scale, strict=True)
        ]
        return torch.tensor(rows, dtype=torch.float32)

    def measured_mm(self, spacing_mm: Sequence[float] | NDArray[Any]) -> list[float]:
        """Resolution along each axis, of voxels stored with ``spacing_mm``."""
        # an axis that is judged by its spectra alone is not finer than its voxels
        known = [guess is None and spread is not None for spread, guess in zip(self.spreads, self.guessed, strict=True)]
        widths = [s.thickness if k and s is not None else 1.0 for s, k in zip(self.spreads, known, strict=True)]
        return [float(s / share * w) for s, share, w in zip(spacing_mm, self.shares, widths, strict=True)]

    def sentence(self, spacing_mm: Sequence[float] | NDArray[Any]) -> str:
        """For people: what was measured, in mm, and who says so."""
        sure = [s for s, guess in zip(self.spreads, self.guessed, strict=True) if s is not None and guess is None]
        kind = f", {sure[0].profile} profile" if sure else ""
        who = {
            "told": "as told",
            "header": "by the header",
            "image": f"estimated from the image, ± {self.deviation or 0:.2f} at Nyquist",
            "unknown": "blur not known: the network guesses it",
        }[self.said_by]
        if not sure and self.said_by == "image":
            unsure = max((guess for guess in self.guessed if guess is not None), default=0.0)
            who = "too few voxels to judge the blur, which is taken as sharp"
            if unsure < UNSEEN:
                who = f"blur judged by the spectra, ± {unsure:.2f} at Nyquist, and taken on the sharp side"
        stored = " x ".join(f"{s:.2g}" for s in spacing_mm)
        note = f"voxels {stored} mm" + (": interpolated by the scanner" if min(self.shares) < 1 else "")
        measured = " x ".join(f"{m:.2g}" for m in self.measured_mm(spacing_mm))
        return f"measured resolution {measured} mm ({note}){kind}, {who}"

    def record(self, spacing_mm: Sequence[float] | NDArray[Any]) -> dict[str, Any]:
        """For the JSON record."""
        return {
            "sentence": self.sentence(spacing_mm),
            "said_by": self.said_by,
            "point_spread": [None if s is None else str(s) for s in self.spreads],
            "measured_mm": [round(m, 3) for m in self.measured_mm(spacing_mm)],
            "measured_share": [round(s, 3) for s in self.shares],
            **({} if self.deviation is None else {"deviation_at_nyquist": self.deviation}),
            **({} if self.guessed == (None, None, None) else {"guessed_deviation_at_nyquist": list(self.guessed)}),
        }


def _slice_axis(spacing_mm: NDArray[np.float64]) -> int:
    return int(spacing_mm.argmax()) if spacing_mm.max() > 1.001 * spacing_mm.min() else 2


def from_spectra(volume: torch.Tensor, axis: int, spacing_mm: Sequence[float]) -> tuple[PointSpread, float]:
    """Judge the blur along an axis that nothing is known of, on the sharp side; and its standard deviation at Nyquist.

    Args:
        volume: [X, Y, Z].
        axis: the one that is asked about.
        spacing_mm: of its voxels along X, Y, Z.
    """
    features = spectral_features(volume, axis, spacing_mm)
    if features is None:
        return _SHARP, UNSEEN
    with torch.no_grad():
        mean, std = _estimator()(torch.from_numpy(features)[None])[0]
    half, whole = (mean + _CAUTION * std).clamp(max=1.0).tolist()
    spread = PointSpread.from_transfer(half, whole)
    return spread if spread.thickness >= 0.7 else _SHARP, round(float(std[1]), 3)


@lru_cache(maxsize=1)
def _estimator() -> torch.nn.Module:
    """Weights that come with the package (made by ``python -m custom_nets.apps.fit_blur_estimator``)."""
    return load_network(Path(__file__).with_name("blur_estimator.pt"))


def to_measured(volume: torch.Tensor, grid: Grid, shares: Sequence[float]) -> tuple[torch.Tensor, Grid]:
    """The scan on the voxels that were measured, without what the scanner put between them.

    Args:
        volume: [X, Y, Z] on ``grid``.
        shares: of each axis' band that was measured.

    Returns:
        A volume of fewer voxels that covers the same field of view, and its grid.
    """
    coarse = grid.rescaled([max(round(n * share), 1) / n for n, share in zip(grid.shape, shares, strict=True)])
    return degrade(volume.float(), coarse.shape, "kspace"), coarse
