"""Bolus atoms: each voxel's curve is a non-negative sum of a few boluses that differ in when they arrive.

    mu(x, t) = sum_k a_k(x) g_k(t),  a_k >= 0

The g_k are one injection smeared by a gamma variate, at K evenly spaced arrivals; a_k(x) is a sum of small blobs on the
vessel voxels. The projections are linear in the coefficients, so the fit is convex: no start matters, it can be
interrupted and goes on, and the same scan gives the same volume.

Ours, after what is common to TiAVox, VPAL and TOGS (the volume over space and time is what is fitted, not its frames).
Gamma variate: Thompson HK et al., Indicator transit time considered as a gamma variate, Circ Res 14, 1964.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import nn

from custom_nets.data.angiography.arrival import passage_time
from custom_nets.networks.layers.attenuation_field import AttenuationField, SparseMap, blob_map

__all__ = ["BolusAtoms", "bolus_curves"]

_SHORTEST_S = 1.5  # about the shortest that is injected
_SHORTER_S = 0.25  # boluses of a fit that measures, than what it is to find
_LONG_S = 3.0
_MOST_SCOUTS = 3


def bolus_curves(
    time_s: torch.Tensor, arrivals_s: torch.Tensor, injection_s: float, time_constant_s: float, sharpness: float = 2.0
) -> torch.Tensor:
    """Concentration of boluses, 1 where the agent is undiluted.

    Args:
        time_s: [B].
        arrivals_s: [K] when each begins.
        injection_s: length of the injection.
        time_constant_s: of the gamma variate that smears it.
        sharpness: its shape; 1 is an exponential.

    Returns:
        [B, K].
    """
    since = (time_s[:, None] - arrivals_s) / time_constant_s  # [B, K]
    shape = torch.full_like(since, sharpness)
    rise = torch.special.gammainc(shape, since.clamp(min=0))
    return rise - torch.special.gammainc(shape, (since - injection_s / time_constant_s).clamp(min=0))


class BolusAtoms(AttenuationField):
    """Non-negative boluses on blobs.

    Args:
        num_atoms: K.
        injection_s: length of the injection; None: measured on the scan, see :meth:`learn_from`.
        time_constant_s: of the gamma variate that smears it, see :func:`bolus_curves`.
        first_arrival_s: of the first atom, before the first frame, as vessels may be filled by then.
        blob_voxels: width of a blob in voxels; 0: a voxel each.

    Shape:
        ``coefficients``: [M, K], in 1/mm.
    """

    def __init__(
        self,
        num_atoms: int = 12,
        injection_s: float | None = None,
        time_constant_s: float = 0.4,
        first_arrival_s: float = -1.0,
        blob_voxels: float = 0.5,
    ) -> None:
        super().__init__()
        if num_atoms < 1 or (injection_s is not None and injection_s <= 0) or time_constant_s <= 0 or blob_voxels < 0:
            raise ValueError(
                "bolus atoms need num_atoms >= 1, injection_s > 0, time_constant_s > 0 and blob_voxels >= 0, got "
                f"{num_atoms}, {injection_s}, {time_constant_s:g}, {blob_voxels:g}."
            )
        self.num_atoms = num_atoms
        self.injection_s = injection_s
        self.time_constant_s = time_constant_s
        self.first_arrival_s = first_arrival_s
        self.blob_voxels = blob_voxels
        self.lengths_s: list[float] = []  # what was measured on the scan
        self.coefficients = nn.Parameter(torch.zeros(0, num_atoms))
        self.blobs: SparseMap | None = None

    def scout(self) -> BolusAtoms | None:
        if self.injection_s is not None:
            return None
        somewhat_shorter = max(_SHORTEST_S, (self.lengths_s or [0.0])[-1] - _SHORTER_S)
        return BolusAtoms(**{**self.arguments(), "injection_s": somewhat_shorter})

    def learn_from(self, scout: BolusAtoms, times_s: np.ndarray) -> str:
        """Take the injection's length from how long the agent takes to pass vessels in a short fit.

        Sums of short boluses can be longer, but noise makes them look shorter than they are; sums of too long ones
        cannot be shorter. So it is measured again with boluses somewhat shorter than it was found to be, until that
        changes little. (Views that a fit has not seen do not tell: shorter boluses always foretell them a little
        better, and make the worse volume.)
        """
        times = np.linspace(float(times_s[0]), float(times_s[-1]), 128)
        taken = passage_time(scout.voxel_curves(times)[1].numpy(), times)
        if math.isnan(taken):
            self.injection_s = _LONG_S
            return f"injection_s {self.injection_s:g}: no vessel fills and empties within the scan"
        length = scout.injection_s
        assert length is not None
        # a bolus alone takes somewhat longer than its injection
        alone = bolus_curves(torch.tensor([length]), torch.zeros(1), length, self.time_constant_s)
        found = max(length + taken - length / float(alone), _SHORTEST_S)
        self.lengths_s.append(found)
        if len(self.lengths_s) == _MOST_SCOUTS or found - length - _SHORTER_S < 0.1:
            self.injection_s = round(found, 2)
        return f"the injection seems to last {found:.2f} s, in a short fit with boluses of {length:.2f} s"

    def make_parameters(self, mean: torch.Tensor, generator: torch.Generator) -> None:
        _, grid = self.bound()
        self.coefficients = nn.Parameter(torch.zeros(len(self.voxels), self.num_atoms, device=self.voxels.device))
        self.blobs = blob_map(self.voxels, grid.volume_shape, self.blob_voxels) if self.blob_voxels else None

    def curves(self, time_s: torch.Tensor) -> torch.Tensor:
        """Give the atoms over time, [B, K]."""
        if self.injection_s is None:
            raise RuntimeError("injection_s is left to the scan: let a fit measure it, or give a length in s.")
        _, grid = self.bound()
        # an atom that begins in the last tenth of a scan is seen by too few frames
        last = 0.9 * grid.duration_s
        arrivals = torch.linspace(self.first_arrival_s, last, self.num_atoms, device=time_s.device)
        return bolus_curves(time_s, arrivals, self.injection_s, self.time_constant_s)

    def attenuation(self, time_s: torch.Tensor) -> torch.Tensor:
        amounts = self.coefficients if self.blobs is None else self.blobs(self.coefficients)  # [M, K]
        return self.curves(time_s.float()) @ amounts.T  # [B, M]
