"""Derived DICOM files back to an archive: STOW-RS or C-STORE; every instance must have arrived."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from monailabel_app.lib.bundles import WrongRequest

__all__ = ["c_store", "find_archive", "send_back", "stow"]

_AT_ONCE = 20  # instances in one STOW-RS request


def find_archive(datastore: Any, address: str | None = None) -> Any:
    """Where results of a server go: the address (``host:port:AETITLE``), otherwise the client of its DICOMweb archive.

    Raises:
        WrongRequest: there is neither.
    """
    archive = address or getattr(datastore, "client", None)
    if archive is None:
        raise WrongRequest(
            "send_back needs an archive: start the server with --studies URL of DICOMweb, or --conf cstore "
            "host:port:AETITLE."
        )
    return archive


def send_back(result: Path, archive: Any) -> str:
    """Send a derived DICOM file, or all files of a folder.

    Args:
        result: the file or folder.
        archive: of :func:`find_archive`.

    Returns:
        Where they went.

    Raises:
        WrongRequest: the archive did not take all (status 502).
    """
    files = sorted(result.rglob("*.dcm")) if result.is_dir() else [result]
    try:
        return c_store(archive, files) if isinstance(archive, str) else stow(archive, files)
    except OSError as error:
        raise WrongRequest(str(error), 502) from error


def stow(client: Any, files: list[Path]) -> str:
    """Store files by STOW-RS.

    Args:
        client: a ``dicomweb_client.DICOMwebClient``.
        files: DICOM files.

    Returns:
        Where they went.

    Raises:
        OSError: the archive cannot be reached, or refused some.
    """
    import pydicom
    import requests

    for first in range(0, len(files), _AT_ONCE):
        datasets = [pydicom.dcmread(file) for file in files[first : first + _AT_ONCE]]
        try:
            answer = client.store_instances(datasets)
        except requests.RequestException as error:
            raise OSError(f"the archive {client.base_url} did not take the result: {error}") from error
        stored = len(answer.get("ReferencedSOPSequence") or [])
        if stored != len(datasets):
            raise OSError(f"the archive {client.base_url} stored {stored} of {len(datasets)} instances.")
    return str(client.base_url)


def c_store(address: str, files: list[Path]) -> str:
    """Store files by C-STORE.

    Args:
        address: ``host:port:AETITLE`` of the archive.
        files: DICOM files.

    Returns:
        Where they went.

    Raises:
        ValueError: an address of another form.
        OSError: the archive cannot be reached, or refused some.
    """
    import pydicom
    from pynetdicom import AE

    host, _, rest = address.partition(":")
    port, _, title = rest.partition(":")
    if not host or not port.isdigit() or not title:
        raise ValueError(f"cstore must be host:port:AETITLE, got {address!r}.")
    datasets = [pydicom.dcmread(file) for file in files]
    entity = AE(ae_title="ACQUIRELESS")
    for kind in {(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID) for ds in datasets}:
        entity.add_requested_context(*kind)
    association = entity.associate(host, int(port), ae_title=title)
    if not association.is_established:
        raise OSError(f"no DICOM connection to {address}: is the archive running, and does it know ACQUIRELESS?")
    try:
        for dataset in datasets:
            status = association.send_c_store(dataset)
            if status.get("Status") != 0:
                code = status.get("Status")
                raise OSError(
                    f"{address} refused {dataset.SOPInstanceUID} (status {code if code is None else hex(code)})."
                )
    finally:
        association.release()
    return address
