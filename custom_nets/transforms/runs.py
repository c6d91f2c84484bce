"""Angiography runs in and out of MONAI pipelines."""

from __future__ import annotations

import importlib.util
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from monai.config import KeysCollection
from monai.transforms import MapTransform

from custom_nets.data.run_io import read_run
from custom_nets.data.run_output import RUN_FORMATS, check_format, default_format, run_path, write_run
from custom_nets.data.runs import AngiographyRun

__all__ = ["LoadRund", "SaveRund"]


class LoadRund(MapTransform):
    """Read runs: a path becomes an :class:`custom_nets.data.runs.AngiographyRun`.

    Args:
        keys: entries with a path each.
        options: of :func:`custom_nets.data.run_io.read_run` (times of the frames, mask subtraction, intensities).
    """

    def __init__(self, keys: KeysCollection, **options: Any) -> None:
        super().__init__(keys)
        self.options = options

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = read_run(item[key], **self.options)
        return item


class SaveRund(MapTransform):
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
        output_postfix: str = "most_dsa",
        output_format: str | None = None,
        film: bool = False,
        made_by: str = "custom_nets",
    ) -> None:
        super().__init__(keys)
        if output_format is not None and output_format not in RUN_FORMATS:
            raise ValueError(f"output_format must be one of {', '.join(RUN_FORMATS)}, got {output_format!r}.")
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
            self.written[str(item["case"])] = write_run(
                run, run_path(stem.parent, stem.name, kind), kind, made_by=self.made_by
            )
            if self.film and kind not in ("mp4", "gif"):
                _write_film(run, stem)
        return item


def _write_film(run: AngiographyRun, stem: Path) -> None:
    kind = "gif" if importlib.util.find_spec("imageio_ffmpeg") is None else "mp4"
    write_run(run, run_path(stem.parent, stem.name, kind), kind)
