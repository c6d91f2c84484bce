"""Fixed validation cases: the same crop, degradation and points in every epoch and in every run."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import convert_to_tensor

from custom_nets.geometry import Grid, as_triple
from custom_nets.operators.interpolation import apply_separable, bspline_coefficients, bspline_matrix, sample_bspline
from custom_nets.operators.slice_profile import PointSpread, degrade

__all__ = ["FixedPointsd", "FixedThickSlicesd"]


class FixedPointsd(MapTransform):
    """From a high-resolution volume [1, X, Y, Z] make a low-resolution crop, and points with their true intensities.

    The crop lies in the middle of the volume; its axes are sorted by scale, the order that
    :class:`custom_nets.networks.ResidualArSSR` takes. Nothing is drawn anew, so epochs and runs can be compared.

    Gives, besides the LR crop under its key: ``positions`` [K, 3] in LR voxels, ``label`` [K, 1], ``bspline`` [K, 1]
    (edge-aligned cubic B-spline at the points: what has to be beaten), ``scale`` [3], ``mtf`` [3, 2], ``profile`` and
    ``truth`` [1, X', Y', Z'].

    Args:
        keys: one key, the volume, of about [0, 1].
        crop_size: largest number of HR voxels per axis.
        num_points: K, drawn once from the foreground (above 2 % of the maximum).
        margin: LR voxels between the points and the faces of the crop, where it has no neighbours.
        scale: used for items without a ``scale`` of their own.
        profile: point spread of the degradation, for items without a ``profile`` of their own.
        seed: of the points.

    Raises:
        ValueError: the volume is too small for the scale, or the crop is empty.
    """

    def __init__(
        self,
        keys: KeysCollection,
        crop_size: int = 96,
        num_points: int = 50000,
        margin: float = 2.0,
        scale: float | Sequence[float] = 2.0,
        profile: str = "gaussian",
        seed: int = 0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.crop_size = crop_size
        self.num_points = num_points
        self.margin = margin
        self.scale = as_triple(scale, "scale")
        self.profile = profile
        self.seed = seed

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        key = self.first_key(d)
        volume = convert_to_tensor(d[key], dtype=torch.float32, track_meta=False)
        scale = as_triple(d.get("scale", self.scale), "scale")
        order = [int(a) for a in np.argsort(scale, kind="stable")]
        scale = scale[order]
        volume = volume.permute(0, *(a + 1 for a in order))

        coarse_shape = [int(min(n, self.crop_size) / s) for n, s in zip(volume.shape[1:], scale, strict=True)]
        shape = [round(m * s) for m, s in zip(coarse_shape, scale, strict=True)]
        if min(coarse_shape) <= 2 * self.margin + 1:
            raise ValueError(
                f"the volume {tuple(data[key].shape[1:])} is too small to validate at scale {scale.tolist()}: "
                "hold out a larger one or change validation_scales."
            )
        start = [(n - m) // 2 for n, m in zip(volume.shape[1:], shape, strict=True)]
        box = (slice(None), *(slice(a, a + n) for a, n in zip(start, shape, strict=True)))
        truth = volume[box].contiguous()
        spread = PointSpread.of(d.get("profile", self.profile))
        coarse = degrade(truth, coarse_shape, spread)

        exact = torch.as_tensor([n / m for n, m in zip(shape, coarse_shape, strict=True)])
        index = self._points(truth[0], exact)
        positions = (index + 0.5) / exact - 0.5
        d[key] = coarse
        d["positions"] = positions.float()
        d["label"] = truth[0][index[:, 0], index[:, 1], index[:, 2]][:, None]
        d["bspline"] = sample_bspline(bspline_coefficients(coarse[None]), positions.float()[None])[0][:, None]
        d["scale"] = exact.float()
        d["mtf"] = torch.tensor([spread.transfer(float(s)) for s in exact])
        d["profile"] = spread.profile
        d["truth"] = truth
        return d

    def _points(self, truth: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
        """HR voxels [K, 3] in the foreground, away from the faces."""
        foreground = truth > 0.02 * truth.max()
        for axis in range(3):
            edge = int(np.ceil(self.margin * float(scale[axis])))
            foreground.movedim(axis, 0)[:edge] = False
            foreground.movedim(axis, 0)[truth.shape[axis] - edge :] = False
        candidates = foreground.nonzero()
        if len(candidates) == 0:
            raise ValueError("the middle of a validation volume is empty: hold out another one.")
        chosen = np.random.RandomState(self.seed).randint(len(candidates), size=self.num_points)
        return candidates[torch.as_tensor(chosen)]


class FixedThickSlicesd(MapTransform):
    """From a high-resolution volume [1, X, Y, Z] make a stack of thick slices, to be brought back as a whole volume.

    The middle of the volume is cut out; its last axis becomes the thick one, the same way for every epoch and run.

    Gives the stack [1, X', Y', m] under its key, with an affine (rows of 1 mm); ``label`` and ``bspline``
    [1, X', Y', Z']: truth, and cubic B-spline of the slices, outer edges aligned (what has to be beaten); ``scale``
    [3]: (1, 1, factor); ``profile``, also as ``point_spread`` among the meta data of the stack.

    Args:
        keys: one key, the volume, of about [0, 1].
        crop_size: largest number of voxels per axis; None for the whole volume.
        axis: of the volume, that the slices are stacked along.
        scale: used for items without a ``scale`` of their own; the largest of three counts.
        profile: point spread of the degradation, for items without a ``profile`` of their own.

    Raises:
        ValueError: the volume is too small for the scale, or the crop is empty.
    """

    def __init__(
        self,
        keys: KeysCollection,
        crop_size: int | None = 96,
        axis: int = 2,
        scale: float | Sequence[float] = 4.0,
        profile: str = "gaussian",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if axis not in (0, 1, 2):
            raise ValueError(f"axis must be 0, 1 or 2, got {axis!r}.")
        self.crop_size = crop_size
        self.axis = axis
        self.scale = scale
        self.profile = profile

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        key = self.first_key(d)
        volume = convert_to_tensor(d[key], dtype=torch.float32, track_meta=False).movedim(1 + self.axis, -1)
        factor = float(np.max(as_triple(d.get("scale", self.scale), "scale")))
        largest = self.crop_size or max(volume.shape)
        x, y, z = (min(n, largest) for n in volume.shape[1:])
        slices = int(z / factor)
        if slices < 4:
            raise ValueError(
                f"the volume {tuple(data[key].shape[1:])} is too small to validate at scale {factor:g}: hold out a "
                "larger one or change validation_scales."
            )
        shape = (x, y, round(slices * factor))
        start = [(n - m) // 2 for n, m in zip(volume.shape[1:], shape, strict=True)]
        box = (slice(None), *(slice(a, a + n) for a, n in zip(start, shape, strict=True)))
        truth = volume[box].contiguous()
        if not bool(truth.max() > 0):
            raise ValueError("the middle of a validation volume is empty: hold out another one.")
        fine = Grid(shape, np.eye(4))
        coarse = fine.rescaled([1.0, 1.0, slices / shape[2]])
        spread = PointSpread.of(d.get("profile", self.profile))
        stack = degrade(truth, coarse.shape, spread)
        factor = shape[2] / slices
        positions = (torch.arange(shape[2], dtype=torch.float64) + 0.5) / factor - 0.5
        d["profile"] = spread.profile
        d[key] = MetaTensor(stack, affine=torch.as_tensor(coarse.affine), meta={"point_spread": spread.profile})
        d["label"] = truth
        d["bspline"] = apply_separable(stack, [None, None, bspline_matrix(slices, positions).float()])
        d["scale"] = torch.tensor([1.0, 1.0, factor])
        return d
