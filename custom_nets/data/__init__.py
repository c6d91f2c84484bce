"""Finding and reading the volumes and angiography runs to work on, and making synthetic ones."""

from __future__ import annotations

from .run_io import find_runs, read_run
from .run_output import run_path, write_run
from .runs import AngiographyRun, active_area, bounding_box, make_run
from .subjects import expand_scales, load_datalist, split_subjects
from .synthetic import RandContrastFromLabelsd
from .volumes import case_name, find_cases

__all__ = [
    "AngiographyRun",
    "RandContrastFromLabelsd",
    "active_area",
    "bounding_box",
    "case_name",
    "expand_scales",
    "find_cases",
    "find_runs",
    "load_datalist",
    "make_run",
    "read_run",
    "run_path",
    "split_subjects",
    "write_run",
]
