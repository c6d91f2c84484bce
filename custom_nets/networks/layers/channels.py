"""Which channels of a network's weights are the same ones: what a smaller network has to know to inherit from it.

A network says so in its method ``channels``; :func:`custom_nets.checkpoints.inherit` cuts by it, and
:class:`custom_nets.networks.layers.gates.GatedNetwork` finds what can be cut.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

__all__ = ["Axis", "ChannelMap", "Space", "positions", "scaled"]


@dataclass(frozen=True)
class Space:
    """Channels that belong together wherever they appear; a unit of them is kept or cut as a whole.

    Args:
        name: of the space, unique in its network.
        units: how many there are.
        width: channels of a unit in this place (an attention head has many in its layers, one in its position bias).
        cuttable: whether all layers that read them are linear, so that a unit that is multiplied by 0 is as good as
            none. Behind a norm of all channels it is not.
        layer: which of several equal layers they are for, in this place, where a smaller network may have fewer.
    """

    name: str
    units: int
    width: int = 1
    cuttable: bool = False
    layer: str = ""


Axis = Sequence[Space | int]  # spaces one after another; a number: so many channels that are never cut


class ChannelMap:
    """Spaces along the axes of each weight.

    Attributes:
        axes: {name of the tensor: {its dimension: :data:`Axis`}}.
        reads: {name of a layer's weight: what its dimension 1 takes in}; also among ``axes``.
    """

    def __init__(self) -> None:
        self.axes: dict[str, dict[int, Axis]] = {}
        self.reads: dict[str, Axis] = {}

    def layer(self, name: str, inputs: Axis, outputs: Axis) -> None:
        """A linear layer or a convolution: weight [out, in, ...] and bias [out]."""
        self.axes[f"{name}.weight"] = {0: outputs, 1: inputs}
        self.axes[f"{name}.bias"] = {0: outputs}
        self.reads[f"{name}.weight"] = inputs

    def norm(self, name: str, channels: Axis) -> None:
        """A norm's gain and shift."""
        self.tensor(f"{name}.weight", {0: channels})
        self.tensor(f"{name}.bias", {0: channels})

    def tensor(self, name: str, axes: dict[int, Axis]) -> None:
        """A bare parameter or buffer."""
        self.axes[name] = axes

    def spaces(self) -> dict[str, Space]:
        """Every space by its name."""
        return {
            s.name: s for axes in self.axes.values() for axis in axes.values() for s in axis if isinstance(s, Space)
        }


def positions(axis: Axis, units: Mapping[str, torch.Tensor], layers: Collection[str] = ()) -> torch.Tensor:
    """Places along ``axis`` of what is kept.

    Args:
        axis: to be cut.
        units: of each space; all of those that are not named.
        layers: those that there still are, for spaces that belong to one.
    """
    found, start = [], 0
    for part in axis:
        if isinstance(part, int):
            found.append(torch.arange(start, start + part))
            start += part
            continue
        if not part.layer or part.layer in layers:
            kept = units.get(part.name, torch.arange(part.units))
            found.append(start + (kept[:, None] * part.width + torch.arange(part.width)).flatten())
        start += part.units * part.width
    return torch.cat(found)


def scaled(width: int, factor: float, divisor: int) -> int:
    """``width * factor`` as a multiple of ``divisor``, at least one of them; unchanged at 1."""
    return width if factor == 1 else min(width, max(1, round(width * factor / divisor)) * divisor)
