"""Headers bent at random: the right values, or one line that says what is wrong; nothing else, and nothing left.

The seeds are fixed. ``python -m tests.tools.mutations 500`` tries others, and more of them.
"""

from __future__ import annotations

import warnings

import pytest

from tests.tools.mutations import many, try_mr, try_nifti, try_xa


@pytest.mark.parametrize(("kind", "count"), [(try_nifti, 150), (try_mr, 70), (try_xa, 80)])
def test_bent_headers(kind, count: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pydicom's, about what was bent
        counted = many(kind, count)
    assert counted["read"] > 0.2 * count and counted["refused"] > 0.05 * count, counted
