"""What configs need besides MONAI's own parts: checks of the config, clear errors, the running workflow."""

from __future__ import annotations

from .config_check import check_config
from .devices import checked_device, default_device
from .errors import root_cause, show_clear_errors
from .processes import process_count, process_rank
from .tracking import sqlite_uri
from .workflow import merged_config, network_arguments, plain_settings, running_workflow

__all__ = [
    "check_config",
    "checked_device",
    "default_device",
    "merged_config",
    "network_arguments",
    "plain_settings",
    "process_count",
    "process_rank",
    "root_cause",
    "running_workflow",
    "show_clear_errors",
    "sqlite_uri",
]
