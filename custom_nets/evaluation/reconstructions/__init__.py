"""Evaluation of 4D reconstructions: phantoms whose truth is known, methods, scores, report."""

from __future__ import annotations
