from __future__ import annotations

from .fista import NonnegativeFista
from .most_dsa import most_dsa_schedule, published_rate

__all__ = ["NonnegativeFista", "most_dsa_schedule", "published_rate"]
