"""A bundle as a folder: its root, the workflow that runs it, checks of its config; packed, exported."""

from __future__ import annotations

from .config_check import check_config
from .folder import quality_of, shipped_weights
from .root import bundle_root
from .workflow import merged_config, network_arguments, plain_settings, running_bundle, running_workflow

__all__ = [
    "bundle_root",
    "check_config",
    "merged_config",
    "network_arguments",
    "plain_settings",
    "quality_of",
    "running_bundle",
    "running_workflow",
    "shipped_weights",
]
