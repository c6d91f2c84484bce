from __future__ import annotations

from .batches import prepare_points

__all__ = ["prepare_points"]
