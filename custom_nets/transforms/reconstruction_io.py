"""Rotational acquisitions in, reconstructions out, in MONAI pipelines."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from monai.config import KeysCollection
from monai.transforms import MapTransform

from custom_nets.data.angiography.acquisition_reader import read_acquisition
from custom_nets.data.angiography.rendered_views import VIEW_FORMATS, write_views
from custom_nets.data.angiography.views import Acquisition
from custom_nets.data.reconstructions import extract_surface, write_4d, write_surface
from custom_nets.data.volumes.nifti import write_nifti
from custom_nets.geometry.cone_beam import ConeBeam

__all__ = ["LoadAcquisitiond", "SaveReconstructiond"]


class LoadAcquisitiond(MapTransform):
    """Read acquisitions: a path becomes a :class:`custom_nets.data.angiography.views.Acquisition`.

    Args:
        keys: entries with a path each.
        options: of :func:`custom_nets.data.angiography.acquisition_reader.read_acquisition`.
    """

    def __init__(self, keys: KeysCollection, **options: Any) -> None:
        super().__init__(keys)
        self.options = options

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            item[key] = read_acquisition(item[key], **self.options)
        return item


class SaveReconstructiond(MapTransform):
    """Write what a reconstruction gives, each file whole or not at all, the volume last.

    ``<case>_4d.nii.gz`` (and its times, ``<case>_4d.json``), ``<case>_arrival.nii.gz``, ``<case>_fit.pt``,
    ``<case>_volume.nii.gz``; if asked for, ``<case>_views.*`` and ``<case>_mesh.stl`` and ``.ply``.

    Attributes:
        written: case -> file's purpose -> path.

    Args:
        keys: the entry with the reconstruction.
        output_dir: made if it does not exist.
        views_out: rendered views to write, evenly over the scan's angles and times; 0: none.
        views_format: one of "dicom", "npz", "png", "mp4", "gif".
        mesh: write the vessels' surface, coloured (PLY) by arrival.
        save_fit: writes the fit's file; called with a path and the reconstruction. None: not written.
        made_by: name and version of the software for DICOM headers.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        views_out: int = 0,
        views_format: str = "npz",
        mesh: bool = False,
        save_fit: Any = None,
        made_by: str = "custom_nets",
    ) -> None:
        super().__init__(keys)
        if views_format not in VIEW_FORMATS:
            raise ValueError(f"views_format must be one of {', '.join(VIEW_FORMATS)}, got {views_format!r}.")
        if views_out < 0 or views_out == 1:
            raise ValueError(f"views_out must be 0 (none) or 2 and more, got {views_out}.")
        self.output_dir = Path(output_dir)
        self.views_out, self.views_format, self.mesh = views_out, views_format, mesh
        self.save_fit, self.made_by = save_fit, made_by
        self.written: dict[str, dict[str, Path]] = {}

    def path_for(self, case: str) -> Path:
        """The volume of a case, written last."""
        return self.output_dir / f"{case}_volume.nii.gz"

    def stem_for(self, case: str) -> Path:
        """Path of what is written for a case, without purpose and suffix."""
        return self.output_dir / case

    def record_for(self, case: str) -> Path:
        """The JSON record of a case (by :class:`custom_nets.handlers.ReconstructionRecord`)."""
        return self.output_dir / f"{case}_record.json"

    def foreign_outputs(self, case: str) -> list[Path]:
        """What lies where this case goes and was not written by this program."""
        return [p for p in (self.path_for(case),) if p.exists() and not self.record_for(case).is_file()]

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        item = dict(data)
        for key in self.key_iterator(item):
            self.written[str(item["case"])] = self.write(str(item["case"]), item[key])
        return item

    def write(self, case: str, found: Any) -> dict[str, Path]:
        """Write one case; ``found`` is a :class:`custom_nets.inferers.Reconstruction`."""
        stem, affine = self.output_dir / case, found.acquisition.affine_ras()
        at = {name: stem.with_name(f"{case}_{name}.nii.gz") for name in ("4d", "arrival", "volume")}
        write_4d(at["4d"], found.volumes(), affine, found.times_s)
        write_nifti(at["arrival"], found.arrival_s, affine)
        if self.save_fit is not None:
            at["fit"] = self.save_fit(stem.with_name(f"{case}_fit.pt"), found)
        if self.views_out:
            views = rendered_turn(found, self.views_out)
            origin = found.acquisition.origin
            at["views"] = write_views(self.output_dir, f"{case}_views", views, self.views_format, self.made_by, origin)
        if self.mesh:
            at |= self._surfaces(stem, case, found)
        write_nifti(at["volume"], found.mean_volume, affine)
        return at

    def _surfaces(self, stem: Path, case: str, found: Any) -> dict[str, Path]:
        from scipy import ndimage

        spacing = found.acquisition.volume_spacing_mm
        vertices, faces = extract_surface(found.peak_volume, 2 * found.vessel_level, spacing)
        # the arrival of the nearest voxel that has one
        missing = np.isnan(found.arrival_s)
        nearest = ndimage.distance_transform_edt(missing, return_distances=False, return_indices=True)
        filled = found.arrival_s[tuple(nearest)]
        voxel = vertices / spacing + (np.asarray(filled.shape) - 1) / 2
        index = np.clip(np.rint(voxel), 0, np.asarray(filled.shape) - 1).astype(int)
        at = {kind: stem.with_name(f"{case}_mesh.{kind}") for kind in ("stl", "ply")}
        write_surface(at["stl"], vertices, faces)
        write_surface(at["ply"], vertices, faces, filled[tuple(index.T)])
        return {"mesh_stl": at["stl"], "mesh_ply": at["ply"]}


def rendered_turn(found: Any, count: int) -> Acquisition:
    """Views along the scan's own path, ``count`` of them evenly in time, rendered."""
    scan = found.acquisition
    times = np.linspace(scan.times_s[0], scan.times_s[-1], count)
    names = ("source_mm", "panel_mm", "column_step_mm", "row_step_mm")
    # the path between two frames is bent by less than the frames' own distance from it
    along = {
        name: np.stack([np.interp(times, scan.times_s, getattr(scan, name)[:, axis]) for axis in range(3)], 1)
        for name in names
    }
    geometry = ConeBeam(**along, shape=scan.size)
    return Acquisition(
        projections=found.render(geometry, times),
        times_s=times,
        **along,  # type: ignore[arg-type]
        volume_shape=scan.volume_shape,
        volume_spacing_mm=scan.volume_spacing_mm,
        quantitative=scan.quantitative,
        notes=["rendered, not measured"],
    )
