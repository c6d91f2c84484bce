"""How a network is told the blur of a scan."""

from __future__ import annotations

import torch

__all__ = ["mtf_code"]


def mtf_code(mtf: torch.Tensor | None, batch: int, numbers: int, like: torch.Tensor) -> torch.Tensor:
    """Numbers that stand for a blur, or for one that is not known.

    Args:
        mtf: [B, ...] with ``numbers`` values between 0 and 1 per item; an item with one that is not a number, and
            None, is not known.
        batch: B.
        numbers: values per item.
        like: a tensor of the wanted type and device.

    Returns:
        [B, numbers + 1]: the values from -1 to 1, and 1; zeros where it is not known.
    """
    if mtf is None:
        return torch.zeros(batch, numbers + 1, dtype=like.dtype, device=like.device)
    values = mtf.reshape(batch, numbers).to(like)
    known = (values == values).all(1, keepdim=True)  # not a number differs from itself
    code = torch.cat([2 * values - 1, torch.ones_like(values[:, :1])], 1)
    return torch.where(known, code, torch.zeros_like(code))
