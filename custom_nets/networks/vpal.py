"""VPAL: a sharp probability of vessel that mixes a still and a moving field.

    mu(x, t) = (1 - p(x)) mu_s(x) + p(x) mu_d(x, t)

p and mu_s are hash encodings of space down to single voxels, mu_d one of space and time that stays coarse, each with a
small perceptron behind it: sharp where vessels are, smooth in how they fill.

Zhao H, Zhou Z, Wu F, Xiang D, Zhao H, et al., Vessel Probability Guided Attenuation Learning for sparse-view 4D DSA,
2024, https://arxiv.org/abs/2405.10705. Hash encoding: Mueller T, Evans A, Schied C, Keller A, Instant neural graphics
primitives, ACM Trans Graph 41(4), 2022, https://arxiv.org/abs/2201.05989. Written from the formulae.
"""

from __future__ import annotations

from typing import Any

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
        """Numbers [P, 2^d] of the corners around points [P, d], before they are cut to the table, and their weights.

        With one dimension less than the encoding has, the last one is still to come.
        """
        cells = self.cells[level]
        place = points.clamp(0, 1) * cells
        base = place.floor().clamp(max=cells - 1).long()  # [P, d]
        share = place - base
        number = base.new_zeros(len(points), 1)
        weight = share.new_ones(len(points), 1)
        for axis in range(points.shape[1]):
            part = torch.stack([base[:, axis], base[:, axis] + 1], 1)[:, None]  # [P, 1, 2]
            number = self._joined(number[:, :, None], part, axis, level).flatten(1)  # [P, 2^(axis + 1)]
            weight = (weight[:, :, None] * torch.stack([1 - share[:, axis], share[:, axis]], 1)[:, None]).flatten(1)
        return number, weight

    def _joined(self, number: torch.Tensor, index: torch.Tensor, axis: int, level: int) -> torch.Tensor:
        if self.dense[level]:
            return number + index * (self.cells[level] + 1) ** axis
        return number ^ (index * _PRIMES[axis])

    def forward(self, points: torch.Tensor, time: torch.Tensor | None = None) -> torch.Tensor:
        """Encode points; those of the call before are remembered, as a scan's voxels never change.

        Args:
            points: [P, dims], or [P, dims - 1] with ``time``.
            time: one number in 0 .. 1, the last coordinate of all points.
        """
        if self._remembered is None or self._remembered[0] is not points:
            self._remembered = points, [self.corners(points, level) for level in range(self.levels)]
        found = []
        for level, table in enumerate(self.tables[: self.active]):
            number, weight = self._remembered[1][level]
            if time is not None:
                place = time.clamp(0, 1) * self.cells[level]
                base = place.floor().clamp(max=self.cells[level] - 1)
                share, base = place - base, base.long()
                number = torch.cat([self._joined(number, base + k, self.dims - 1, level) for k in (0, 1)], 1)
                weight = torch.cat([weight * (1 - share), weight * share], 1)
            if not self.dense[level]:
                number = number & (self.sizes[level] - 1)
            found.append(_lookup(table, number, weight))
        silent = (self.levels - self.active) * self.features  # levels to come are zero
        return F.pad(torch.cat(found, dim=1), (0, silent))


class _Lookup(torch.autograd.Function):
    """Weighted sum of table entries; PyTorch's own (``embedding_bag``) is ten times as slow backwards."""

    @staticmethod
    def forward(ctx: Any, table: torch.Tensor, entry: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:  # type: ignore[override]
        ctx.save_for_backward(entry, weight)
        ctx.size = len(table)
        if table.is_meta or entry.is_meta:
            return (table[entry] * weight[..., None]).sum(1)
        return F.embedding_bag(entry, table, per_sample_weights=weight.to(table.dtype), mode="sum")

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:  # type: ignore[override]
        entry, weight = ctx.saved_tensors
        columns = []
        for feature in grad.T:  # a histogram for each is the fastest sum into a table there is
            amount = (weight * feature[:, None]).flatten()
            total = amount.new_zeros(ctx.size)
            columns.append(total.index_add_(0, entry.flatten(), amount))
        return torch.stack(columns, dim=1), None, None


_lookup = _Lookup.apply


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
        positive = F.relu(values) if self.rectified else F.softplus(values - 2)
        return positive * grid.attenuation

    def vessel_probability(self) -> torch.Tensor:
        """p at the voxels, [M]."""
        encoding, perceptron = self.probability
        return torch.sigmoid(perceptron(encoding(self.points)))[:, 0]

    def attenuation(self, time_s: torch.Tensor) -> torch.Tensor:
        _, grid = self.bound()
        p = self.vessel_probability()  # [M]
        self._mean_probability = p.mean()
        encoding, perceptron = self.still
        still = self._attenuation(perceptron(encoding(self.points)))[:, 0]  # [M]
        encoding, perceptron = self.moving
        moving = []
        for time in time_s.float() / max(grid.duration_s, 1e-9):
            moving.append(self._attenuation(perceptron(encoding(self.points, time)))[:, 0])
        return (1 - p) * still + p * torch.stack(moving)  # [B, M]

    def regularization(self) -> torch.Tensor:
        mean = self.vessel_probability().mean() if self._mean_probability is None else self._mean_probability
        self._mean_probability = None
        return self.sparsity * mean
