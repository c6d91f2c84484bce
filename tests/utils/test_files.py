"""Files appear whole or not at all, and what a killed process left goes away."""

from __future__ import annotations

import logging
import os
import subprocess
import time

import pytest

from custom_nets.utils.files import check_name, new_file, new_folder, part_path, remove_old_parts, write_json
from custom_nets.utils.text import one_line, protect_logs


def gone() -> int:
    """The number of a process that has ended."""
    ended = subprocess.Popen(["true"])
    ended.wait()
    return ended.pid


def part_of(path, pid: int):
    return path.with_name(part_path(path).name.replace(f"-{os.getpid()}-", f"-{pid}-", 1))


def test_an_error_leaves_the_old_file_and_no_part(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(OSError, match="full"), new_file(path) as part:
        part.write_text("half")
        raise OSError("full")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert '"a": 1' in path.read_text()


def test_what_a_killed_process_left_goes_with_the_next_writing_at_once(tmp_path):
    path = tmp_path / "a.json"
    part_of(path, gone()).write_text("half")
    folder = part_of(tmp_path / "series", gone())
    folder.mkdir()
    write_json(path, {})
    with new_folder(tmp_path / "series") as part:
        (part / "1.dcm").write_text("")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "series"]


def test_parts_of_living_processes_and_young_ones_of_other_machines_stay(tmp_path):
    path = tmp_path / "a.nii.gz"
    alive, mine = part_of(path, os.getppid()), part_path(path)
    other = tmp_path / ".part-01234567-1-b.nii.gz"
    for part in (alive, mine, other):
        part.write_text("half")
        os.utime(part, (time.time() - 3000,) * 2)
    assert remove_old_parts(tmp_path) == []
    for part in (alive, mine, other):
        os.utime(part, (time.time() - 4000,) * 2)
    assert remove_old_parts(tmp_path) == [other]


def test_two_jobs_that_clean_one_folder_do_not_meet(tmp_path, monkeypatch):
    """The other one removed it between our look at the folder and that at the file."""
    from pathlib import Path

    part = part_of(tmp_path / "a", gone())
    monkeypatch.setattr(Path, "glob", lambda self, pattern: [part])
    assert remove_old_parts(tmp_path) == []


def test_the_longest_name_can_be_written(tmp_path):
    path = tmp_path / ("n" * 248 + ".nii.gz")
    with new_file(path) as part:
        assert part.name.endswith(".nii.gz")
        part.write_text("")
    assert path.exists()


@pytest.mark.parametrize("name", ["a/b", "..\\a", "a\nb", "/etc"])
def test_a_name_that_leads_elsewhere_is_refused(name):
    with pytest.raises(ValueError, match="output_postfix becomes part of a file's name"):
        check_name(name, "output_postfix")


def test_any_name_can_be_shown_in_one_line():
    name = os.fsdecode(b"m\xfcller\nforged: line\x1b[2J.nii")
    assert one_line(name) == "m\\udcfcller\\nforged: line\\x1b[2J.nii"
    assert one_line("Müller", "ascii") == "M\\xfcller"
    assert one_line("scan 1.nii.gz") == "scan 1.nii.gz"


def test_a_name_forges_no_line_of_the_log(caplog):
    protect_logs()
    with caplog.at_level(logging.INFO):
        logging.getLogger("custom_nets.data.cases").info("%s: ignored", "a\nERROR forged")
    assert caplog.messages == ["a\\nERROR forged: ignored"]


def test_a_link_in_the_place_of_a_folder_is_replaced_and_what_it_leads_to_stays(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "mine").touch()
    (tmp_path / "a").symlink_to(tmp_path / "elsewhere")
    with new_folder(tmp_path / "a") as part:
        (part / "new").touch()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["new"] and (tmp_path / "elsewhere" / "mine").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "elsewhere"]
