"""Inference tasks: a bundle's own inference, per request."""

from __future__ import annotations

import logging
import shutil
import threading
from collections import defaultdict
from pathlib import Path
from typing import Any

import torch
from monailabel.interfaces.tasks.infer_v2 import InferTask, InferType

from custom_nets.utils import checked_device
from monailabel_app.lib.bundles import Bundle, WrongRequest, as_wrong_request, check_options, run_inference
from monailabel_app.lib.trained import SHIPPED, Trained

__all__ = ["BundleInfer", "as_one_file", "devices"]

logger = logging.getLogger(__name__)

_LOCKS: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)  # one inference at a time on a device
_EXTENSIONS = (".nii.gz", ".nrrd")


def devices() -> list[str]:
    """Where a request can be computed, the best first."""
    return [f"cuda:{i}" for i in range(torch.cuda.device_count())] + ["cpu"]


class BundleInfer(InferTask):
    """Runs ``configs/inference.json`` of a bundle on the image of a request.

    Nothing is done to the result afterwards (MONAI Label's own bundle task resamples it onto the input's grid): it is
    the file that ``python -m monai.bundle run`` writes.

    Args:
        bundle: which.
        trained: weights that were trained through this server.
    """

    def __init__(self, bundle: Bundle, trained: Trained) -> None:
        self.bundle = bundle
        self.trained = trained
        super().__init__(
            type=InferType.OTHERS,
            labels=[],
            dimension=2 if bundle.modality == "XA" else 3,
            description=str(bundle.metadata["description"]),
        )

    def is_valid(self) -> bool:
        return self.bundle.weights.is_file()

    def config(self) -> dict[str, Any]:
        """The options of a request with their defaults (lists: what there is to choose from)."""
        return {
            "device": devices(),
            "checkpoint": [SHIPPED, *self.trained.names(self.bundle.name)],
            "result_extension": list(_EXTENSIONS),
            "send_back": False,
            **self.bundle.options(),
        }

    def __call__(self, request: dict[str, Any]) -> tuple[str, dict[str, Any]]:
        """
        Args:
            request: ``image`` (path), ``output_dir`` (for the result), ``options`` (any of :meth:`config`).

        Returns:
            The file of the result and its record. ``send_back`` only asks for DICOM here; the app sends.

        Raises:
            WrongRequest: an option or an image that cannot be used.
        """
        image, output_dir = Path(request["image"]), Path(request["output_dir"])
        given = request["options"]
        check_options(given, self.config())
        options = {k: v for k, v in given.items() if k in self.bundle.options()}
        extension = given.get("result_extension") or _EXTENSIONS[0]
        if extension not in _EXTENSIONS:
            raise WrongRequest(f"result_extension must be one of {', '.join(_EXTENSIONS)}, got {extension!r}.")
        if given.get("send_back"):
            if "output_format" not in self.bundle.inference:
                raise WrongRequest(f"{self.bundle.name} cannot write DICOM, so that nothing can be sent back.")
            options["output_format"] = "dicom"
        try:
            device = str(checked_device(given.get("device") or devices()[0]))
            name = given.get("checkpoint") or SHIPPED
            if name != SHIPPED and options.get("quality", "best") != "best":
                raise WrongRequest("quality chooses among the shipped weights: leave it out, or the checkpoint.")
            checkpoint = None if name == SHIPPED else self.trained.path(self.bundle, name)
            with _LOCKS[device]:
                path, record = run_inference(self.bundle, image, output_dir, options, device, checkpoint)
            if extension != ".nii.gz":
                path = _as_nrrd(path)
        except (Exception, SystemExit) as error:
            if (wrong := as_wrong_request(error, image.parent, output_dir, self.trained.folder)) is None:
                raise RuntimeError(f"inference with {self.bundle.name} failed") from error
            raise wrong from None
        return str(path), record


def _as_nrrd(path: Path) -> Path:
    """The NIfTI file as NRRD on the same grid (LPS, every direction as it is, shears too)."""
    import nibabel as nib
    import nrrd
    import numpy as np

    if not path.name.endswith(".nii.gz"):
        raise WrongRequest(f"the result is {path.name}, which has no .nrrd: leave result_extension out.")
    image: Any = nib.load(path)
    lps = np.diag([-1.0, -1.0, 1.0]) @ image.affine[:3]
    directions = [*lps[:, :3].T, *[np.full(3, np.nan)] * (image.ndim - 3)]
    header = {
        "space": "left-posterior-superior",
        "space directions": np.array(directions),
        "space origin": lps[:, 3],
        "kinds": ["domain"] * 3 + ["list"] * (image.ndim - 3),
    }
    target = path.with_name(path.name.removesuffix(".nii.gz") + ".nrrd")
    nrrd.write(str(target), np.asarray(image.dataobj, dtype=np.float32), header)
    return target


def as_one_file(path: Path) -> Path:
    """The file itself; a folder (a DICOM series, pictures) as a ZIP archive."""
    if not path.is_dir():
        return path
    return Path(shutil.make_archive(str(path), "zip", path))
