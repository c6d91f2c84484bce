"""What the MONAI Label app is made of and needs no MONAI Label: bundles, options, images, the client."""

from __future__ import annotations

import http.server
import json
import re
import threading

import nibabel as nib
import numpy as np
import pytest

from custom_nets.engines.cases import CasesFailed
from monailabel_app import client as label_client
from monailabel_app.client import LabelClient, ServerError
from monailabel_app.lib.bundles import WrongRequest, as_wrong_request, check_options, find_bundles, run_inference
from monailabel_app.lib.images import check_id, is_run, list_images
from tests.tools.xa_writer import contrast_run, write_xa

BUNDLES = find_bundles()


def test_all_bundles_are_found_with_options_that_their_config_has():
    assert {"arssr", "most_dsa", "transmrsr"} <= set(BUNDLES)
    for bundle in BUNDLES.values():
        assert bundle.weights.is_file() and bundle.modality in ("MR", "XA")
        assert bundle.options() and set(bundle.options()) <= set(bundle.inference)
        assert all(bundle.inference["displayable_configs"][name] == f"@{name}" for name in bundle.options())
        assert {"max_epochs", "iterations_per_epoch", "learning_rate", "seed"} <= set(bundle.training_options())
        assert not {"imports", "output_dir", "dataset_dir", "resume", "finetune"} & set(bundle.training_options())
    assert BUNDLES["arssr"].options()["spacing"] is None and BUNDLES["transmrsr"].options()["directions"] == "one"


def test_some_bundles(tmp_path):
    assert list(find_bundles(names=["transmrsr"])) == ["transmrsr"]
    with pytest.raises(ValueError, match="no bundle nosuch in .*; there are: .*arssr"):
        find_bundles(names=["arssr", "nosuch"])
    with pytest.raises(ValueError, match="no bundle with"):
        find_bundles(tmp_path)


@pytest.mark.parametrize(
    "given, message",
    [
        ({"spcing": 1}, "no option 'spcing'; did you mean 'spacing'.*Allowed are: scale, spacing"),
        ({"output_dir": "/etc"}, "no option 'output_dir'"),
        ({"spacing": "$__import__('os').getcwd()"}, "spacing must be a finite number"),
        ({"spacing": ["@device"]}, "spacing must be"),
        ({"spacing": "%metadata.json::version"}, "spacing must be"),
        ({"scale": {"_target_": "os.system"}}, "scale must be"),
        ({"scale": float("nan")}, "scale must be a finite number"),
        ({"scale": [1.0, float("inf")]}, "scale must be a finite number"),
    ],
)
def test_options_that_are_refused(given, message):
    with pytest.raises(WrongRequest, match=message) as caught:
        check_options(given, ["spacing", "scale"])
    assert caught.value.status == 400


def test_options_that_are_taken():
    check_options({"spacing": [1, 1.5, None], "scale": True, "words": ["both", "x"]}, ["spacing", "scale", "words"])


def test_one_run_of_a_bundle(tmp_path, save_nifti, blob_volume):
    source = save_nifti(blob_volume((8, 9, 6))[0].numpy())
    path, record = run_inference(BUNDLES["arssr"], source, tmp_path / "out", {"spacing": [1, 2, 4]})
    assert path.parent == tmp_path / "out" and nib.load(path).header.get_zooms() == (1, 2, 4)
    assert record["options"]["spacing"] == [1, 2, 4]
    with pytest.raises(ValueError, match="holds 2 images") as caught:
        save_nifti(blob_volume((8, 9, 6))[0].numpy(), name="other.nii.gz")
        run_inference(BUNDLES["arssr"], tmp_path, tmp_path / "out", {"scale": 2})
    wrong = as_wrong_request(caught.value, tmp_path.parent)
    assert wrong is not None and str(tmp_path.parent) not in str(wrong)


def test_what_can_be_mended_is_told_apart():
    mistake = CasesFailed("error: 1 of 1", {"a": ValueError("/data/x/a.nii.gz has 2 NaN")})
    told = as_wrong_request(mistake, "/data/x")
    assert (str(told), told.status) == ("a.nii.gz has 2 NaN", 422)
    assert str(as_wrong_request(SystemExit("error: scale must be a number"))) == "scale must be a number"
    assert as_wrong_request(CasesFailed("error: 1 of 1", {"a": RuntimeError("a fault")})) is None
    assert as_wrong_request(KeyError("a fault")) is None


def test_images_of_a_folder(tmp_path, blob_volume, write_dicom_series):
    volume = blob_volume((6, 5, 4))[0].numpy()
    for name in ("a.nii.gz", "sub/b.nii", "labels/no.nii.gz", ".hidden.nii.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        nib.save(nib.Nifti1Image(volume, np.eye(4)), tmp_path / name)
    write_dicom_series(tmp_path / "series.1.2", volume.astype(np.int16), np.diag([2.0, 2, 2, 1]))
    loose = write_dicom_series(tmp_path, volume.astype(np.int16), np.diag([2.0, 2, 2, 1]), prefix="loose")
    write_xa(tmp_path / "runs" / "a.dcm", contrast_run())
    write_xa(tmp_path / "runs" / "b.dcm", contrast_run())
    write_xa(tmp_path / "a.dcm", contrast_run())
    (tmp_path / "notes.txt").write_text("no image")
    first = min(loose).name
    found = list_images(tmp_path)
    assert found == {
        "a.dcm": "a.dcm",
        "a.nii.gz": "a.nii.gz",
        first.removesuffix(".dcm"): first,
        "runs/a": "runs/a.dcm",
        "runs/b": "runs/b.dcm",
        "series.1.2": "series.1.2",
        "sub/b": "sub/b.nii",
    }
    assert {name for name, path in found.items() if is_run(tmp_path / path)} == {"a.dcm", "runs/a", "runs/b"}


@pytest.mark.parametrize("name", ["", " ", "/etc/passwd", "../x", "a/../../x", ".hidden", "a\\b", "a\0b"])
def test_names_that_lead_elsewhere(name):
    with pytest.raises(ValueError, match="no name of an image"):
        check_id(name)


# ---- client ----


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers an inference with the file that came, and what the request was."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if "refused" in self.path:
            return self._send(400, "application/json", json.dumps({"detail": "no such option"}).encode())
        parts = body.split(b"--" + self.headers["Content-Type"].split("boundary=")[1].encode())
        files = [part.split(b"\r\n\r\n", 1)[1][:-2] for part in parts if b'name="file"' in part]
        names = [name.decode() for name in re.findall(rb'filename="([^"]*)"', body)]
        params = re.search(rb'name="params"\r\n\r\n(.*?)\r\n', body)[1].decode()
        record = json.dumps({"path": self.path, "params": json.loads(params), "names": names}).encode()
        answer = b'--x\r\nContent-Disposition: form-data; name="params"\r\n\r\n' + record + b"\r\n--x\r\n"
        answer += b'Content-Disposition: form-data; name="image"; filename="../out.nii.gz"\r\n'
        answer += b"Content-Type: application/octet-stream\r\n\r\n" + b"".join(files)
        if json.loads(params).get("report"):
            answer += b'\r\n--x\r\nContent-Disposition: form-data; name="report"; filename="../out.html"\r\n'
            answer += b"Content-Type: text/html\r\n\r\n<p>\r\n</p>"
        answer += b"\r\n--x--\r\n"
        return self._send(200, "multipart/form-data; boundary=x", answer)

    def _send(self, status, kind, body):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def echo():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_client_sends_and_saves_every_byte(echo, tmp_path):
    content = bytes(range(256)) * 3 + b"\r\n--x\r\n\n\r"
    (tmp_path / "scan.nii.gz").write_bytes(content.replace(b"--x", b"--y"))
    saved, record = LabelClient(echo).infer("arssr", tmp_path / "scan.nii.gz", tmp_path / "out", {"spacing": [1, 1, 1]})
    assert saved == tmp_path / "out" / "out.nii.gz"  # never a path that the server names
    assert saved.read_bytes() == content.replace(b"--x", b"--y")
    expected = {"path": "/infer/arssr?output=all", "params": {"spacing": [1, 1, 1]}, "names": ["scan.nii.gz"]}
    assert record == expected

    (tmp_path / "series").mkdir()
    for name in ("1.dcm", "2.dcm"):
        (tmp_path / "series" / name).write_bytes(name.encode())
    saved, record = LabelClient(echo).infer("arssr", tmp_path / "series", tmp_path / "out")
    assert record["names"] == ["1.dcm", "2.dcm"] and saved.read_bytes() == b"1.dcm2.dcm"
    record = LabelClient(echo).infer("arssr", "sub/a b", tmp_path / "out")[1]
    assert record["path"] == "/infer/arssr?output=all&image=sub%2Fa%20b"
    assert not (tmp_path / "out" / "out.html").exists()
    LabelClient(echo).infer("arssr", tmp_path / "series", tmp_path / "out", {"report": True})
    assert (tmp_path / "out" / "out.html").read_bytes() == b"<p>\r\n</p>"


def test_client_says_what_the_server_said(echo, tmp_path, capsys):
    with pytest.raises(ServerError, match="^no such option$") as caught:
        LabelClient(echo).infer("refused", "a", tmp_path)
    assert caught.value.status == 400
    assert label_client.main(["--server", echo, "infer", "refused", "a", "--output", str(tmp_path)]) == 1
    assert capsys.readouterr().err == "error: no such option\n"
    with pytest.raises(ServerError, match="Is the server running"):
        LabelClient("http://127.0.0.1:9").models()


def test_client_command(echo, tmp_path, capsys):
    options = ["--option", "spacing=[1,1,1]", "--option", "directions=both"]
    assert label_client.main(["--server", echo, "infer", "transmrsr", "a", "--output", str(tmp_path), *options]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out.nii.gz'}\n"
    record = json.loads((tmp_path / "out.nii.gz.json").read_text())
    assert record["params"] == {"spacing": [1, 1, 1], "directions": "both"}
