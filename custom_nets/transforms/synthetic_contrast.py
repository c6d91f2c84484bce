"""Synthetic scans of any contrast from label maps (after Billot et al., SynthSeg, 2023)."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
from monai.config import KeysCollection
from monai.transforms import GaussianSmooth, MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor

__all__ = ["RandContrastFromLabelsd"]


class RandContrastFromLabelsd(RandomizableTransform, MapTransform):
    """Turn a label crop [1, X, Y, Z] into an image: a random mean and texture per label, then partial volume.

    Items without ``labels: True`` pass through unchanged, so real scans and label maps can be mixed in one data list.
    Background (label 0) stays 0; labels above 500 (skull and other head tissue) are removed half of the time, as by
    skull stripping.

    Args:
        keys: the label crop, replaced by an image of about [0, 1].
        texture_std: largest standard deviation of the texture inside a label.
        partial_volume: range of the blur (standard deviation in voxels) that mixes labels at their borders.
    """

    def __init__(
        self,
        keys: KeysCollection,
        texture_std: float = 0.04,
        partial_volume: tuple[float, float] = (0.4, 0.7),
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        self.texture_std = texture_std
        self.partial_volume = (partial_volume[0], partial_volume[1])

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        if not d.get("labels", False):
            return d
        for key in self.key_iterator(d):
            labels = convert_to_tensor(d[key], track_meta=False).long()
            if self.R.rand() < 0.5:
                labels = torch.where(labels > 500, 0, labels)
            size = int(labels.max()) + 1
            mean = torch.as_tensor(self.R.uniform(0.05, 1.0, size), dtype=torch.float32)
            std = torch.as_tensor(self.R.uniform(0.0, self.texture_std, size), dtype=torch.float32)
            mean[0] = std[0] = 0.0
            noise = torch.as_tensor(self.R.normal(size=tuple(labels.shape)), dtype=torch.float32)
            image = mean[labels] + std[labels] * noise
            d[key] = GaussianSmooth(self.R.uniform(*self.partial_volume))(image).clamp(min=0)
        return d
