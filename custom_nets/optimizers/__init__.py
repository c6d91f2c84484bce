from __future__ import annotations

from .most_dsa import most_dsa_schedule, published_rate

__all__ = ["most_dsa_schedule", "published_rate"]
