"""Training tasks: a bundle's own training, on the images of the datastore."""

from __future__ import annotations

import json
import logging
import time
from pathlib import Path
from typing import Any

from monailabel.interfaces.tasks.train import TrainTask

from custom_nets.bundle.as_typed import as_text
from custom_nets.checkpoints import load_network
from custom_nets.utils import checked_device
from custom_nets.utils.files import private_folder, to_jsonable
from custom_nets.utils.weights import read_checkpoint
from monailabel_app.lib.bundles import WORK, Bundle, WrongRequest, as_wrong_request, check_options
from monailabel_app.lib.images import is_run
from monailabel_app.lib.infer import devices
from monailabel_app.lib.trained import SHIPPED, Trained

__all__ = ["BundleTrain"]

logger = logging.getLogger(__name__)


class BundleTrain(TrainTask):
    """Runs ``configs/train.json`` of a bundle from given weights: the scans themselves are what is learned from.

    The new weights get a name of their own and are used by requests that name them as ``checkpoint``.

    Args:
        bundle: which.
        trained: where weights go.
    """

    def __init__(self, bundle: Bundle, trained: Trained) -> None:
        super().__init__(f"Fine-tunes {bundle.metadata['name']} on the server's images; no labels are needed.")
        self.bundle = bundle
        self.trained = trained

    def config(self) -> dict[str, Any]:
        """The options of a request with their defaults (lists: what there is to choose from, or a list)."""
        return {
            "name": None,
            "images": None,
            "checkpoint": [SHIPPED, *self.trained.names(self.bundle.name)],
            "device": devices(),
            **self.bundle.training_options(),
        }

    def stats(self) -> dict[str, Any]:
        return {"trained": self.trained.names(self.bundle.name)}

    def check(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:
        """The overrides of the config and the images that a request means.

        Raises:
            WrongRequest: it cannot be done.
        """
        given = {k: v for k, v in request.items() if k not in ("model", "local_rank", "gpus")}
        check_options(given, self.config())
        name = given.get("name") or time.strftime("%Y%m%d_%H%M%S")
        checkpoint = self.trained.path(self.bundle, given.get("checkpoint") or SHIPPED)
        try:
            device = str(checked_device(given.get("device") or devices()[0]))
        except ValueError as error:
            raise WrongRequest(str(error)) from error
        names = given.get("images") or datastore.list_images()
        if not isinstance(names, list):
            raise WrongRequest(f"images must be a list of names, got {names!r}.")
        paths = {str(image): Path(datastore.get_image_uri(str(image))) for image in names}
        wanted = {k: p for k, p in paths.items() if is_run(p) == (self.bundle.modality == "XA")}
        if not wanted:
            raise WrongRequest(f"none of the {len(paths)} images is {self.bundle.modality}: nothing to train on.")
        return {
            "output_dir": self.trained.new(self.bundle.name, str(name)),
            "checkpoint": checkpoint,
            "images": wanted,
            "overrides": {"device": device, **{k: given[k] for k in self.bundle.training_options() if k in given}},
        }

    def __call__(self, request: dict[str, Any], datastore: Any) -> dict[str, Any]:
        """Train, with an MLflow run as the bundle's ``mlflow.json`` sets it up.

        Returns:
            ``name`` of the weights, their file, the last validation metrics, MLflow's tracking URI.

        Raises:
            WrongRequest: an option or images that cannot be used.
        """
        task = self.check(request, datastore)
        output_dir: Path = task["output_dir"]
        with private_folder(WORK) as work:
            try:
                items = [self._item(name, path, work) for name, path in task["images"].items()]
                (work / "datalist.json").write_text(json.dumps(items))
                workflow = self._workflow(task, work)
                workflow.initialize()
                workflow.run()
                workflow.finalize()
            except (Exception, SystemExit) as error:
                if output_dir.is_dir() and not any(output_dir.iterdir()):
                    output_dir.rmdir()
                if (wrong := as_wrong_request(error, work, self.trained.folder)) is None:
                    raise RuntimeError(f"training of {self.bundle.name} failed") from error
                raise wrong from None
        return {
            "name": output_dir.name,
            "file": str(output_dir / "model.pt"),
            "metrics": to_jsonable(workflow.evaluator.state.metrics),
            "tracking_uri": workflow.parser.get_parsed_content("tracking_uri"),
        }

    def _workflow(self, task: dict[str, Any], work: Path) -> Any:
        from monai.bundle import ConfigWorkflow

        configs = self.bundle.root / "configs"
        load_network(task["checkpoint"])  # refuses weights that do not belong to what they say
        arch = dict(read_checkpoint(task["checkpoint"])["arch"])
        network = f"custom_nets.networks.{arch.pop('name')}"
        return ConfigWorkflow(
            config_file=str(configs / "train.json"),
            meta_file=str(configs / "metadata.json"),
            logging_file=False,
            tracking=str(configs / "mlflow.json"),
            workflow_type="train",
            bundle_root=as_text(str(self.bundle.root)),
            output_dir=as_text(str(task["output_dir"])),
            datalist=as_text(str(work / "datalist.json")),
            finetune=as_text(str(task["checkpoint"])),
            network_def={"_target_": network, **arch},
            **task["overrides"],
        )

    def _item(self, name: str, path: Path, work: Path) -> dict[str, str]:
        """An entry of the datalist; a DICOM series of slices becomes NIfTI for the time of the training."""
        from custom_nets.data.angiography.training_list import patient_of
        from custom_nets.data.datalist import subject_of
        from custom_nets.data.dicom.files import is_dicom_file
        from custom_nets.data.volumes.nifti import write_nifti
        from custom_nets.transforms.io import load_volume

        subject = patient_of(path) or subject_of(Path(name))
        if self.bundle.modality == "MR" and (path.is_dir() or is_dicom_file(path)):
            volume = load_volume(path)
            path = write_nifti(work / f"{name.replace('/', '_')}.nii.gz", volume[0].numpy(), volume.affine.numpy())
        return {"image": str(path), "subject": subject}
