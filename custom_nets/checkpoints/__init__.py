"""Weights that remember their network, and published ones turned into them."""

from __future__ import annotations

from typing import Any

from custom_nets._moved import moved_name

from .bundle import build_network, load_network, load_pretrained, save_checkpoint
from .inheritance import inherit, student_network
from .priors import with_prior
from .published import load_published, published_methods, read_centroids

__all__ = [
    "build_network",
    "inherit",
    "student_network",
    "load_network",
    "load_published",
    "published_methods",
    "read_centroids",
    "save_checkpoint",
    "load_pretrained",
    "with_prior",
]


def __getattr__(name: str) -> Any:
    return moved_name(__name__, name)
