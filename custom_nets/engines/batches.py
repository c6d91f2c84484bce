"""How the engines unpack a batch for each kind of network."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["prepare_points"]


def prepare_points(
    batchdata: dict[str, torch.Tensor],
    device: str | torch.device | None = None,
    non_blocking: bool = False,
    **kwargs: Any,
) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, ...], dict[str, Any]]:
    """For implicit networks: ``net(image, positions, scale)`` against the intensities ``label`` at the positions."""
    image, label, positions, scale = (
        batchdata[key].to(device=device, non_blocking=non_blocking, **kwargs)
        for key in ("image", "label", "positions", "scale")
    )
    return image, label, (positions, scale), {}
