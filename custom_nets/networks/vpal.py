"""VPAL: a sharp probability of vessel that mixes a still and a moving field.

    mu(x, t) = (1 - p(x)) mu_s(x) + p(x) mu_d(x, t)

p and mu_s are hash encodings of space down to single voxels, mu_d one of space and time that stays coarse, each with a
small perceptron behind it: sharp where vessels are, smooth in how they fill.

Zhao H, Zhou Z, Wu F, Xiang D, Zhao H, et al., Vessel Probability Guided Attenuation Learning for sparse-view 4D DSA,
2024, https://arxiv.org/abs/2405.10705. Hash encoding: Mueller T, Evans A, Schied C, Keller A, Instant neural graphics
primitives, ACM Trans Graph 41(4), 2022, https://arxiv.org/abs/2201.05989. Written from the formulae.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from custom_nets.networks.layers.attenuation_field import AttenuationField

__all__ = ["HashEncoding", "VPAL"]

_PRIMES = (1, 2654435761, 805459861, 3674653429)


class HashEncoding(nn.Module):
    """Features of points at several resolutions, interpolated from tables that a hash looks up.

    Args:
        dims: of a point.
        levels: resolutions.
        features: per level.
        log2_table: entries of a table, as a power of two; a level with fewer corners has one each.
        base: cells per axis of the coarsest level.
        growth: cells of a level over those of the one before.

    Shape:
        points [P, dims] in 0 .. 1 -> [P, levels * features].
    """

    def __init__(self, dims: int, levels: int, features: int, log2_table: int, base: int, growth: float) -> None:
        super().__init__()
        self.dims, self.levels, self.features = dims, levels, features
        self.cells = [round(base * growth**level) for level in range(levels)]
        self.sizes = [min((n + 1) ** dims, 1 << log2_table) for n in self.cells]
        self.dense = [(n + 1) ** dims <= 1 << log2_table for n in self.cells]
        self.tables = nn.ParameterList(nn.Parameter(torch.zeros(size, features)) for size in self.sizes)
        self.active = levels
        self._remembered: tuple[torch.Tensor, list[tuple[torch.Tensor, torch.Tensor]]] | None = None

    def start(self, generator: torch.Generator) -> None:
        """Draw the tables anew, uniform within 1e-4."""
        for table in self.tables:
            table.data = ((torch.rand(table.shape, generator=generator) * 2 - 1) * 1e-4).to(table.device)

    def corners(self, points: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Entries [P, 2^dims] of the table around points, and their weights."""
        cells, size, dims = self.cells[level], self.sizes[level], points.shape[1]
        place = points.clamp(0, 1) * cells
        base = place.floor().clamp(max=cells - 1).long()  # [P, dims]
        share = place - base
        entry = base.new_zeros(len(points), 1)
        weight = share.new_ones(len(points), 1)
        for axis in range(dims):
            both = torch.stack([base[:, axis], base[:, axis] + 1], 1)  # [P, 2]
            part = both * (cells + 1) ** axis if self.dense[level] else both * _PRIMES[axis]
            merged = entry[:, :, None] + part[:, None] if self.dense[level] else entry[:, :, None] ^ part[:, None]
            entry = merged.flatten(1)  # [P, 2^(axis + 1)]
            shares = torch.stack([1 - share[:, axis], share[:, axis]], 1)
            weight = (weight[:, :, None] * shares[:, None]).flatten(1)
        return (entry if self.dense[level] else entry & (size - 1)), weight

    def forward(self, points: torch.Tensor, remember: bool = False) -> torch.Tensor:
        if remember:  # points that never change, such as a scan's voxels
            if self._remembered is None or self._remembered[0] is not points:
                self._remembered = points, [self.corners(points, level) for level in range(self.levels)]
            corners = self._remembered[1]
        else:
            corners = [self.corners(points, level) for level in range(self.active)]
        found = [_lookup(table, *corners[level]) for level, table in enumerate(self.tables[: self.active])]
        silent = (self.levels - self.active) * self.features  # levels to come are zero
        return F.pad(torch.cat(found, dim=1), (0, silent))


def _lookup(table: torch.Tensor, entry: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Weighted sum of table entries, [P, features]."""
    if table.is_meta or entry.is_meta:
        return (table[entry] * weight[..., None]).sum(1)
    return F.embedding_bag(entry, table, per_sample_weights=weight.to(table.dtype), mode="sum")


def _perceptron(inputs: int, width: int, hidden: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for _ in range(hidden):
        layers += [nn.Linear(inputs, width), nn.ReLU()]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 1))


class VPAL(AttenuationField):
    """Probability-guided still and moving attenuation.

    Defaults are ours, for a laptop; :meth:`published` has the paper's sizes.

    Args:
        levels, features, log2_table, base, growth: of the encodings of space, see :class:`HashEncoding`.
        dynamic_levels, dynamic_base, dynamic_growth: of the encoding of space and time.
        width, hidden: of the perceptrons.
        sparsity: price of the mean probability of vessel.
        rectified: attenuations by ReLU as published, which can start dead; otherwise by softplus.
    """

    def __init__(
        self,
        levels: int = 8,
        features: int = 2,
        log2_table: int = 16,
        base: int = 8,
        growth: float = 1.45,
        dynamic_levels: int = 8,
        dynamic_base: int = 2,
        dynamic_growth: float = 1.4,
        width: int = 32,
        hidden: int = 2,
        sparsity: float = 0.01,
        rectified: bool = False,
    ) -> None:
        super().__init__()
        space = {"levels": levels, "features": features, "log2_table": log2_table, "base": base, "growth": growth}
        moving = {**space, "levels": dynamic_levels, "base": dynamic_base, "growth": dynamic_growth}
        self.probability = nn.ModuleList([HashEncoding(3, **space), _perceptron(levels * features, width, hidden)])
        self.still = nn.ModuleList([HashEncoding(3, **space), _perceptron(levels * features, width, hidden)])
        self.moving = nn.ModuleList([HashEncoding(4, **moving), _perceptron(dynamic_levels * features, width, hidden)])
        self.levels, self.features, self.log2_table, self.base, self.growth = levels, features, log2_table, base, growth
        self.dynamic_levels, self.dynamic_base, self.dynamic_growth = dynamic_levels, dynamic_base, dynamic_growth
        self.width, self.hidden = width, hidden
        self.sparsity = sparsity
        self.rectified = rectified
        self.points: torch.Tensor | None = None
        self._mean_probability: torch.Tensor | None = None

    @classmethod
    def published(cls) -> VPAL:
        """Make the paper's sizes: 12 levels of 8 features, tables of 2^19, perceptrons of 3 x 128."""
        return cls(12, 8, 19, 8, 1.45, 12, 2, 1.4, 128, 3, rectified=True)

    def make_parameters(self, mean: torch.Tensor, generator: torch.Generator) -> None:
        _, grid = self.bound()
        places = torch.stack(torch.unravel_index(self.voxels, grid.volume_shape), -1)
        sizes = torch.tensor(grid.volume_shape, device=places.device)
        self.points = ((places + 0.5) / sizes).float()  # [M, 3] in the volume's box
        for encoding, perceptron in (self.probability, self.still, self.moving):
            encoding.start(generator)
            for layer in perceptron:
                if isinstance(layer, nn.Linear):
                    bound = (6 / layer.in_features) ** 0.5
                    drawn = (torch.rand(layer.weight.shape, generator=generator) * 2 - 1) * bound
                    layer.weight.data = drawn.to(self.voxels.device)
                    layer.bias.data = torch.zeros(layer.out_features, device=self.voxels.device)
        self.to(self.voxels.device)

    def set_levels(self, active: int) -> None:
        """Use so many levels of each encoding, from the coarsest; the others give zero."""
        for encoding, _ in (self.probability, self.still, self.moving):
            encoding.active = max(1, min(active, encoding.levels))

    def _attenuation(self, values: torch.Tensor) -> torch.Tensor:
        _, grid = self.bound()
        positive = F.relu(values) if self.rectified else F.softplus(values - 1)
        return positive * grid.attenuation

    def vessel_probability(self) -> torch.Tensor:
        """p at the voxels, [M]."""
        encoding, perceptron = self.probability
        return torch.sigmoid(perceptron(encoding(self.points, remember=True)))[:, 0]

    def attenuation(self, time_s: torch.Tensor) -> torch.Tensor:
        _, grid = self.bound()
        p = self.vessel_probability()  # [M]
        self._mean_probability = p.mean()
        encoding, perceptron = self.still
        still = self._attenuation(perceptron(encoding(self.points, remember=True)))[:, 0]  # [M]
        encoding, perceptron = self.moving
        moving = []
        for time in time_s.float() / max(grid.duration_s, 1e-9):
            points = torch.cat([self.points, time.expand(len(self.points), 1)], 1)  # type: ignore[list-item, arg-type]
            moving.append(self._attenuation(perceptron(encoding(points)))[:, 0])
        return (1 - p) * still + p * torch.stack(moving)  # [B, M]

    def regularization(self) -> torch.Tensor:
        mean = self.vessel_probability().mean() if self._mean_probability is None else self._mean_probability
        self._mean_probability = None
        return self.sparsity * mean
