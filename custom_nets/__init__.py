"""Acquire less, see the same: networks and MONAI parts for super-resolution of MR and DSA images.

Importing this package is cheap; the sub-packages are laid out as MONAI is (networks, transforms, inferers, ...).
"""

from __future__ import annotations

import importlib
from pkgutil import iter_modules
from typing import Any

from custom_nets import _moved

__version__ = "0.1.0"
__all__ = ["__version__", "bundle_root"]

_SUBPACKAGES = frozenset(module.name for module in iter_modules(__path__) if module.ispkg)
_moved.install()


def __getattr__(name: str) -> Any:
    """Import a sub-package at first use, so that ``$custom_nets.engines.f`` works in configs without its own import."""
    if name in _SUBPACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name == "bundle_root":
        return importlib.import_module(f"{__name__}.bundle.root").bundle_root
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
