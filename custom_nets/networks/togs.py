"""TOGS: Gaussians that stay where they are and whose opacity moves along a short table of times.

    mu(x, t) = sum_n rho_n(t) exp(-1/2 (x - m_n)' P_n (x - m_n)),  rho_n(t) = base_n + lerp(table_n, t)

Zhang S, Zhao H, Zhou Z, Wu G, Zheng C, Wang X, Liu W, TOGS: Gaussian Splatting with Temporal Opacity Offset for
Real-Time 4D DSA Rendering, IEEE JBHI 2025, https://arxiv.org/abs/2403.19586. The paper blends Gaussians onto a white
background as surfaces are; X-rays add up. Here each Gaussian adds its exact line integral along the ray of each pixel,
so there is no order, no sorting, no clipping, and the volume has a unit. Written from the formulae.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from custom_nets.networks.layers.attenuation_field import AttenuationField, SparseMap

__all__ = ["TOGS", "gaussian_line_integrals", "precision_matrices"]

_REACH = 3.0  # standard deviations that a Gaussian is drawn to


def precision_matrices(log_scale: torch.Tensor, quaternion: torch.Tensor) -> torch.Tensor:
    """Inverse covariances [N, 3, 3], of log standard deviations [N, 3] and quaternions [N, 4] of any length."""
    rotation = _rotations(quaternion)
    scaled = rotation * torch.exp(-log_scale)[:, None, :]  # columns over their standard deviation
    return scaled @ scaled.transpose(1, 2)


def gaussian_line_integrals(
    mean: torch.Tensor,
    precision: torch.Tensor,
    amplitude: torch.Tensor,
    vector: np.ndarray,
    panel_shape: Sequence[int],
) -> torch.Tensor:
    """Sum of the exact line integrals of Gaussians along the rays of a view. Differentiable.

    A ray ``d`` that passes the mean's plane parallel to the panel at ``e`` from the mean adds
    ``rho |d| sqrt(2 pi / d'Pd) exp(-1/2 (e'Pe - (e'Pd)^2 / d'Pd))``; written with ``e``, nothing large cancels.

    Args:
        mean: [N, 3] in mm.
        precision: [N, 3, 3] in 1/mm^2.
        amplitude: [N] in 1/mm, at the mean.
        vector: [12] of the view.
        panel_shape: (H, W).

    Returns:
        [H, W], unit-free.
    """
    height, width = int(panel_shape[0]), int(panel_shape[1])
    source, panel, column_step, row_step = (
        torch.as_tensor(np.asarray(vector[k : k + 3]), dtype=mean.dtype).to(mean.device) for k in (0, 3, 6, 9)
    )
    normal = torch.linalg.cross(column_step, row_step)
    centre_ray = mean - source  # [N, 3]
    depth = (centre_ray @ normal) / ((panel - source) @ normal)  # [N] 1 is at the panel
    on_panel = centre_ray / depth[:, None] + source - panel  # [N, 3]
    gram = torch.stack([column_step, row_step])  # [2, 3]
    pixel = on_panel @ torch.linalg.pinv(gram)  # [N, 2]
    centre = torch.tensor([(width - 1) / 2, (height - 1) / 2], dtype=mean.dtype, device=mean.device)
    pixel = pixel + centre  # [N, 2] column, row
    columns, rows = depth[:, None] * column_step, depth[:, None] * row_step  # [N, 3] a pixel's step at the mean
    towards, across, down = ((precision @ v[..., None])[..., 0] for v in (centre_ray, columns, rows))
    xx, xc, xr = (centre_ray * towards).sum(1), (columns * towards).sum(1), (rows * towards).sum(1)
    cc, cr, rr = (columns * across).sum(1), (columns * down).sum(1), (rows * down).sum(1)
    length = (centre_ray.square().sum(1), (centre_ray * columns).sum(1), (centre_ray * rows).sum(1))
    step = (columns.square().sum(1), (columns * rows).sum(1), rows.square().sum(1))

    picture = mean.new_zeros(height * width)
    with torch.no_grad():
        # covariance on the panel: inverse of what is left of the precision across the ray
        a, b, c = cc - xc * xc / xx, cr - xc * xr / xx, rr - xr * xr / xx
        determinant = (a * c - b * b).clamp(min=1e-12)
        reach = _REACH * torch.sqrt(torch.maximum(a, c) / determinant)  # [N] pixels
        nearest = pixel.round()
        seen = ((nearest > -reach[:, None]) & (nearest < centre * 2 + 1 + reach[:, None])).all(1)
        half = torch.where(seen, reach.ceil().clamp(1, max(height, width)), torch.zeros_like(reach))
        sizes = 2 ** torch.log2(half.clamp(min=1)).mul(2).ceil().div(2)  # few window sizes
        sizes = sizes.ceil().long() * seen
    if mean.is_meta:
        return picture.reshape(height, width) + amplitude.sum()
    for k in torch.unique(sizes).tolist():
        if k == 0:
            continue
        at = (sizes == k).nonzero()[:, 0]
        offset = torch.arange(-k, k + 1, device=mean.device)
        column = nearest[at, :1].long() + offset  # [n, w]
        row = nearest[at, 1:].long() + offset
        u = (column - pixel[at, :1])[:, None, :]  # [n, 1, w] pixels from the mean
        v = (row - pixel[at, 1:])[:, :, None]  # [n, w, 1]
        part = [t[at, None, None] for t in (xx, xc, xr, cc, cr, rr, *length, *step, amplitude)]
        xx_, xc_, xr_, cc_, cr_, rr_, l0, lu, lv, su, suv, sv, rho = part
        ex = u * xc_ + v * xr_  # e'PX
        ee = u * (u * cc_ + 2 * v * cr_) + v * v * rr_  # e'Pe
        dd = xx_ + 2 * ex + ee  # d'Pd
        along = l0 + 2 * (u * lu + v * lv) + u * (u * su + 2 * v * suv) + v * v * sv  # |d|^2
        value = rho * torch.sqrt(along * (2 * math.pi) / dd) * torch.exp(-0.5 * (ee - (ex + ee).square() / dd))
        inside = ((column >= 0) & (column < width))[:, None, :] & ((row >= 0) & (row < height))[:, :, None]
        index = row.clamp(0, height - 1)[:, :, None] * width + column.clamp(0, width - 1)[:, None, :]
        picture = picture.index_add(0, index.flatten(), (value * inside).flatten())
    return picture.reshape(height, width)


class TOGS(AttenuationField):
    """X-ray Gaussians with a table of opacity over time.

    Args:
        num_gaussians: at the start; drawn from the vessel voxels.
        table_size: times of the table, evenly spaced over the scan; the paper has 5.
        smooth_time: weight of the differences between neighbouring table entries.
        smallest_voxels, largest_voxels: limits of a standard deviation.

    Shape:
        ``mean`` [N, 3] mm, ``log_scale`` [N, 3] log mm, ``quaternion`` [N, 4], ``table`` [N, T] before the softplus:
        15 numbers a Gaussian at the published size.
    """

    def __init__(
        self,
        num_gaussians: int = 6000,
        table_size: int = 5,
        smooth_time: float = 0.0043,
        smallest_voxels: float = 0.3,
        largest_voxels: float = 4.0,
    ) -> None:
        super().__init__()
        if num_gaussians < 1 or table_size < 2 or not 0 < smallest_voxels < largest_voxels:
            raise ValueError(
                "TOGS needs num_gaussians >= 1, table_size >= 2 and 0 < smallest_voxels < largest_voxels, got "
                f"{num_gaussians}, {table_size}, {smallest_voxels:g}, {largest_voxels:g}."
            )
        self.num_gaussians = num_gaussians
        self.table_size = table_size
        self.smooth_time = smooth_time
        self.smallest_voxels = smallest_voxels
        self.largest_voxels = largest_voxels
        for name, size in (("mean", 3), ("log_scale", 3), ("quaternion", 4), ("table", table_size)):
            setattr(self, name, nn.Parameter(torch.zeros(0, size)))

    def make_parameters(self, mean: torch.Tensor, generator: torch.Generator) -> None:
        operator, grid = self.bound()
        spacing = float(np.mean(grid.spacing_mm))
        share = mean.clamp(min=1e-3 * float(mean.max().clamp(min=1e-9))).cpu()
        drawn = torch.multinomial(share, self.num_gaussians, replacement=True, generator=generator)
        drawn = drawn.to(mean.device)
        jitter = torch.rand(self.num_gaussians, 3, generator=generator).to(mean.device) - 0.5
        count = torch.bincount(drawn, minlength=len(mean)).clamp(min=1)[drawn]
        width = 0.6 * spacing  # mm
        # so many Gaussians of this width make the voxel's mass
        mass = mean[drawn] * float(np.prod(grid.spacing_mm)) / count
        peak = mass / ((2 * math.pi) ** 1.5 * width**3) / grid.attenuation
        steps = torch.as_tensor(grid.spacing_mm, dtype=torch.float32).to(mean.device)
        self.mean = nn.Parameter(operator.positions()[drawn] + jitter * steps)
        self.log_scale = nn.Parameter(torch.full((self.num_gaussians, 3), math.log(width), device=mean.device))
        self.quaternion = nn.Parameter(torch.tensor([1.0, 0, 0, 0], device=mean.device).repeat(self.num_gaussians, 1))
        start = _before_softplus(peak.clamp(min=1e-3))
        self.table = nn.Parameter(start[:, None].repeat(1, self.table_size))

    def prepare_state(self, state: dict[str, torch.Tensor]) -> None:
        self.table_size = state["table"].shape[1]

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        _, grid = self.bound()
        spacing = float(np.mean(grid.spacing_mm))
        rates = {"mean": 0.2 * spacing, "log_scale": 0.3, "quaternion": 0.3, "table": 1.0}
        return [{"params": [getattr(self, n)], "lr": learning_rate * r, "name": n} for n, r in rates.items()]

    def amplitudes(self, time_s: torch.Tensor) -> torch.Tensor:
        """Attenuation at the means, [B, N] in 1/mm."""
        _, grid = self.bound()
        last = self.table_size - 1
        place = (time_s.float() / grid.duration_s * last).clamp(0, last)  # [B]
        share = (1 - (place[:, None] - torch.arange(last + 1, device=place.device)).abs()).clamp(min=0)  # [B, T]
        return grid.attenuation * (share @ F.softplus(self.table).T)

    def scales(self) -> torch.Tensor:
        """Logarithms of the standard deviations within their limits, [N, 3]."""
        _, grid = self.bound()
        spacing = float(np.mean(grid.spacing_mm))
        low, high = math.log(self.smallest_voxels * spacing), math.log(self.largest_voxels * spacing)
        return self.log_scale.clamp(low, high)

    def forward(self, vectors: torch.Tensor, time_s: torch.Tensor) -> torch.Tensor:
        _, grid = self.bound()
        precision = precision_matrices(self.scales(), self.quaternion)
        rho = self.amplitudes(time_s)  # [B, N]
        views = vectors.double().cpu().numpy()
        pictures = [
            gaussian_line_integrals(self.mean, precision, rho[k], view, grid.panel_shape)
            for k, view in enumerate(views)
        ]
        return torch.stack(pictures)[:, None]

    def regularization(self) -> torch.Tensor:
        steps = F.softplus(self.table).diff(dim=1).abs().sum(1)
        return self.smooth_time * steps.mean()

    @torch.no_grad()
    def voxelized(self) -> tuple[torch.Tensor, SparseMap]:
        """Voxels [M] that Gaussians reach, and the map [M, N] from amplitudes to the voxels' mean attenuation."""
        operator, grid = self.bound()
        shape, spacing = grid.volume_shape, torch.as_tensor(grid.spacing_mm, dtype=torch.float32).to(self.mean.device)
        covariance = torch.linalg.inv(precision_matrices(self.scales(), self.quaternion))
        # the mean over a voxel is about the value of a Gaussian as much wider as the voxel is; the mass stays
        wider = covariance + torch.diag(spacing**2 / 12)
        shrink = torch.sqrt(torch.linalg.det(covariance) / torch.linalg.det(wider))  # [N]
        precision = torch.linalg.inv(wider)
        size = torch.tensor(shape, device=self.mean.device)
        place = self.mean / spacing + (size - 1) / 2  # [N, 3]
        reach = (1.25 * _REACH * wider.diagonal(dim1=1, dim2=2).sqrt() / spacing).amax(1).ceil().long()  # [N]
        rows, columns, values = [], [], []
        for k in torch.unique(reach).tolist():
            members = (reach == k).nonzero()[:, 0]
            steps = torch.cartesian_prod(*[torch.arange(-k, k + 1)] * 3).to(place.device)  # [w, 3]
            for at in members.split(max(1, (1 << 21) // len(steps))):
                voxel = place[at, None].round().long() + steps  # [n, w, 3]
                away = (voxel - place[at, None]) * spacing
                value = torch.exp(-0.5 * torch.einsum("nwi,nij,nwj->nw", away, precision[at], away)) * shrink[at, None]
                kept = ((voxel >= 0) & (voxel < size)).all(-1) & (value > 1e-3)
                flat = (voxel * torch.tensor([shape[1] * shape[2], shape[2], 1], device=place.device)).sum(-1)
                rows.append(flat[kept])
                columns.append(at[:, None].expand_as(kept)[kept])
                values.append(value[kept])
        voxels, row = torch.unique(torch.cat(rows), return_inverse=True)
        return voxels, SparseMap(row, torch.cat(columns), torch.cat(values), (len(voxels), len(self.mean)))

    @torch.no_grad()
    def voxel_curves(self, times_s: Sequence[float] | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        voxels, spread = self.voxelized()
        times = torch.as_tensor(np.asarray(times_s), dtype=torch.float32, device=self.mean.device)
        return voxels.cpu(), spread(self.amplitudes(times).T.contiguous()).T.cpu()

    def attenuation(self, time_s: torch.Tensor) -> torch.Tensor:
        """At the vessel voxels that the fit began with, [B, M]; Gaussians may have left them."""
        found, curves = self.voxel_curves(time_s.tolist())
        at = torch.searchsorted(found, self.voxels.cpu()).clamp(max=max(len(found) - 1, 0))
        return curves[:, at] * (found[at] == self.voxels.cpu())

    # ---- density control ----

    @torch.no_grad()
    def pruned(self, kept: torch.Tensor) -> None:
        """Keep these Gaussians only."""
        for name in ("mean", "log_scale", "quaternion", "table"):
            setattr(self, name, nn.Parameter(getattr(self, name)[kept]))

    @torch.no_grad()
    def split(self, chosen: torch.Tensor, generator: torch.Generator) -> None:
        """Put two Gaussians, 1.6 times as small and half as dense in mass, in place of each chosen one."""
        scale = self.scales()[chosen].exp()
        draw = torch.randn(2, int(chosen.sum()), 3, generator=generator).to(scale.device) * scale
        rotation = _rotations(self.quaternion[chosen])
        means = self.mean[chosen] + torch.einsum("nij,knj->kni", rotation, draw)
        factor = 1.6**3 / 2  # peak of a half of the mass in 1 / 1.6^3 of the volume
        table = _before_softplus((F.softplus(self.table[chosen]) * factor).clamp(min=1e-6))
        new = {
            "mean": means.flatten(0, 1),
            "log_scale": (self.scales()[chosen] - math.log(1.6)).repeat(2, 1),
            "quaternion": self.quaternion[chosen].repeat(2, 1),
            "table": table.repeat(2, 1),
        }
        for name, value in new.items():
            setattr(self, name, nn.Parameter(torch.cat([getattr(self, name)[~chosen], value])))


def _rotations(quaternion: torch.Tensor) -> torch.Tensor:
    """[N, 3, 3] of quaternions [N, 4]."""
    w, v = F.normalize(quaternion, dim=1)[:, :1, None], F.normalize(quaternion, dim=1)[:, 1:]
    cross = torch.zeros(len(v), 3, 3, device=v.device)
    cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = -v[:, 2], v[:, 1], -v[:, 0]
    cross = cross - cross.transpose(1, 2)
    return torch.eye(3, device=v.device) + 2 * w * cross + 2 * cross @ cross


def _before_softplus(values: torch.Tensor) -> torch.Tensor:
    return values + torch.log(-torch.expm1(-values))
