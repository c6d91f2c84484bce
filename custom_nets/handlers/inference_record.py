"""A JSON record and a preview picture beside each super-resolved volume."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine, Events

from custom_nets.engines.cases import record_path
from custom_nets.geometry import Grid
from custom_nets.operators.interpolation import apply_separable
from custom_nets.operators.slice_profile import PointSpread, point_spread_matrix
from custom_nets.utils.files import absolute, write_json
from custom_nets.utils.record import environment, file_record, peak_memory_gib, shareable, shareable_options
from custom_nets.visualize.page import volume_page
from custom_nets.visualize.page.words import shown_name
from custom_nets.visualize.volumes import preview_figure

__all__ = ["InferenceRecord", "consistency"]


def consistency(
    image: torch.Tensor, output: torch.Tensor, source: Grid, target: Grid, blur: Mapping[str, Any] | None = None
) -> tuple[dict[str, Any], torch.Tensor | None]:
    """Degrade the output to the input's grid again and compare: does it still say what was measured?

    Axes are measured as ``blur`` says; where it says nothing, as a Gaussian with the input's spacing as its width.
    Voxels within one input voxel of the border are left out.

    Args:
        image, output: [C, X, Y, Z] on ``source`` and [C, X', Y', Z'] on ``target``, same units.
        blur: what the inferer took it to be (:meth:`custom_nets.inferers.measured_blur.MeasuredBlur.record`).

    Returns:
        "rms" and "max" of the difference as a share of the input's range (0.1 to 99.9 percentile), or why not; and the
        difference [C, X, Y, Z] itself, 0 where it is left out, or None.
    """
    positions = target.axis_positions(source)
    if positions is None:
        return {"computed": False, "reason": "the output grid is oblique to the input"}, None
    scale = source.scale_to(target)
    spreads = [None, None, None] if blur is None else blur["point_spread"]
    if blur is not None and min(blur["measured_share"]) < 1:
        return {
            "computed": False,
            "reason": "the scanner interpolated the input: its voxels are not what it measured",
        }, None
    matrices: list[torch.Tensor | None] = []
    inner = [slice(None)]
    for axis in range(3):
        p, n = positions[axis], target.shape[axis]
        inside = np.flatnonzero((p > -0.5 + scale[axis]) & (p < n - 0.5 - scale[axis]))
        if len(inside) == 0:
            return {"computed": False, "reason": "the output covers too little of the input"}, None
        spread = PointSpread.of(spreads[axis] or "gaussian")
        same = abs(scale[axis] - 1) < 1e-3  # measured as it is wanted
        matrices.append(
            point_spread_matrix(n, p[inside], float(scale[axis]), PointSpread() if same else spread).float()
        )
        inner.append(slice(int(inside[0]), int(inside[-1]) + 1))
    again = apply_separable(output.float(), matrices)
    measured = image[tuple(inner)].float()
    low, high = np.percentile(image.numpy(), (0.1, 99.9))
    span = max(float(high - low), 1e-12)
    difference = again - measured
    residual = torch.zeros(image.shape)
    residual[tuple(inner)] = difference
    return {
        "computed": True,
        "rms": float(difference.square().mean().sqrt() / span),
        "max": float(difference.abs().max() / span),
        "unit": "share of the input's 0.1-99.9 percentile range",
        "assumed_profile": " x ".join(
            str(s or "gaussian, as wide as the input's voxels") for s in dict.fromkeys(spreads)
        ),
    }, residual


class InferenceRecord:
    """Writes ``<volume>.png``, ``<volume>.html`` and then ``<volume>.json`` for every case of a
    :class:`custom_nets.engines.CaseEvaluator`.

    Args:
        checkpoint: the weights, for their hash.
        quality: which of the shipped weights they are; None where they are others.
        options: what was asked for; goes into the record as it is.
        preview: draw the picture.
        figure: draws it, as :func:`custom_nets.visualize.preview_figure` does.
        report: write the page (see :mod:`custom_nets.visualize.page`).
        report_identity: the page says whose scan it is and when it was taken.
    """

    def __init__(
        self,
        checkpoint: str,
        options: dict[str, Any],
        preview: bool = True,
        figure: Callable[..., Any] = preview_figure,
        report: bool = False,
        report_identity: bool = False,
        quality: str | None = None,
    ) -> None:
        self.checkpoint: str | None = checkpoint  # None where there are no weights
        self.quality = quality
        self.weights = file_record(checkpoint)  # now, when they are loaded: the file may be replaced during a long run
        self.options = options
        self.asked = json.loads(json.dumps(shareable_options(options), default=str))  # as records hold it
        self.preview = preview
        self.figure = figure
        self.report = report
        self.report_identity = report_identity

    def attach(self, engine: Engine) -> None:
        engine.add_event_handler(Events.ITERATION_COMPLETED, self)

    def __call__(self, engine: Engine) -> None:
        for item, result in zip(engine.state.batch, engine.state.output, strict=True):  # type: ignore[call-overload]
            self.write(engine, str(item["case"]), result["image"], result["pred"], result.get("uncertainty"))

    def lacks(self, record: Path) -> bool:
        """Whether a page was asked for that an earlier run, with this record, did not write."""
        return self.report and not record.with_suffix(".html").is_file()

    def differences(self, path: Path) -> str:
        """What the record of an earlier run says that was asked for otherwise; "" when nothing was.

        A record that cannot be read differs in nothing that could be told, so its case is refused, too.
        """
        try:
            earlier = json.loads(path.read_text())
            then = {**earlier["options"], "weights": earlier["checkpoint"]["sha256"][:8]}
        except (OSError, ValueError, KeyError, TypeError):
            return f"a record that cannot be read ({path})"
        now = {**self.asked, "weights": str(self.weights["sha256"])[:8]}
        if then.get("like") == self.options.get("like"):  # records of version 0.1 hold the path
            now["like"] = then.get("like")
        ignored = {"memory_gb"}  # changes how, not what is computed
        return ", ".join(
            f"{name} {then.get(name)} (now {now[name]})"
            for name in now
            if name not in ignored and then.get(name) != now[name]
        )

    def write(self, engine: Any, case: str, image: Any, output: Any, uncertainty: Any = None) -> None:
        """Picture, page and record of one case: MetaTensors [C, X, Y, Z] in input units."""
        source, target = Grid.of(image), Grid.of(output)
        made_of = image.meta.get("filename_or_obj")
        path = Path(output.meta["saved_to"])
        stem = path.name.removesuffix(".nii.gz")
        # what the inferer told about its work
        told = json.loads(output.meta["inference"]) if "inference" in output.meta else {}
        blur = told.get("blur")
        if self.preview:
            title = [shown_name(case, made_of), *([blur["sentence"]] if blur else []), *told.get("warnings", ())]
            self.figure(path.with_name(stem + ".png"), image[:1], output[:1], "\n".join(title))
        meta = {
            key: image.meta[key]
            for key in ("slice_thickness_mm", "slice_gap_mm", "geometry_note", "series_uid", "series_description")
            if key in image.meta
        }
        notes = [str(image.meta[key]) for key in ("geometry_note", "notes", "padding_note") if key in image.meta]
        notes += [text] if (text := source.check_overlap(target)) else []
        device = engine.state.device
        agrees, residual = consistency(image.as_tensor().cpu(), output.as_tensor().cpu(), source, target, blur)
        record = {
            "case": case,
            "input": {
                "file": made_of and absolute(made_of),
                **engine.input_record(case),
                **_geometry(source),
                "volumes": len(image),
                **meta,
                "notes": notes,
            },
            "output": {"file": str(path), **_geometry(target), "volumes": len(output), **file_record(path)},
            "options": self.options,
            "network": type(engine.network).__name__,
            "checkpoint": {"file": self.checkpoint, "quality": self.quality, **self.weights},
            "device": str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
            "threads": torch.get_num_threads(),
            "seconds": round(time.perf_counter() - engine.started, 2),
            "peak_memory_gib": round(peak_memory_gib(), 2),
            **({"inference": told} if told else {}),
            "consistency": agrees,
            "versions": environment(),
            "note": "Research use only. Detail between the measured voxels is estimated, not measured.",
        }
        page = path.with_name(stem + ".html")
        if self.report:
            volume_page(
                page,
                image[:1],
                output[:1],
                record,
                residual=None if residual is None else residual[0].numpy(),
                uncertainty=None if uncertainty is None else uncertainty[:1],
                identity=self.report_identity,
            )
        else:
            page.unlink(missing_ok=True)  # it would show an earlier result
        write_json(record_path(path), shareable(record))


def _geometry(grid: Grid) -> dict[str, Any]:
    return {
        "shape": list(grid.shape),
        "spacing_mm": grid.spacing_mm.round(6).tolist(),
        "affine": grid.affine.round(6).tolist(),
    }
