"""Evaluation of 4D reconstructions: methods get the kept views of phantoms and are compared with the truth.

    phantom_items -> PhantomEvaluator(methods) -> ReconstructionReport (custom_nets.evaluation.reconstructions.report)

A method is called with an acquisition of the kept views alone, and answers with an object that has
``voxel_curves(times_s) -> (voxels [M], attenuation [T, M])`` as every field does
(:class:`custom_nets.networks.layers.attenuation_field.AttenuationField`). What is scored of it is the same for all:
the volume at the time of every frame, never a picture of the method's own making.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any, Protocol

import numpy as np
import torch
from monai.data import DataLoader, Dataset
from monai.engines import SupervisedEvaluator
from numpy.typing import NDArray

from custom_nets.data.angiography.arrival import half_rise_time, vessel_level
from custom_nets.data.angiography.views import Acquisition
from custom_nets.evaluation.tables import OURS, Row
from custom_nets.metrics.reconstruction import arrival_error, error_4d, vessel_scores, view_scores
from custom_nets.operators.cone_beam import ConeBeamOperator, fdk, sart
from custom_nets.simulation.phantom import NOISE, PhantomSettings, VesselFlowPhantom

__all__ = [
    "FDK",
    "SART",
    "Answer",
    "Fitted",
    "PhantomEvaluator",
    "StillVolume",
    "phantom_items",
    "score_answer",
]

VISIBLE = 0.25  # of undiluted agent: a voxel that never gets so far within the scan is no vessel to find
BEST_STILL = "best still"  # a reference that knows the truth, no method


class Answer(Protocol):
    """A reconstruction: attenuation of some voxels at any time."""

    def voxel_curves(self, times_s: Sequence[float] | NDArray) -> tuple[torch.Tensor, torch.Tensor]:
        """Flat voxel indices [M] and attenuation [T, M] in 1/mm."""


class StillVolume:
    """An answer that is the same at all times.

    Args:
        volume: [nx, ny, nz] in 1/mm.
    """

    def __init__(self, volume: torch.Tensor) -> None:
        self.values = volume.flatten().cpu()

    def voxel_curves(self, times_s: Sequence[float] | NDArray) -> tuple[torch.Tensor, torch.Tensor]:
        return torch.arange(len(self.values)), self.values.expand(len(times_s), -1)


class FDK:
    """Method: filtered back-projection of all views, as if nothing flowed; what is below zero is set to zero."""

    def __call__(self, scan: Acquisition) -> Answer:
        return StillVolume(fdk(ConeBeamOperator.of(scan), torch.from_numpy(scan.projections)).clamp(min=0))


class SART:
    """Method: a still non-negative volume that fits all views.

    Args:
        sweeps: over all views.
    """

    def __init__(self, sweeps: int = 5) -> None:
        self.sweeps = sweeps

    def __call__(self, scan: Acquisition) -> Answer:
        return StillVolume(sart(ConeBeamOperator.of(scan), torch.from_numpy(scan.projections), self.sweeps))


class Fitted:
    """Method: a field fitted to the scan.

    Args:
        network: not bound to a scan; each fit has a copy.
        fitting: :class:`custom_nets.engines.scan_fitting.ScanFitting` or what has its ``fit``.
        device: to fit on.
    """

    def __init__(self, network: Any, fitting: Any, device: torch.device | str = "cpu") -> None:
        self.network, self.fitting, self.device = network, fitting, device

    def __call__(self, scan: Acquisition) -> Answer:
        network = copy.deepcopy(self.network)
        self.fitting.fit(network, scan, self.device)
        return network


def phantom_items(seeds: Sequence[int], noise: str | Sequence[str] | None = "moderate") -> list[dict[str, Any]]:
    """The list of things to measure: each seed with each noise; None is "none".

    Raises:
        ValueError: no seeds, seeds twice, unknown noise.
    """
    kinds = [noise or "none"] if isinstance(noise, str | None) else list(noise)
    if not seeds or len(set(seeds)) < len(seeds) or any(type(seed) is not int or seed < 0 for seed in seeds):
        raise ValueError(f"seeds must be different whole numbers from 0, got {seeds!r}.")
    if unknown := [kind for kind in kinds if kind not in NOISE]:
        raise ValueError(f"unknown noise {unknown}; there are {', '.join(NOISE)}.")
    return [{"case": f"seed {seed}", "seed": seed, "noise": kind} for kind in kinds for seed in seeds]


class PhantomEvaluator(SupervisedEvaluator):
    """Engine that makes a phantom an iteration, lets all methods reconstruct it, and scores them.

    ``state.output`` holds "scores" (rows), "record", and for pictures "phantom", "means" (method -> [nx, ny, nz]) and
    "arrivals".

    Args:
        items: of :func:`phantom_items`.
        methods: name -> method; "ours" is compared with the others.
        views: frames that methods see, of all.
        settings: of the phantoms; their noise is that of the item.
        device: of projections that are scored.
        val_handlers: progress, report, tracking.

    Raises:
        ValueError: no methods, or too many views.
    """

    def __init__(
        self,
        items: Sequence[Mapping[str, Any]],
        methods: Mapping[str, Callable[[Acquisition], Answer]],
        views: int = 30,
        settings: PhantomSettings | None = None,
        device: torch.device | str = "cpu",
        val_handlers: Sequence[Any] | None = None,
    ) -> None:
        self.settings = settings or PhantomSettings()
        if not methods:
            raise ValueError("methods must name at least one.")
        if not 2 <= views < self.settings.frames:
            raise ValueError(f"views must be 2 to {self.settings.frames - 1}, so that some are left out; got {views}.")
        self.methods, self.views = dict(methods), views
        super().__init__(
            device=torch.device(device),
            val_data_loader=DataLoader(Dataset(list(items)), batch_size=1, num_workers=0, collate_fn=lambda b: b[0]),
            network=torch.nn.Identity(),
            iteration_update=self._measure,  # type: ignore[arg-type]
            val_handlers=val_handlers,
            decollate=False,
        )

    def _measure(self, engine: Any, item: Mapping[str, Any]) -> dict[str, Any]:
        phantom = VesselFlowPhantom(item["seed"], replace(self.settings, counts=NOISE[item["noise"]]))
        scan = phantom.acquisition()
        kept = scan.views(self.views)
        left = scan.left_out(kept)
        rows: list[Row] = []
        means, arrivals, seconds = {}, {}, {}
        still = StillVolume(torch.from_numpy(phantom.mean_volume))
        for name, method in {**self.methods, BEST_STILL: lambda _: still}.items():
            started = time.perf_counter()
            with torch.enable_grad():
                answer = method(scan.subset(kept))
            seconds[name] = time.perf_counter() - started
            scores, means[name], arrivals[name] = score_answer(phantom, answer, left, self.state.device)
            if name != BEST_STILL:
                scores["seconds"] = seconds[name]
            what = {"case": item["case"], "noise": item["noise"], "method": name, "region": "all"}
            rows += [{**what, "metric": metric, "value": value} for metric, value in scores.items()]
        record = {**item, "views": kept.tolist(), "seconds": seconds, "settings": asdict(phantom.settings)}
        return {"scores": rows, "record": record, "phantom": phantom, "means": means, "arrivals": arrivals}


def score_answer(
    phantom: VesselFlowPhantom, answer: Answer, left: NDArray[np.int64], device: torch.device | str = "cpu"
) -> tuple[dict[str, float], NDArray[np.float32], NDArray[np.float32]]:
    """Score an answer against a phantom, at the times of all its frames.

    Args:
        phantom: whose truth it is compared with.
        answer: the reconstruction.
        left: frames that it has not seen; its projections there are compared with those free of noise.
        device: to project on.

    Returns:
        Scores by name, the mean volume over time [nx, ny, nz], and the arrival map [nx, ny, nz] (s, NaN without).
    """
    shape, times = phantom.settings.volume_shape, phantom.times_s
    places, values = answer.voxel_curves(times)
    voxels, curves = places.numpy(), values.numpy()  # [M], [T, M]

    def dense(row: NDArray) -> NDArray[np.float32]:
        volume = np.zeros(int(np.prod(shape)), np.float32)
        volume[voxels] = row
        return volume.reshape(shape)

    true_voxels, true_curves = phantom.voxel_curves

    def truth(frame: int) -> NDArray[np.float32]:
        volume = np.zeros(int(np.prod(shape)), np.float32)
        volume[true_voxels] = true_curves[frame]
        return volume.reshape(shape)

    frames = range(len(times))
    scores = {"error_4d": error_4d((dense(curves[k]) for k in frames), (truth(k) for k in frames))}
    mean = dense(curves.mean(0))
    s = phantom.settings
    shape_scores = vessel_scores(mean, phantom.peak_volume, VISIBLE * s.iodine_per_mm, (s.voxel_mm,) * 3)
    scores.update({name: value for name, value in shape_scores.items() if name != "threshold"})
    flat = np.full(int(np.prod(shape)), np.nan, np.float32)
    peak = curves.max(0)
    vessel = np.flatnonzero((peak > vessel_level(peak)) & np.isin(voxels, np.flatnonzero(phantom.coverage >= 0.5)))
    flat[voxels[vessel]] = half_rise_time(curves[:, vessel], times)  # as bundles write it
    arrival = flat.reshape(shape)
    scores["arrival_s"], scores["arrival_share"] = arrival_error(arrival, phantom.arrival_s, phantom.coverage >= 0.5)
    operator = ConeBeamOperator.of(phantom.acquisition_geometry)
    with torch.no_grad():
        seen = [
            operator.forward_view(torch.from_numpy(dense(curves[k])).to(device), int(k)).cpu().numpy() for k in left
        ]
    scores.update({f"view_{name}": v for name, v in view_scores(np.stack(seen), phantom.projections[left]).items()})
    return scores, mean, arrival


def wins_over(rows: Sequence[Row], metric: str, method: str = OURS) -> dict[str, tuple[int, int]]:
    """Name of each other method -> on how many cases ``method`` is better, and of how many."""
    from custom_nets.evaluation.tables import paired_differences

    found: dict[str, tuple[int, int]] = {}
    for pair in paired_differences([row for row in rows if row["metric"] == metric], method):
        wins, count = found.get(pair["baseline"], (0, 0))
        found[pair["baseline"]] = (wins + pair["win"], count + 1)
    return found
