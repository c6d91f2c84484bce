"""The uncertainty that an inferer gives besides its result, as a volume of its own."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

__all__ = ["SplitUncertaintyd"]


class SplitUncertaintyd(MapTransform):
    """Where a result has twice the channels of its input, the second half is its standard deviation: take it out.

    Put it before :class:`custom_nets.transforms.RestoreIntensityd`; the deviation is brought into the input's units
    here (it is scaled, not shifted).

    Args:
        keys: the result, [C, ...] (left as it is) or [2C, ...].
        ref_key: its input, [C, ...], that went through :class:`custom_nets.transforms.ScaleToUnitRanged`.
        uncertainty_key: of the standard deviation [C, ...]; not set where there is none.
        allow_missing_keys: leave out keys that an item lacks.
    """

    def __init__(
        self,
        keys: KeysCollection = "pred",
        ref_key: str = "image",
        uncertainty_key: str = "uncertainty",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        self.ref_key = ref_key
        self.uncertainty_key = uncertainty_key

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            reference, channels = d[self.ref_key], len(d[self.ref_key])
            if len(d[key]) != 2 * channels:
                continue
            meta = reference.meta
            spans = [float(hi) - float(lo) for lo, hi in zip(meta["intensity_lo"], meta["intensity_hi"], strict=True)]
            d[key], deviation = d[key][:channels], d[key][channels:]
            d[self.uncertainty_key] = deviation * deviation.new_tensor(spans).view(-1, 1, 1, 1)
        return d
