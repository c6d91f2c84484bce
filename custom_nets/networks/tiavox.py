"""TiAVox: a grid of attenuation over space and time, without a network behind it.

    mu(x, t) = softplus( lerp_t( V_k(x), V_k+1(x) ) ),  V_k trilinear between the nodes of a grid

Zhou Z, Zhao H, Fang J, Xiang D, Chen L, et al., TiAVox: Time-aware Attenuation Voxels for Sparse-view 4D DSA
Reconstruction, 2023, https://arxiv.org/abs/2309.02318. There is no public code, and grid sizes, optimiser and
regulariser are not in the text that we could read: those here are ours, so this is a network *after* TiAVox.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from custom_nets.networks.layers.attenuation_field import (
    AttenuationField,
    SparseMap,
    blob_map,
    interpolation_map,
    neighbour_pairs,
)

__all__ = ["TiAVox"]


class TiAVox(AttenuationField):
    """Attenuation voxels at evenly spaced times.

    Args:
        num_knots: K, the times at which the grid is stored; between two of them it is linear.
        coarsest: the first grid has a node at every ``coarsest``-th voxel; :meth:`grow` halves that, down to 1.
        smooth_space: weight of the differences between neighbouring voxels.
        smooth_time: weight of the differences between neighbouring times.
        blob_voxels: width of the kernel of the finest grid in voxels; 0: plain voxels.

    Shape:
        ``values``: [C, K] at the nodes in use, before the softplus.
    """

    def __init__(
        self,
        num_knots: int = 5,
        coarsest: int = 4,
        smooth_space: float = 0.02,
        smooth_time: float = 0.01,
        blob_voxels: float = 0.0,
    ) -> None:
        super().__init__()
        if num_knots < 2 or coarsest not in (1, 2, 4, 8, 16):
            raise ValueError(
                f"num_knots must be 2 or more and coarsest 1, 2, 4, 8 or 16, got {num_knots} and {coarsest}."
            )
        self.num_knots = num_knots
        self.coarsest = coarsest
        self.smooth_space = smooth_space
        self.smooth_time = smooth_time
        self.blob_voxels = blob_voxels
        self.values = nn.Parameter(torch.zeros(0, num_knots))
        self.register_buffer("spacing", torch.tensor(coarsest))  # of the nodes, in voxels
        self.map: SparseMap | None = None
        self.pairs: torch.Tensor | None = None

    def make_parameters(self, mean: torch.Tensor, generator: torch.Generator) -> None:
        _, grid = self.bound()
        self.pairs = neighbour_pairs(self.voxels, grid.volume_shape)
        self._set_spacing(self.coarsest)
        start = _before_softplus((mean / grid.attenuation).clamp(min=1e-3))
        nodes = start[:, None] if self.map is None else self.map.transposed @ start[:, None]
        weight = 1 if self.map is None else self.map.transposed @ torch.ones_like(start)[:, None]
        self.values = nn.Parameter((nodes / weight).expand(-1, self.num_knots).clone())

    def _set_spacing(self, spacing: int) -> None:
        _, grid = self.bound()
        self.spacing = torch.tensor(spacing, device=self.voxels.device)
        if spacing > 1:
            self.nodes, self.coarse_shape, self.map = interpolation_map(self.voxels, grid.volume_shape, spacing)
        else:
            self.map = blob_map(self.voxels, grid.volume_shape, self.blob_voxels) if self.blob_voxels else None

    def prepare_state(self, state: dict[str, torch.Tensor]) -> None:
        self._set_spacing(int(state["spacing"]))

    @torch.no_grad()
    def grow(self) -> bool:
        """Halve the spacing of the nodes, keeping what the grid says; False when it is at the voxels already."""
        _, grid = self.bound()
        spacing = int(self.spacing)
        if spacing == 1:
            return False
        if spacing == 2:
            values = self.map(self.values)  # type: ignore[misc]
            self._set_spacing(1)
        else:
            nodes, coarse = self.nodes, self.coarse_shape
            known = self.values
            self._set_spacing(spacing // 2)
            # each node of the finer grid lies on, or half way between, nodes of the coarser one
            place = torch.stack(torch.unravel_index(self.nodes, self.coarse_shape), -1) / 2
            total, weight = known.new_zeros(len(self.nodes), self.num_knots), known.new_zeros(len(self.nodes), 1)
            for corner in torch.cartesian_prod(*[torch.tensor([0, 1])] * 3).to(place.device):
                at = (place.floor() + corner).long()
                share = (1 - (place - at).abs()).clamp(min=0).prod(1)
                flat = at[:, 0] * coarse[1] * coarse[2] + at[:, 1] * coarse[2] + at[:, 2]
                found = torch.searchsorted(nodes, flat).clamp(max=len(nodes) - 1)
                share = (share * (nodes[found] == flat))[:, None]
                total += share * known[found]
                weight += share
            values = torch.where(weight > 0, total / weight.clamp(min=1e-6), known.mean())
        self.values = nn.Parameter(values)
        return True

    def at_voxels(self) -> torch.Tensor:
        """[M, K] before the softplus."""
        return self.values if self.map is None else self.map(self.values)

    def attenuation(self, time_s: torch.Tensor) -> torch.Tensor:
        _, grid = self.bound()
        place = (time_s.float() / grid.duration_s * (self.num_knots - 1)).clamp(0, self.num_knots - 1)  # [B]
        knots = torch.arange(self.num_knots, device=place.device)
        share = (1 - (place[:, None] - knots).abs()).clamp(min=0)  # [B, K]
        return grid.attenuation * F.softplus(share @ self.at_voxels().T)  # [B, M]

    def regularization(self) -> torch.Tensor:
        values = F.softplus(self.at_voxels())  # [M, K]
        here, next_to_it = self.pairs  # type: ignore[misc]
        space = (values[here] - values[next_to_it]).abs().sum() / max(values.numel(), 1)
        time = (values[:, 1:] - values[:, :-1]).abs().mean()
        return self.smooth_space * space + self.smooth_time * time


def _before_softplus(values: torch.Tensor) -> torch.Tensor:
    return values + torch.log(-torch.expm1(-values))
