"""Evaluations: protocols, scores, tables and reports."""

from __future__ import annotations
