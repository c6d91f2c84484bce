"""Learn which units of a network to keep: gates under a constraint, then a plain smaller network (TinyCLIP, ICCV 2023).

Gates are hard concrete variables (Louizos et al., "Learning Sparse Neural Networks through L0 Regularization", ICLR
2018). A Lagrangian lets them close until each space of units (attention heads, hidden units, channels) has as many left
as the student has.
"""

from __future__ import annotations

import copy
import math
import os
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from custom_nets.checkpoints import inherit, load_network, student_network
from custom_nets.checkpoints.inheritance import space_sizes
from custom_nets.networks.layers.channels import Space

__all__ = ["GatedNetwork", "gated_network"]

_LOW, _HIGH, _TEMPERATURE = -0.1, 1.1, 2 / 3


def gated_network(teacher: str | os.PathLike, share: float = 0.5, **kwargs: Any) -> GatedNetwork:
    """The teacher of a bundle checkpoint, with gates that shall leave about ``share`` of its weights.

    Args:
        teacher, share: see :func:`custom_nets.checkpoints.student_network`.
        kwargs: of :class:`GatedNetwork`.
    """
    return GatedNetwork(load_network(teacher), student_network(teacher, share), **kwargs)


class GatedNetwork(nn.Module):
    """A network each unit of which is multiplied by a gate where it is read.

    In training gates are drawn; in eval mode those that stay have their mean value and the others are 0, which is what
    :meth:`cut` gives as a plain network. Spaces that are normalised as a whole have no gates: :meth:`cut` leaves them
    to the weights' sizes, and is then another network.

    Args:
        network: to be cut; it has ``channels``.
        student: a network of the size that is wanted, of the same class.
        ramp: steps in which the constraint rises from nothing.
        rate: how much faster than weights gates are learned.
        ascent: steps of the Lagrangian's multipliers, which begin at 10.

    Raises:
        ValueError: nothing of what shrinks can have a gate.
    """

    step: torch.Tensor
    multipliers: torch.Tensor

    def __init__(
        self, network: nn.Module, student: nn.Module, ramp: int = 1000, rate: float = 20.0, ascent: float = 0.02
    ) -> None:
        super().__init__()
        self.network, self.student = network, student.requires_grad_(False)
        self.ramp, self.rate, self.ascent = ramp, rate, ascent
        self.arch = getattr(student, "arch", {})
        self.channels = network.channels()  # type: ignore[operator]
        spaces = self.channels.spaces()
        sizes = space_sizes(student, network)
        self.kept = {name: n for name, (whole, n) in sizes.items() if n < whole and spaces[name].cuttable}
        if not self.kept:
            raise ValueError(f"no unit of {type(network).__name__} that the student lacks can have a gate.")
        units = [spaces[name].units for name in self.kept]
        self.gates = nn.ParameterList(torch.full((count,), 3.0 / rate) for count in units)
        self.register_buffer(
            "wanted", torch.tensor([1 - n / w for n, w in zip(self.kept.values(), units, strict=True)])
        )
        self.register_buffer("step", torch.zeros(()))
        self.register_buffer("multipliers", torch.tensor([10.0, 10.0]))

    def __getattr__(self, name: str) -> Any:
        """What is not its own is the network's, which engines and inferers ask for what it takes."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("network"), name)

    @property
    def token_layers(self) -> tuple[str, ...]:
        """See :class:`custom_nets.inferers.TeacherInferer`."""
        return tuple(f"network.{name}" for name in self.network.token_layers)  # type: ignore[union-attr]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the network's."""
        if self.training:
            self.step += 1
        return functional_call(self.network, self.weights(self.training), args, kwargs)

    def weights(self, drawn: bool) -> dict[str, torch.Tensor]:
        """The network's weights, each multiplied by the gates of what it reads: drawn ones, or those of eval mode."""
        gates = self._drawn() if drawn else self._fixed()
        found: dict[str, torch.Tensor] = dict(self.network.named_parameters())
        for key, axis in self.channels.reads.items():
            if any(isinstance(part, Space) and part.name in gates for part in axis):
                read = torch.cat([_along(part, gates, found[key]) for part in axis])
                found[key] = found[key] * read.view(-1, *[1] * (found[key].ndim - 2))
        return found

    def price(self) -> torch.Tensor:
        """What is to be added to the loss: the Lagrangian of the units that are open and should not be.

        ``l1 max(0, q - s) + l2 max(0, q - s)^2`` in the mean over spaces, s the expected share of closed gates, q the
        wanted one. Called once a step in training: the multipliers l1, l2 then rise by what they multiply.
        """
        offset = _TEMPERATURE * math.log(-_LOW / _HIGH)
        closed = torch.stack([1 - torch.sigmoid(self.rate * gate - offset).mean() for gate in self.gates])
        missing = (self.wanted * (self.step / self.ramp).clamp(max=1) - closed).clamp(min=0)
        terms = torch.stack([missing.mean(), missing.square().mean()])
        price = (self.multipliers * terms).sum()
        if self.training:
            self.multipliers = self.multipliers + self.ascent * terms.detach()
        return price

    @torch.no_grad()
    def cut(self) -> nn.Module:
        """The student that is left: a plain network, which gives what this one gives in eval mode."""
        whole = copy.deepcopy(self.network)
        whole.load_state_dict({**whole.state_dict(), **self.weights(drawn=False)})
        units = {name: gate.nonzero().flatten().cpu() for name, gate in self._fixed(exactly=True).items()}
        return inherit(copy.deepcopy(self.student), whole, units=units)

    def _drawn(self) -> dict[str, torch.Tensor]:
        noise = [torch.rand_like(gate).clamp(1e-6, 1 - 1e-6) for gate in self.gates]
        return {
            name: _stretched((u.logit() + self.rate * gate) / _TEMPERATURE)
            for name, gate, u in zip(self.kept, self.gates, noise, strict=True)
        }

    def _fixed(self, exactly: bool = False) -> dict[str, torch.Tensor]:
        """The gates that stay; ``exactly``: 1 for each of them, so that it can be seen which they are."""
        found = {}
        for (name, count), gate in zip(self.kept.items(), self.gates, strict=True):
            best = torch.zeros_like(gate).index_fill(0, gate.topk(count).indices, 1.0)
            found[name] = best if exactly else best * _stretched(self.rate * gate)
        return found


def _stretched(logits: torch.Tensor) -> torch.Tensor:
    return (logits.sigmoid() * (_HIGH - _LOW) + _LOW).clamp(0, 1)


def _along(part: Space | int, gates: dict[str, torch.Tensor], like: torch.Tensor) -> torch.Tensor:
    """Gates of one part of an axis, one for each channel; 1 where there is none."""
    if isinstance(part, int):
        return like.new_ones(part)
    if part.name not in gates:
        return like.new_ones(part.units * part.width)
    return gates[part.name].repeat_interleave(part.width)
