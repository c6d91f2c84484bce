"""Finding and reading the volumes to work on, and making synthetic ones."""

from __future__ import annotations

from .subjects import expand_scales, load_datalist, split_subjects
from .synthetic import RandContrastFromLabelsd
from .volumes import case_name, find_cases

__all__ = ["RandContrastFromLabelsd", "expand_scales", "load_datalist", "split_subjects", "case_name", "find_cases"]
