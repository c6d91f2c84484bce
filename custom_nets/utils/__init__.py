"""What everything else needs and what needs nothing of ours: files, records, weights, processes, errors, devices."""

from __future__ import annotations

from typing import Any

from custom_nets._moved import moved_name

from .devices import checked_device, default_device
from .errors import root_cause, show_clear_errors
from .processes import join_processes, leave_processes, own_share, process_count, process_rank
from .text import one_line, protect_logs

__all__ = [
    "checked_device",
    "default_device",
    "one_line",
    "join_processes",
    "leave_processes",
    "own_share",
    "process_count",
    "process_rank",
    "root_cause",
    "show_clear_errors",
]

protect_logs()


def __getattr__(name: str) -> Any:
    return moved_name(__name__, name)
