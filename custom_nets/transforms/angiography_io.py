"""Angiography runs in and out of MONAI pipelines."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from custom_nets.data.angiography.file_readers import side_file
from custom_nets.data.angiography.reader import read_angiography
from custom_nets.data.angiography.run import AngiographyRun
from custom_nets.data.angiography.writer import RUN_FORMATS, check_format, default_format, run_path, write_run
from custom_nets.utils.files import check_name

__all__ = ["LoadAngiographyd", "SaveAngiographyd"]


class LoadAngiographyd(MapTransform):
    """Read runs: a path becomes an :class:`custom_nets.data.angiography.run.AngiographyRun`.

    Args:
        keys: entries with a path each.
        options: of :func:`custom_nets.data.angiography.reader.read_angiography` (times of the frames, mask subtraction,
            intensities).
    """

    def __init__(self, keys: KeysCollection, **options: Any) -> None:
        super().__init__(keys)
        self.options = options

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = read_angiography(item[key], **self.options)
        return item


class SaveAngiographyd(MapTransform):
    """Write runs as ``<output_dir>/<case>_<postfix>`` with the suffix of their format; whole or not at all.

    Attributes:
        written: case -> the path written.

    Args:
        keys: the entry with the run.
        output_dir: made if it does not exist.
        output_postfix: end of the file name.
        output_format: one of "dicom", "nifti", "npz", "png", "mp4", "gif"; None: the one that came in.
        film: write an MP4 for looking beside it (a GIF where there is no encoder).
        made_by: name and version of the software for DICOM headers.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        output_postfix: str = "trans",
        output_format: str | None = None,
        film: bool = False,
        made_by: str = "custom_nets",
    ) -> None:
        super().__init__(keys)
        if output_format is not None and output_format not in tuple(RUN_FORMATS):
            raise ValueError(f"output_format must be one of {', '.join(RUN_FORMATS)}, got {output_format!r}.")
        if not check_name(output_postfix, "output_postfix"):
            raise ValueError("output_postfix must be a word: it keeps results apart from the runs they were made of.")
        self.output_dir = Path(output_dir)
        self.output_postfix = output_postfix
        self.output_format = output_format
        self.film = film
        self.made_by = made_by
        self.written: dict[str, Path] = {}

    def stem_for(self, case: str) -> Path:
        """Path of what is written for a case, without suffix."""
        return self.output_dir / "_".join(part for part in (case, self.output_postfix) if part)

    def record_for(self, case: str) -> Path:
        """The JSON record of a case (written by :class:`custom_nets.handlers.RunRecord`)."""
        return self.stem_for(case).with_name(self.stem_for(case).name + ".json")

    def foreign_outputs(self, case: str) -> list[Path]:
        """What lies where this case goes and was not written by this program (it leaves a list of frames beside)."""
        stem = self.stem_for(case)
        there = [path for kind in RUN_FORMATS if (path := run_path(stem.parent, stem.name, kind)).exists()]
        return [path for path in there if not side_file(path).is_file()]

    def _remove_earlier(self, case: str, kept: set[Path]) -> None:
        """Results of an earlier, overwritten call in other formats: their lists of frames would be wrong now."""
        stem = self.stem_for(case)
        if not self.record_for(case).is_file():
            return
        for kind in RUN_FORMATS:
            path = run_path(stem.parent, stem.name, kind)
            if path in kept or not path.exists():
                continue
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    def format_for(self, run: AngiographyRun) -> str:
        """The format that a run is written in.

        Raises:
            ValueError: that format cannot hold it.
        """
        kind = self.output_format or default_format(run)
        check_format(run, kind)
        return kind

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            run: AngiographyRun = item[key]
            stem = self.stem_for(str(item["case"]))
            kind = self.format_for(run)
            case = str(item["case"])
            self.written[case] = write_run(run, run_path(stem.parent, stem.name, kind), kind, made_by=self.made_by)
            kept = {self.written[case]}
            if self.film and kind not in ("mp4", "gif"):
                kept.add(_write_film(run, stem))
            self._remove_earlier(case, kept)
        return item


def _write_film(run: AngiographyRun, stem: Path) -> Path:
    kind = "gif" if importlib.util.find_spec("imageio_ffmpeg") is None else "mp4"
    return write_run(run, run_path(stem.parent, stem.name, kind), kind)
