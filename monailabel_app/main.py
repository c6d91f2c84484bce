"""The app that MONAI Label loads: every bundle as a model that infers and, with a ``train.json``, trains."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import requests  # noqa: E402
from monailabel.config import settings  # noqa: E402
from monailabel.datastore.dicom import DICOMwebClientX  # noqa: E402
from monailabel.interfaces.app import MONAILabelApp  # noqa: E402
from monailabel.interfaces.datastore import Datastore  # noqa: E402
from monailabel.interfaces.tasks.infer_v2 import InferTask  # noqa: E402
from monailabel.interfaces.tasks.strategy import Strategy  # noqa: E402
from monailabel.interfaces.tasks.train import TrainTask  # noqa: E402

import custom_nets  # noqa: E402
from monailabel_app.lib.bundles import WrongRequest, find_bundles  # noqa: E402
from monailabel_app.lib.datastores import ArchiveDatastore, FolderDatastore  # noqa: E402
from monailabel_app.lib.infer import BundleInfer  # noqa: E402
from monailabel_app.lib.send import find_archive, send_back  # noqa: E402
from monailabel_app.lib.time_limit import with_time_limit  # noqa: E402
from monailabel_app.lib.train import BundleTrain  # noqa: E402
from monailabel_app.lib.trained import Trained  # noqa: E402

_CONF = {
    "models": "names of bundles, with commas between them; all",
    "trained_dir": "folder for weights that are trained through the server; 'model' in the app's folder",
    "send_back": "true: every result goes to the archive as DICOM; false",
    "cstore": "host:port:AETITLE to send to by C-STORE, instead of STOW-RS to the studies' URL",
    "hosts": "names of this server that requests may use, with commas; its own name and addresses always may",
    "max_upload_gb": "largest request, in GiB; 4",
    "server_mode": "of MONAI Label",
}


class AcquireLess(MONAILabelApp):
    """See README.md in this folder for ``conf``."""

    def __init__(self, app_dir: str, studies: str, conf: dict[str, str]) -> None:
        if unknown := sorted(set(conf) - set(_CONF)):
            allowed = "; ".join(f"{name} ({what})" for name, what in _CONF.items())
            raise ValueError(f"--conf has no '{unknown[0]}'; there are: {allowed}.")
        names = [name.strip() for name in conf["models"].split(",")] if conf.get("models") else None
        self.bundles = find_bundles(names=names)
        self.trained = Trained(Path(conf.get("trained_dir") or Path(app_dir) / "model"))
        settings.MONAI_LABEL_SESSIONS = False  # files are uploaded with their request
        super().__init__(
            app_dir=app_dir,
            studies=studies,
            conf=conf,
            name="Acquire less, see the same",
            description="Brain MR at any spacing, and angiography runs with more frames. For research only.",
            version=custom_nets.__version__,
        )

    def init_infers(self) -> dict[str, InferTask]:
        return {name: BundleInfer(bundle, self.trained) for name, bundle in self.bundles.items()}

    def init_trainers(self) -> dict[str, TrainTask]:
        return {name: BundleTrain(bundle, self.trained) for name, bundle in self.bundles.items() if bundle.train}

    def init_strategies(self) -> dict[str, Strategy]:
        return {}  # there is nothing to label

    def init_datastore(self) -> Datastore:
        if self.studies.startswith(("http://", "https://")):
            return self._init_dicomweb_datastore()
        return FolderDatastore(self.studies)

    def _init_dicomweb_datastore(self) -> Datastore:
        client = DICOMwebClientX(
            url=self.studies.rstrip("/"),
            session=_session(),
            qido_url_prefix=settings.MONAI_LABEL_QIDO_PREFIX,
            wado_url_prefix=settings.MONAI_LABEL_WADO_PREFIX,
            stow_url_prefix=settings.MONAI_LABEL_STOW_PREFIX,
        )
        client.set_http_retry_params(retry=False)  # it would ask a silent archive five times, for minutes
        filters = [settings.MONAI_LABEL_DICOMWEB_SEARCH_FILTER]
        if filters == [{"Modality": "CT"}]:  # MONAI Label's default; its launcher sets it in the environment, too
            filters = [{"Modality": modality} for modality in ("MR", "XA", "RF")]
        return ArchiveDatastore(client, filters, settings.MONAI_LABEL_DICOMWEB_CACHE_PATH.strip() or None)

    def infer(self, request: dict[str, Any], datastore: Datastore | None = None) -> dict[str, Any]:
        """One inference.

        Args:
            request: ``model``; ``image``, the name of an image of the datastore (text: never a path) or an uploaded
                file (a ``Path``); ``output_dir``; ``options`` of the model.

        Returns:
            ``file``: path of the result; ``params``: its record.
        """
        model = request["model"]
        if (task := self._infers.get(model)) is None:
            raise WrongRequest(f"there is no model '{model}'; there are: {', '.join(self._infers)}.", 404)
        image = request["image"]
        store = datastore or self._datastore
        path = image if isinstance(image, Path) else Path(store.get_image_uri(image))
        options = dict(request["options"])
        wanted = options.setdefault("send_back", self.conf.get("send_back", "false").lower() == "true")
        archive = find_archive(self._datastore, self.conf.get("cstore")) if wanted else None
        file, record = task({**request, "image": path, "options": options})
        if archive is not None:
            record["sent_to"] = send_back(Path(file), archive)
        return {"file": file, "params": record}

    def check_training(self, request: dict[str, Any]) -> None:
        """Refuse a training that cannot start, before a process is started for it."""
        model = request["model"]
        if (task := self._trainers.get(model)) is None:
            raise WrongRequest(f"there is no model '{model}' to train; there are: {', '.join(self._trainers)}.", 404)
        task.check(request, self._datastore)


def _session() -> Any:
    from dicomweb_client.session_utils import create_session_from_user_pass

    user, password = settings.MONAI_LABEL_DICOMWEB_USERNAME, settings.MONAI_LABEL_DICOMWEB_PASSWORD
    session = create_session_from_user_pass(user, password) if user and password else requests.Session()
    return with_time_limit(session)
