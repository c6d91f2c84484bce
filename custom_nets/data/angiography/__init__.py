"""Angiography runs: frames, times, masks, geometry; their files."""

from __future__ import annotations

from .acquisition_reader import read_acquisition
from .reader import find_runs, read_angiography
from .run import AngiographyRun, active_area, bounding_box, make_run
from .views import Acquisition, default_volume
from .writer import run_path, write_run

__all__ = [
    "Acquisition",
    "AngiographyRun",
    "active_area",
    "bounding_box",
    "default_volume",
    "find_runs",
    "make_run",
    "read_acquisition",
    "read_angiography",
    "run_path",
    "write_run",
]
