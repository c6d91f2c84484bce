from __future__ import annotations

from .autocast import AutocastInferer
from .implicit import ImplicitVolumeInferer, PublishedProcedureInferer, resolve_grid
from .streaming import PlaneStreamer

__all__ = ["AutocastInferer", "ImplicitVolumeInferer", "PlaneStreamer", "PublishedProcedureInferer", "resolve_grid"]
