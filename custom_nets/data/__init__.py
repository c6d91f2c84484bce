from __future__ import annotations

from .synthetic import RandContrastFromLabelsd

__all__ = ["RandContrastFromLabelsd"]
