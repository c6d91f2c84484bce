"""What configs need besides MONAI's own parts: checks of the config, clear errors, the running workflow."""

from __future__ import annotations

from .config_check import check_config
from .devices import checked_device
from .errors import root_cause, show_clear_errors
from .tracking import sqlite_uri
from .workflow import merged_config, network_arguments, plain_settings, process_rank, running_workflow

__all__ = [
    "check_config",
    "checked_device",
    "merged_config",
    "network_arguments",
    "plain_settings",
    "process_rank",
    "root_cause",
    "running_workflow",
    "show_clear_errors",
    "sqlite_uri",
]
