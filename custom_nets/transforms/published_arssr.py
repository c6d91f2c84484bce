"""Training data as the published codes make it, for comparison with ours: ArSSR's pairs, TransMRSR's planes."""

from __future__ import annotations

import random
from collections.abc import Hashable, Mapping
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor

from custom_nets.operators.interpolation import apply_separable, bspline_coefficients, sample_bspline
from custom_nets.operators.slice_profile import published_zoom_matrix

__all__ = ["FixedPublishedPairsd", "PublishedPaird", "RandPublishedPairsd"]


def _pair(block: torch.Tensor, scale: float, index: torch.Tensor) -> dict[Hashable, Any]:
    """LR block, coordinates [K, 3] in [-1, 1] and intensities [K, 1] of the HR ``block`` [1, N, N, N]."""
    size = torch.as_tensor(block.shape[1:])
    matrices = [published_zoom_matrix(int(n), round(int(n) / scale)).to(block) for n in size]
    return {
        "image": apply_separable(block, matrices),
        "positions": ((2 * index + 1) / size - 1).float(),
        "label": block[0][index[:, 0], index[:, 1], index[:, 2]][:, None],
        "scale": torch.full((3,), scale),
    }


def _zyx(volume: Any) -> torch.Tensor:
    """[1, X, Y, Z] -> plain [1, Z, Y, X], the published order of axes."""
    return convert_to_tensor(volume, dtype=torch.float32, track_meta=False).permute(0, 3, 2, 1)


class PublishedPaird(RandomizableTransform, MapTransform):
    """The published sampler itself, draw for draw: always the corner of a prepared block of 40^3 voxels.

    Scales come from Python's generator and points from numpy's, as published, so ``set_random_state(seed)`` gives what
    the published code gives after ``random.seed(seed); np.random.seed(seed)``. For parity;
    :class:`RandPublishedPairsd` takes whole volumes. From a block [1, X, Y, Z] it gives ``image`` [1, n, n, n],
    ``positions`` (coordinates) [K, 3], ``label`` [K, 1] and ``scale`` [3], axes (z, y, x).

    Args:
        keys: one key, the block.
        patch_size: n, LR voxels per axis; blocks of up to ``4 n`` voxels are needed.
        num_points: K, drawn without repetition; None takes all voxels in order, as published for validation.

    Raises:
        ValueError: the block is smaller than the scale needs, or K is more than its voxels.
    """

    def __init__(
        self,
        keys: KeysCollection,
        patch_size: int = 10,
        num_points: int | None = 8000,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        self.patch_size = patch_size
        self.num_points = num_points
        self.python_random = random.Random()

    def set_random_state(self, seed: int | None = None, state: np.random.RandomState | None = None) -> PublishedPaird:
        """Seed both generators; ``state`` alone seeds numpy's, and Python's from it."""
        super().set_random_state(seed, state)
        self.python_random = random.Random(seed if seed is not None else int(self.R.randint(2**31)))
        return self

    def draw_scale(self) -> float:
        """2.0, 2.1 ... 4.0; the two ends come up half and nine tenths as often as the others."""
        return round(self.python_random.uniform(2, 4.04), 1)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        volume = _zyx(d[self.first_key(d)])
        scale = self.draw_scale()
        n = int(self.patch_size * scale + 1e-9)
        if min(volume.shape[1:]) < n:
            raise ValueError(
                f"the block {tuple(volume.shape[1:])} is smaller than the {n} voxels of scale {scale}: "
                f"give blocks of {4 * self.patch_size} voxels per axis."
            )
        if self.num_points is None:
            flat = np.arange(n**3)
        elif self.num_points > n**3:
            raise ValueError(f"num_points must be at most {n**3} at scale {scale}, got {self.num_points}.")
        else:
            flat = self.R.choice(n**3, self.num_points, replace=False)
        index = torch.as_tensor(np.stack(np.unravel_index(flat, (n, n, n)), -1))
        return {**d, **_pair(volume[:, :n, :n, :n], scale, index)}


class RandPublishedPairsd(RandomizableTransform, MapTransform):
    """From a volume [1, X, Y, Z] a pair as published: isotropic scale 2.0, 2.1 ... 4.0, no slice profile, no noise.

    Cubic zoom aligns the ends of the two grids while the coordinates align their outer edges: networks trained so
    magnify about the centre. The block lies anywhere at least ``border`` voxels inside (as published, 40), where the
    volume is large enough for that. Gives ``image`` [1, n, n, n], ``positions`` (coordinates) [K, 3], ``label`` [K, 1]
    and ``scale`` [3].

    Args:
        keys: one key, the volume, of about [0, 1].
        patch_size: n, LR voxels per axis.
        num_points: K, drawn without repetition as far as there are voxels.
        border: HR voxels left out along the faces.
    """

    def __init__(
        self,
        keys: KeysCollection,
        patch_size: int = 10,
        num_points: int = 8000,
        border: int = 40,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        self.patch_size = patch_size
        self.num_points = num_points
        self.border = border

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        volume = _zyx(d[self.first_key(d)])
        scale = round(float(self.R.uniform(2, 4.04)), 1)
        n = int(self.patch_size * scale + 1e-9)
        if min(volume.shape[1:]) < n:
            raise ValueError(f"the volume {tuple(volume.shape[1:])} is smaller than a block of {n} voxels.")
        block = volume
        for axis, size in enumerate(volume.shape[1:], start=1):
            border = min(self.border, (size - n) // 2)
            start = int(self.R.randint(border, size - n - border + 1))
            block = block.narrow(axis, start, n)
        flat = self.R.choice(n**3, self.num_points, replace=self.num_points > n**3)
        index = torch.as_tensor(np.stack(np.unravel_index(flat, (n, n, n)), -1))
        return {**d, **_pair(block, scale, index)}


class FixedPublishedPairsd(MapTransform):
    """Validation with published pairs: the middle of a volume, the item's own isotropic ``scale``, all voxels.

    Gives what :class:`RandPublishedPairsd` gives, ``bspline`` [K, 1] and ``truth``. The B-spline is edge-aligned, as
    the coordinates are, while the pairs are not: gains over it are flattering, and serve to compare epochs only.

    Args:
        keys: one key, the volume, of about [0, 1].
        crop_size: HR voxels per axis (as published, 40).
    """

    def __init__(self, keys: KeysCollection, crop_size: int = 40, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.crop_size = crop_size

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        volume = _zyx(d[self.first_key(d)])
        scale = float(np.mean(d.get("scale", 2.0)))
        block = volume
        for axis, size in enumerate(volume.shape[1:], start=1):
            n = min(size, self.crop_size)
            block = block.narrow(axis, (size - n) // 2, n)
        steps = [torch.arange(n) for n in block.shape[1:]]
        index = torch.stack(torch.meshgrid(*steps, indexing="ij"), -1).reshape(-1, 3)
        pair = _pair(block, scale, index)
        coarse = torch.as_tensor(pair["image"].shape[1:])
        positions = ((pair["positions"] + 1) * coarse - 1) / 2
        bspline = sample_bspline(bspline_coefficients(pair["image"][None]), positions[None])[0][:, None]
        return {**d, **pair, "bspline": bspline, "truth": block.contiguous()}


# ---- TransMRSR ----
