"""Intensities to the range that the networks see, and back."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from numpy.typing import ArrayLike

__all__ = ["RestoreIntensityd", "ScaleToUnitRanged", "foreground_floor", "unit_range"]

_LO, _HI = "intensity_lo", "intensity_hi"  # names in the meta: one plain float per channel each


def unit_range(values: ArrayLike, mode: str = "percentile", upper_percentile: float = 99.9) -> tuple[float, float]:
    """The values that become 0 and 1.

    Args:
        values: any shape, any units.
        mode: "percentile": minimum, and the ``upper_percentile`` of all values above the minimum (the background, if
            it is the minimum, does not count: the same head in a larger box gives the same range). "minmax": minimum
            and maximum, as the published weights were trained with.
        upper_percentile: above 0, at most 100.

    Raises:
        ValueError: constant or non-finite values, unknown mode.
    """
    array = np.asarray(values)
    lo, hi = float(array.min()), float(array.max())
    if not (np.isfinite(lo) and np.isfinite(hi)):
        raise ValueError(f"intensities must be finite, their minimum is {lo} and their maximum {hi}.")
    if lo == hi:
        raise ValueError(f"all intensities are {lo:g}: a constant image has no range.")
    if mode == "percentile":
        hi = float(np.percentile(array[array > lo], upper_percentile))
    elif mode != "minmax":
        raise ValueError(f"mode must be 'percentile' or 'minmax', got {mode!r}.")
    return lo, hi


class ScaleToUnitRanged(MapTransform):
    """Shift and scale each channel so that :func:`unit_range` becomes [0, 1]; nothing is clipped.

    ``meta`` keeps ``intensity_lo`` and ``intensity_hi`` (a list with one float per channel), so that
    :class:`RestoreIntensityd` undoes it.

    Args:
        keys: entries with a ``MetaTensor`` [C, ...] each.
        upper_percentile: of the values above the minimum that becomes 1, for mode "percentile".
        mode: "percentile" or "minmax" (published weights).
        allow_missing_keys: leave out keys that an item lacks.
    """

    def __init__(
        self,
        keys: KeysCollection,
        upper_percentile: float = 99.9,
        mode: str = "percentile",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if mode not in ("percentile", "minmax"):
            raise ValueError(f"mode must be 'percentile' or 'minmax', got {mode!r}.")
        if not 0 < upper_percentile <= 100:
            raise ValueError(f"upper_percentile must be above 0 and at most 100, got {upper_percentile!r}.")
        self.upper_percentile = float(upper_percentile)
        self.mode = mode

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            image = item[key]
            if not isinstance(image, MetaTensor):
                raise ValueError(f"'{key}' must be a MetaTensor, got {type(image).__name__}: load it with LoadVolumed.")
            channels = image.as_tensor().detach().float().cpu().numpy()
            ranges = [unit_range(channel, self.mode, self.upper_percentile) for channel in channels]
            lo, hi = (list(values) for values in zip(*ranges, strict=True))
            image = image.float()
            item[key] = (image - _column(lo, image)) / _column([h - low for low, h in ranges], image)
            item[key].meta.update({_LO: lo, _HI: hi})
        return item


class RestoreIntensityd(MapTransform):
    """Undo :class:`ScaleToUnitRanged`: back to the units of the input file.

    Args:
        keys: entries [C, ...] on the unit range, of any spatial size.
        ref_key: entry that went through :class:`ScaleToUnitRanged`; its range is used.
        allow_missing_keys: leave out keys that an item lacks.

    Raises:
        ValueError: values that are not finite: nothing that a network made of a scan may be written then.
    """

    def __init__(self, keys: KeysCollection = "pred", ref_key: str = "image", allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.ref_key = ref_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        meta = getattr(item.get(self.ref_key), "meta", {})
        if _LO not in meta or _HI not in meta:
            raise ValueError(f"'{self.ref_key}' has no intensity range in its meta: scale it with ScaleToUnitRanged.")
        lo, hi = ([float(value) for value in meta[name]] for name in (_LO, _HI))
        for key in self.key_iterator(item):
            image = item[key]
            if len(lo) not in (1, len(image)):
                raise ValueError(f"'{key}' has {len(image)} channels, '{self.ref_key}' has ranges for {len(lo)}.")
            if not bool(torch.isfinite(image).all()):
                raise ValueError(
                    f"the network gave {int((~torch.isfinite(image)).sum())} values that are NaN or infinite: nothing "
                    "is written. Check the checkpoint, and give --precision float32."
                )
            item[key] = image * _column([h - low for low, h in zip(lo, hi, strict=True)], image) + _column(lo, image)
        return item


def _column(values: list[float], image: torch.Tensor) -> torch.Tensor:
    """[C] -> [C, 1, 1, ...] like ``image``."""
    return torch.tensor(values, dtype=image.dtype, device=image.device).view(-1, *[1] * (image.ndim - 1))


def foreground_floor(volume: torch.Tensor) -> float:
    """Value that the foreground of a training volume is above: 2 % of its maximum, 0 of a label map (integers)."""
    return float(0.02 * volume.max()) if volume.is_floating_point() else 0.0
