"""Old import paths and config targets, which work for one version more and say once where the thing is now.

Registered bundles, packed zips and people's scripts hold the names of version 0.1. What moved as a whole stands in
``MODULES``; single names that went elsewhere or have another name now (``module:name``), in ``NAMES``.
"""

from __future__ import annotations

import importlib
import sys
import warnings
from collections.abc import Callable, Sequence
from functools import wraps
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from types import CodeType, ModuleType
from typing import Any, TypeVar, cast

__all__ = ["MODULES", "NAMES", "install", "moved_name", "renamed_arguments"]

_PACKAGE = "custom_nets"
F = TypeVar("F", bound=Callable[..., Any])

MODULES = {
    "apps.baselines": "operators.scipy_resampling",
    "apps.centroids": "checkpoints.centroids",
    "apps.evaluation": "evaluation.volumes.protocol",
    "apps.evaluation_report": "evaluation.volumes.report",
    "apps.frame_baselines": "evaluation.frames.baselines",
    "apps.frame_evaluation": "evaluation.frames.protocol",
    "apps.frame_report": "evaluation.frames.report",
    "apps.frame_scores": "evaluation.frames.scores",
    "apps.lesions": "evaluation.volumes.lesions",
    "apps.measures": "evaluation.volumes.measures",
    "apps.scores": "evaluation.tables",
    "compare_runs": "tracking.compare",
    "data.derived_dicom": "data.dicom.derived",
    "data.dicom_series": "data.volumes.dicom_series",
    "data.dsa_run": "simulation.acquisition",
    "data.dsa_simulator": "simulation.dsa",
    "data.mr_output": "data.volumes.dicom_writer",
    "data.nifti": "data.volumes.nifti",
    "data.prepare": "apps.prepare_data",
    "data.projection": "geometry.cone_beam",
    "data.run_area": "data.angiography.field_of_view",
    "data.run_files": "data.angiography.file_readers",
    "data.run_intensity": "data.angiography.intensity",
    "data.run_io": "data.angiography.reader",
    "data.run_output": "data.angiography.writer",
    "data.run_parts": "data.angiography.parts",
    "data.runs": "data.angiography.run",
    "data.simulated_runs": "apps.simulate_training_runs",
    "data.subjects": "data.datalist",
    "data.synthetic": "transforms.synthetic_contrast",
    "data.training_runs": "data.angiography.training_list",
    "data.vessel_tree": "simulation.vessel_tree",
    "data.xa_dicom": "data.angiography.xa_reader",
    "data.xa_frames": "data.angiography.xa_frames",
    "data.xa_marks": "data.angiography.xa_marks",
    "data.xa_motion": "data.angiography.xa_motion",
    "data.xa_output": "data.angiography.xa_writer",
    "data.xa_times": "data.angiography.xa_times",
    "data_consistency": "operators.data_consistency",
    "engines.published_planes": "networks.transmrsr",
    "export": "bundle.export",
    "handlers.gap_picture": "handlers.figures.frame_gaps",
    "handlers.sample_grid": "handlers.figures.sample_grid",
    "handlers.thick_slice_picture": "handlers.figures.thick_slices",
    "handlers.validation_picture": "handlers.figures.points",
    "networks.vgg19": "networks.layers.vgg19",
    "networks.winograd": "networks.layers.winograd",
    "pack": "bundle.pack",
    "registry": "tracking.registry",
    "resampling": "operators.interpolation",
    "transforms.frame_gaps": "transforms.frame_interpolation",
    "transforms.published": "transforms.published_arssr",
    "metrics.published_planes": "metrics.published_transmrsr",
    "optimizers.schedules": "optimizers.most_dsa",
    "losses.planes": "losses.transmrsr",
    "transforms.runs": "transforms.angiography_io",
    "utils.bundle_folder": "bundle.folder",
    "utils.config_check": "bundle.config_check",
    "utils.tracking": "tracking.client",
    "utils.workflow": "bundle.workflow",
    "visualize_evaluation": "visualize.frame_evaluation",
    "visualize_runs": "visualize.angiography",
    "visualize_thick_slices": "evaluation.volumes.thick_slice_figure",
}

NAMES = {
    "checkpoints.StateDict": "utils.weights",
    "checkpoints.main": "checkpoints.published",
    "checkpoints.read_checkpoint": "utils.weights",
    "data.RandContrastFromLabelsd": "transforms",
    "data.dicom_series.decode_pixels": "data.dicom.pixels",
    "data.dicom_series.dicom_files": "data.dicom.files",
    "data.dicom_series.holds_dicom": "data.dicom.files",
    "data.dicom_series.is_dicom_file": "data.dicom.files",
    "data.dsa_run.main": "apps.simulate_run",
    "data.nifti.check_writable": "utils.files",
    "data.projection.splat_discs": "simulation.splat",
    "engines.published_planes.prepare_published_planes": "engines.batches",
    "engines.published_planes.with_published_prior": "checkpoints.priors:with_prior",
    "networks.any_size_transmrsr.AnySizeTransMRSR.with_prior": "checkpoints.priors",
    "resampling.PROFILES": "operators.slice_profile",
    "resampling.degrade": "operators.slice_profile",
    "resampling.published_zoom_matrix": "operators.slice_profile",
    "resampling.sampled_profile_matrix": "operators.slice_profile",
    "resampling.slice_profile_matrix": "operators.slice_profile",
    "transforms.published.PublishedPlaned": "transforms.published_transmrsr",
    "transforms.published.RandPublishedFlipsd": "transforms.published_transmrsr",
    "transforms.published.from_imagenet_units": "networks.layers.imagenet",
    "transforms.published.pad_or_crop": "transforms.published_transmrsr",
    "transforms.published.to_imagenet_units": "networks.layers.imagenet",
    "utils.check_config": "bundle",
    "utils.merged_config": "bundle",
    "utils.network_arguments": "bundle",
    "utils.plain_settings": "bundle",
    "utils.record.absolute": "utils.files",
    "utils.record.data_bytes": "utils.files",
    "utils.record.new_folder": "utils.files",
    "utils.record.part_path": "utils.files",
    "utils.record.plain": "utils.files:to_jsonable",
    "utils.record.remove_old_parts": "utils.files",
    "utils.record.write_json": "utils.files",
    "utils.record.write_text": "utils.files",
    "utils.running_workflow": "bundle",
    "utils.sqlite_uri": "tracking",
    "visualize.DPI": "visualize.figure",
    "visualize.PANEL_INCHES": "visualize.figure",
    "visualize.PLANES": "visualize.figure",
    "visualize.save_figure": "visualize.figure",
    "data.volumes.case_name": "data.cases",
    "data.volumes.existing_path": "data.cases",
    "data.volumes.find_cases": "data.cases",
    "data.volumes.from_json": "data.cases",
    "data.volumes.unique_names": "data.cases",
    "data.volumes.IMAGE_SUFFIXES": "data.cases",
    "apps.frame_evaluation.join_processes": "utils.processes",
    "apps.frame_evaluation.own_share": "utils.processes",
    "checkpoints.start_from": "checkpoints:load_pretrained",
    "data.read_run": "data:read_angiography",
    "data.run_io.read_run": "data.angiography.reader:read_angiography",
    "transforms.check_writable": "utils.files",
    "transforms.LoadRund": "transforms:LoadAngiographyd",
    "transforms.SaveRund": "transforms:SaveAngiographyd",
    "transforms.runs.LoadRund": "transforms.angiography_io:LoadAngiographyd",
    "transforms.runs.SaveRund": "transforms.angiography_io:SaveAngiographyd",
}


def _say(old: str, new: str) -> None:
    warnings.warn(
        f"{_PACKAGE}.{old} is now {_PACKAGE}.{new}; the old name goes with the next version.", FutureWarning, 4
    )


def moved_name(package: str, name: str) -> Any:
    """What ``package.name`` was, for a package's ``__getattr__``.

    Raises:
        AttributeError: it never was.
    """
    old = f"{package}.{name}".removeprefix(f"{_PACKAGE}.")
    if old not in NAMES:
        raise AttributeError(f"module '{package}' has no attribute '{name}'")
    module, now = _place(old)
    _say(old, f"{module}.{now}")
    return getattr(importlib.import_module(f"{_PACKAGE}.{module}"), now)


def _place(old: str) -> tuple[str, str]:
    """Module and name of what was ``old``."""
    package, _, name = old.rpartition(".")
    module, _, now = NAMES.get(old, MODULES.get(package, "")).partition(":")
    return module, now or name


def renamed_arguments(**names: str) -> Callable[[F], F]:
    """Let a function take keyword arguments by their old names too (``old="new"``), with a warning."""

    def decorate(function: F) -> F:
        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            for old in names.keys() & kwargs.keys():
                warnings.warn(f"{function.__qualname__}: {old} is now {names[old]}.", FutureWarning, 2)
                kwargs[names[old]] = kwargs.pop(old)
            return function(*args, **kwargs)

        return cast(F, call)

    return decorate


class _MovedModule(ModuleType):
    """A module of an old name, which looks every name up where it is now."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        module, now = _place(f"{self.__name__}.{name}".removeprefix(f"{_PACKAGE}."))
        return getattr(importlib.import_module(f"{_PACKAGE}.{module}"), now)


class _MovedLoader(Loader):
    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _MovedModule(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        old = module.__name__.removeprefix(f"{_PACKAGE}.")
        _say(old, MODULES[old])

    def get_code(self, fullname: str) -> CodeType:  # python -m OLD
        old = fullname.removeprefix(f"{_PACKAGE}.")
        new = f"{_PACKAGE}.{_place(f'{old}.main')[0]}"
        source = (
            f"import runpy, sys\nprint('{fullname} is now {new}', file=sys.stderr)\n"
            f"runpy.run_module('{new}', run_name='__main__', alter_sys=True)\n"
        )
        return compile(source, f"<{fullname}>", "exec")


class _MovedFinder(MetaPathFinder):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if fullname.startswith(f"{_PACKAGE}.") and fullname.removeprefix(f"{_PACKAGE}.") in MODULES:
            return ModuleSpec(fullname, _MovedLoader(), origin="moved")
        return None


def install() -> None:
    """Let the import system find old names (once)."""
    if not any(isinstance(finder, _MovedFinder) for finder in sys.meta_path):
        sys.meta_path.append(_MovedFinder())
