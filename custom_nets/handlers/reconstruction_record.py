"""A JSON record, a preview picture and a page beside each reconstruction."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine

from custom_nets.handlers.inference_record import InferenceRecord
from custom_nets.inferers.reconstruction import Reconstruction
from custom_nets.utils.files import absolute, write_json
from custom_nets.utils.record import environment, file_record, peak_memory_gib, shareable, shareable_options
from custom_nets.visualize.page.reconstructions import reconstruction_page
from custom_nets.visualize.page.words import shown_name
from custom_nets.visualize.reconstruction import reconstruction_figure

__all__ = ["ReconstructionRecord"]


class ReconstructionRecord(InferenceRecord):
    """Writes ``<case>_preview.png``, ``<case>.html`` and then ``<case>_record.json`` for every case of a
    :class:`custom_nets.engines.ReconstructionEvaluator`.

    The record begins with the warnings: a scan that does not fit is said first.

    Args:
        saver: the ``SaveReconstructiond`` of the engine; it knows where a case went.
        fitting: the ``ScanFitting``, for its settings.
        options: what was asked for; goes into the record as it is.
        preview: draw the picture.
        report: write the page (see :mod:`custom_nets.visualize.page`).
        report_identity: the page says whose scan it is and when it was taken.
    """

    def __init__(
        self,
        saver: Any,
        fitting: Any,
        options: dict[str, Any],
        preview: bool = True,
        report: bool = False,
        report_identity: bool = False,
    ) -> None:
        self.saver, self.fitting, self.preview = saver, fitting, preview
        # records go to others: files are known by their names
        named = {key: Path(options[key]).name for key in ("fit_file", "mask") if options.get(key)}
        self.options = {**options, **named}
        self.asked = json.loads(json.dumps(shareable_options(options), default=str))  # as records hold it
        self.checkpoint = options.get("fit_file")
        self.report, self.report_identity = report, report_identity

    def lacks(self, record: Path) -> bool:
        return self.report and not self._page(record).is_file()

    def _page(self, record: Path) -> Path:
        return record.with_name(record.name.removesuffix("_record.json") + ".html")

    def differences(self, path: Path) -> str:
        try:
            earlier = json.loads(path.read_text())
            then = {**earlier["options"], **earlier["fitting"]}
        except (OSError, ValueError, KeyError, TypeError):
            return f"a record that cannot be read ({path})"
        now = {**self.asked, **self.fitting.plain()}
        return ", ".join(f"{n} {then.get(n)} (now {now[n]})" for n in now if then.get(n) != now[n])

    def __call__(self, engine: Engine) -> None:
        item, result = engine.state.batch, engine.state.output
        self.write(engine, str(item["case"]), item.get("image"), result["pred"])  # type: ignore[index,call-overload,union-attr]

    def write(self, engine: Any, case: str, image: Any, output: Reconstruction, uncertainty: Any = None) -> None:
        """Picture and record of one case."""
        record = self.saver.record_for(case)
        scan, written = output.acquisition, self.saver.written[case]
        if self.preview:
            source = None if scan.origin is None else scan.origin.path
            reconstruction_figure(record.with_name(f"{case}_preview.png"), output, shown_name(case, source))
        geometry = scan.geometry
        device = engine.state.device
        curve = output.curve
        volume = written["volume"]
        content = {
            "warnings": output.warnings,
            "case": case,
            "input": {
                "file": absolute(engine.data_loader.dataset.data[0]["image"]),
                **engine.input_record(case),
                "frames": len(scan),
                "size": list(scan.size),
                "kept_frames": (output.kept + 1).tolist(),
                "times_s": scan.times_s.round(6).tolist(),
                "source_isocentre_mm": _range(geometry.source_isocentre_mm),
                "source_panel_mm": _range(np.abs(geometry.source_panel_mm)),
                "pixel_mm": [
                    float(np.linalg.norm(steps, axis=1).mean()) for steps in (scan.column_step_mm, scan.row_step_mm)
                ],
                "angles_deg": np.rad2deg(np.arctan2(scan.source_mm[:, 1], scan.source_mm[:, 0])).round(4).tolist(),
                "weights": scan.weights is not None,
                "quantitative": scan.quantitative,
                "notes": scan.notes,
            },
            "output": {
                "file": str(volume),
                "files": {name: path.name for name, path in written.items()},
                "shape": list(scan.volume_shape),
                "spacing_mm": list(scan.volume_spacing_mm),
                "affine": scan.affine_ras(),
                "unit": "1/mm" if scan.quantitative else "none: the pictures are no line integrals",
                "times_s": output.times_s,
                "vessel_level": output.vessel_level,
                **file_record(volume),
            },
            "left_out_views": output.scores,
            "options": self.options,
            "fitting": self.fitting.plain(),
            "checkpoint": {"file": self.checkpoint or ""},
            "fit": None if curve is None else vars(curve),
            "network": type(output.network).__name__,
            "network_arguments": output.network.arguments(),
            "parameters": sum(p.numel() for p in output.network.parameters()),
            "vessel_voxels": len(output.network.voxels),
            "device": str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
            "threads": torch.get_num_threads(),
            "seconds": round(time.perf_counter() - engine.started, 2),
            "peak_memory_gib": round(peak_memory_gib(), 2),
            **(
                {"peak_gpu_memory_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 2)}
                if device.type == "cuda"
                else {}
            ),
            "versions": environment(),
            "note": "Research use only. What lies between the measured views is estimated, not measured.",
        }
        page = self._page(record)
        if self.report:
            reconstruction_page(page, output, content, identity=self.report_identity)
        else:
            page.unlink(missing_ok=True)  # it would show an earlier result
        write_json(record, shareable(content))


def _range(values: Any) -> list[float]:
    """Lowest and highest."""
    return [round(float(np.min(values)), 4), round(float(np.max(values)), 4)]
