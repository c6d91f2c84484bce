"""With a real DICOM archive (Orthanc): series in, super-resolved, sent back, found again with the right geometry."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from custom_nets.data.volumes.dicom_series import load_series
from monailabel_app.client import ServerError
from tests.bundles.runner import outer_corner
from tests.conftest import blobs, world_points
from tests.label.server import Server, free_port, stop_process
from tests.tools.dicom_writer import write_dicom_series
from tests.tools.xa_writer import contrast_run, validator_errors, write_xa

if importlib.util.find_spec("monailabel") is None:
    pytest.skip("MONAI Label is not installed", allow_module_level=True)
PLUGIN = Path("/usr/share/orthanc/plugins/libOrthancDicomWeb.so")
if shutil.which("Orthanc") is None or not PLUGIN.exists():
    pytest.skip("Orthanc with DICOMweb (orthanc, orthanc-dicomweb) is not installed", allow_module_level=True)

pytestmark = pytest.mark.label

AFFINE = np.array([[2.0, 0, 0, -20], [0, 2, 0, -18], [0, 0, 5, -17], [0, 0, 0, 1]])


class Archive:
    """Orthanc on the loopback with storage of its own."""

    def __init__(self, folder: Path) -> None:
        self.http, self.dimse = free_port(), free_port()
        self.url = f"http://127.0.0.1:{self.http}/dicom-web"
        settings = {
            "StorageDirectory": str(folder / "storage"),
            "IndexDirectory": str(folder / "storage"),
            "Plugins": [str(PLUGIN)],
            "HttpPort": self.http,
            "DicomPort": self.dimse,
            "DicomAet": "ARCHIVE",
            "RemoteAccessAllowed": False,
            "AuthenticationEnabled": False,
            "DicomAlwaysAllowStore": True,
            "DicomWeb": {"Enable": True},
        }
        (folder / "orthanc.json").write_text(json.dumps(settings))
        self.log = open(folder / "orthanc.log", "w")  # noqa: SIM115
        self.process = subprocess.Popen(["Orthanc", str(folder / "orthanc.json")], stdout=self.log, stderr=self.log)
        until = time.monotonic() + 120
        while True:
            try:
                self.ask("/system")
                return
            except OSError:
                if self.process.poll() is not None or time.monotonic() > until:
                    self.stop()
                    raise RuntimeError((folder / "orthanc.log").read_text()[-2000:]) from None
                time.sleep(0.3)

    def ask(self, path: str) -> object:
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            f"http://127.0.0.1:{self.http}{path}", timeout=60
        ) as answer:
            return json.load(answer)

    def client(self):
        from dicomweb_client import DICOMwebClient

        return DICOMwebClient(url=self.url)

    def series_of(self, study: str) -> set[str]:
        found = self.client().search_for_series(study)
        return {entry["0020000E"]["Value"][0] for entry in found}

    def fetch(self, study: str, series: str, folder: Path) -> Path:
        folder.mkdir(parents=True)
        for dataset in self.client().retrieve_series(study, series):
            dataset.save_as(folder / f"{dataset.SOPInstanceUID}.dcm", write_like_original=False)
        return folder

    def stop(self) -> None:
        stop_process(self.process)
        self.log.close()


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    running = Archive(tmp_path_factory.mktemp("archive"))
    yield running
    running.stop()


@pytest.fixture(scope="module")
def sources(archive, tmp_path_factory) -> dict[str, Path]:
    """An MR series and an XA run, in files and in the archive (by STOW-RS)."""
    import pydicom

    folder = tmp_path_factory.mktemp("sources")
    stored = blobs(world_points((20, 18, 8), AFFINE)).round().astype(np.int16)
    write_dicom_series(folder / "mr", stored, AFFINE, **MR_TAGS)
    write_xa(folder / "xa" / "run.dcm", contrast_run(), PixelIntensityRelationship="DISP")
    for kind in ("mr", "xa"):
        archive.client().store_instances([pydicom.dcmread(file) for file in sorted((folder / kind).iterdir())])
    return {kind: folder / kind for kind in ("mr", "xa")}


# what a scanner writes besides; without it the validator complains of the source, too
MR_TAGS = {
    "StudyDate": "20200102",
    "StudyTime": "101500",
    "AccessionNumber": "",
    "Manufacturer": "Tests",
    "ReferringPhysicianName": "",
    "PatientBirthDate": "",
    "PatientSex": "",
    "StudyID": "1",
    "SeriesNumber": 4,
    "PositionReferenceIndicator": "",
    "ScanningSequence": "GR",
    "SequenceVariant": "SP",
    "ScanOptions": "",
    "MRAcquisitionType": "3D",
    "EchoTime": "3",
    "RepetitionTime": "8",
    "EchoTrainLength": "1",
    "Laterality": "",
    "PatientPosition": "HFS",
}


@pytest.fixture(scope="module")
def server(archive, sources, tmp_path_factory):
    folder = tmp_path_factory.mktemp("archive_server")
    running = Server(folder, archive.url, env={"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(folder / "cache")})
    yield running
    running.stop()


def uids(folder: Path) -> tuple[str, str]:
    import pydicom

    header = pydicom.dcmread(next(folder.iterdir()), stop_before_pixels=True)
    return str(header.StudyInstanceUID), str(header.SeriesInstanceUID)


def new_faults(folder: Path, source: Path) -> set[str]:
    """Kinds of errors that dciodvfy finds in files of a folder and not in those of the source."""
    if shutil.which("dciodvfy") is None:
        return set()
    before = {line for file in source.iterdir() for line in validator_errors(file)}
    return {line for file in folder.iterdir() for line in validator_errors(file)} - before


def test_series_are_the_images(server, sources):
    assert server.client.images() == sorted(uids(sources[kind])[1] for kind in ("mr", "xa"))


def test_a_volume_of_the_archive(server, sources, tmp_path):
    """Fetched once as DICOM, read with its own geometry; found anew when the series has grown."""
    import nibabel as nib

    saved, record = server.client.infer("arssr", uids(sources["mr"])[1], tmp_path, {"spacing": [2, 2, 2.5]})
    got = nib.load(saved)
    assert got.shape == (20, 18, 16)
    np.testing.assert_allclose(outer_corner(got.affine), outer_corner(AFFINE), atol=1e-3)
    assert record["input"]["series_uid"] == uids(sources["mr"])[1]


@pytest.mark.parametrize("name, status", [("1.2.3", 404), ("../../etc", 400), ("/etc/passwd", 400)])
def test_series_that_are_not_there(server, tmp_path, name, status):
    with pytest.raises(ServerError, match="no series|no SeriesInstanceUID") as caught:
        server.client.infer("arssr", name, tmp_path, {"scale": 2})
    assert caught.value.status == status


def sent_back(archive: Archive, server: Server, model: str, source: Path, options: dict, folder: Path) -> Path:
    """The new series of the same study, fetched."""
    study, series = uids(source)
    before = archive.series_of(study)
    _, record = server.client.infer(model, series, folder / "answer", {**options, "send_back": True})
    assert record["sent_to"] == archive.url
    (new,) = archive.series_of(study) - before
    return archive.fetch(study, new, folder / "fetched")


@pytest.mark.parametrize(
    "model, options, count",
    [("arssr", {"spacing": [2, 2, 2.5]}, 16), ("transmrsr", {"spacing": [2, 2, 2.5], "data_consistency": False}, 16)],
)
def test_mr_goes_in_and_comes_back(archive, server, sources, tmp_path, model, options, count):
    fetched = sent_back(archive, server, model, sources["mr"], options, tmp_path)
    got, source = load_series(fetched), load_series(sources["mr"])
    assert got.array.shape == (20, 18, count)
    np.testing.assert_allclose(outer_corner(got.affine), outer_corner(AFFINE), atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(got.affine[:3, :3], axis=0), [2, 2, 2.5], atol=1e-4)
    assert abs(got.array.mean() - source.array.mean()) < 0.05 * source.array.mean()
    assert new_faults(fetched, sources["mr"]) == set()


def test_xa_goes_in_and_comes_back(archive, server, sources, tmp_path):
    import pydicom

    fetched = sent_back(archive, server, "most_dsa", sources["xa"], {"frames_between": 1}, tmp_path)
    (file,) = fetched.iterdir()
    got, source = pydicom.dcmread(file), pydicom.dcmread(next(sources["xa"].iterdir()))
    assert got.NumberOfFrames == 11 and float(got.FrameTime) == 125
    np.testing.assert_array_equal(got.pixel_array[::2], source.pixel_array)
    assert got.ImageType[0] == "DERIVED" and got.PatientID == source.PatientID
    assert new_faults(fetched, sources["xa"]) == set()


def test_by_c_store(archive, sources, tmp_path):
    """A server with a folder of images sends to an archive, too; always, when it is started so."""
    studies = Path(shutil.copytree(sources["xa"], tmp_path / "studies"))
    running = Server(tmp_path / "server", studies, cstore=f"127.0.0.1:{archive.dimse}:ARCHIVE", send_back="true")
    try:
        study = uids(sources["xa"])[0]
        before = archive.series_of(study)
        _, record = running.client.infer("most_dsa", "run", tmp_path / "answer", {"frames_between": 2})
        assert record["sent_to"].endswith(":ARCHIVE") and len(archive.series_of(study) - before) == 1
    finally:
        running.stop()
    from monailabel_app.lib.send import c_store

    with pytest.raises(OSError, match="no DICOM connection"):
        c_store(f"127.0.0.1:{free_port()}:ARCHIVE", [next(sources["xa"].iterdir())])
    with pytest.raises(ValueError, match="host:port:AETITLE"):
        c_store("127.0.0.1", [])
