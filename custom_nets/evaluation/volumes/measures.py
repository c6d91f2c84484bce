"""Measures of an evaluation that are more than one number: tissues, flicker, padded 8-bit slices, lesions.

A measure is a function of a :class:`Case` that gives a function of a volume: what belongs to the truth (its tissue map)
is computed once, what belongs to a method for each. Either may leave things out with a note instead of a number.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from custom_nets.evaluation.volumes.lesions import lesion_kept, planted
from custom_nets.geometry import Grid, nearest_axes
from custom_nets.metrics.flicker import brightness_jump, error_gradient
from custom_nets.metrics.published_transmrsr import mean_plane_scores, plane_scores
from custom_nets.metrics.tissues import (
    LARGEST_BRAIN_ML,
    TISSUES,
    segment_tissues,
    tissue_dice,
    tissue_volumes_ml,
)
from custom_nets.networks.layers.imagenet import to_imagenet_units
from custom_nets.transforms.intensity import unit_range
from custom_nets.transforms.published_transmrsr import pad_or_crop

__all__ = ["MEASURES", "Case", "Measure", "Value", "thick_axis_of"]

logger = logging.getLogger(__name__)

Value = tuple[str, str, float]  # region, metric, value


@dataclass
class Case:
    """What the volumes of one case are measured against.

    Attributes:
        name: of the case.
        truth: [X, Y, Z].
        mask: [X, Y, Z] the brain, in the input's field of view.
        data_range: of the truth in the brain.
        grid: of the truth.
        source: grid of the input.
        contrast: of the scan, "T1" or another.
        reference: what B-spline interpolation makes of the input, if it is measured too.
        item: everything else that is known.
        kept: results that may serve the next case, if it is the same scan.
        tissue_maps: filled by the measures, for pictures: method (or "truth") -> labels.
        rows: filled by the measures: name of a table -> rows.
        notes: filled by the measures: what was left out and why.
    """

    name: str
    truth: NDArray
    mask: NDArray[np.bool_]
    data_range: float
    grid: Grid
    source: Grid
    contrast: str = "T1"
    reference: NDArray | None = None
    item: Mapping[Hashable, Any] = field(default_factory=dict)
    kept: dict[str, Any] = field(default_factory=dict)
    tissue_maps: dict[str, NDArray] = field(default_factory=dict)
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def leave_out(self, what: str, why: str) -> None:
        """Say that something is not measured."""
        self.notes.append(f"{what} left out: {why}")
        logger.warning("case '%s': %s left out: %s", self.name, what, why)

    @property
    def ml(self) -> float:
        """Volume of the mask in millilitres."""
        return float(self.mask.sum() * np.prod(self.grid.spacing_mm)) / 1000


Measure = Callable[[Case], "Callable[[str, NDArray], list[Value]] | None"]  # (method, volume) -> values


def thick_axis_of(source: Grid, target: Grid) -> int:
    """The axis of ``target`` along which ``source`` is coarsest (for equal ones the last)."""
    steps = np.abs(target.index_map(source)[:3, :3]).max(1)  # steps of the source in target voxels
    return int(2 - steps[::-1].round(6).argmax())


def tissues_of(case: Case) -> NDArray[np.uint8] | None:
    """Tissue map of a truth, segmented once per scan and mask; None (with a note) where there can be none."""
    if case.contrast.upper() not in ("T1", "T1W"):
        case.leave_out("tissues", f"they are told apart on T1-weighted scans only, contrast is {case.contrast!r}")
        return None
    if case.ml > LARGEST_BRAIN_ML:
        case.leave_out(
            "tissues",
            f"a mask of {case.ml:.0f} ml is more than a brain: strip the skull or give a brain mask (masks)",
        )
        return None
    key = (case.name, case.mask.tobytes().__hash__(), float(case.truth.sum(dtype=np.float64)))
    if case.kept.get("tissues", (None, None))[0] != key:
        case.kept["tissues"] = (key, segment_tissues(case.truth, case.mask, case.contrast))
    return case.kept["tissues"][1]


def _tissues(case: Case) -> Callable[[str, NDArray], list[Value]] | None:
    """Dice of the tissues with the truth's, their volumes, and how far these are from the truth's."""
    truth = tissues_of(case)
    if truth is None:
        return None
    case.tissue_maps["truth"] = truth
    size = case.grid.spacing_mm
    true_ml = tissue_volumes_ml(truth, size)

    def measure(method: str, volume: NDArray) -> list[Value]:
        labels = segment_tissues(volume, case.mask, case.contrast)
        case.tissue_maps[method] = labels
        ml = tissue_volumes_ml(labels, size)
        case.rows.setdefault("volumes_ml", []).extend(
            {"method": method, "tissue": t, "ml": ml[t], "truth_ml": true_ml[t]} for t in TISSUES
        )
        values = [("brain", f"dice_{tissue}", dice) for tissue, dice in tissue_dice(labels, truth).items()]
        return values + [("brain", f"{t}_error_ml", abs(ml[t] - true_ml[t])) for t in TISSUES]

    return measure


def _flicker(case: Case) -> Callable[[str, NDArray], list[Value]]:
    """Both numbers of ``custom_nets.metrics.flicker`` in % of the data range: along the thick axis ("thick") and along
    the worse of the other two ("across": there the neighbours of planes that were made one by one lie); and how many
    times those of B-spline they are ("_ratio"), if that is measured too."""
    thick = thick_axis_of(case.source, case.grid)

    def numbers(volume: NDArray) -> dict[str, float]:
        found = {}
        for name, function in (("gradient", error_gradient), ("jump", brightness_jump)):
            along = [100 * function(volume, case.truth, case.mask, axis) / case.data_range for axis in range(3)]
            found[f"{name}_thick"] = along.pop(thick)
            found[f"{name}_across"] = max(along)
        return found

    reference = None if case.reference is None else numbers(case.reference)

    def measure(method: str, volume: NDArray) -> list[Value]:
        own = numbers(volume)
        values = [("brain", name, value) for name, value in own.items()]
        for name, value in (reference or {}).items():
            if value > 0:
                values.append(("brain", f"{name}_ratio", own[name] / value))
        return values

    return measure


def _padded_slices(case: Case) -> Callable[[str, NDArray], list[Value]]:
    """The TransMRSR code's scores of 8-bit planes, padded to 256 x 256, mean over the planes that show something.

    Planes are sagittal, or axial where the thick axis runs from left to right; both volumes are rounded to 8 bits in
    the window of the truth (its minimum to the 99.9th percentile).
    """
    order, _ = nearest_axes(case.grid.affine)
    across = order[0] if thick_axis_of(case.source, case.grid) != order[0] else order[2]
    low, high = unit_range(case.truth)
    shown = np.flatnonzero((case.truth > low).any(tuple(a for a in range(3) if a != across)))

    def planes(volume: NDArray) -> torch.Tensor:
        levels = np.round(255 * np.clip((np.moveaxis(volume, across, 0)[shown] - low) / (high - low), 0, 1))
        padded, _ = pad_or_crop(torch.from_numpy((levels / 255).astype(np.float32)))
        return to_imagenet_units(padded[:, None].expand(-1, 3, -1, -1))

    truth = planes(case.truth)

    def measure(method: str, volume: NDArray) -> list[Value]:
        pairs = zip(planes(volume), truth, strict=True)
        means = mean_plane_scores([plane_scores(image, true) for image, true in pairs])
        return [("whole", f"padded_{name}", value) for name, value in means.items()]

    return measure


def _lesions(case: Case) -> Callable[[str, NDArray], list[Value]]:
    """Contrast and volume kept of planted lesions, mean of each diameter in %; contrast also against B-spline's."""
    known = planted(case.item)
    if known is None:
        raise ValueError(f"case '{case.name}' has no planted lesions: put PlantLesionsd before MakeInputd.")

    lesions, white, amplitude = known

    def kept(volume: NDArray) -> list[dict[str, Any]]:
        return lesion_kept(volume, case.truth, lesions, white, case.grid.spacing_mm, amplitude)

    def means(rows: list[dict[str, Any]], column: str) -> dict[float, float]:
        diameters = sorted({row["diameter_mm"] for row in rows})
        return {d: float(np.nanmean([row[column] for row in rows if row["diameter_mm"] == d])) for d in diameters}

    reference = None if case.reference is None else means(kept(case.reference), "contrast_percent")

    def measure(method: str, volume: NDArray) -> list[Value]:
        rows = kept(volume)
        case.rows.setdefault("lesions", []).extend({"method": method, **row} for row in rows)
        contrast, size = means(rows, "contrast_percent"), means(rows, "volume_percent")
        values = []
        for d in contrast:
            values += [("lesions", f"contrast_{d:g}mm", contrast[d]), ("lesions", f"volume_{d:g}mm", size[d])]
            if reference is not None and reference[d] > 0:
                values.append(("lesions", f"contrast_{d:g}mm_ratio", contrast[d] / reference[d]))
        return values

    return measure


MEASURES: dict[str, Measure] = {"tissues": _tissues, "padded": _padded_slices, "flicker": _flicker, "lesions": _lesions}
