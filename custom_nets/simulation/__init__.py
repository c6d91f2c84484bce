"""Simulated angiography: vessels, blood flow, exposures."""

from __future__ import annotations
