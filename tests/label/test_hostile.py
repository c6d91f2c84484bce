"""Archives that lie, uploads that would replace, sends that fail halfway: the server's parts by themselves."""

from __future__ import annotations

import importlib.util
import socket
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import requests

from tests.tools.dicom_writer import write_dicom_series

if importlib.util.find_spec("monailabel") is None:
    pytest.skip("MONAI Label is not installed", allow_module_level=True)

from monailabel_app.lib.bundles import WrongRequest
from monailabel_app.lib.datastores import ArchiveDatastore, FolderDatastore
from monailabel_app.lib.send import c_store, stow
from monailabel_app.lib.time_limit import with_time_limit

pytestmark = pytest.mark.label

SERIES, STUDY = "1.2.3.4", "1.2.3"


def scan(path: Path, seed: int = 0) -> Path:
    nib.save(nib.Nifti1Image(np.random.default_rng(seed).random((5, 4, 3)), np.eye(4)), path)
    return path


# ---- uploads ----


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "studies").mkdir()
    scan(tmp_path / "studies" / "sub-01_T1w.nii.gz")
    return tmp_path / "studies"


@pytest.mark.parametrize(
    "image, file",
    [
        ("sub-01_T1w", "x.nii.gz"),
        ("sub-01_T1w", "x.nii"),
        ("SUB-01_t1w", "x.nii"),
        ("sub-01_T1w.nii", "x.nii"),
        ("sub-01_T1w.nii", "x.gz"),
        ("../sub-02", "x.nii"),
        ("/etc/x", "x.nii"),
        (".hidden", "x.nii"),
        ("n" * 300, "x.nii"),
        ("a\rb", "x.nii"),
        ("a\u202eb", "x.nii"),
        ("a", "x.py"),
        ("a", "x.json"),
    ],
)
def test_an_upload_replaces_nothing_and_is_an_image(image, file, folder, tmp_path):
    store = FolderDatastore(str(folder))
    before = {path.name: path.read_bytes() for path in folder.glob("*.nii*")}
    upload = scan(tmp_path / "upload.nii.gz" if file.endswith("gz") else tmp_path / "upload.nii", seed=1)
    target = tmp_path / file
    target.write_bytes(upload.read_bytes())
    with pytest.raises(WrongRequest):
        store.add_image(image, str(target), {})
    assert {path.name: path.read_bytes() for path in folder.glob("*.nii*")} == before
    assert not (tmp_path / "sub-02.nii").exists()


def test_a_new_image_is_taken_whole(folder, tmp_path):
    store = FolderDatastore(str(folder))
    new = scan(tmp_path / "x.nii.gz", seed=1)
    assert store.add_image("sub-02", str(new), {}) == "sub-02"
    assert (folder / "sub-02.nii.gz").read_bytes() == new.read_bytes()
    assert store.list_images() == ["sub-01_T1w", "sub-02"]
    assert not list(folder.glob(".part*"))


# ---- archives ----


class Client:
    """Of an archive with one series, which says and sends what it is told to."""

    base_url = "http://user:secret@archive/dicom-web"

    def __init__(self, datasets: list, count: int | str | None = None, wait_s: float = 0) -> None:
        self.datasets, self.wait_s, self.fetched = datasets, wait_s, 0
        self.count = len(datasets) if count is None else count

    def search_for_series(self, **_):
        values = {"0020000E": SERIES, "0020000D": STUDY, "00201209": self.count}
        return [{tag: {"Value": [value]} for tag, value in values.items()}]

    def retrieve_series(self, study, series):
        self.fetched += 1
        time.sleep(self.wait_s)
        return list(self.datasets)


def store_of(client: Client, tmp_path: Path) -> ArchiveDatastore:
    return ArchiveDatastore(client, [{"Modality": "MR"}], str(tmp_path / "cache"))


@pytest.fixture
def datasets(tmp_path) -> list:
    import pydicom

    write_dicom_series(tmp_path / "source", np.random.default_rng(0).random((6, 5, 4)) * 900, np.eye(4))
    found = [pydicom.dcmread(path) for path in sorted((tmp_path / "source").iterdir())]
    for dataset in found:
        dataset.SeriesInstanceUID, dataset.StudyInstanceUID = SERIES, STUDY
    return found


@pytest.mark.parametrize("uid", ["../../../evil", "/evil_absolute", "a/b", ".."])
def test_a_uid_is_never_a_path(uid, datasets, tmp_path):
    datasets[0].add_new(0x00080018, "UI", uid)
    before = {path for path in tmp_path.rglob("*") if "cache" not in path.parts}
    folder = Path(store_of(Client(datasets), tmp_path).get_image_uri(SERIES))
    assert sorted(path.name for path in folder.iterdir()) == [f"{n:06d}.dcm" for n in range(4)]
    assert {path for path in tmp_path.rglob("*") if "cache" not in path.parts} == before
    assert folder.stat().st_mode & 0o077 == 0


def test_two_requests_for_one_series_fetch_it_once(datasets, tmp_path):
    client = Client(datasets, wait_s=0.3)
    store = store_of(client, tmp_path)
    found: list[str] = []
    asked = [threading.Thread(target=lambda: found.append(store.get_image_uri(SERIES))) for _ in range(4)]
    [thread.start() for thread in asked]
    [thread.join() for thread in asked]
    assert len(found) == 4 and len(set(found)) == 1 and client.fetched == 1


def test_a_series_that_grows_leaves_its_readers_in_peace(datasets, tmp_path):
    client = Client(datasets[:3])
    store = store_of(client, tmp_path)
    first = Path(store.get_image_uri(SERIES))
    client.datasets, client.count = datasets, 4
    second = Path(store.get_image_uri(SERIES))
    assert len(list(first.iterdir())) == 3 and len(list(second.iterdir())) == 4
    assert store.get_image_uri(SERIES) == str(second)


@pytest.mark.parametrize("kind", ["part", "other series", "study", "text", "error", "silent"])
def test_an_archive_that_lies_is_refused(kind, datasets, tmp_path, monkeypatch):
    client = Client(datasets)
    if kind == "part":
        client.count = 9
    elif kind == "other series":
        datasets[1].SeriesInstanceUID = "9.9"
    elif kind == "study":
        monkeypatch.setattr("tests.label.test_hostile.STUDY", "../x")
    elif kind == "text":
        client.search_for_series = lambda **_: ["x", 3, {"0020000E": "y"}]
    else:
        error = requests.ReadTimeout if kind == "silent" else ValueError
        client.retrieve_series = lambda *_: (_ for _ in ()).throw(error("no"))
    with pytest.raises(WrongRequest) as caught:
        store_of(client, tmp_path).get_image_uri(SERIES)
    assert caught.value.status in (404, 502) and "secret" not in str(caught.value)
    assert not list((tmp_path / "cache").rglob("*.dcm"))


def test_every_question_to_an_archive_has_a_time_limit(monkeypatch):
    given = {}
    session = requests.Session()
    session.request = lambda method, url, **kwargs: given.update(kwargs)
    with_time_limit(session).get("http://archive", timeout=None)
    assert given["timeout"] == (5.0, 30.0)


@pytest.mark.parametrize("where", ["head", "body", "series"])
def test_an_archive_that_drips_is_left(where, tmp_path):
    """It sends a byte whenever it would be given up, for ever."""
    from dicomweb_client import DICOMwebClient

    listener = socket.create_server(("127.0.0.1", 0))
    begin = {
        "head": b"HTTP/1.1 200 OK\r\nX-Slow: ",
        "body": b"HTTP/1.1 200 OK\r\nContent-Type: application/dicom+json\r\nContent-Length: 99999\r\n\r\n",
        "series": b'HTTP/1.1 200 OK\r\nContent-Type: multipart/related; type="application/dicom"; boundary=x\r\n\r\n',
    }[where]
    left = threading.Event()

    def drip() -> None:
        connection, _ = listener.accept()
        connection.recv(65536)
        connection.sendall(begin)
        try:
            while not left.wait(0.05):
                connection.sendall(b" ")
        except OSError:
            left.set()

    threading.Thread(target=drip, daemon=True).start()
    url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    client = DICOMwebClient(url, session=with_time_limit(requests.Session()))
    client.set_http_retry_params(retry=False)
    store = ArchiveDatastore(client, [{"Modality": "MR"}], str(tmp_path / "cache"), answer_s=0.5)
    started = time.monotonic()
    with pytest.raises(WrongRequest, match="no whole answer in 0.5 s") as caught:
        store._fetch(tmp_path, STUDY, SERIES, "3") if where == "series" else store.list_images()
    assert caught.value.status == 502 and time.monotonic() - started < 5
    assert left.wait(5), "the connection was closed"
    listener.close()


# ---- sends ----


class Taker:
    """An archive that takes all but some instances, as often as it is asked."""

    base_url = "http://archive/dicom-web"

    def __init__(self, refused: set[int], deletes: bool, times: int = 99) -> None:
        self.refused, self.deletes, self.times = refused, deletes, times
        self.there: set[str] = set()

    def store_instances(self, datasets):
        self.times -= 1
        taken = [ds for ds in datasets if int(ds.InstanceNumber) not in self.refused or self.times < 0]
        self.there |= {str(ds.SOPInstanceUID) for ds in taken}
        return SimpleNamespace(get=lambda _: [{"ReferencedSOPInstanceUID": ds.SOPInstanceUID} for ds in taken])

    def delete_series(self, study, series):
        if not self.deletes:
            raise requests.HTTPError("405")
        self.there.clear()


@pytest.mark.parametrize("deletes", [True, False])
def test_a_failed_send_says_what_is_there(deletes, tmp_path):
    files = write_dicom_series(tmp_path / "s", np.random.default_rng(0).random((6, 5, 4)), np.eye(4))
    archive = Taker({2}, deletes)
    with pytest.raises(OSError, match="took 3 of 4 instances of series") as caught:
        stow(archive, sorted(files))
    if deletes:
        assert archive.there == set() and "that part was removed again" in str(caught.value)
    else:
        assert len(archive.there) == 3 and "Missing are 1.2" in str(caught.value)


def test_a_failed_c_store_says_what_is_there(tmp_path, monkeypatch):
    """The archive refuses the second instance, and breaks off at the third, once."""
    import pydicom

    pynetdicom = pytest.importorskip("pynetdicom")
    files = sorted(write_dicom_series(tmp_path / "s", np.random.default_rng(0).random((6, 5, 4)), np.eye(4)))
    there: list[int] = []
    broken: list[int] = []
    monkeypatch.setattr("monailabel_app.lib.send._SILENCE_S", (5, 5, 1, 1))

    def take(event) -> int:
        number = int(event.dataset.InstanceNumber)
        if number == 3 and not broken:
            broken.append(number)
            event.assoc.abort()
        elif number == 2:
            return 0xA700  # out of resources
        there.append(number)
        return 0x0000

    entity = pynetdicom.AE(ae_title="ARCHIVE")
    entity.add_supported_context("1.2.840.10008.5.1.4.1.1.4")
    server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(pynetdicom.evt.EVT_C_STORE, take)])
    address = f"127.0.0.1:{server.socket.getsockname()[1]}:ARCHIVE"
    with pytest.raises(OSError, match="took 3 of 4 instances of series .*Missing are") as caught:
        c_store(address, files)
    assert set(there) == {1, 3, 4}, "what was not sent for another's sake is sent when asked again"
    headers = [pydicom.dcmread(file, stop_before_pixels=True) for file in files]
    assert all((str(h.SOPInstanceUID) in str(caught.value)) == (h.InstanceNumber == 2) for h in headers)
    server.shutdown()
    other = pynetdicom.AE(ae_title="ARCHIVE")
    other.add_supported_context("1.2.840.10008.5.1.4.1.1.2")
    server = other.start_server(("127.0.0.1", 0), block=False)
    with pytest.raises(OSError, match="it takes no MR Image Storage.*nothing of it is there"):
        c_store(f"127.0.0.1:{server.socket.getsockname()[1]}:ARCHIVE", files)
    server.shutdown()


def test_what_is_refused_once_is_sent_again(tmp_path):
    files = write_dicom_series(tmp_path / "s", np.random.default_rng(0).random((6, 5, 4)), np.eye(4))
    archive = Taker({2}, deletes=False, times=1)
    assert stow(archive, sorted(files)) == "http://archive/dicom-web" and len(archive.there) == 4


# ---- devices ----


def test_a_device_has_one_name():
    from custom_nets.utils import checked_device

    assert {str(checked_device(name)) for name in ("cpu", "cpu:0", "cpu:1")} == {"cpu"}
    for name in ("meta", ["cpu"], 3, "xpu", "cuda:99"):
        with pytest.raises(ValueError, match="device"):
            checked_device(name)
