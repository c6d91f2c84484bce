"""Numbers of frames in DICOM elements follow their frames, wherever frames were put in or left out."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom.dataset import Dataset

from custom_nets.data.angiography.xa_writer import _renumber


@st.composite
def edited_runs(draw) -> tuple[int, list[int]]:
    """Frames of the file, and which of them each frame of the run is; -1 for made ones."""
    count = draw(st.integers(2, 12))
    kept = sorted(draw(st.sets(st.integers(0, count - 1), min_size=1)))
    index: list[int] = []
    for frame in kept:
        index += [frame] + [-1] * draw(st.integers(0, 2))
    return count, index


@given(edited_runs(), st.data())
@settings(max_examples=100, deadline=None)
def test_elements_name_the_same_frames_as_before(edited, data):
    count, source = edited
    run = SimpleNamespace(source_index=np.array(source), origin=SimpleNamespace(meta={}, path="run"))
    numbers = st.integers(1, count)
    dataset = Dataset()
    dataset.NumberOfFrames = count
    dataset.RepresentativeFrameNumber = old = data.draw(numbers)
    dataset.FrameNumbersOfInterest = interest = data.draw(st.lists(numbers, min_size=2, max_size=4, unique=True))
    dataset.FrameOfInterestDescription = [f"frame {n}" for n in interest]
    dataset.RWavePointer = waves = data.draw(st.lists(numbers, min_size=2, max_size=4, unique=True))
    _renumber(dataset, run)

    def frame(number: int) -> int:
        """The old number of the frame that a new number names; 0 for a made one."""
        return source[number - 1] + 1

    there = {index + 1 for index in source}
    assert ("RepresentativeFrameNumber" in dataset) == (old in there)
    if old in there:
        assert frame(int(dataset.RepresentativeFrameNumber)) == old
    assert ("FrameNumbersOfInterest" in dataset) == (set(interest) <= there), "some alone would lose their words"
    if set(interest) <= there:
        assert [frame(int(n)) for n in dataset.FrameNumbersOfInterest] == interest
    left = [n for n in waves if n in there]
    found = np.atleast_1d(dataset.get("RWavePointer", []))
    assert [frame(int(n)) for n in found] == left
