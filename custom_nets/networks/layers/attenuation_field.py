"""What every 4D field shares: a network that knows the contrast agent at any place and time, and what a C-arm sees."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from custom_nets.operators.cone_beam import SupportOperator, compressed_rows, sparse_product

__all__ = ["AttenuationField", "ScanGrid", "SparseMap", "blob_map", "interpolation_map", "neighbour_pairs"]


@dataclass(frozen=True)
class ScanGrid:
    """What a field has to know of a scan.

    Args:
        volume_shape: (nx, ny, nz).
        spacing_mm: of the voxels.
        panel_shape: (H, W) of a projection.
        duration_s: from the first fill frame to the last.
        attenuation: of well filled vessel, 1/mm; only a scale, parameters are of the order of one.
    """

    volume_shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    panel_shape: tuple[int, int]
    duration_s: float
    attenuation: float = 0.02

    @classmethod
    def of(cls, acquisition: Any, attenuation: float = 0.02) -> ScanGrid:
        """Take it from an acquisition."""
        duration_s = float(acquisition.times_s[-1])
        return cls(
            tuple(acquisition.volume_shape), tuple(acquisition.volume_spacing_mm), tuple(acquisition.size),
            duration_s, attenuation,
        )  # fmt: skip

    def plain(self) -> dict[str, Any]:
        """Give plain types for a file."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_plain(cls, values: dict[str, Any]) -> ScanGrid:
        """Read what :meth:`plain` gave."""
        return cls(**{key: tuple(v) if isinstance(v, list) else v for key, v in values.items()})  # type: ignore[arg-type]


class AttenuationField(nn.Module):
    """A network fitted to one scan: attenuation of the contrast agent at the scan's vessel voxels, at any time.

    It is made without a scan, as a config describes it; :meth:`bind` gives it a grid, the voxels that may hold vessel,
    and parameters. Everywhere else the attenuation is zero, and nothing is computed.

    Attributes:
        grid: of the scan; None before :meth:`bind`.
        voxels: [M] flat indices of the voxels that may hold vessel.
        operator: sees them; remembers the views that it has seen.
    """

    voxels: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("voxels", torch.zeros(0, dtype=torch.int64))
        self.grid: ScanGrid | None = None
        self.operator: SupportOperator | None = None

    def bind(self, grid: ScanGrid, voxels: torch.Tensor, mean: torch.Tensor | None = None, seed: int = 0) -> None:
        """Make the parameters for a scan.

        Args:
            grid: of the scan.
            voxels: [M] flat indices, sorted.
            mean: [M] a first guess of the attenuation's mean over time, 1/mm.
            seed: of all random starts.
        """
        self.grid, self.voxels = grid, voxels
        self.operator = SupportOperator(grid.volume_shape, grid.spacing_mm, grid.panel_shape, voxels)
        mean = torch.full((len(voxels),), 0.1 * grid.attenuation) if mean is None else mean
        self.make_parameters(mean.to(voxels.device), torch.Generator().manual_seed(seed))

    def make_parameters(self, mean: torch.Tensor, generator: torch.Generator) -> None:
        """Make parameters for ``self.grid`` and ``self.voxels``; see :meth:`bind`."""
        raise NotImplementedError

    def attenuation(self, time_s: torch.Tensor) -> torch.Tensor:
        """Give [B, M] in 1/mm at times [B] in s since the first fill frame."""
        raise NotImplementedError

    def forward(self, vectors: torch.Tensor, time_s: torch.Tensor) -> torch.Tensor:
        """Give what the views see at their times.

        Args:
            vectors: [B, 12] of the views: source, panel centre, column step, row step, in mm.
            time_s: [B] seconds since the first fill frame.

        Returns:
            [B, 1, H, W] line integrals, unit-free.
        """
        operator, _ = self.bound()
        return operator.forward(self.attenuation(time_s), vectors.double().cpu().numpy())[:, None]

    def regularization(self) -> torch.Tensor:
        """What the loss adds for what the parameters should be like; 0 where the method has nothing."""
        return self.voxels.new_zeros((), dtype=torch.float32)

    def scout(self) -> AttenuationField | None:
        """Give a field to fit shortly first, where some arguments are left to the scan; None where all are given."""
        return None

    def learn_from(self, scout: Any, times_s: np.ndarray) -> str:
        """Settle what was left to the scan by a fitted :meth:`scout`; a sentence on what was found."""
        raise NotImplementedError

    def parameter_groups(self, learning_rate: float) -> list[dict[str, Any]]:
        """Groups for the optimizer, with their own rates where the method has them."""
        return [{"params": list(self.parameters()), "lr": learning_rate}]

    def bound(self) -> tuple[SupportOperator, ScanGrid]:
        """The operator and the grid.

        Raises:
            RuntimeError: :meth:`bind` was not called.
        """
        if self.operator is None or self.grid is None:
            raise RuntimeError(f"{type(self).__name__} belongs to no scan yet: call bind(grid, voxels).")
        return self.operator, self.grid

    # ---- volumes ----

    @torch.no_grad()
    def voxel_curves(self, times_s: Sequence[float] | np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """Attenuation where it may be above zero: flat voxel indices [M] and values [T, M] in 1/mm, on the CPU."""
        times = torch.as_tensor(np.asarray(times_s), dtype=torch.float32, device=self.voxels.device)
        parts = [self.attenuation(part).cpu() for part in times.split(8)]
        return self.voxels.cpu(), torch.cat(parts)

    def volume(self, time_s: float) -> torch.Tensor:
        """[nx, ny, nz] attenuation at one time, 1/mm, on the CPU."""
        _, grid = self.bound()
        voxels, curves = self.voxel_curves([time_s])
        return (
            curves.new_zeros(int(np.prod(grid.volume_shape))).index_add(0, voxels, curves[0]).reshape(grid.volume_shape)
        )

    # ---- files ----

    def arguments(self) -> dict[str, Any]:
        """What the field was made with; each argument of a field is an attribute of the same name."""
        return {name: getattr(self, name) for name in list(inspect.signature(type(self)).parameters)}

    def saved(self) -> dict[str, Any]:
        """All that :meth:`restore` and :meth:`from_saved` need, as tensors and plain types."""
        _, grid = self.bound()
        state = {k: v.detach().cpu() for k, v in self.state_dict().items()}
        if np.prod(grid.volume_shape) < 1 << 31:
            state["voxels"] = state["voxels"].int()  # half the size
        return {"arguments": self.arguments(), "grid": grid.plain(), "state": state}

    @classmethod
    def from_saved(cls, saved: dict[str, Any], device: torch.device | str = "cpu") -> AttenuationField:
        """Make the field that :meth:`saved` told of."""
        made = cls(**saved["arguments"])
        made.restore(saved, device)
        return made

    def restore(self, saved: dict[str, Any], device: torch.device | str = "cpu") -> None:
        """Become the field that :meth:`saved` told of, whatever size its parameters have grown to."""
        state = {name: value.to(device) for name, value in saved["state"].items()}
        state["voxels"] = state["voxels"].long()
        self.bind(ScanGrid.from_plain(saved["grid"]), state["voxels"])
        for name, parameter in list(self.named_parameters()):
            if name in state and parameter.shape != state[name].shape:
                module, _, leaf = name.rpartition(".")
                setattr(self.get_submodule(module), leaf, nn.Parameter(torch.empty_like(state[name])))
        self.prepare_state(state)
        self.load_state_dict(state)

    def prepare_state(self, state: dict[str, torch.Tensor]) -> None:
        """Adapt what belongs to the sizes in a state that is about to be loaded."""


# ---- sparse maps between sets of voxels ----


class SparseMap:
    """A fixed sparse matrix [R, C] that is applied to [C, K], with its transpose for gradients."""

    def __init__(self, row: torch.Tensor, column: torch.Tensor, value: torch.Tensor, shape: tuple[int, int]) -> None:
        order, back = torch.argsort(row, stable=True), torch.argsort(column, stable=True)
        self.shape = shape
        self.matrix = compressed_rows(row[order], column[order], value[order], shape)
        self.transposed = compressed_rows(column[back], row[back], value[back], (shape[1], shape[0]))

    def __call__(self, values: torch.Tensor) -> torch.Tensor:
        if values.is_meta:
            return values.new_empty(self.shape[0], *values.shape[1:])
        return sparse_product(values, self.matrix, self.transposed)


def _places(voxels: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """[M, 3] indices of flat ones."""
    return torch.stack(torch.unravel_index(voxels, tuple(shape)), dim=-1)


def _flat(places: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    strides = torch.tensor([shape[1] * shape[2], shape[2], 1], device=places.device)
    return (places * strides).sum(-1)


def _find(wanted: torch.Tensor, among: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Where each wanted number is in a sorted list, and whether it is there."""
    at = torch.searchsorted(among, wanted).clamp(max=len(among) - 1)
    return at, among[at] == wanted


def blob_map(voxels: torch.Tensor, shape: Sequence[int], width: float) -> SparseMap:
    """Map coefficients of blobs on the voxels to values at the voxels, [M, M].

    A blob is a Gaussian of ``width`` voxels (standard deviation), cut off beyond the next neighbours, with sum one.
    """
    places = _places(voxels, shape)
    size = torch.tensor(tuple(shape), device=voxels.device)
    steps = torch.cartesian_prod(*[torch.tensor([-1, 0, 1])] * 3).to(voxels.device)  # [27, 3]
    weights = torch.exp(-(steps**2).sum(1) / (2 * width**2))
    weights = weights / weights.sum()
    rows, columns, values = [], [], []
    for step, weight in zip(steps, weights, strict=True):
        near = places + step
        at, there = _find(_flat(near, shape), voxels)
        there &= ((near >= 0) & (near < size)).all(1)
        rows.append(there.nonzero()[:, 0])
        columns.append(at[there])
        values.append(weight.expand(len(rows[-1])))
    return SparseMap(torch.cat(rows), torch.cat(columns), torch.cat(values), (len(voxels), len(voxels)))


def interpolation_map(
    voxels: torch.Tensor, shape: Sequence[int], factor: int
) -> tuple[torch.Tensor, tuple[int, ...], SparseMap]:
    """Trilinear interpolation from a grid ``factor`` times as coarse, of which only the nodes in use are kept.

    Returns:
        Flat indices [C] of the nodes on the coarse grid, its shape, and the map [M, C] from nodes to voxels.
    """
    coarse = tuple(-(-n // factor) + 1 for n in shape)
    place = _places(voxels, shape).float() / factor  # nodes lie on every factor-th voxel
    base, share = place.floor().long(), place - place.floor()
    nodes, weights = [], []
    for corner in torch.cartesian_prod(*[torch.tensor([0, 1])] * 3).to(voxels.device):
        nodes.append(_flat(base + corner, coarse))
        weights.append(torch.where(corner == 1, share, 1 - share).prod(1))
    node, weight = torch.cat(nodes), torch.cat(weights)
    row = torch.arange(len(voxels), device=voxels.device).repeat(8)
    used = weight > 0
    kept, column = torch.unique(node[used], return_inverse=True)
    return kept, coarse, SparseMap(row[used], column, weight[used], (len(voxels), len(kept)))


def neighbour_pairs(voxels: torch.Tensor, shape: Sequence[int]) -> torch.Tensor:
    """Pairs [2, P] of positions in ``voxels`` that share a face."""
    places = _places(voxels, shape)
    pairs = []
    for axis in range(3):
        step = torch.zeros(3, dtype=torch.int64, device=voxels.device)
        step[axis] = 1
        at, there = _find(_flat(places + step, shape), voxels)
        there &= places[:, axis] + 1 < shape[axis]
        pairs.append(torch.stack([there.nonzero()[:, 0], at[there]]))
    return torch.cat(pairs, dim=1)
