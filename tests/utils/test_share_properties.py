"""Shared work: every item belongs to exactly one process, whatever the sizes."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from custom_nets.utils.processes import share


@given(st.lists(st.floats(0, 1e9), max_size=30), st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_nothing_is_left_out_or_done_twice(sizes, count):
    items = list(enumerate(sizes))
    shares = [share(items, lambda item: item[1], count, rank) for rank in range(count)]
    assert sorted(item for own in shares for item in own) == items
    assert all(own == sorted(own) for own in shares), "in the order of the list"


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=30), st.integers(1, 7))
@settings(max_examples=100, deadline=None)
def test_no_process_has_much_more_than_another(sizes, count):
    loads = [sum(share(sizes, float, count, rank)) for rank in range(count)]
    assert max(loads) - min(loads) <= max(sizes) * (1 + 1e-9), "largest first: one item is the most that they differ by"
