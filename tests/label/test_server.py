"""The MONAI Label app over HTTP: results equal to the bundle runner's, and a server that stands mistakes."""

from __future__ import annotations

import importlib.util
import json
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from monailabel_app.client import ServerError
from tests.bundles.runner import command, outer_corner
from tests.conftest import blobs, random_affine, world_points
from tests.label.server import Server
from tests.tools.dicom_writer import write_dicom_series
from tests.tools.xa_writer import contrast_run, write_xa

if importlib.util.find_spec("monailabel") is None:
    pytest.skip("MONAI Label is not installed", allow_module_level=True)

pytestmark = pytest.mark.label

OBLIQUE = random_affine(np.random.default_rng(3), (1.5, 1.5, 3.0))
STRAIGHT = np.array([[2.0, 0, 0, -20], [0, 2, 0, -18], [0, 0, 5, -17], [0, 0, 0, 1]])
PLAIN = {"PixelIntensityRelationship": "DISP"}


def save_volume(path: Path, affine: np.ndarray = OBLIQUE, shape=(20, 18, 8), bad: float | None = None) -> Path:
    values = blobs(world_points(shape, affine)).astype(np.float32)
    if bad is not None:
        values[3, 3, 3] = bad
    nib.save(nib.Nifti1Image(values, affine), path)
    return path


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    save_volume(folder / "head.nii.gz")
    save_volume(folder / "nan.nii.gz", bad=np.nan)
    stored = blobs(world_points((20, 18, 8), STRAIGHT)).round().astype(np.int16)
    write_dicom_series(folder / "thick", stored, STRAIGHT)
    run = write_xa(folder / "run.dcm", contrast_run(), **PLAIN)
    (folder / "truncated.dcm").write_bytes(run.read_bytes()[:9000])
    return folder


@pytest.fixture(scope="module")
def server(studies, tmp_path_factory):
    running = Server(tmp_path_factory.mktemp("server"), studies)
    yield running
    running.stop()


def by_runner(bundle: str, source: Path, folder: Path, *options: str) -> Path:
    """What ``python -m monai.bundle run`` writes."""
    config = f"bundles/{bundle}/configs/inference.json"
    done = command(config, "--input", source, "--output_dir", folder, "--device", "cpu", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return next(path for path in sorted(folder.iterdir()) if path.name.endswith((".nii.gz", ".dcm")))


def test_models_and_images(server):
    models = server.client.models()
    assert {"arssr", "most_dsa", "transmrsr"} <= set(models)
    assert all(model["type"] == "others" and model["config"]["checkpoint"] == ["shipped"] for model in models.values())
    assert models["arssr"]["config"]["spacing"] is None and models["transmrsr"]["config"]["directions"] == "one"
    assert server.client.images() == ["head", "nan", "run", "thick", "truncated"]
    trainers = json.loads(server.ask("GET", "/info/")[1])["trainers"]
    assert set(trainers) == set(models)


# ---- results ----


def test_arssr_is_the_runners_result(server, studies, tmp_path):
    saved, record = server.client.infer("arssr", "head", tmp_path / "a", {"spacing": [1, 1, 1], "report": True})
    assert "30 x 27 x 24 voxels" in (tmp_path / "a" / "head_arssr.html").read_text()
    expected = nib.load(by_runner("arssr", studies / "head.nii.gz", tmp_path / "b", "--spacing", "[1,1,1]"))
    got, source = nib.load(saved), nib.load(studies / "head.nii.gz")
    assert saved.name == "head_arssr.nii.gz" and got.shape == expected.shape == (30, 27, 24)
    np.testing.assert_array_equal(got.get_fdata(), expected.get_fdata())
    np.testing.assert_array_equal(got.affine, expected.affine)
    np.testing.assert_allclose(got.header.get_zooms(), 1, atol=1e-5)
    np.testing.assert_allclose(outer_corner(got.affine), outer_corner(source.affine), atol=1e-3)
    assert record["options"]["spacing"] == [1, 1, 1] and record["output"]["shape"] == [30, 27, 24]


def test_transmrsr_is_the_runners_result_on_a_dicom_series(server, studies, tmp_path):
    saved, _ = server.client.infer("transmrsr", "thick", tmp_path / "a", {"data_consistency": False})
    expected = nib.load(by_runner("transmrsr", studies / "thick", tmp_path / "b", "--data_consistency", "False"))
    got = nib.load(saved)
    assert saved.name == "thick_transmrsr.nii.gz" and got.shape == expected.shape == (20, 18, 20)
    np.testing.assert_array_equal(got.get_fdata(), expected.get_fdata())
    np.testing.assert_allclose(got.affine, expected.affine, atol=0)
    np.testing.assert_allclose(outer_corner(got.affine), outer_corner(STRAIGHT), atol=1e-3)


def test_most_dsa_is_the_runners_result(server, studies, tmp_path):
    import pydicom

    saved, record = server.client.infer("most_dsa", "run", tmp_path / "a", {"frames_between": 1})
    expected = pydicom.dcmread(by_runner("most_dsa", studies / "run.dcm", tmp_path / "b", "--frames_between", "1"))
    got, source = pydicom.dcmread(saved), pydicom.dcmread(studies / "run.dcm")
    np.testing.assert_array_equal(got.pixel_array, expected.pixel_array)
    np.testing.assert_array_equal(got.pixel_array[::2], source.pixel_array)
    assert got.NumberOfFrames == 11 and float(got.FrameTime) == 125
    assert got.StudyInstanceUID == source.StudyInstanceUID and got.SeriesInstanceUID != source.SeriesInstanceUID
    assert record["measured_frames_unchanged"]
    saved, _ = server.client.infer("most_dsa", "run", tmp_path / "a", {"frames_between": 1, "output_format": "npz"})
    np.testing.assert_array_equal(np.load(saved)["frames"], expected.pixel_array)


def test_every_request_has_its_own_spacing(server, tmp_path):
    for spacing, shape in (([1.5, 1.5, 1.0], (20, 18, 24)), ([1.0, 1.5, 3.0], (30, 18, 8))):
        saved, _ = server.client.infer("arssr", "head", tmp_path, {"spacing": spacing})
        assert nib.load(saved).shape == shape
        np.testing.assert_allclose(nib.load(saved).header.get_zooms(), spacing, atol=1e-5)


def test_uploads(server, studies, tmp_path):
    """A file, and all files of a series, give what the same image of the server gives."""
    for name, upload in (("head", studies / "head.nii.gz"), ("thick", studies / "thick")):
        there, _ = server.client.infer("arssr", name, tmp_path / "there", {"scale": 1.5})
        sent, _ = server.client.infer("arssr", upload, tmp_path / "sent", {"scale": 1.5})
        np.testing.assert_array_equal(nib.load(sent).get_fdata(), nib.load(there).get_fdata())
        np.testing.assert_array_equal(nib.load(sent).affine, nib.load(there).affine)
    assert server.left_behind() == []


def test_nrrd_has_the_same_grid(server, tmp_path):
    import itk

    nifti, _ = server.client.infer("arssr", "head", tmp_path, {"scale": 1.5})
    saved, _ = server.client.infer("arssr", "head", tmp_path, {"scale": 1.5, "result_extension": ".nrrd"})
    one, other = itk.imread(str(nifti)), itk.imread(str(saved))
    np.testing.assert_array_equal(itk.array_view_from_image(one), itk.array_view_from_image(other))
    for of in ("GetSpacing", "GetOrigin", "GetDirection"):
        np.testing.assert_allclose(np.array(getattr(one, of)()), np.array(getattr(other, of)()), atol=1e-5)


def test_two_at_once(server, tmp_path):
    asked = [
        ("arssr", "head", {"scale": 1.5}),
        ("arssr", "head", {"scale": 2}),
        ("most_dsa", "run", {"frames_between": 1, "output_format": "npz"}),
        ("transmrsr", "thick", {}),
    ]

    def ask(folder, number):
        model, image, options = asked[number]
        return server.client.infer(model, image, tmp_path / folder / str(number), options)[0]

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda number: ask("together", number), range(4)))
    for number, path in enumerate(together):
        alone = ask("alone", number)
        if path.suffix == ".npz":
            np.testing.assert_array_equal(np.load(path)["frames"], np.load(alone)["frames"])
        else:
            np.testing.assert_array_equal(nib.load(path).get_fdata(), nib.load(alone).get_fdata())
            np.testing.assert_array_equal(nib.load(path).affine, nib.load(alone).affine)


# ---- mistakes ----


@pytest.mark.parametrize(
    "model, image, options, status, message",
    [
        ("nosuch", "head", {}, 404, "no model 'nosuch'; there are: arssr, most_dsa"),
        ("arssr", "nosuch", {"scale": 2}, 404, "no image 'nosuch'"),
        ("arssr", "head", {"spcing": 1}, 400, "no option 'spcing'; did you mean 'spacing'.*Allowed are: .*scale"),
        ("arssr", "head", {"image": "/etc/passwd"}, 400, "no option 'image'"),
        ("arssr", "head", {"output_dir": "/etc"}, 400, "no option 'output_dir'"),
        ("arssr", "head", {"spacing": "$open('x', 'w')"}, 400, "spacing must be a finite number"),
        ("arssr", "head", {"spacing": 0}, 400, "spacing must be above zero"),
        ("arssr", "head", {"spacing": "fine"}, 400, "spacing must be"),
        ("arssr", "head", {}, 400, "give exactly one of spacing"),
        ("arssr", "head", {"scale": 2, "device": "cuda:99"}, 400, "device 'cuda:99' is not there"),
        ("arssr", "head", {"scale": 2, "checkpoint": "../model"}, 400, "checkpoint must be one of shipped"),
        ("arssr", "head", {"scale": 2, "result_extension": ".exe"}, 400, "must be one of .nii.gz, .nrrd"),
        ("arssr", "head", {"spacing": [0.001, 0.001, 0.001]}, 422, "memory budget"),
        ("transmrsr", "thick", {"directions": "three"}, 400, "directions must be"),
        ("most_dsa", "run", {"frames_between": 1, "send_back": True}, 400, "send_back needs an archive"),
        ("most_dsa", "run", {"frames_between": -1}, 400, "frames_between"),
        ("most_dsa", "head", {"frames_between": 1, "output_format": "doc"}, 400, "output_format must be one of"),
        ("arssr", "../../etc/passwd", {"scale": 2}, 400, "leads out of the folder"),
        ("arssr", "/etc/passwd", {"scale": 2}, 400, "no name of an image"),
        ("arssr", "nan", {"scale": 2}, 422, "^nan.nii.gz has 1 NaN and 0 infinite values"),
        ("most_dsa", "truncated", {"frames_between": 1}, 422, "truncated.dcm"),
        ("arssr", "run", {"scale": 2}, 422, "run.dcm"),
    ],
)
def test_mistakes_are_explained(server, tmp_path, model, image, options, status, message):
    with pytest.raises(ServerError, match=message) as caught:
        server.client.infer(model, image, tmp_path, options)
    assert caught.value.status == status
    text = str(caught.value)
    assert len(text) < 600 and "Traceback" not in text and str(server.folder.parent) not in text
    assert list(tmp_path.iterdir()) == []


def test_uploads_that_are_refused(server, studies, tmp_path):
    def upload(*files, params="{}", query=""):
        return server.ask("POST", f"/infer/arssr{query}", fields={"params": params}, files=list(files))

    whole = (studies / "head.nii.gz").read_bytes()
    for files, params, query, message in (
        ([("a.nii.gz", whole[: len(whole) // 2])], '{"scale": 2}', "", "a.nii.gz"),
        ([("a.nii.gz", b"")], '{"scale": 2}', "", "a.nii.gz"),
        ([("..", whole)], '{"scale": 2}', "", "needs a name"),
        ([("a.nii.gz", whole)], '{"scale": 2', "", "params must be JSON"),
        ([("a.nii.gz", whole)], "[1]", "", "params must be a JSON object"),
        ([("a.nii.gz", whole)], '{"scale": NaN}', "", "scale must be a finite number"),
        ([("a.nii.gz", whole)], '{"scale": 2}', "?image=head", "one of the two"),
        ([], '{"scale": 2}', "", "one of the two"),
    ):
        status, text = upload(*files, params=params, query=query)
        assert 400 <= status < 500 and message in json.loads(text)["detail"], (status, text)
    outside = tmp_path / "outside.nii.gz"
    status, text = upload((f"../../../../..{outside}", whole), params='{"scale": 1.5}')
    assert status == 200 and not outside.exists()
    assert server.left_behind() == []


def test_paths_out_of_the_folder_are_refused(server, studies, tmp_path):
    before = sorted(p.name for p in studies.parent.rglob("*") if server.folder not in p.parents)
    for method, path in (
        ("GET", "/datastore/image?image=../../../../etc/passwd"),
        ("GET", "/datastore/image?image=/etc/passwd"),
        ("PUT", f"/datastore/image?image=../{tmp_path.name}/x"),
        ("PUT", f"/datastore/image?image={tmp_path}/x"),
        ("PUT", "/datastore/image?image=head"),
    ):
        files = [("x.nii.gz", b"x")] if method == "PUT" else None
        status, text = server.ask(method, path, files=files)
        assert 400 <= status < 500 and len(json.loads(text)["detail"]) > 20, (path, status, text)
    for method, path in (
        ("PUT", "/datastore/label?image=head&tag=../../x"),
        ("DELETE", "/datastore/image?id=head"),
        ("PUT", "/model/arssr"),
        ("GET", "/proxy/dicom/x"),
        ("PUT", "/session/?uncompress=true"),
    ):
        assert server.ask(method, path)[0] in (404, 405), path
    assert sorted(p.name for p in studies.parent.rglob("*") if server.folder not in p.parents) == before


def test_images_can_be_added(server, studies, tmp_path):
    path = save_volume(tmp_path / "new.nii.gz")
    status, text = server.ask("PUT", "/datastore/image?image=added", files=[("new.nii.gz", path.read_bytes())])
    try:
        assert (status, json.loads(text)) == (200, {"image": "added"})
        assert "added" in server.client.images()
        assert (studies / "added.nii.gz").read_bytes() == path.read_bytes()
    finally:
        (studies / "added.nii.gz").unlink(missing_ok=True)
    assert "added" not in server.client.images()


def test_a_client_that_goes_away(server, tmp_path):
    expected = server.client.infer("arssr", "head", tmp_path / "a", {"scale": 2})[0].read_bytes()
    body = b"params=%7B%22scale%22%3A%202%7D"
    head = (
        f"POST /infer/arssr?image=head&output=image HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {len(body)}\r\n"
        "Content-Type: application/x-www-form-urlencoded\r\n\r\n"
    ).encode()
    for sent, read in ((head + body, 0), (head + body, 200), (head + body[:5], 0)):
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(sent)
            if read:
                assert connection.recv(read).startswith(b"HTTP/1.1 200")
    again = server.client.infer("arssr", "head", tmp_path / "b", {"scale": 2})[0].read_bytes()
    np.testing.assert_array_equal(
        nib.Nifti1Image.from_bytes(__import__("gzip").decompress(again)).get_fdata(),
        nib.Nifti1Image.from_bytes(__import__("gzip").decompress(expected)).get_fdata(),
    )
    assert server.left_behind() == []


def test_only_this_machine_is_served(server):
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", server.port), timeout=5).close()
    status, _ = server.ask("GET", "/info/")
    assert status == 200


# ---- training ----

TINY = {"max_epochs": 1, "iterations_per_epoch": 2, "batch_size": 1, "val_interval": 1}


def test_training_makes_weights_that_can_be_asked_for(server, studies, tmp_path):
    """In the background, as a viewer does it; the shipped weights stay, and stay the default."""
    import mlflow

    save_volume(studies / "second.nii.gz", shape=(24, 24, 24), affine=np.diag([1.0, 1, 1, 1]))
    save_volume(studies / "third.nii.gz", shape=(24, 24, 24), affine=np.diag([1.0, 1, 1, 1]))
    shipped = Path("bundles/arssr/models/model.pt")
    before = shipped.read_bytes()
    options = {
        **TINY,
        **{"name": "mine", "images": ["second", "third"], "patch_size": 8, "num_points": 100},
        **{"validation_crop_size": 16, "validation_scales": [[2, 2, 2]]},
    }
    task = server.client.train("arssr", options)
    assert task["status"] in ("SUBMITTED", "RUNNING")
    until = time.monotonic() + 400
    while server.client.training()["status"] in ("SUBMITTED", "RUNNING") and time.monotonic() < until:
        time.sleep(0.5)
    state = server.client.training()
    assert state["status"] == "DONE", state
    folder = server.trained / "arssr" / "mine"
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{folder / 'mlruns.db'}")
    runs = [run for e in client.search_experiments() for run in client.search_runs([e.experiment_id])]
    assert [run.info.status for run in runs] == ["FINISHED"]
    assert runs[0].data.params["finetune"] == "(private)"

    assert server.client.models()["arssr"]["config"]["checkpoint"] == ["shipped", "mine"]
    default, _ = server.client.infer("arssr", "head", tmp_path / "a", {"scale": 1.5})
    _, record = server.client.infer("arssr", "head", tmp_path / "b", {"scale": 1.5, "checkpoint": "mine"})
    assert record["checkpoint"]["file"] == "mine/model.pt"
    assert shipped.read_bytes() == before

    with pytest.raises(ServerError, match="there is a training 'mine' of arssr already"):
        server.client.train("arssr", {"name": "mine"})


@pytest.mark.parametrize(
    "model, options, status, message",
    [
        ("nosuch", {}, 404, "no model 'nosuch' to train"),
        ("arssr", {"epochs": 1}, 400, "no option 'epochs'.*Allowed are: .*max_epochs"),
        ("arssr", {"output_dir": "/etc"}, 400, "no option 'output_dir'"),
        ("arssr", {"max_epochs": "$1"}, 400, "max_epochs must be"),
        ("arssr", {"name": "../x"}, 400, "name must be a word"),
        ("arssr", {"images": ["nosuch"]}, 404, "no image 'nosuch'"),
        ("arssr", {"images": ["run"]}, 400, "none of the 1 images is MR"),
        ("most_dsa", {"images": ["head"]}, 400, "none of the 1 images is XA"),
    ],
)
def test_trainings_that_cannot_start(server, model, options, status, message):
    with pytest.raises(ServerError, match=message) as caught:
        server.client.train(model, options)
    assert caught.value.status == status
