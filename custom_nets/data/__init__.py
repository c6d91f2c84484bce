"""Finding and reading the volumes to work on, and making synthetic ones."""

from __future__ import annotations

from .synthetic import RandContrastFromLabelsd
from .volumes import case_name, find_cases

__all__ = ["RandContrastFromLabelsd", "case_name", "find_cases"]
