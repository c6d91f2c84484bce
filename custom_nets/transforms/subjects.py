"""Training volumes into memory."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import LoadImage, MapTransform

from custom_nets.transforms.intensity import foreground_floor, unit_range

__all__ = ["LoadSubjectd"]


class LoadSubjectd(MapTransform):
    """Load a high-resolution volume [1, X, Y, Z] for training.

    Scans are scaled to about [0, 1] as at inference; items with ``labels: True`` are label maps and stay integers. Adds
    ``floor``, the value that the foreground is above, so that no draw from the volume has to look for its maximum.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.load = LoadImage(reader="NibabelReader", image_only=True, ensure_channel_first=True)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            volume: MetaTensor = self.load(d[key])
            if d.get("labels", False):
                d[key] = volume.to(torch.int16)
            else:
                lo, hi = unit_range(volume.as_tensor())
                d[key] = (volume - lo) / (hi - lo)
            d["floor"] = foreground_floor(d[key].as_tensor())
        return d
