"""VPAL: a sharp probability of vessel that mixes a still and a moving field.

    mu(x, t) = (1 - p(x)) mu_s(x) + p(x) mu_d(x, t)

p and mu_s are hash encodings of space down to single voxels, mu_d one of space and time that stays coarse, each with a
small perceptron behind it: sharp where vessels are, smooth in how they fill.

Zhao H, Zhou Z, Wu F, Xiang D, Zhao H, et al., Vessel Probability Guided Attenuation Learning for sparse-view 4D DSA,
2024, https://arxiv.org/abs/2405.10705. Hash encoding: Mueller T, Evans A, Schied C, Keller A, Instant neural graphics
primitives, ACM Trans Graph 41(4), 2022, https://arxiv.org/abs/2201.05989. Written from the formulae.
"""

from __future__ import annotations

from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import nn

from custom_nets.networks.layers.attenuation_field import AttenuationField, SparseMap

__all__ = ["HashEncoding", "VPAL"]

_PRIMES = (1, 2654435761, 805459861, 3674653429)


class HashEncoding(nn.Module):
    """Features of points at several resolutions, interpolated from tables that a hash looks up.

    A scan's voxels never change, so where their corners lie in the tables is a sparse matrix that is made once
    (:meth:`corner_map`). Time, where it is the last coordinate, is interpolated first, in the tables themselves: the
    hash only permutes a table from one instant to the next.

    Args:
        dims: of a point.
        levels: resolutions.
        features: per level.
        log2_table: entries of a table, as a power of two; a level with fewer corners has one each.
        base: cells per axis of the coarsest level.
        growth: cells of a level over those of the one before.

    Shape:
        map of points [P, dims] in 0 .. 1 -> [P, levels * features];
        map of points [P, dims - 1] and times [B] in 0 .. 1 -> [B, P, levels * features].
    """

    def __init__(self, dims: int, levels: int, features: int, log2_table: int, base: int, growth: float) -> None:
        super().__init__()
        self.dims, self.levels, self.features = dims, levels, features
        self.cells = [round(base * growth**level) for level in range(levels)]
        self.sizes = [min((n + 1) ** dims, 1 << log2_table) for n in self.cells]
        self.dense = [(n + 1) ** dims <= 1 << log2_table for n in self.cells]
        self.tables = nn.ParameterList(nn.Parameter(torch.zeros(size, features)) for size in self.sizes)
        self.active = levels

    def start(self, generator: torch.Generator) -> None:
        """Draw the tables anew, uniform within 1e-4."""
        for table in self.tables:
            table.data = ((torch.rand(table.shape, generator=generator) * 2 - 1) * 1e-4).to(table.device)

    def corners(self, points: torch.Tensor, level: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Entries [P, 2^d] of a level's table at the corners around points [P, d], and their weights."""
        cells = self.cells[level]
        place = points.clamp(0, 1) * cells
        base = place.floor().clamp(max=cells - 1).long()  # [P, d]
        share = place - base
        entry = base.new_zeros(len(points), 1)
        weight = share.new_ones(len(points), 1)
        for axis in range(points.shape[1]):
            index = torch.stack([base[:, axis], base[:, axis] + 1], 1)[:, None]  # [P, 1, 2]
            entry = self._joined(entry[:, :, None], index, axis, level).flatten(1)  # [P, 2^(axis + 1)]
            weight = (weight[:, :, None] * torch.stack([1 - share[:, axis], share[:, axis]], 1)[:, None]).flatten(1)
        return entry, weight

    def _joined(self, entry: torch.Tensor, index: torch.Tensor, axis: int, level: int) -> torch.Tensor:
        if self.dense[level]:
            return entry + index * (self.cells[level] + 1) ** axis
        return (entry ^ (index * _PRIMES[axis])) & (self.sizes[level] - 1)

    def corner_map(self, points: torch.Tensor) -> SparseMap:
        """Make the map from all tables, one below the other, to the levels of each point.

        Args:
            points: [P, dims] in 0 .. 1; [P, dims - 1] where time is to come.
        """
        rows, columns, weights, begin = [], [], [], 0
        point = torch.arange(len(points), device=points.device)
        for level in range(self.levels):
            entry, weight = self.corners(points, level)
            rows.append((point * self.levels + level).repeat_interleave(entry.shape[1]))
            columns.append(entry.flatten() + begin)
            weights.append(weight.flatten())
            begin += self._instant(level, points.shape[1])
        shape = (len(points) * self.levels, begin)
        return SparseMap(torch.cat(rows), torch.cat(columns), torch.cat(weights), shape)

    def _instant(self, level: int, dims: int) -> int:
        """Entries of a table that the first ``dims`` coordinates choose from."""
        return (self.cells[level] + 1) ** dims if self.dense[level] else self.sizes[level]

    def at(self, time: torch.Tensor) -> torch.Tensor:
        """All tables, one below the other, at times [B] in 0 .. 1: [S, B, features]."""
        found = []
        for level, table in enumerate(self.tables):
            cells = self.cells[level]
            place = time.clamp(0, 1) * cells
            base = place.floor().clamp(max=cells - 1)
            share = (place - base)[:, None]
            every = torch.arange(self._instant(level, self.dims - 1), device=time.device)  # [S]
            before, after = (
                F.embedding(self._joined(every[:, None], base.long() + step, self.dims - 1, level), table)
                for step in (0, 1)
            )  # [S, B, features]
            found.append(before + share * (after - before))
        return torch.cat(found)

    def forward(self, corners: SparseMap, time: torch.Tensor | None = None) -> torch.Tensor:
        """Encode the points of a :meth:`corner_map`; with ``time`` [B], at these times."""
        tables = torch.cat(list(self.tables))[:, None] if time is None else self.at(time)  # [S, B, features]
        found = corners(tables.flatten(1)).unflatten(1, tables.shape[1:])  # [P * levels, B, features]
        found = found.unflatten(0, (-1, self.levels))[:, : self.active]  # levels to come are zero
        found = F.pad(found.permute(2, 0, 1, 3), (0, 0, 0, self.levels - self.active)).flatten(2)
        return found[0] if time is None else found  # [B, P, levels * features]


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
        dynamic_levels: int = 6,
        dynamic_base: int = 2,
        dynamic_growth: float = 1.4,
        width: int = 32,
        hidden: int = 2,
        sparsity: float = 0.01,
        rectified: bool = False,
    ) -> None:
        super().__init__()
        space: dict[str, Any] = {
            "levels": levels,
            "features": features,
            "log2_table": log2_table,
            "base": base,
            "growth": growth,
        }
        moving = {**space, "levels": dynamic_levels, "base": dynamic_base, "growth": dynamic_growth}
        self.probability = nn.ModuleList([HashEncoding(3, **space), _perceptron(levels * features, width, hidden)])
        self.still = nn.ModuleList([HashEncoding(3, **space), _perceptron(levels * features, width, hidden)])
        self.moving = nn.ModuleList([HashEncoding(4, **moving), _perceptron(dynamic_levels * features, width, hidden)])
        self.levels, self.features, self.log2_table, self.base, self.growth = levels, features, log2_table, base, growth
        self.dynamic_levels, self.dynamic_base, self.dynamic_growth = dynamic_levels, dynamic_base, dynamic_growth
        self.width, self.hidden = width, hidden
        self.sparsity = sparsity
        self.rectified = rectified
        self.space_map: SparseMap | None = None  # of probability and still field
        self.moving_map: SparseMap | None = None
        self._mean_probability: torch.Tensor | None = None

    @classmethod
    def published(cls) -> VPAL:
        """Make the paper's sizes: 12 levels of 8 features, tables of 2^19, perceptrons of 3 x 128."""
        return cls(12, 8, 19, 8, 1.45, 12, 2, 1.4, 128, 3, rectified=True)

    def make_parameters(self, mean: torch.Tensor, generator: torch.Generator) -> None:
        _, grid = self.bound()
        places = torch.stack(torch.unravel_index(self.voxels, grid.volume_shape), -1)
        sizes = torch.tensor(grid.volume_shape, device=places.device)
        points = ((places + 0.5) / sizes).float()  # [M, 3] in the volume's box
        self.space_map = self.probability[0].corner_map(points)  # type: ignore[operator]
        self.moving_map = self.moving[0].corner_map(points)  # type: ignore[operator]
        for encoding, perceptron in self._pairs():
            encoding.start(generator)
            for layer in perceptron:
                if isinstance(layer, nn.Linear):
                    bound = (6 / layer.in_features) ** 0.5
                    drawn = (torch.rand(layer.weight.shape, generator=generator) * 2 - 1) * bound
                    layer.weight.data = drawn.to(self.voxels.device)
                    layer.bias.data = torch.zeros(layer.out_features, device=self.voxels.device)
        self.to(self.voxels.device)

    def _pairs(self) -> list[tuple[HashEncoding, nn.Sequential]]:
        pairs = (self.probability, self.still, self.moving)
        return [cast("tuple[HashEncoding, nn.Sequential]", tuple(pair)) for pair in pairs]

    def set_levels(self, active: int) -> None:
        """Use so many levels of each encoding, from the coarsest; the others give zero."""
        for encoding, _ in self._pairs():
            encoding.active = max(1, min(active, encoding.levels))

    def _attenuation(self, values: torch.Tensor) -> torch.Tensor:
        _, grid = self.bound()
        positive = F.relu(values) if self.rectified else F.softplus(values - 2)
        return positive * grid.attenuation

    def vessel_probability(self) -> torch.Tensor:
        """p at the voxels, [M]."""
        encoding, perceptron = self.probability
        return torch.sigmoid(perceptron(encoding(self.space_map)))[:, 0]

    def attenuation(self, time_s: torch.Tensor) -> torch.Tensor:
        _, grid = self.bound()
        p = self.vessel_probability()  # [M]
        self._mean_probability = p.mean()
        encoding, perceptron = self.still
        still = self._attenuation(perceptron(encoding(self.space_map)))[:, 0]  # [M]
        encoding, perceptron = self.moving
        time = time_s.float() / max(grid.duration_s, 1e-9)
        moving = self._attenuation(perceptron(encoding(self.moving_map, time)))[..., 0]  # [B, M]
        return (1 - p) * still + p * moving

    def regularization(self) -> torch.Tensor:
        mean = self.vessel_probability().mean() if self._mean_probability is None else self._mean_probability
        self._mean_probability = None
        return self.sparsity * mean
