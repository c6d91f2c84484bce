"""What is said of a scan whatever its fit gives."""

from __future__ import annotations

import numpy as np
import pytest

from custom_nets.data.angiography.views import Acquisition
from custom_nets.geometry.cone_beam import circular_trajectory
from custom_nets.inferers.reconstruction import turn_covered


@pytest.mark.parametrize(("arc_deg", "said"), [(200, False), (180, False), (-195, False), (100, True), (-150, True)])
def test_less_than_half_a_turn_is_said(arc_deg: float, said: bool) -> None:
    turn = circular_trajectory(np.deg2rad(np.linspace(0.3, 0.3 + arc_deg, 40)), 765, 1200, (4, 5), (9.0, 9.0))
    parts = (turn.source_mm, turn.panel_mm, turn.column_step_mm, turn.row_step_mm)
    scan = Acquisition(np.zeros((40, 4, 5)), np.linspace(0, 5, 40), *parts)
    text = turn_covered(scan)
    assert (text is not None) == said and (text is None or f"by {abs(arc_deg)} degrees only" in text)
