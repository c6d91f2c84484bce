"""Derived DICOM files back to an archive: STOW-RS or C-STORE; every instance must have arrived."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from custom_nets.utils import one_line
from custom_nets.utils.servers import public_uri
from monailabel_app.lib.bundles import WrongRequest
from monailabel_app.lib.time_limit import ANSWER_S, answered_within

__all__ = ["c_store", "find_archive", "send_back", "stow"]

_AT_ONCE = 20  # instances in one STOW-RS request
_SILENCE_S = (5, 10, 60, 60)  # of a C-STORE: until connected, until associated, for an answer, without any


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

    left = list(files)
    reason: Exception | str = ""
    for _ in range(2):  # what was refused once may be taken when asked again
        refused: list[Path] = []
        for first in range(0, len(left), _AT_ONCE):
            datasets = {file: pydicom.dcmread(file) for file in left[first : first + _AT_ONCE]}
            try:
                with answered_within(ANSWER_S):
                    answer = client.store_instances(list(datasets.values()))
            except (requests.RequestException, TimeoutError) as error:
                reason = error
                refused += datasets
                continue
            stored = {str(item.get("ReferencedSOPInstanceUID")) for item in answer.get("ReferencedSOPSequence") or []}
            refused += [file for file, dataset in datasets.items() if str(dataset.SOPInstanceUID) not in stored]
        left = refused
        if not left:
            return public_uri(str(client.base_url))
    where = f"the archive {public_uri(str(client.base_url))}"
    raise OSError(
        _what_is_there(files, left, where, _removed(client, files[0]) if len(left) < len(files) else False, reason)
    )


def _removed(client: Any, file: Path) -> bool:
    """Whether the archive took a series of ours away again that it had a part of."""
    import pydicom

    header = pydicom.dcmread(file, stop_before_pixels=True)
    try:
        client.delete_series(str(header.StudyInstanceUID), str(header.SeriesInstanceUID))
    except Exception:  # archives need not know how; the message then says what is there
        return False
    return True


def _what_is_there(files: list[Path], left: list[Path], where: str, removed: bool, reason: object = "") -> str:
    """One line on a send that failed: how much of which series is in the archive now."""
    import pydicom

    header = pydicom.dcmread(files[0], stop_before_pixels=True)
    text = f"{where} took {len(files) - len(left)} of {len(files)} instances of series {header.SeriesInstanceUID}"
    if reason:
        text += f" ({one_line(reason)[:200]})"
    if len(left) == len(files):
        return f"{text}: nothing of it is there."
    if removed:
        return f"{text}; that part was removed again."
    missing = [str(pydicom.dcmread(file, stop_before_pixels=True).SOPInstanceUID) for file in left]
    more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
    return f"{text}: remove the part that is there. Missing are {', '.join(missing[:3])}{more}."


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
    kinds = {(ds.SOPClassUID, ds.file_meta.TransferSyntaxUID) for ds in map(_header, files)}
    left, reason = list(files), ""
    for _ in range(2):  # what was refused once may be taken when asked again
        entity = AE(ae_title="ACQUIRELESS")
        entity.connection_timeout, entity.acse_timeout, entity.dimse_timeout, entity.network_timeout = _SILENCE_S
        for kind in kinds:
            entity.add_requested_context(*kind)
        association = entity.associate(host, int(port), ae_title=title)
        if not association.is_established and not association.rejected_contexts:
            reason = "no DICOM connection: is the archive running, and does it know ACQUIRELESS?"
            continue
        taken = {(context.abstract_syntax, context.transfer_syntax[0]) for context in association.accepted_contexts}
        try:
            if not kinds <= taken:  # before anything is there
                reason = f"it takes no {', '.join(sorted(kind.name for kind, _ in kinds - taken))}"
                break
            refused = []
            for file in left:
                try:
                    code = association.send_c_store(pydicom.dcmread(file)).get("Status")
                except RuntimeError:  # the archive has ended the connection
                    code = None
                if code != 0:
                    reason = f"status {code if code is None else hex(code)}"
                    refused.append(file)
            left = refused
        finally:
            if association.is_established:
                association.release()
        if not left:
            return address
    raise OSError(_what_is_there(files, left, address, False, reason))


def _header(file: Path) -> Any:
    import pydicom

    return pydicom.dcmread(file, stop_before_pixels=True)
