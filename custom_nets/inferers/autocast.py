"""Mixed precision on any device."""

from __future__ import annotations

from typing import Any

import torch
from monai.inferers import SimpleInferer

__all__ = ["AutocastInferer"]


class AutocastInferer(SimpleInferer):
    """Call the network under ``torch.autocast`` of the input's own device (MONAI's engines know CUDA only).

    bfloat16 keeps float32's range, so no gradient scaler is needed.

    Args:
        dtype: "float32" (no autocast) or "bfloat16".
    """

    def __init__(self, dtype: str = "float32") -> None:
        super().__init__()
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(f"dtype must be 'float32' or 'bfloat16', got {dtype!r}.")
        self.dtype = dtype

    def __call__(self, inputs: torch.Tensor, network: Any, *args: Any, **kwargs: Any) -> Any:
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.dtype == "bfloat16"):
            return super().__call__(inputs, network, *args, **kwargs)
