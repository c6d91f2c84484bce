"""Evaluation of super-resolution: what to measure on, the inputs, plain interpolation beside it, and the scores.

The parts are MONAI transforms around an ordinary ``SupervisedEvaluator`` (``bundles/arssr/configs/evaluate.json``):

    LoadVolumed -> MakeInputd -> ScaleToUnitRanged -> network on the truth's grid -> RestoreIntensityd
    -> AddBaselinesd -> ScoreMethodsd -> EvaluationReport (custom_nets.evaluation.volumes.report)

Other networks join in by ``AddNetworksd`` (before RestoreIntensityd), lesions by
``custom_nets.evaluation.volumes.lesions``. Everything is measured on the truth's own grid and in its unit: the truth
is never resampled, cropped or rescaled.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.inferers import Inferer
from monai.transforms import MapTransform, Transform
from numpy.typing import NDArray

from custom_nets.checkpoints import load_network
from custom_nets.data.cases import find_cases
from custom_nets.evaluation.volumes.measures import MEASURES, Case, Value
from custom_nets.geometry import Grid
from custom_nets.metrics import image_quality as iq
from custom_nets.operators.scipy_resampling import BASELINES, inside_field_of_view
from custom_nets.transforms.degradation import DegradeVolumed
from custom_nets.utils.files import as_typed

__all__ = [
    "METHODS",
    "METRICS",
    "AddBaselinesd",
    "AddNetworksd",
    "MakeInputd",
    "ScoreMethodsd",
    "TruthGridInferer",
    "evaluation_items",
    "prepare_truth_grid",
    "score",
    "thick_degradations",
]

PAIR = "pair"  # the "degradation" of real pairs
METHODS = {"pred": "ours", "bspline": "bspline", "trilinear": "trilinear"}  # data key -> name in the tables
REGIONS = ("whole", "brain")

Scorer = Callable[[NDArray, NDArray, NDArray | None, float], float]  # image, truth, mask, data range
METRICS: dict[str, Scorer] = {
    "psnr": lambda image, truth, mask, data_range: iq.masked_psnr(image, truth, mask, data_range),
    "ssim": lambda image, truth, mask, data_range: iq.masked_ssim(image, truth, mask, data_range),
    "nrmse": lambda image, truth, mask, data_range: iq.nrmse(image, truth, mask),
    "mae": lambda image, truth, mask, data_range: iq.mae(image, truth, mask),
    "published_psnr": lambda image, truth, mask, data_range: iq.published_psnr(image, truth),
    "published_ssim": lambda image, truth, mask, data_range: iq.published_ssim(image, truth),
}
WHOLE_ONLY = ("published_psnr", "published_ssim")  # defined for the whole volume


def evaluation_items(
    cases: str | Path | Sequence[Any] | None = None,
    degradations: Mapping[str, Any] | None = None,
    pairs: Sequence[Mapping[str, str]] | None = None,
    masks: Mapping[str, str] | None = None,
) -> list[dict[str, str]]:
    """The list of things to measure: each case at each degradation, then the real pairs.

    Args:
        cases: high-resolution scans, as ``custom_nets.data.cases.find_cases`` takes them (a folder, files, a JSON
            list).
        degradations: name -> settings, see :class:`MakeInputd`; only the names are used here.
        pairs: items ``{"image": low-resolution file, "label": high-resolution file of the same scan}``, optionally with
            "case", "mask", and "degradation" (a name to group them by in the tables).
        masks: name of a case -> file with a mask on the truth's grid.

    Returns:
        Items with "case", "degradation", "label" (path of the truth), and, where known, "image" and "mask".

    Raises:
        ValueError: nothing to measure, a mask for an unknown case, a pair without its two files.
        FileNotFoundError: a file that does not exist.
    """
    masks = dict(masks or {})
    items: list[dict[str, str]] = []
    names: set[str] = set()
    for found in find_cases(cases) if cases else []:
        names.add(found["case"])
        for degradation in degradations or {}:
            items.append({"case": found["case"], "degradation": degradation, "label": found["image"]})
    for pair in pairs or ():
        if not {"image", "label"} <= set(pair):
            raise ValueError(f"a pair needs 'image' (low resolution) and 'label' (truth), got {dict(pair)!r}.")
        image, label = (find_cases([pair[key]])[0] for key in ("image", "label"))
        case = pair.get("case", label["case"])
        names.add(case)
        items.append(
            {
                "case": case,
                "degradation": pair.get("degradation", PAIR),
                "label": label["image"],
                "image": image["image"],
            }
        )
        if "mask" in pair:
            masks.setdefault(case, pair["mask"])
    if not items:
        raise ValueError(
            "nothing to evaluate: give high-resolution scans as --dataset_dir FOLDER or --cases \"['a.nii.gz']\" (and "
            "at least one of degradations), or --pairs \"[{'image': LOW, 'label': HIGH}]\"."
        )
    if set(masks) - names:
        raise ValueError(f"masks for unknown cases {sorted(set(masks) - names)}; the cases are {sorted(names)}.")
    for name, path in masks.items():
        if not as_typed(path).is_file():
            raise FileNotFoundError(f"the mask of case '{name}', {path}, does not exist.")
    return [{**item, "mask": masks[item["case"]]} if item["case"] in masks else item for item in items]


def thick_degradations(factors: Sequence[float], axis: str = "z") -> dict[str, list[float]]:
    """Degradations to thick slices for :class:`MakeInputd`: name such as "1x1x4" -> scale per axis.

    Args:
        factors: how many times thicker the slices become.
        axis: of the file's array along which they become thick: "x", "y" or "z".
    """
    if axis not in ("x", "y", "z"):
        raise ValueError(f"the thick axis must be x, y or z (of the file's array), got {axis!r}.")
    named = {}
    for factor in factors:
        scale = [float(factor) if name == axis else 1.0 for name in "xyz"]
        named["x".join(f"{s:g}" for s in scale)] = scale
    return named


class MakeInputd(Transform):
    """Make the low-resolution "image" out of the truth "label", unless the item is a real pair and has one.

    Args:
        degradations: name -> how many times larger the voxels become, per axis of the file's array (x, y, z), or a
            dictionary with the arguments of ``DegradeVolumed`` to overrule the ones below.
        tell: what the method is told of the blur: 1 for what it is, 0 for nothing (it finds out, or guesses), 1.3 for
            a thickness that is 30 % too large.
        options: further arguments of ``DegradeVolumed`` for all (profile, thickness, noise_std, seed).

    Raises:
        ValueError: an unknown degradation; a truth that is not one 3D volume; a mask on another grid.
    """

    def __init__(self, degradations: Mapping[str, Any], tell: float = 1.0, **options: Any) -> None:
        if tell < 0:
            raise ValueError(f"tell must be 0 (nothing) or a share of the true thickness above 0, got {tell}.")
        self.tell = float(tell)
        self.degraders = {
            name: DegradeVolumed("image", **{**options, **(how if isinstance(how, Mapping) else {"scale": how})})
            for name, how in degradations.items()
        }

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        for key in ("label", "image"):
            if key in d and d[key].shape[0] != 1:
                raise ValueError(f"case '{d['case']}': '{key}' must be one 3D volume, it has {d[key].shape[0]}.")
        if "mask" in d and d["mask"].shape != d["label"].shape:
            raise ValueError(
                f"case '{d['case']}': the mask {tuple(d['mask'].shape[1:])} is not on the grid of the truth "
                f"{tuple(d['label'].shape[1:])}."
            )
        if "image" not in d:
            if d["degradation"] not in self.degraders:
                raise ValueError(f"no degradation '{d['degradation']}'; there are {sorted(self.degraders)}.")
            degrader = self.degraders[d["degradation"]]
            d["image"] = degrader({"image": d["label"]})["image"]
            if self.tell:
                d["image"].meta["point_spread"] = str(degrader.spread.wider(self.tell))
        return d


def prepare_truth_grid(
    batchdata: Mapping[str, Any], device: torch.device | str | None = None, non_blocking: bool = False, **kwargs: Any
) -> tuple[torch.Tensor, torch.Tensor, tuple, dict[str, Any]]:
    """``prepare_batch`` of the evaluator: image and truth, and for the inferer ``like``, the truth's grid.

    The truth stays where it is: only the network's input goes to the device.
    """
    if len(batchdata["image"]) != 1:
        raise ValueError(f"volumes are evaluated one at a time, got a batch of {len(batchdata['image'])}.")
    image = batchdata["image"].to(device=device, non_blocking=non_blocking, **kwargs)
    return image, batchdata["label"], (), {"like": Grid.of(batchdata["label"][0])}


class TruthGridInferer(Inferer):
    """Run another inferer with ``like`` set to the grid of the volume at hand.

    Args:
        make: makes the inferer from ``like``, a ``custom_nets.geometry.Grid``; in a config an inferer with
            ``"_mode_": "callable"``.
    """

    def __init__(self, make: Callable[..., Inferer]) -> None:
        super().__init__()
        self.make = make

    def __call__(self, inputs: torch.Tensor, network: Any, like: Grid) -> torch.Tensor:
        return self.make(like=like)(inputs, network)


class AddBaselinesd(Transform):
    """Add plain interpolations of "image" onto the grid of "label", under the names of ``baselines``.

    Args:
        baselines: of "bspline", "trilinear".
    """

    def __init__(self, baselines: Sequence[str] = tuple(BASELINES)) -> None:
        unknown = sorted(set(baselines) - set(BASELINES))
        if unknown:
            raise ValueError(f"unknown baselines {unknown}; there are {sorted(BASELINES)}.")
        self.baselines = tuple(baselines)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        source, target = Grid.of(d["image"]), Grid.of(d["label"])
        volume = _array(d["image"])
        for name in self.baselines:
            plain = torch.from_numpy(BASELINES[name](volume, source, target))
            d[name] = MetaTensor(plain[None], affine=torch.as_tensor(target.affine))
        return d


class AddNetworksd(Transform):
    """Add what further networks make of "image" on the grid of "label", under their names.

    Put it before ``RestoreIntensityd``: the networks see the same scaled image as the one that is evaluated.

    Args:
        networks: name -> {"checkpoint": bundle checkpoint, "inferer": called with image [1, 1, X, Y, Z], network and
            ``like``}; one without a checkpoint (None or "") is left out.
        device: where they run.

    Raises:
        FileNotFoundError, ValueError: a checkpoint that is not there or not one, at once.
    """

    def __init__(self, networks: Mapping[str, Mapping[str, Any]], device: torch.device | str = "cpu") -> None:
        self.device = device
        self.networks = {
            name: (load_network(what["checkpoint"]).to(device), what["inferer"])
            for name, what in networks.items()
            if what.get("checkpoint")
        }

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        image, like = d["image"].to(self.device), Grid.of(d["label"])
        for name, (network, inferer) in self.networks.items():
            with torch.no_grad():
                made = inferer(image[None], network, like=like)[0]
            d[name] = MetaTensor(torch.as_tensor(made).cpu(), affine=torch.as_tensor(like.affine))
        return d


class ScoreMethodsd(MapTransform):
    """Measure volumes against the truth "label", in the whole volume and in the brain.

    The brain is the item's "mask", or else ``brain_mask`` of the truth (which is the head if the skull was not
    stripped), within the input's field of view. PSNR and SSIM of both regions have one data range per case: the
    distance of the 0.1th and the 99.9th percentile of the truth in the brain (``image_quality.robust_range``).

    Adds "scores" (a list of rows: case, degradation, method, region, metric, value), "scored_mask" [1, X, Y, Z],
    "record" (what it was measured with), "tissue_maps" (method -> labels) and "tables" (name -> further rows).

    Args:
        keys: volumes on the truth's grid and in its unit.
        metrics: which of ``METRICS`` and ``custom_nets.evaluation.volumes.measures.MEASURES``.
        contrast: of the scans; tissues are told apart on "T1" only.
        allow_missing_keys: leave out volumes that an item lacks.
    """

    def __init__(
        self,
        keys: KeysCollection = tuple(METHODS),
        metrics: Sequence[str] = tuple(METRICS),
        contrast: str = "T1",
        allow_missing_keys: bool = False,
    ) -> None:
        super().__init__(keys, allow_missing_keys)
        unknown = sorted(set(metrics) - set(METRICS) - set(MEASURES))
        if unknown or not metrics:
            raise ValueError(f"unknown metrics {unknown}; there are {', '.join([*METRICS, *MEASURES])}.")
        self.metrics = [m for m in metrics if m in METRICS]
        self.measures = [m for m in metrics if m in MEASURES]
        self.contrast = contrast
        self._kept: dict[str, Any] = {}

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        d = dict(data)
        started = time.perf_counter()
        truth = _array(d["label"])
        mask = _array(d["mask"]) > 0 if "mask" in d else iq.brain_mask(truth)
        inside = inside_field_of_view(Grid.of(d["image"]), Grid.of(d["label"]))
        brain = mask & inside
        if not brain.any():
            raise ValueError(f"case '{d['case']}': no voxel of the mask lies in the input's field of view.")
        data_range = iq.robust_range(truth, brain)
        volumes = {METHODS.get(str(key), str(key)): _array(d[key]) for key in self.key_iterator(d)}
        for method, image in volumes.items():
            if image.shape != truth.shape:
                raise ValueError(f"'{method}' {image.shape} is not on the grid of the truth {truth.shape}.")
        case = Case(
            name=str(d["case"]),
            truth=truth,
            mask=brain,
            data_range=data_range,
            grid=Grid.of(d["label"]),
            source=Grid.of(d["image"]),
            contrast=self.contrast,
            reference=volumes.get("bspline"),
            item=d,
            kept=self._kept,
        )
        measures = [measure for name in self.measures if (measure := MEASURES[name](case)) is not None]
        which = {"case": d["case"], "degradation": d["degradation"]}
        d["scores"] = []
        for method, image in volumes.items():
            values = self._plain(image, truth, brain, data_range)
            for measure in measures:
                values += measure(method, image)
            d["scores"] += [
                {**which, "method": method, "region": region, "metric": metric, "value": value}
                for region, metric, value in values
            ]
        d["tables"] = {name: [{**which, **row} for row in rows] for name, rows in case.rows.items()}
        d["tissue_maps"] = case.tissue_maps
        d["record"] = {
            **which,
            "mask": "file" if "mask" in data else "foreground of the truth",
            "mask_voxels": int(brain.sum()),
            "outside_field_of_view_voxels": int((~inside).sum()),
            "data_range": data_range,
            "input_shape": list(d["image"].shape[1:]),
            "input_spacing_mm": Grid.of(d["image"]).spacing_mm.round(6).tolist(),
            "truth_shape": list(truth.shape),
            "truth_spacing_mm": Grid.of(d["label"]).spacing_mm.round(6).tolist(),
            "notes": case.notes,
            "scoring_seconds": round(time.perf_counter() - started, 3),
        }
        # a name of its own: MONAI takes a value that equals the input's for unchanged, and leaves it with the input
        d["scored_mask"] = torch.from_numpy(brain[None])
        return d

    def _plain(self, image: NDArray, truth: NDArray, brain: NDArray, data_range: float) -> list[Value]:
        """The metrics that are one number a region."""
        return [
            (region, metric, METRICS[metric](image, truth, brain if region == "brain" else None, data_range))
            for region in REGIONS
            for metric in self.metrics
            if region == "whole" or metric not in WHOLE_ONLY
        ]


def score(method: str = "ours", region: str = "brain", metric: str = "psnr") -> Callable[[Any], float]:
    """Output transform of an Ignite metric: one score of the volume just measured, NaN if it was not asked for.

    Example::

        ignite.metrics.Average(output_transform=score("ours", "brain", "psnr"))
    """

    def pick(output: Sequence[Mapping[str, Any]]) -> float:
        for row in output[0]["scores"]:
            if (row["method"], row["region"], row["metric"]) == (method, region, metric):
                return float(row["value"])
        return float("nan")

    return pick


def _array(volume: torch.Tensor) -> NDArray:
    """[1, X, Y, Z] tensor -> [X, Y, Z] numpy."""
    return np.asarray(volume.detach().as_subclass(torch.Tensor).cpu().numpy()[0])
