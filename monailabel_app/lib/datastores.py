"""Where the images are: a folder, or a DICOM archive over DICOMweb."""

from __future__ import annotations

import logging
import os
import re
import shutil
import threading
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import requests
from monailabel.datastore.dicom import DICOMWebDatastore
from monailabel.datastore.local import LocalDatastore

from custom_nets.utils import one_line
from custom_nets.utils.files import new_folder, part_path, remove_old_parts
from custom_nets.utils.servers import public_uri
from monailabel_app.lib.bundles import WrongRequest
from monailabel_app.lib.images import LONGEST_NAME, check_id, check_image, image_suffix, list_images, without_suffix
from monailabel_app.lib.time_limit import ANSWER_S, answered_within

__all__ = ["ArchiveDatastore", "FolderDatastore"]

logger = logging.getLogger(__name__)

_OLD_S = 24 * 3600.0


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
        """Take an image into the folder under a name that nothing there has; never in the place of another.

        Args:
            image_id: its name without suffix.
            image_filename: of the file, whose suffix says what it is; it is read through first.

        Raises:
            WrongRequest: no image, or a name that is taken (409).
        """
        _checked(image_id)
        suffix = image_suffix(Path(image_filename).name)
        target = Path(self._datastore.image_path()) / f"{image_id}{suffix}"
        plain = image_id.isprintable() and "/" not in image_id and without_suffix(image_id) == image_id
        if not plain or len(os.fsencode(target.name)) > LONGEST_NAME:
            raise WrongRequest(f"{image_id[:80]!r} cannot be a name of an image: a short word, no slash, no suffix.")
        check_image(Path(image_filename))
        there = {without_suffix(path.name).casefold() for path in target.parent.iterdir()}
        if image_id.casefold() in there or image_id in self.list_images():
            raise WrongRequest(f"'{image_id}' is there already: choose another name.", 409)
        part = part_path(target)
        try:
            shutil.copyfile(image_filename, part)
            os.link(part, target)  # what appears is whole, and where something is, it fails
        except FileExistsError:
            raise WrongRequest(f"'{image_id}' is there already: choose another name.", 409) from None
        except OSError as error:
            raise WrongRequest(f"'{image_id}' cannot be stored: {error.strerror or error}.", 507) from error
        finally:
            part.unlink(missing_ok=True)
        return image_id


class ArchiveDatastore(DICOMWebDatastore):
    """Series of a DICOM archive, by SeriesInstanceUID, as folders of DICOM files.

    Args:
        client: of the archive.
        filters: QIDO-RS search filters; the images are what any of them finds.
        cache_path: folder for what was fetched; None: below the home folder.
        answer_s: time for an answer, in seconds.
    """

    def __init__(
        self,
        client: Any,
        filters: list[dict[str, Any]],
        cache_path: str | None = None,
        answer_s: float = ANSWER_S,
    ) -> None:
        self._filters = filters
        self._answer_s = answer_s
        self._known: list[str] = []
        self._locks: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        super().__init__(client, search_filter=filters[0], cache_path=cache_path, convert_to_nifti=False)

    @property
    def client(self) -> Any:
        """The ``DICOMwebClient`` of the archive."""
        return self._client

    def list_images(self) -> list[str]:
        found = [series for one in self._filters for series in self._search(search_filters=one)]
        self._known = list(dict.fromkeys(uid for series in found if _is_uid(uid := _value(series, "0020000E"))))
        return self._known

    def status(self) -> dict[str, Any]:
        """Without a question to the archive: who asks for models must not wait for it."""
        return {"total": len(self._known), "completed": 0, "label_tags": {}}

    def json(self) -> dict[str, Any]:
        return {"name": self.name(), "objects": {image: {} for image in self.list_images()}}

    def get_labeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return []  # these methods need no labels

    def get_unlabeled_images(self, label_tag: str | None = None, labels: list[str] | None = None) -> list[str]:
        return self.list_images()

    def get_image_uri(self, image_id: str) -> str:
        """The folder of a series, fetched whole if it is not there yet or has grown.

        A folder is never changed or removed once it has its name: somebody may read it. A series that has grown gets
        another one, and the old one goes a day later.
        """
        if not _is_uid(image_id):
            raise WrongRequest(f"{image_id[:80]!r} is no SeriesInstanceUID.")
        found = self._search(search_filters={"SeriesInstanceUID": image_id}, fields=["NumberOfSeriesRelatedInstances"])
        series = next((entry for entry in found if _value(entry, "0020000E") == image_id), None)
        if series is None:
            raise WrongRequest(f"there is no series {image_id} in the archive.", 404)
        expected, study = _value(series, "00201209"), _value(series, "0020000D")
        if not _is_uid(study):
            raise WrongRequest(f"the archive names {study[:80]!r} as the study of {image_id}.", 502)
        root = Path(self._datastore.image_path()).resolve()
        with self._locks[image_id]:
            fetched = {_count(path): path for path in root.glob(f"series_{image_id}*") if path.is_dir()}
            if fetched and not expected.isdecimal():
                return str(fetched[max(fetched)])
            if expected.isdecimal() and int(expected) in fetched:
                return str(fetched[int(expected)])
            return str(self._fetch(root, study, image_id, expected))

    def _fetch(self, root: Path, study: str, series: str, expected: str) -> Path:
        instances = self._asked(self._client.retrieve_series, study, series)
        if any(str(instance.get("SeriesInstanceUID")) != series for instance in instances):
            raise WrongRequest(f"the archive sent images of another series than {series}.", 502)
        if not instances or (expected.isdecimal() and len(instances) != int(expected)):
            raise WrongRequest(f"the archive sent {len(instances)} images of {expected} of series {series}.", 502)
        for old in root.glob(f"series_{series}*"):
            if time.time() - old.stat().st_mtime > _OLD_S:
                shutil.rmtree(old, ignore_errors=True)
        remove_old_parts(root)
        target = root / f"series_{series}_{len(instances)}"
        with new_folder(target) as part:
            part.chmod(0o700)
            for number, instance in enumerate(instances):
                instance.save_as(part / f"{number:06d}.dcm")  # a UID is what the archive says: never a path
        return target

    def _search(self, **asked: Any) -> list[dict[str, Any]]:
        return [entry for entry in self._asked(self._client.search_for_series, **asked) if isinstance(entry, dict)]

    def _asked(self, ask: Any, *args: Any, **kwargs: Any) -> list[Any]:
        """An answer of the archive; one that does not come, or cannot be read, is its mistake (502)."""
        try:
            with answered_within(self._answer_s):
                return list(ask(*args, **kwargs) or [])
        except Exception as error:  # of connections, of HTTP, of JSON, of DICOM: nothing of it is ours
            where = public_uri(str(self._client.base_url))
            reason = type(error).__name__ if isinstance(error, requests.Timeout) else one_line(error)[:200]
            raise WrongRequest(f"the archive {where} does not answer as it should: {reason}.", 502) from error

    def add_image(self, image_id: str, image_filename: str, image_info: dict[str, Any]) -> str:
        raise WrongRequest("images are added to the archive itself, not through this server.")


def _checked(image_id: str) -> str:
    try:
        return check_id(image_id)
    except ValueError as error:
        raise WrongRequest(str(error)) from error


def _is_uid(text: str) -> bool:
    return re.fullmatch(r"[0-9.]{1,64}", text) is not None


def _count(path: Path) -> int:
    """Number of images in a folder of the cache (that of version 0.1 has none in its name)."""
    number = path.name.rpartition("_")[2]
    return int(number) if path.name.count("_") == 2 and number.isdecimal() else len(list(path.iterdir()))


def _value(entry: dict[str, Any], tag: str) -> str:
    element = entry.get(tag)
    values = element.get("Value") if isinstance(element, dict) else None
    return str(values[0]) if isinstance(values, list) and values else ""
