"""Forward models as matrices, with their adjoints: interpolation, slice profiles, data consistency."""

from __future__ import annotations
