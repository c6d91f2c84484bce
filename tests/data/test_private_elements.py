"""One rule for all that is derived: private elements of the source are left out."""

from __future__ import annotations

import pydicom

from custom_nets.data.angiography.reader import read_angiography
from custom_nets.data.angiography.writer import write_run
from tests.tools.xa_writer import contrast_run, write_xa


def test_a_derived_run_has_no_private_elements_but_our_marks(tmp_path):
    path = write_xa(tmp_path / "run.dcm", contrast_run())
    dataset = pydicom.dcmread(path)
    dataset.private_block(0x0029, "VENDOR", create=True).add_new(0x01, "LO", "DOE^JANE K4711")
    dataset.save_as(path)
    written = write_run(read_angiography(path), tmp_path / "out.dcm", "dicom")
    header = pydicom.dcmread(written)
    private = [element for element in header.iterall() if element.tag.is_private]
    assert {getattr(element, "private_creator", None) for element in private} <= {None, "custom_nets"}
    assert b"K4711" not in written.read_bytes()
