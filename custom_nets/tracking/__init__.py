"""MLflow: clients, the registry of bundles, comparison of runs."""

from __future__ import annotations

from .client import sqlite_uri

__all__ = ["sqlite_uri"]
