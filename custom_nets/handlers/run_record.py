"""A JSON record and a preview picture beside each lengthened run."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ignite.engine import Engine

from custom_nets.data.angiography.run import AngiographyRun
from custom_nets.data.angiography.writer import run_summary
from custom_nets.handlers.inference_record import InferenceRecord
from custom_nets.utils.files import absolute, write_json
from custom_nets.utils.record import environment, file_record, peak_memory_gib, shareable
from custom_nets.visualize.angiography import run_figure
from custom_nets.visualize.page import run_page
from custom_nets.visualize.page.words import shown_name

__all__ = ["RunRecord"]


class RunRecord(InferenceRecord):
    """Writes ``<case>_<postfix>.png``, ``<case>_<postfix>.html`` and then ``<case>_<postfix>.json`` for every case of a
    :class:`custom_nets.engines.RunEvaluator`.

    Args:
        saver: the ``SaveAngiographyd`` of the engine; it knows where a case went.
        kwargs: of :class:`custom_nets.handlers.InferenceRecord`.
    """

    def __init__(self, saver: Any, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.saver = saver

    def __call__(self, engine: Engine) -> None:
        item, result = engine.state.batch, engine.state.output
        self.write(engine, str(item["case"]), result["image"], result["pred"])  # type: ignore[index,call-overload]

    def write(
        self, engine: Any, case: str, image: AngiographyRun, output: AngiographyRun, uncertainty: Any = None
    ) -> None:
        """Picture, page and record of one case (of a run no uncertainty is known)."""
        path = Path(self.saver.written[case])
        record = self.saver.record_for(case)
        if self.preview:
            run_figure(record.with_suffix(".png"), output, shown_name(case, output.origin.path))
        seconds = time.perf_counter() - engine.started
        made = len(output) - len(image)
        kept = np.isin(output.times_s, image.times_s)
        device = engine.state.device
        summary = run_summary(output)
        source = {key: summary.pop(key) for key in ("source", "notes", "size", "dtype")}
        content = {
            "case": case,
            "input": {
                "file": source["source"] and absolute(source["source"]),
                **engine.input_record(case),
                "format": image.origin.format,
                "frames": len(image),
                "size": source["size"],
                "dtype": source["dtype"],
                "notes": source["notes"],
                "mapping": {"scale": image.mapping.scale, "offset": image.mapping.offset, "log": image.mapping.log},
                "meta": {k: v for k, v in image.origin.meta.items() if isinstance(v, str | int | float | bool)},
            },
            "output": {"file": str(path), **summary, **file_record(path)},
            "warnings": [text for gap in image.gaps(engine.inferer.max_gap_s) for text in gap.warnings],
            "options": self.options,
            "network": type(engine.network).__name__,
            "flow_used": engine.inferer.flow_used,
            "angles_used": engine.inferer.uses_angles(image, engine.network),
            "checkpoint": {"file": self.checkpoint, **self.weights},
            "device": str(device) if device.type == "cpu" else torch.cuda.get_device_name(device),
            "threads": torch.get_num_threads(),
            "seconds": round(seconds, 2),
            "seconds_per_made_frame": round(seconds / max(made, 1), 3),
            "peak_memory_gib": round(peak_memory_gib(), 2),
            "measured_frames_unchanged": bool(np.array_equal(output.frames[kept], image.frames)),
            "versions": environment(),
            "note": "Research use only. Frames marked synthetic are estimated, not measured.",
        }
        page = record.with_suffix(".html")
        if self.report:
            run_page(page, output, content, identity=self.report_identity)
        else:
            page.unlink(missing_ok=True)  # it would show an earlier result
        write_json(record, shareable(content))
