"""Where the images are: a folder, or a DICOM archive over DICOMweb."""

from __future__ import annotations

import logging
import re
import shutil
import tempfile
from pathlib import Path
from typing import Any

from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore

from monailabel_app.lib.bundles import WrongRequest
from monailabel_app.lib.images import check_id, list_images

__all__ = ["ArchiveDatastore", "FolderDatastore"]

logger = logging.getLogger(__name__)


class FolderDatastore(LocalDatastore):
    """A folder of images as :func:`monailabel_app.lib.images.list_images` finds them, looked at anew when asked."""

    def __init__(self, folder: str) -> None:
        self._names: dict[str, str] = {}
        super().__init__(folder, extensions=("*.nii.gz", "*.nii"), auto_reload=False)

    def _list_files(self, path: str, patterns: Any) -> dict[str, str]:
        if Path(path).resolve() != Path(self._datastore.image_path()).resolve():
            return super()._list_files(path, patterns)
        found = list_images(Path(path).resolve())
        self._names = {file: name for name, file in found.items()}
        return {file: file for file in found.values()}

    def _to_id(self, file: str) -> tuple[str, str]:
        if (name := self._names.get(file)) is not None:
            return name, file[len(name) :]
        return super()._to_id(file)

    def list_images(self) -> list[str]:
        self.refresh()
        return super().list_images()

    def json(self) -> dict[str, Any]:
        self.refresh()
        return super().json()

    def get_image_uri(self, image_id: str) -> str:
        _checked(image_id)
        if image_id not in self.list_images():
            raise WrongRequest(
                f"there is no image '{image_id}' on the server; ask GET /datastore/?output=all for the names.", 404
            )
        return super().get_image_uri(image_id)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        _checked(image_id)
        if "/" in image_id or image_id in self.list_images():
            raise WrongRequest(f"'{image_id}' has a slash or is there already: choose another name.")
        return super().add_image(image_id, image_filename, image_info)


class ArchiveDatastore(DICOMWebDatastore):
    """Series of a DICOM archive, by SeriesInstanceUID, as folders of DICOM files.

    Args:
        client: of the archive.
        filters: QIDO-RS search filters; the images are what any of them finds.
        cache_path: folder for what was fetched; None: below the home folder.
    """

    def __init__(self, client: Any, filters: list[dict[str, Any]], cache_path: str | None = None) -> None:
        self._filters = filters
        super().__init__(client, search_filter=filters[0], cache_path=cache_path, convert_to_nifti=False)

    @property
    def client(self) -> Any:
        """The ``DICOMwebClient`` of the archive."""
        return self._client

    def list_images(self) -> list[str]:
        found = [series for one in self._filters for series in self._client.search_for_series(search_filters=one)]
        return list(dict.fromkeys(_value(series, "0020000E") for series in found))

    def json(self) -> dict[str, Any]:
        return {"name": self.name(), "objects": {image: {} for image in self.list_images()}}

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return []  # these methods need no labels

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return self.list_images()

    def get_image_uri(self, image_id: str) -> str:
        """The folder of a series, fetched whole if it is not there yet or has grown."""
        if not re.fullmatch(r"[0-9.]{1,64}", image_id):
            raise WrongRequest(f"{image_id!r} is no SeriesInstanceUID.")
        found = self._client.search_for_series(
            search_filters={"SeriesInstanceUID": image_id}, fields=["NumberOfSeriesRelatedInstances"]
        )
        series = next((entry for entry in found if _value(entry, "0020000E") == image_id), None)
        if series is None:
            raise WrongRequest(f"there is no series {image_id} in the archive.", 404)
        folder = Path(self._datastore.image_path()).resolve() / f"series_{image_id}"
        expected = _value(series, "00201209")
        if folder.is_dir() and (not expected or len(list(folder.iterdir())) == int(expected)):
            return str(folder)
        part = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part_"))
        try:
            for instance in self._client.retrieve_series(_value(series, "0020000D"), image_id):
                instance.save_as(part / f"{instance.SOPInstanceUID}.dcm")
            shutil.rmtree(folder, ignore_errors=True)
            part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
        return str(folder)

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        raise WrongRequest("images are added to the archive itself, not through this server.")


def _checked(image_id: str) -> str:
    try:
        return check_id(image_id)
    except ValueError as error:
        raise WrongRequest(str(error)) from error


def _value(entry: dict[str, Any], tag: str) -> str:
    values = entry.get(tag, {}).get("Value") or [""]
    return str(values[0])
