"""From a rotational acquisition to a 4D volume: fit a field to it, and ask the field for everything."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.inferers import Inferer
from numpy.typing import NDArray

from custom_nets.data.angiography.arrival import half_rise_time, vessel_level
from custom_nets.data.angiography.views import Acquisition
from custom_nets.engines.scan_fitting import FitCurve, ScanFitting, acquisition_fingerprint
from custom_nets.geometry.cone_beam import ConeBeam
from custom_nets.metrics.reconstruction import view_scores
from custom_nets.networks.layers.attenuation_field import AttenuationField
from custom_nets.operators.cone_beam import view_vectors
from custom_nets.utils.files import as_typed, new_file

__all__ = ["Reconstruction", "ReconstructionInferer", "load_fit", "save_fit"]

logger = logging.getLogger(__name__)

_FORMAT = "custom_nets scan fit 1"
_ENOUGH_TIMES = 100  # to tell when a curve has half of its maximum
_GROSS = 1.25  # a short fit on a coarse grid is no wrong geometry
_HALF_A_TURN_DEG = 170.0  # and somewhat less; 3D runs are of 180 to 220 degrees
_FAR_DEG = 5.0  # between two views: nearer ones are means of their neighbours, whatever the geometry


@dataclass(eq=False)
class Reconstruction:
    """A fitted field and the acquisition it was fitted to.

    Args:
        network: the field.
        acquisition: all frames.
        kept: the frames that the fit saw.
        times_s: [T] of the 4D volume.
        curve: how the fit went; None when it was read from a file.
        scores: of the left-out views (of the kept ones where none was left out).
        warnings: sentences; the first says whether the scan fits at all.
    """

    network: AttenuationField
    acquisition: Acquisition
    kept: NDArray[np.int64]
    times_s: NDArray[np.float64]
    curve: FitCurve | None = None
    scores: dict[str, Any] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    @property
    def left_out(self) -> NDArray[np.int64]:
        """The frames that the fit did not see."""
        return self.acquisition.left_out(self.kept)

    @cached_property
    def vessel_level(self) -> float:
        """Attenuation in 1/mm that a voxel has to reach at some time to count as vessel."""
        return vessel_level(self._curves[1].max(0))

    @cached_property
    def _curves(self) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        voxels, curves = self.network.voxel_curves(self.acquisition.times_s)
        return voxels.numpy(), curves.numpy()

    def _spread(self, values: NDArray, elsewhere: float = 0.0) -> NDArray[np.float32]:
        return _spread(self.acquisition.volume_shape, self._curves[0], values, elsewhere)

    @cached_property
    def mean_volume(self) -> NDArray[np.float32]:
        """[nx, ny, nz] mean over the times of all frames, 1/mm."""
        return self._spread(self._curves[1].mean(0))

    @cached_property
    def peak_volume(self) -> NDArray[np.float32]:
        """[nx, ny, nz] maximum over the times of all frames, 1/mm."""
        return self._spread(self._curves[1].max(0))

    @cached_property
    def arrival_s(self) -> NDArray[np.float32]:
        """[nx, ny, nz] when each voxel reaches half of its maximum within the scan; NaN where there is no vessel."""
        times, curves = self.acquisition.times_s, self._curves[1]
        peak = curves.max(0)
        if len(times) < _ENOUGH_TIMES:  # the field knows what lies between few frames
            times = np.union1d(times, np.linspace(times[0], times[-1], _ENOUGH_TIMES))
            curves = self.network.voxel_curves(times)[1].numpy()
        arrival = half_rise_time(curves, times)
        return self._spread(np.where(peak > self.vessel_level, arrival, np.nan), np.nan)

    def volumes(self) -> Any:
        """Give [nx, ny, nz] at each of ``times_s``, one after the other."""
        for time_s in self.times_s:
            voxels, curves = self.network.voxel_curves([time_s])
            yield _spread(self.acquisition.volume_shape, voxels.numpy(), curves[0].numpy(), 0.0)

    @torch.no_grad()
    def render(self, geometry: ConeBeam, times_s: Sequence[float] | NDArray) -> NDArray[np.float32]:
        """Give what a C-arm would see, [n, H, W], from anywhere at any time (seconds since the first fill frame).

        Raises:
            ValueError: another picture size than the acquisition's.
        """
        operator, grid = self.network.bound()
        if tuple(geometry.shape) != tuple(grid.panel_shape):
            raise ValueError(f"pictures must be {grid.panel_shape} as the acquisition's, got {geometry.shape}.")
        vectors = torch.as_tensor(view_vectors(geometry))
        times = torch.as_tensor(np.asarray(times_s), dtype=torch.float32).to(self.network.voxels.device)
        operator.remember = False
        try:
            parts = [self.network(vectors[k : k + 1], times[k : k + 1])[0, 0].cpu() for k in range(len(vectors))]
        finally:
            operator.remember = True
        return torch.stack(parts).numpy()


def _spread(shape: Sequence[int], voxels: NDArray, values: NDArray, elsewhere: float) -> NDArray[np.float32]:
    volume = np.full(int(np.prod(shape)), elsewhere, np.float32)
    volume[voxels] = values
    return volume.reshape(shape)


class ReconstructionInferer(Inferer):
    """Fit a copy of the network to an acquisition, score it on the views left out, and give a :class:`Reconstruction`.

    Args:
        fitting: how to fit.
        views: frames to keep, evenly chosen as the papers do; the others are scored. None: all.
        times_s: of the 4D volume, in seconds since the first fill frame.
        num_times: so many even times from the first frame to the last, where ``times_s`` is not given.
        fit_file: a fit that was saved: nothing is fitted.
        state_dir: where a fit that goes on leaves its state, to go on from after a kill; None: nowhere.

    Raises:
        ValueError: both, or impossible, times.
    """

    def __init__(
        self,
        fitting: ScanFitting,
        views: int | None = None,
        times_s: Sequence[float] | None = None,
        num_times: int | None = None,
        fit_file: str | Path | None = None,
        state_dir: str | Path | None = None,
    ) -> None:
        super().__init__()
        if times_s is not None and num_times is not None:
            raise ValueError("give times_s or num_times, not both.")
        if num_times is not None and num_times < 1:
            raise ValueError(f"num_times must be 1 or more, got {num_times}.")
        self.fitting, self.views = fitting, views
        self.times_s = None if times_s is None else np.atleast_1d(np.asarray(times_s, dtype=np.float64))
        if self.times_s is not None and not (np.isfinite(self.times_s).all() and (np.diff(self.times_s) > 0).all()):
            raise ValueError(f"times_s must rise and be finite, got {self.times_s.tolist()}.")
        self.num_times = num_times or 12
        self.fit_file = fit_file
        self.state_dir = None if state_dir is None else Path(state_dir)

    def times_for(self, acquisition: Acquisition) -> NDArray[np.float64]:
        """Times of the 4D volume.

        Raises:
            ValueError: outside of the scan.
        """
        first, last = float(acquisition.times_s[0]), float(acquisition.times_s[-1])
        if self.times_s is None:
            return np.linspace(first, last, self.num_times)
        if self.times_s.min() < first - 1e-6 or self.times_s.max() > last + 1e-6:
            raise ValueError(
                f"times_s must lie within the scan, {first:g} to {last:g} s, got {self.times_s.tolist()}: before and "
                "after it nothing was measured."
            )
        return self.times_s

    def __call__(  # type: ignore[override]
        self,
        inputs: Acquisition,
        network: AttenuationField,
        *args: Any,
        device: torch.device | str = "cpu",
        case: str = "scan",
        **kwargs: Any,
    ) -> Reconstruction:
        times_s = self.times_for(inputs)
        kept = np.arange(len(inputs)) if self.views is None else inputs.views(self.views)
        curve: FitCurve | None = None
        if self.fit_file is not None:
            fitted = load_fit(self.fit_file, inputs, type(network), device)
            kept = np.asarray(fitted["kept"])
            field_ = fitted["network"]
        else:
            field_ = copy.deepcopy(network)
            state = None if self.state_dir is None else self.state_dir / f".{case}_fitting.pt"
            curve = self.fitting.fit(field_, inputs.subset(kept), device, state)
        found = Reconstruction(field_, inputs, kept, times_s, curve)
        _score(found)
        return found


def _score(found: Reconstruction) -> None:
    """Compare the left-out views, and warn where the scan does not fit."""
    scan = found.acquisition
    compared = found.left_out if len(found.left_out) else found.kept
    some = scan.subset(compared)
    rendered = found.render(some.geometry, some.times_s)
    found.scores = {
        "which": "left out" if len(found.left_out) else "fitted, as none was left out",
        "views": len(some),
        **view_scores(rendered, some.projections),
    }
    mean = scan.projections[found.kept].mean(0)
    size = max(float(np.linalg.norm(some.projections)), 1e-12)
    found.scores["nrmse_of_the_mean_picture"] = float(np.linalg.norm(some.projections - mean)) / size
    others = [("the mean picture", found.scores["nrmse_of_the_mean_picture"], 1.0)]
    steps = scan.geometry.at(found.kept).steps_deg
    if len(found.left_out) and steps.size and float(np.median(steps)) > _FAR_DEG:
        between = np.linalg.norm(some.projections - _between(scan, found.kept, found.left_out)) / size
        found.scores["nrmse_of_the_neighbours"] = float(between)
        others.append(("a mean of the two nearest kept views", float(between), _GROSS))
    for name, error, limit in others:
        if found.scores["nrmse"] >= limit * error:
            found.warnings.append(
                f"this does not fit: views that were {found.scores['which']} are off by "
                f"{found.scores['nrmse']:.2f} of their size, {name} alone by {error:.2f}. Check the "
                "geometry (angles, distances, pixel size, order of frames), the times and the subtraction."
            )
            break
    found.warnings += scan.warnings + ([text] if (text := turn_covered(scan)) else [])
    if found.curve is not None:
        found.warnings += found.curve.warnings
    if not scan.quantitative:
        found.warnings.append("the pictures are no line integrals: the volume's attenuation has no unit")


def turn_covered(scan: Acquisition) -> str | None:
    """Say so where the arm turns by less than half a turn, by which no volume is told without doubt."""
    arc = float(scan.geometry.steps_deg.sum())
    if arc >= _HALF_A_TURN_DEG:
        return None
    return (
        f"the arm turns by {arc:.0f} degrees only: vessels are drawn out along the directions that no view has. Runs "
        "for volumes have 180 to 220 degrees: was a part of the run left out, or do the angles mean something else?"
    )


def _between(scan: Acquisition, kept: NDArray[np.int64], left_out: NDArray[np.int64]) -> NDArray[np.float32]:
    """What left-out views are if each is a mean of its kept neighbours, the nearer one counting more."""
    place = np.interp(left_out, kept, np.arange(len(kept)))
    before = np.clip(place.astype(int), 0, len(kept) - 2)
    share = (place - before)[:, None, None].astype(np.float32)
    views = scan.projections
    return (1 - share) * views[kept[before]] + share * views[kept[before + 1]]


def save_fit(path: str | Path, found: Reconstruction) -> Path:
    """Write a fitted field, to be rendered again with :func:`load_fit`; whole or not at all."""
    path = Path(path)
    content = {
        "format": _FORMAT,
        "method": type(found.network).__name__,
        "network": found.network.saved(),
        "fingerprint": acquisition_fingerprint(found.acquisition),
        "kept": found.kept.tolist(),
    }
    with new_file(path) as part:
        torch.save(content, part)
    return path


def load_fit(
    path: str | Path, acquisition: Acquisition, kind: type[AttenuationField], device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """Read a fit: ``network``, ``kept``.

    Raises:
        ValueError: no such file, of another method, or of another acquisition.
    """
    try:
        content = torch.load(as_typed(path), map_location="cpu", weights_only=True)
        method = content["method"] if content["format"] == _FORMAT else None
    except Exception as error:  # whatever a broken file brings up
        raise ValueError(f"{path} is no saved fit: {' '.join(str(error).split())[:200]}") from error
    if method != kind.__name__:
        raise ValueError(f"{path} is a fit of {method}, but this configuration is for {kind.__name__}.")
    if content["fingerprint"] != acquisition_fingerprint(acquisition):
        raise ValueError(f"{path} is a fit of another acquisition than the input (or of another volume grid).")
    return {"network": kind.from_saved(content["network"], device), "kept": content["kept"]}
