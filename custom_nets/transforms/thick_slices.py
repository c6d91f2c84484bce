"""Training pairs of planes that contain the thick axis: interpolated thick slices, and what thin ones show."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor

from custom_nets.operators.interpolation import bspline_matrix
from custom_nets.operators.slice_profile import point_spread_matrix
from custom_nets.transforms.degradation import RandAcquisition
from custom_nets.transforms.intensity import foreground_floor

__all__ = ["RandSlabd", "RandThickSlicesd", "SlabToPlaned"]


class RandSlabd(RandomizableTransform, MapTransform):
    """Cut a slab of neighbouring planes out of a volume [1, X, Y, Z], of any of the three orientations.

    Gives [1, R, C, S]: rows along the axis that will be thick, columns, planes. R is ``rows`` and up to ``margin`` more
    on each side, where the volume goes on; S is ``slices`` and ``blur_margin`` more on each side (mirrored beyond the
    volume) for transforms that look at neighbours. Adds ``first_row`` (int): where the patch's first row lies in R.

    Args:
        keys: the high-resolution volume.
        rows, columns: of the patch that is wanted in the end.
        slices: neighbouring planes, an odd number.
        margin: rows on each side that slice profiles and interpolation may need.
        blur_margin: planes on each side.
        foreground: share of slabs whose centre must lie where the volume is above its ``floor`` (from
            :class:`custom_nets.transforms.LoadSubjectd`; 2 % of the maximum where there is none).

    Raises:
        ValueError: a volume smaller than the patch along any axis.
    """

    def __init__(
        self,
        keys: KeysCollection,
        rows: int = 64,
        columns: int = 64,
        slices: int = 5,
        margin: int = 32,
        blur_margin: int = 2,
        foreground: float = 0.95,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        self.size = (rows, columns, slices)
        self.margin = margin
        self.blur_margin = blur_margin
        self.foreground = foreground

    def randomize(self, volume: torch.Tensor, floor: float | None = None) -> None:  # type: ignore[override]
        """Draw orientation and place for ``volume`` [1, X, Y, Z], whose foreground is above ``floor``."""
        self.axes = [int(a) for a in self.R.permutation(3)]
        full = np.array([volume.shape[1 + a] for a in self.axes])
        if (full < self.size).any():
            raise ValueError(
                f"the volume {tuple(volume.shape[1:])} is smaller than a patch of {self.size[0]} x {self.size[1]} "
                f"pixels in {self.size[2]} planes: give larger volumes or a smaller patch."
            )
        floor = foreground_floor(volume) if floor is None else floor
        turned = volume[0].permute(*self.axes)
        for _ in range(20):
            self.start = np.array([self.R.randint(0, n - m + 1) for n, m in zip(full, self.size, strict=True)])
            centre = tuple(int(a + m // 2) for a, m in zip(self.start, self.size, strict=True))
            if self.R.rand() > self.foreground or bool(turned[centre] > floor):
                break
        self.flips = [axis for axis in range(3) if self.R.rand() < 0.5]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        self.randomize(convert_to_tensor(d[self.first_key(d)], track_meta=False), d.get("floor"))
        rows, columns, slices = self.size
        for key in self.key_iterator(d):
            turned = convert_to_tensor(d[key], track_meta=False)[0].permute(*self.axes)
            low, high = max(self.start[0] - self.margin, 0), self.start[0] + rows + self.margin
            part = turned[low:high, self.start[1] : self.start[1] + columns]
            planes = np.arange(self.start[2] - self.blur_margin, self.start[2] + slices + self.blur_margin)
            n = turned.shape[2]
            planes = np.where(planes < 0, -1 - planes, np.where(planes >= n, 2 * n - 1 - planes, planes)).clip(0, n - 1)
            part = part[:, :, torch.as_tensor(planes)]
            d[key] = part.flip(self.flips)[None].contiguous()
            first = int(self.start[0] - low)
            d["first_row"] = part.shape[0] - rows - first if 0 in self.flips else first
        return d


class SlabToPlaned(MapTransform):
    """The middle plane [1, rows, C] of a slab of :class:`RandSlabd`, for networks that see one plane at a time."""

    def __init__(self, keys: KeysCollection, rows: int = 64, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.rows = rows

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        first = d.pop("first_row")
        for key in self.key_iterator(d):
            slab = convert_to_tensor(d[key], dtype=torch.float32, track_meta=False)
            d[key] = slab[:, first : first + self.rows, :, slab.shape[-1] // 2].contiguous()
        return d


class RandThickSlicesd(RandAcquisition):
    """From a slab of :class:`RandSlabd` make what a scan of thick slices, interpolated back, shows of it.

    Gives ``image`` [slices, rows, C], ``label`` [1, rows, C] (the middle plane, thin), ``scale`` (slice spacing over
    row spacing), ``position`` of the first row (in slice spacings, from the centre of a slice) and ``mtf`` [2] (the
    blur along the rows, :meth:`custom_nets.operators.slice_profile.PointSpread.transfer`, or not a number).

    Args:
        keys: one key, the slab.
        rows: of the patch.
        slices: neighbouring planes, an odd number.
        scale: range of the factor; half of the draws are rounded to whole factors.
        acquisition: point spread, noise, smoothness: :class:`custom_nets.transforms.degradation.RandAcquisition`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        rows: int = 64,
        slices: int = 5,
        scale: Sequence[float] = (2.0, 8.0),
        allow_missing_keys: bool = False,
        **acquisition: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys=allow_missing_keys, **acquisition)
        self.rows = rows
        self.slices = slices
        self.scale = (scale[0], scale[1])

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        key = self.first_key(d)
        first = int(d.pop("first_row"))
        slab = self.smoothed(convert_to_tensor(d[key], dtype=torch.float32, track_meta=False))[0]
        extra = (slab.shape[2] - self.slices) // 2
        slab = slab[:, :, extra : extra + self.slices]

        scale = self.R.uniform(*self.scale)
        if self.R.rand() < 0.5:  # whole factors are what evaluation and users ask for most
            scale = float(round(scale))
        spread = self.draw_spread()
        n = slab.shape[0]
        offset = self.R.uniform(0, scale)
        centres = np.arange(offset + scale / 2 - 0.5, n - scale / 2, scale)
        measured = torch.einsum("mn,ncs->mcs", point_spread_matrix(n, centres, scale, spread).float(), slab)
        measured = self.with_noise(measured)
        positions = (np.arange(first, first + self.rows) - centres[0]) / scale
        back = bspline_matrix(len(centres), positions).float()
        d[key] = torch.einsum("rm,mcs->src", back, measured)
        d["label"] = slab[first : first + self.rows, :, self.slices // 2][None].contiguous()
        d["scale"] = torch.tensor(scale, dtype=torch.float32)
        d["mtf"] = self.told([spread], [scale])[0]
        d["position"] = torch.tensor(positions[0], dtype=torch.float32)
        return d
