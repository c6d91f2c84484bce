"""Training data as the published TransMRSR takes them, for comparison with ours."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor

from custom_nets.networks.layers.imagenet import to_imagenet_units

__all__ = ["PublishedPlaned", "RandPublishedFlipsd", "pad_or_crop"]


def pad_or_crop(image: torch.Tensor, size: int = 256) -> tuple[torch.Tensor, tuple[int, int]]:
    """The published way to one size: zeros around a smaller image, the middle of a larger one.

    An axis of ``size - 1`` samples stays so: half a pixel cannot be padded on each side.

    Args:
        image: [..., H, W].
        size: wanted on both axes.

    Returns:
        The image, and its (row, column) in the padded one where it was cut.
    """
    offsets = [max(size - n, 0) // 2 for n in image.shape[-2:]]
    if any(offsets):  # twice as much as needed, then the middle of it
        image = F.pad(image, [2 * offsets[1]] * 2 + [2 * offsets[0]] * 2)
    top, left = ((n - size) // 2 if n > size else 0 for n in image.shape[-2:])
    return image[..., top : top + size, left : left + size], (top, left)


class PublishedPlaned(MapTransform):
    """Planes [1 or 3, H, W] from 0 to 1 -> [3, size, size] as the published TransMRSR takes them.

    Padding comes before the units change, so the border is black.

    Args:
        keys: planes.
        size: see :func:`pad_or_crop`.
    """

    def __init__(self, keys: KeysCollection, size: int = 256, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.size = size

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            plane = convert_to_tensor(d[key], dtype=torch.float32, track_meta=False)
            d[key] = to_imagenet_units(pad_or_crop(plane, self.size)[0])
        return d


class RandPublishedFlipsd(RandomizableTransform, MapTransform):
    """Left-right, up-down and transposed, each with probability one half and for all keys alike; [C, N, N].

    Args:
        keys: square planes.
    """

    def __init__(self, keys: KeysCollection, allow_missing_keys: bool = False) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        across, down, transposed = self.R.rand(3) < 0.5
        for key in self.key_iterator(d):
            plane = d[key]
            plane = plane.flip(-1) if across else plane
            plane = plane.flip(-2) if down else plane
            d[key] = plane.transpose(-1, -2) if transposed else plane
        return d
