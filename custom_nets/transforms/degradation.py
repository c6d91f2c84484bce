"""What a faster scan would have measured: degradation for training, evaluation and demo alike.

Centre-aligned throughout: degraded and original volume cover the same field of view, and the affine says so.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.networks.layers import gaussian_1d, separable_filtering
from monai.transforms import MapTransform, RandomizableTransform
from monai.utils import convert_to_tensor

from custom_nets.geometry import Grid, as_triple
from custom_nets.operators.interpolation import apply_separable
from custom_nets.operators.slice_profile import PointSpread, degrade, point_spread_matrix, published_zoom_matrix
from custom_nets.transforms.intensity import foreground_floor

__all__ = ["DegradeVolumed", "PublishedDegraded", "RandAcquisition", "RandDegradeCropd", "RandScaledCropd"]

_LARGEST_MISTAKE = 1.3  # of a width that is told wrongly


class DegradeVolumed(MapTransform):
    """Replace a volume [C, X, Y, Z] by what voxels ``scale`` times as large would have measured.

    Args:
        keys: volumes to degrade.
        scale: how many times larger the voxels become, one number or one per axis (x, y, z). The number of voxels is
            rounded and the field of view kept, so the scale really used is n / round(n / scale).
        spacing_mm: the wanted voxel size instead of ``scale``.
        profile: point spread, one of :data:`custom_nets.operators.slice_profile.PROFILES`.
        thickness: slice thickness / slice spacing; below 1 is a gap.
        noise_std: standard deviation of added Gaussian noise as a share of the 99.9th percentile of the result.
        seed: of the noise.

    Raises:
        ValueError: not exactly one of scale and spacing_mm, a scale below 1, unknown profile.
    """

    def __init__(
        self,
        keys: KeysCollection,
        scale: float | Sequence[float] | None = None,
        spacing_mm: float | Sequence[float] | None = None,
        profile: str | PointSpread = "gaussian",
        thickness: float = 1.0,
        noise_std: float = 0.0,
        seed: int = 0,
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        if (scale is None) == (spacing_mm is None):
            raise ValueError("give exactly one of scale and spacing_mm.")
        self.spread = PointSpread.of(profile, thickness)
        self.scale = None if scale is None else as_triple(scale, "scale")
        self.spacing_mm = None if spacing_mm is None else as_triple(spacing_mm, "spacing_mm")
        if self.scale is not None and (self.scale < 1).any():
            raise ValueError(f"degradation cannot sharpen: scale must be at least 1, got {self.scale.tolist()}.")
        self.noise_std = noise_std
        self.seed = seed

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            d[key] = self.degrade(d[key])
        return d

    def degrade(self, volume: torch.Tensor) -> torch.Tensor:
        """One volume [C, X, Y, Z]; a MetaTensor keeps its meta data and gets the new affine."""
        x, y, z = volume.shape[-3:]
        fine = Grid.of(volume) if isinstance(volume, MetaTensor) else Grid((x, y, z), np.eye(4))
        scale = self.scale if self.scale is not None else np.maximum(self.spacing_mm / fine.spacing_mm, 1.0)  # type: ignore[operator]
        coarse = fine.rescaled((1.0 / np.asarray(scale)).tolist())
        plain = convert_to_tensor(volume, dtype=torch.float32, track_meta=False)
        out = degrade(plain, coarse.shape, self.spread)
        if self.noise_std:
            rng = torch.Generator().manual_seed(self.seed)
            out = out + self.noise_std * np.percentile(out.numpy(), 99.9) * torch.randn(out.shape, generator=rng)
        if not isinstance(volume, MetaTensor):
            return out
        meta = {key: value for key, value in volume.meta.items() if key != "affine"}
        return MetaTensor(out, affine=torch.as_tensor(coarse.affine), meta=meta)


class PublishedDegraded(MapTransform):
    """The published operator: cubic zoom without an anti-alias filter, ends aligned with ends. For parity only.

    Args:
        keys: volumes [C, X, Y, Z].
        scale: isotropic down-sampling factor; the size becomes round(n / scale), half to even.
    """

    def __init__(self, keys: KeysCollection, scale: float, allow_missing_keys: bool = False) -> None:
        super().__init__(keys, allow_missing_keys)
        self.scale = float(as_triple(scale, "scale")[0])

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in self.key_iterator(d):
            volume = convert_to_tensor(d[key], dtype=torch.float32, track_meta=False)
            matrices = [published_zoom_matrix(n, round(n / self.scale)).to(volume) for n in volume.shape[-3:]]
            d[key] = apply_separable(volume, matrices)
        return d


class RandScaledCropd(RandomizableTransform, MapTransform):
    """Draw a scale per axis and cut out the part of a volume that a low-resolution patch at that scale needs.

    The scale is, with the probabilities ``modes``, one for all axes (isotropic voxels), one for a single axis (thick
    slices), or one each. The axes of the crop are flipped and permuted at random, and the scales given to them sorted,
    the order in which :class:`custom_nets.networks.ResidualArSSR` takes them.

    Adds to the data: ``scale`` [3], ``offset`` [3] (position of the outer edge of the first LR voxel in the crop, in
    HR voxels).

    Args:
        keys: the high-resolution volume [C, X, Y, Z].
        patch_size: LR voxels per axis.
        isotropic, single: ranges (lowest, highest) of the scale in the two modes.
        modes: probabilities of isotropic, single, independent.
        support: HR voxels kept around the patch so that slice profiles find their neighbours.
        foreground: share of crops whose centre must lie where the volume is above its ``floor`` (from
            :class:`custom_nets.transforms.LoadSubjectd`; 2 % of the maximum where there is none).
    """

    def __init__(
        self,
        keys: KeysCollection,
        patch_size: int = 24,
        isotropic: Sequence[float] = (1.5, 4.0),
        single: Sequence[float] = (1.5, 6.0),
        modes: Sequence[float] = (0.45, 0.45, 0.1),
        support: int = 8,
        foreground: float = 0.95,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        self.patch_size = patch_size
        self.isotropic = (isotropic[0], isotropic[1])
        self.single = (single[0], single[1])
        self.modes = tuple(modes)
        self.support = support
        self.foreground = foreground

    def _draw_scale(self) -> np.ndarray:
        mode = self.R.choice(3, p=self.modes)
        if mode == 0:
            return np.repeat(self.R.uniform(*self.isotropic), 3)
        if mode == 1:
            return np.array([1.0, 1.0, self.R.uniform(*self.single)])
        return np.sort(self.R.uniform(1.0, self.isotropic[1], 3))

    def randomize(self, volume: torch.Tensor, floor: float | None = None) -> None:  # type: ignore[override]
        """Draw scale, axis order and place for ``volume`` [C, X, Y, Z], whose foreground is above ``floor``."""
        self.scale = self._draw_scale()
        if self.R.rand() < 0.5:  # whole factors are what evaluation and users ask for most
            self.scale = np.maximum(1.0, np.round(self.scale))
        self.axes = self.R.permutation(3)
        size = np.array([volume.shape[1 + a] for a in self.axes], dtype=np.float64)
        if (size < self.patch_size).any():
            raise ValueError(
                f"the volume {tuple(volume.shape[1:])} is smaller than a patch of {self.patch_size} voxels: "
                "give larger volumes or a smaller patch_size."
            )
        self.scale = np.minimum(self.scale, size / self.patch_size)
        extent = self.scale * self.patch_size
        floor = foreground_floor(volume) if floor is None else floor
        turned = volume[0].permute(*[int(a) for a in self.axes])
        for _ in range(20):
            start = self.R.uniform(0, size - extent + 1e-9)
            if self.R.rand() < 0.5:
                start = np.floor(start)  # edge-aligned, as a scan degraded by whole factors is
            centre = (start + extent / 2).astype(int)
            if self.R.rand() > self.foreground or bool(turned[tuple(centre)] > floor):
                break
        self.start = start

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        self.randomize(convert_to_tensor(d[self.first_key(d)], track_meta=False), d.get("floor"))
        order = [0, *(int(a) + 1 for a in self.axes)]
        end = self.start + self.scale * self.patch_size
        low = np.maximum(np.floor(self.start).astype(int) - self.support, 0)
        high = np.ceil(end).astype(int) + self.support
        crop = (slice(None), *(slice(int(a), int(b)) for a, b in zip(low, high, strict=True)))
        offset = self.start - low
        flips = [axis for axis in range(3) if self.R.rand() < 0.5]
        for key in self.key_iterator(d):
            part = convert_to_tensor(d[key], track_meta=False).permute(*order)[crop]
            d[key] = part.flip([1 + axis for axis in flips]).contiguous()
        for axis in flips:
            offset[axis] = part.shape[1 + axis] - offset[axis] - self.scale[axis] * self.patch_size
        d["scale"] = torch.as_tensor(self.scale, dtype=torch.float32)
        d["offset"] = torch.as_tensor(offset, dtype=torch.float64)
        return d


class RandAcquisition(RandomizableTransform, MapTransform):
    """How a scan measures, drawn anew for each item: base of transforms that make training pairs.

    Args:
        keys: see the subclass.
        thickness_gaussian, thickness_box, thickness_trapezoid: ranges of slice thickness / slice spacing.
        thickness_kspace: range of measured / stored voxel; half of the crops of k-space keep 1.
        box, trapezoid, kspace: probabilities of these profiles instead of the Gaussian. A crop of k-space has no filter
            (40 %), a Hann (20 %), a Hamming (10 %) or a Tukey filter of any strength (30 %).
        noise_std: largest standard deviation of the noise added to what is measured (uniformly drawn from zero up).
        noise: probability of noise.
        smooth: probability that the truth is smoothed before it is measured: scans that were resampled before are
            smooth, and a network that never saw one sharpens it too much.
        smooth_std: range of that Gaussian's standard deviation in voxels of the truth.
        unknown: probability that the network is not told the blur (``mtf`` is not a number).
        mistold: probability that what it is told is up to 30 % too wide or too narrow, as headers and estimates are:
            a network that never saw that believes everything.

    Raises:
        ValueError: probabilities of the profiles, or ``unknown`` and ``mistold``, that add up to more than 1.
    """

    def __init__(
        self,
        keys: KeysCollection,
        thickness_gaussian: Sequence[float] = (0.75, 1.25),
        thickness_box: Sequence[float] = (0.8, 1.0),
        thickness_trapezoid: Sequence[float] = (0.7, 1.1),
        thickness_kspace: Sequence[float] = (1.0, 1.1),
        box: float = 0.3,
        trapezoid: float = 0.0,
        kspace: float = 0.0,
        noise_std: float = 0.02,
        noise: float = 0.3,
        smooth: float = 0.0,
        smooth_std: Sequence[float] = (0.3, 0.85),
        unknown: float = 0.0,
        mistold: float = 0.0,
        allow_missing_keys: bool = False,
    ) -> None:
        MapTransform.__init__(self, keys, allow_missing_keys)
        RandomizableTransform.__init__(self, 1.0)
        self.thickness = {
            "gaussian": (thickness_gaussian[0], thickness_gaussian[1]),
            "box": (thickness_box[0], thickness_box[1]),
            "trapezoid": (thickness_trapezoid[0], thickness_trapezoid[1]),
            "kspace": (thickness_kspace[0], thickness_kspace[1]),
        }
        self.shares = {"box": box, "trapezoid": trapezoid, "kspace": kspace}
        if sum(self.shares.values()) > 1:
            raise ValueError(f"box, trapezoid and kspace are probabilities and add up to at most 1, got {self.shares}.")
        if unknown + mistold > 1:
            raise ValueError(
                f"unknown and mistold are probabilities and add up to at most 1, got {unknown} and {mistold}."
            )
        self.noise_std = noise_std
        self.noise = noise
        self.smooth = smooth
        self.smooth_std = (smooth_std[0], smooth_std[1])
        self.unknown = unknown
        self.mistold = mistold

    def draw_spread(self) -> PointSpread:
        """How one axis blurs."""
        edges = np.cumsum(list(self.shares.values()))
        profile = [*self.shares, "gaussian"][int(np.searchsorted(edges, self.R.rand(), side="right"))]
        thickness = self.R.uniform(*self.thickness[profile])
        if profile == "trapezoid":
            return PointSpread(profile, thickness, self.R.uniform(0, 1))
        if profile == "kspace":
            thickness = thickness if self.R.rand() < 0.5 else 1.0
            filtered = self.R.rand()
            if filtered >= 0.7:
                return PointSpread("kspace_tukey", thickness, self.R.uniform(0, 1))
            name = "kspace" if filtered < 0.4 else "kspace_hann" if filtered < 0.6 else "kspace_hamming"
            return PointSpread(name, thickness)
        return PointSpread(profile, thickness)

    def told(self, spreads: Sequence[PointSpread], scale: Sequence[float]) -> torch.Tensor:
        """What the network is told of the blur of each axis [axes, 2]: what it is, nothing (not a number), or wrong."""
        drawn = self.R.rand() if self.unknown + self.mistold > 0 else 1.0
        if drawn < self.unknown:
            return torch.full((len(spreads), 2), torch.nan)
        if drawn < self.unknown + self.mistold:
            factor = _LARGEST_MISTAKE ** self.R.uniform(-1, 1)
            spreads = [spread.wider(factor) if k > 1 else spread for spread, k in zip(spreads, scale, strict=True)]
        return torch.tensor([spread.transfer(k) for spread, k in zip(spreads, scale, strict=True)])

    def smoothed(self, truth: torch.Tensor) -> torch.Tensor:
        """The truth [1, X, Y, Z] itself, or a smoother one."""
        if self.smooth == 0 or self.R.rand() >= self.smooth:
            return truth
        same = self.R.rand() < 0.7
        std = self.R.uniform(*self.smooth_std, size=3)
        kernels = [
            gaussian_1d(torch.tensor(std[0 if same else axis]), truncated=3.5, normalize=True) for axis in range(3)
        ]
        return separable_filtering(truth[None], kernels, mode="replicate")[0]

    def with_noise(self, measured: torch.Tensor) -> torch.Tensor:
        """The same shape, with noise or without."""
        if self.R.rand() >= self.noise:
            return measured
        std = self.R.uniform(0, self.noise_std)
        return measured + torch.as_tensor(self.R.normal(0, std, tuple(measured.shape)), dtype=torch.float32)


class RandDegradeCropd(RandAcquisition):
    """From a high-resolution crop make the training pair: an LR patch, and points with their true intensities.

    Takes ``image`` (HR crop [1, X, Y, Z]), ``scale`` and ``offset`` from :class:`RandScaledCropd`. Gives ``image``
    (LR patch [1, n, n, n]), ``positions`` [K, 3] in LR voxels, ``label`` [K, 1] and ``mtf`` [3, 2] (the blur of each
    axis, :meth:`custom_nets.operators.slice_profile.PointSpread.transfer`, or not a number). All axes blur alike in
    85 % of the draws, each its own way in the others.

    Args:
        keys: one key, the crop.
        patch_size: LR voxels per axis, as in :class:`RandScaledCropd`.
        num_points: K, drawn uniformly from the HR voxels at least ``margin`` LR voxels inside the patch.
        margin: see above.
        acquisition: point spread, noise and smoothness, see :class:`RandAcquisition`.
    """

    def __init__(
        self,
        keys: KeysCollection,
        patch_size: int = 24,
        num_points: int = 8000,
        margin: float = 2.0,
        allow_missing_keys: bool = False,
        **acquisition: Any,
    ) -> None:
        super().__init__(keys, allow_missing_keys=allow_missing_keys, **acquisition)
        self.patch_size = patch_size
        self.num_points = num_points
        self.margin = margin

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        key = self.first_key(d)
        fine = convert_to_tensor(d[key], dtype=torch.float32, track_meta=False)
        scale, offset = d["scale"].double(), d.pop("offset").double()
        fine = self.smoothed(fine)
        spreads = [self.draw_spread()] * 3
        if self.R.rand() < 0.15:
            spreads = [spreads[0], self.draw_spread(), self.draw_spread()]
        # an axis that keeps its voxels is measured as it is wanted
        spreads = [spread if k > 1 else PointSpread() for spread, k in zip(spreads, scale.tolist(), strict=True)]

        matrices, points, index = [], [], []
        for axis in range(3):
            k, o, n = float(scale[axis]), float(offset[axis]), fine.shape[1 + axis]
            centres = o + (torch.arange(self.patch_size, dtype=torch.float64) + 0.5) * k - 0.5
            matrices.append(point_spread_matrix(n, centres, k, spreads[axis]).float())
            lowest = int(np.ceil(o + self.margin * k - 0.5))
            highest = int(np.floor(o + (self.patch_size - self.margin) * k - 0.5))
            chosen = torch.as_tensor(self.R.randint(lowest, highest + 1, self.num_points))
            index.append(chosen.clamp(0, n - 1))
            points.append((index[-1] + 0.5 - o) / k - 0.5)
        d[key] = self.with_noise(apply_separable(fine, matrices))
        d["mtf"] = self.told(spreads, scale.tolist())
        d["positions"] = torch.stack(points, -1).float()
        d["label"] = fine[0][index[0], index[1], index[2]][:, None]
        return d
