"""Are small lesions kept? Synthetic ones are put into the truth's white matter, and looked for in the results.

A lesion is an ellipsoid with a smooth edge, darker (as on T1) or brighter (as on T2 and FLAIR) than the white matter
around it. It is put into the truth *before* the thick slices are made, so every method sees what a scanner would have
shown of it. Per lesion and method:

* *contrast*: mean in the lesion (weighted by how much of each voxel it fills) minus mean in a shell of white matter 1-3
  mm outside of its edge, in % of the same difference in the truth;
* *volume*: what differs from the shell by more than half of the planted amplitude, inside the lesion's reach (2 mm
  beyond its edge), in % of the same volume in the truth. A lesion blurred below half of its amplitude has none.

An untouched truth has 100 % of both.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Transform
from numpy.typing import NDArray

from custom_nets.geometry import Grid
from custom_nets.metrics import image_quality as iq
from custom_nets.metrics.tissues import LARGEST_BRAIN_ML, TISSUES, segment_tissues

__all__ = ["KINDS", "Lesion", "PlantLesionsd", "lesion_kept", "place_lesions", "plant", "planted"]

logger = logging.getLogger(__name__)

KINDS = {"dark": -1, "bright": 1}
EDGE_MM = 0.4  # of the logistic edge: 12-88 % over about 0.8 mm
GAP_MM = 1.0  # between the edge and the shell
SHELL_MM = 2.0  # how thick the shell is
REACH_MM = 2.0  # beyond the edge, where its volume is looked for
APART_MM = 5.0  # between the edges of two lesions


@dataclass(frozen=True)
class Lesion:
    """One lesion.

    Attributes:
        diameter_mm: of the sphere of the same volume.
        kind: "dark" or "bright".
        centre: in voxels.
        radii_mm: along the volume's three axes.
    """

    diameter_mm: float
    kind: str
    centre: tuple[float, float, float]
    radii_mm: tuple[float, float, float]

    def around(self, shape: Sequence[int], voxel_mm: NDArray) -> tuple[slice, ...]:
        """The part of a volume that holds lesion and shell."""
        reach = (max(self.radii_mm) + GAP_MM + SHELL_MM) / voxel_mm + 2
        return tuple(
            slice(max(0, int(c - r)), min(n, int(c + r) + 2)) for c, r, n in zip(self.centre, reach, shape, strict=True)
        )

    def distance_mm(self, where: tuple[slice, ...], voxel_mm: NDArray, parts: int = 1) -> NDArray:
        """About the distance from the lesion's edge (negative inside) at points [x, y, z] of a part of the volume,
        ``parts`` points along each axis of a voxel."""
        steps = (np.arange(parts) + 0.5) / parts - 0.5
        squares, size = [], float(np.prod(self.radii_mm)) ** (1 / 3)
        for axis, (part, centre, radius) in enumerate(zip(where, self.centre, self.radii_mm, strict=True)):
            points = (np.arange(part.start, part.stop)[:, None] + steps).ravel()
            squares.append(((points - centre) * voxel_mm[axis] / radius) ** 2)
        along = squares[0][:, None, None] + squares[1][:, None] + squares[2]
        return (np.sqrt(along) - 1) * size

    def filled(self, where: tuple[slice, ...], voxel_mm: NDArray, parts: int = 4) -> NDArray:
        """How much of each voxel the lesion fills, 0 to 1."""
        at = self.distance_mm(where, voxel_mm, parts)
        profile = 1 / (1 + np.exp(np.clip(at / (EDGE_MM / 2), -50, 50)))
        a, b, c = (n // parts for n in profile.shape)
        return profile.reshape(a, parts, b, parts, c, parts).mean((1, 3, 5))


def place_lesions(
    white: NDArray[np.bool_],
    voxel_mm: NDArray,
    diameters_mm: Sequence[float] = (2, 3, 4, 6, 8),
    count: int = 6,
    seed: int = 0,
) -> list[Lesion]:
    """Lesions at random places of the white matter, none near another or near its edge; the large ones first.

    Args:
        white: [X, Y, Z] where white matter is.
        voxel_mm: size of a voxel along the three axes.
        diameters_mm: of the lesions.
        count: lesions of each diameter, half of them dark and half bright; fewer where no more fit.
        seed: of places and shapes.

    Returns:
        The lesions; their axes differ by up to a quarter.
    """
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    depth = ndimage.distance_transform_edt(white, sampling=voxel_mm)
    lesions: list[Lesion] = []
    for diameter in sorted(diameters_mm, reverse=True):
        need = diameter / 2 + 0.5 * GAP_MM + 0.5
        candidates = rng.permutation(np.argwhere(depth >= need))
        placed = 0
        for candidate in candidates:
            if placed == count:
                break
            centre = candidate + rng.uniform(-0.5, 0.5, 3)
            apart = [
                np.linalg.norm((centre - other.centre) * voxel_mm) - (diameter + other.diameter_mm) / 2
                for other in lesions
            ]
            if apart and min(apart) < APART_MM:
                continue
            shape = rng.uniform(-np.log(1.25), np.log(1.25), 3) / 2
            radii = diameter / 2 * np.exp(shape - shape.mean())
            kind = list(KINDS)[placed % len(KINDS)]
            lesions.append(
                Lesion(float(diameter), kind, tuple(map(float, centre)), tuple(map(float, radii)))  # type: ignore[arg-type]
            )
            placed += 1
        if placed < count:
            logger.warning("only %d of %d lesions of %g mm fit into the white matter.", placed, count, diameter)
    return lesions


def plant(volume: NDArray, lesions: Sequence[Lesion], voxel_mm: NDArray, amplitude: float) -> NDArray[np.float32]:
    """A copy of a volume with lesions in it, each brighter or darker by ``amplitude``."""
    out = np.array(volume, dtype=np.float32)
    for lesion in lesions:
        where = lesion.around(volume.shape, voxel_mm)
        out[where] += KINDS[lesion.kind] * amplitude * lesion.filled(where, voxel_mm).astype(np.float32)
    return out


class _LesionProbe:
    """Where a lesion is looked for: the part of the volume, how far each voxel is filled, shell and reach."""

    def __init__(self, lesion: Lesion, white: NDArray[np.bool_], voxel_mm: NDArray, amplitude: float) -> None:
        self.where = lesion.around(white.shape, voxel_mm)
        self.sign = KINDS[lesion.kind]
        self.half = amplitude / 2
        self.voxel_mm3 = float(np.prod(voxel_mm))
        at = lesion.distance_mm(self.where, voxel_mm)
        own = white[self.where]
        self.filled = lesion.filled(self.where, voxel_mm) * own
        self.shell = (at > GAP_MM) & (at <= GAP_MM + SHELL_MM)
        if (self.shell & own).any():
            self.shell &= own
        self.reach = (at <= REACH_MM) & (own | (at <= 0))

    def measure(self, volume: NDArray) -> tuple[float, float]:
        """Contrast (in the volume's unit, positive where it is of the right sign) and volume (mm³)."""
        part = volume[self.where].astype(np.float64)
        differs = self.sign * (part - part[self.shell].mean())
        contrast = float((differs * self.filled).sum() / self.filled.sum())
        return contrast, float(((differs > self.half) & self.reach).sum() * self.voxel_mm3)


def lesion_kept(
    volume: NDArray,
    truth: NDArray,
    lesions: Sequence[Lesion],
    white: NDArray[np.bool_],
    voxel_mm: NDArray,
    amplitude: float,
) -> list[dict[str, Any]]:
    """What is left of each lesion: see the module.

    Args:
        volume: [X, Y, Z], what a method made.
        truth: [X, Y, Z] with the lesions.
        lesions: of :func:`place_lesions`.
        white: white matter of the truth before the lesions came.
        voxel_mm: size of a voxel.
        amplitude: that they were planted with.

    Returns:
        Rows with diameter_mm, kind, x, y, z (voxels), contrast_percent, volume_percent (NaN if the truth shows none).
    """
    rows = []
    for lesion in lesions:
        probe = _LesionProbe(lesion, white, voxel_mm, amplitude)
        (true_contrast, true_volume), (contrast, size) = probe.measure(truth), probe.measure(volume)
        x, y, z = lesion.centre
        rows.append(
            {
                "diameter_mm": lesion.diameter_mm,
                "kind": lesion.kind,
                "x": x,
                "y": y,
                "z": z,
                "contrast_percent": 100 * contrast / true_contrast,
                "volume_percent": 100 * size / true_volume if true_volume else float("nan"),
            }
        )
    return rows


def planted(item: Mapping[Any, Any]) -> tuple[list[Lesion], NDArray[np.bool_], float] | None:
    """What :class:`PlantLesionsd` put into an item: lesions, white matter, amplitude; None if nothing."""
    if "lesions" not in item:
        return None
    known = json.loads(item["lesions"])
    lesions = [
        Lesion(**{**one, "centre": tuple(one["centre"]), "radii_mm": tuple(one["radii_mm"])})
        for one in known["lesions"]
    ]
    return lesions, np.asarray(item["lesion_white"].cpu())[0] > 0, known["amplitude"]


class PlantLesionsd(Transform):
    """Put lesions into the truth "label", before anything is made of it.

    The white matter is that of ``segment_tissues``; adds "lesions" and "lesion_white" (see :func:`planted`) for the
    measure "lesions" of ``ScoreMethodsd``. Real pairs are refused: their input does not know the lesions.

    Args:
        diameters_mm, count, seed: see :func:`place_lesions`.
        amplitude: how much darker or brighter, as a share of the white matter's median.
        contrast: of the scans, "T1".

    Raises:
        ValueError: a real pair, a scan that cannot be segmented, no place for a single lesion.
    """

    def __init__(
        self,
        diameters_mm: Sequence[float] = (2, 3, 4, 6, 8),
        count: int = 6,
        seed: int = 0,
        amplitude: float = 0.35,
        contrast: str = "T1",
    ) -> None:
        if not diameters_mm or min(diameters_mm) <= 0 or count < 1 or not amplitude > 0:
            raise ValueError(
                f"diameters_mm, count and amplitude must be above zero, got {list(diameters_mm)}, {count}, {amplitude}."
            )
        self.diameters_mm = tuple(diameters_mm)
        self.count = count
        self.seed = seed
        self.amplitude = amplitude
        self.contrast = contrast
        self._white: tuple[Any, NDArray[np.bool_]] | None = None  # of the last case: its degradations follow each other

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        if "image" in d:
            raise ValueError(f"case '{d['case']}' is a real pair: its thick slices show no lesions planted afterwards.")
        truth = d["label"][0].detach().as_subclass(torch.Tensor).cpu().numpy()
        grid = Grid.of(d["label"])
        key = (d["case"], float(truth.sum(dtype=np.float64)))
        if self._white is None or self._white[0] != key:
            mask = d["mask"][0].numpy() > 0 if "mask" in d else iq.brain_mask(truth)
            ml = float(mask.sum() * np.prod(grid.spacing_mm)) / 1000
            if ml > LARGEST_BRAIN_ML:
                raise ValueError(
                    f"case '{d['case']}': a mask of {ml:.0f} ml is more than a brain; strip the skull or give a brain "
                    "mask (masks)."
                )
            self._white = (key, segment_tissues(truth, mask, self.contrast) == TISSUES["wm"])
        white = self._white[1]
        lesions = place_lesions(white, grid.spacing_mm, self.diameters_mm, self.count, self.seed)
        if not lesions:
            raise ValueError(f"case '{d['case']}': no place for a single lesion in the white matter.")
        amplitude = self.amplitude * float(np.median(truth[white]))
        planted = plant(truth, lesions, grid.spacing_mm, amplitude)
        meta = {name: value for name, value in d["label"].meta.items() if name != "affine"}
        d["label"] = MetaTensor(torch.from_numpy(planted[None]), affine=d["label"].affine, meta=meta)
        # text and tensor: what MONAI's collation carries
        d["lesions"] = json.dumps({"amplitude": amplitude, "lesions": [asdict(lesion) for lesion in lesions]})
        d["lesion_white"] = torch.from_numpy(white[None])
        return d
