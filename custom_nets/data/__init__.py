"""Finding and reading the volumes and angiography runs to work on."""

from __future__ import annotations

from typing import Any

from custom_nets._moved import moved_name

from .angiography import (
    AngiographyRun,
    active_area,
    bounding_box,
    find_runs,
    make_run,
    read_angiography,
    run_path,
    write_run,
)
from .cases import case_name, find_cases
from .datalist import expand_scales, load_datalist, split_subjects

__all__ = [
    "AngiographyRun",
    "active_area",
    "bounding_box",
    "case_name",
    "expand_scales",
    "find_cases",
    "find_runs",
    "load_datalist",
    "make_run",
    "read_angiography",
    "run_path",
    "split_subjects",
    "write_run",
]


def __getattr__(name: str) -> Any:
    return moved_name(__name__, name)
