"""Evaluation of volumes: degrade, bring back, compare."""

from __future__ import annotations
