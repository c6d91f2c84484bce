"""How the engines unpack a batch for each kind of network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from custom_nets.networks.transmrsr import published_units

__all__ = [
    "predict_gap",
    "predict_published_gap",
    "prepare_acquisition",
    "prepare_gap",
    "prepare_planes",
    "prepare_points",
    "prepare_published_gap",
    "prepare_run",
    "single_item",
]


def prepare_points(
    batchdata: dict[str, torch.Tensor],
    device: str | torch.device | None = None,
    non_blocking: bool = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...], dict[str, Any]]:
    """For implicit networks: ``net(image, positions, scale)`` against the intensities ``label`` at the positions, and
    ``mtf`` where the batch has it."""
    names = ("image", "label", "positions", "scale", *(["mtf"] if "mtf" in batchdata else []))
    image, label, *others = (batchdata[n].to(device=device, non_blocking=non_blocking, **kwargs) for n in names)
    return image, label, tuple(others), {}


def prepare_planes(
    batchdata: dict[str, torch.Tensor],
    device: str | torch.device | None = None,
    non_blocking: bool = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...], dict[str, Any]]:
    """For planes of thick slices: ``net(image, scale, position)`` against ``label``, and ``mtf`` where the batch has
    it."""
    names = ("image", "label", "scale", "position", *(["mtf"] if "mtf" in batchdata else []))
    image, label, *others = (batchdata[n].to(device=device, non_blocking=non_blocking, **kwargs) for n in names)
    return image, label, tuple(others), {}


def prepare_gap(
    batchdata: dict[str, torch.Tensor],
    device: str | torch.device | None = None,
    non_blocking: bool = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...], dict[str, Any]]:
    """For frame interpolation: ``net(frame0, frame1, timesteps, before, after, nearness)`` against ``label``.

    Where the batch has ``flow_px`` or ``turn``, they go along by their names.
    """

    def moved(*names: str) -> list[torch.Tensor]:
        return [batchdata[n].to(device=device, non_blocking=non_blocking, **kwargs) for n in names]

    frame0, label, *others = moved("frame0", "label", "frame1", "timesteps", "before", "after", "nearness")
    further = [name for name in ("flow_px", "turn") if name in batchdata]
    return frame0, label, tuple(others), dict(zip(further, moved(*further), strict=True))


def single_item(items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """``collate_fn`` for things that cannot be stacked, such as runs: the one item of the batch as it is."""
    if len(items) != 1:
        raise ValueError(f"items of this kind go one at a time, got a batch of {len(items)}.")
    return items[0]


def prepare_run(
    batchdata: dict[str, Any], device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Any, None, tuple[()], dict[str, Any]]:
    """For whole runs: the inferer takes the run as it is and moves to the device what it works on."""
    return batchdata["image"], None, (), {"device": device}


def prepare_acquisition(
    batchdata: dict[str, Any], device: str | torch.device | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[Any, None, tuple[()], dict[str, Any]]:
    """For rotational acquisitions, which a fit of their own is made of; it is told the case's name, too."""
    return batchdata["image"], None, (), {"device": device, "case": str(batchdata["case"])}


def predict_gap(network: Any, batchdata: dict[str, torch.Tensor]) -> torch.Tensor:
    """The frames of a batch of gaps, [B, T, C, H, W], from a network that takes context."""
    frame0, _, others, options = prepare_gap(batchdata)
    return network(frame0, *others, **options)


def prepare_published_gap(
    batchdata: dict[str, torch.Tensor],
    device: str | torch.device | None = None,
    non_blocking: bool = False,
    details: bool = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...], dict[str, Any]]:
    """The same for the published network: three equal channels, no context; ``details`` is what its loss wants."""
    frame0, label, others, _ = prepare_gap(batchdata, device, non_blocking, **kwargs)
    frame1, timesteps = others[:2]
    three = (-1, 3, -1, -1)
    options = {"details": True} if details else {}
    return frame0.expand(*three), label.expand(-1, *three), (frame1.expand(*three), timesteps), options


def predict_published_gap(network: Any, batchdata: dict[str, torch.Tensor]) -> torch.Tensor:
    """:func:`predict_gap` for the published network."""
    frame0, _, others, _ = prepare_published_gap(batchdata)
    return network(frame0, *others)


def prepare_published_planes(
    batchdata: dict[str, torch.Tensor],
    device: str | torch.device | None = None,
    non_blocking: bool = False,
    size: int = 256,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor]:
    """For planes of thick slices: ``net(image)`` against ``label``, both as :func:`published_units`."""
    image, label = (
        published_units(batchdata[key].to(device=device, non_blocking=non_blocking, **kwargs), size)
        for key in ("image", "label")
    )
    return image, label
