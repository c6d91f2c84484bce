"""The server under 300 requests at once: good, bad, slow and repeated ones, clients that leave; and a dead archive."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.conftest import blobs, world_points
from tests.label.server import Server, form, free_port

if importlib.util.find_spec("monailabel") is None:
    pytest.skip("MONAI Label is not installed", allow_module_level=True)

pytestmark = pytest.mark.label

COUNT = 300
AFFINE = np.diag([2.0, 2.0, 4.0, 1.0])
OPTIONS = {"spacing": [2, 2, 2]}


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("studies")
    for number in range(2):
        values = blobs(world_points((10, 9, 6), AFFINE) + 5 * number).astype(np.float32)
        nib.save(nib.Nifti1Image(values, AFFINE), folder / f"head{number}.nii.gz")
    return folder


@pytest.fixture
def server(studies, tmp_path):
    running = Server(tmp_path / "server", studies)
    yield running
    running.stop()


def resident_mb(pid: int) -> float:
    text = Path(f"/proc/{pid}/status").read_text()
    return int(next(line for line in text.splitlines() if line.startswith("VmRSS:")).split()[1]) / 1024


def threads(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/task").iterdir()))


def leave(server: Server, number: int) -> int:
    """Ask for an inference, or begin an upload, and go away."""
    body, headers = form({"params": json.dumps(OPTIONS)}, [])
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as client:
        lines = [f"POST /infer/arssr?image=head{number % 2} HTTP/1.1", f"Host: 127.0.0.1:{server.port}"]
        lines += [f"{key}: {value}" for key, value in headers.items()]
        client.sendall("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode())
        client.sendall(body if number % 3 else body[: len(body) // 2])
    return 0


def slow(server: Server) -> int:
    """A body that comes piece by piece."""
    body, headers = form({"params": "{}"}, [("a.nii.gz", b"no image")])
    with socket.create_connection(("127.0.0.1", server.port), timeout=120) as client:
        lines = ["POST /infer/arssr HTTP/1.1", f"Host: 127.0.0.1:{server.port}", "Connection: close"]
        lines += [f"{key}: {value}" for key, value in headers.items()]
        client.sendall("\r\n".join([*lines, f"Content-Length: {len(body)}", "", ""]).encode())
        for piece in range(0, len(body), 64):
            client.sendall(body[piece : piece + 64])
            time.sleep(0.02)
        return int(client.recv(4096).split()[1])


@pytest.mark.timeout(1500)
def test_everything_is_answered_and_nothing_grows(server, studies, tmp_path):
    scan = (studies / "head0.nii.gz").read_bytes()

    def infer(name: str, place: str) -> bytes:
        saved, _ = server.client.infer("arssr", name, tmp_path / place, OPTIONS)
        return saved.read_bytes()

    quiet = {name: infer(name, "quiet") for name in ("head0", "head1")}
    before = {path.name: path.read_bytes() for path in studies.iterdir() if path.is_file()}

    def one(number: int) -> str:
        """What a request came to: "good", "bad" (refused as it should be) or "left"."""
        kind = KINDS[number % len(KINDS)]
        if kind == "infer":
            name = f"head{number % 2}"
            assert infer(name, f"busy{number}") == quiet[name], "another result than that of the quiet server"
            return "good"
        if kind == "leave":
            leave(server, number)
            return "left"
        if kind == "slow":
            status = slow(server)
        else:
            status, _ = server.ask(*BAD[kind](scan) if kind in BAD else GOOD[kind])
        assert (200 <= status < 300) if kind in GOOD else (400 <= status < 500), (kind, status)
        return "good" if kind in GOOD else "bad"

    order = list(range(COUNT))
    random.Random(0).shuffle(order)
    list(map(one, order[:20]))  # warm: what is loaded once is no growth
    memory, count = resident_mb(server.process.pid), threads(server.process.pid)
    with ThreadPoolExecutor(24) as pool:
        outcomes = Counter(pool.map(one, order[20:]))
    assert sum(outcomes.values()) == COUNT - 20 and set(outcomes) == {"good", "bad", "left"}
    assert infer("head0", "after") == quiet["head0"]
    assert server.left_behind() == []
    assert {path.name: path.read_bytes() for path in studies.iterdir() if path.is_file()} == before
    assert resident_mb(server.process.pid) < memory + 400
    assert threads(server.process.pid) <= count + 40
    assert " 500 " not in server.said() and "Traceback" not in server.said()
    ended = time.monotonic()
    server.process.send_signal(signal.SIGTERM)
    server.process.wait(10)
    assert time.monotonic() - ended < 5
    assert [path.name for path in server.temporary.iterdir() if path.name.startswith("acquireless")] == []


KINDS = [
    *("infer", "models", "images", "image", "no image", "bad option", "bad model", "nested", "list", "device"),
    *("replace", "not an image", "damaged", "leave", "slow", "path", "long name", "twice", "spacing", "zip"),
]
GOOD = {
    "models": ("GET", "/info/"),
    "images": ("GET", "/datastore/?output=all"),
    "image": ("GET", "/datastore/image?image=head0"),
}


def _infer(params: str, *files: tuple[str, bytes], query: str = "?image=head0"):
    return "POST", f"/infer/arssr{'' if files else query}", None, {"params": params}, list(files)


BAD = {
    "no image": lambda scan: _infer("{}", query="?image=nobody"),
    "bad option": lambda scan: _infer('{"spacingg": 1}'),
    "bad model": lambda scan: ("POST", "/infer/nobody?image=head0", None, {"params": "{}"}, []),
    "nested": lambda scan: _infer("[" * 100_000),
    "list": lambda scan: _infer('{"device": ["cpu"], "output_format": ["dicom"], "spacing": "x"}'),
    "device": lambda scan: _infer('{"device": "meta"}'),
    "replace": lambda scan: ("PUT", "/datastore/image?image=head0", None, {}, [("x.nii.gz", scan)]),
    "not an image": lambda scan: ("PUT", "/datastore/image?image=a", None, {}, [("x.py", b"import os")]),
    "damaged": lambda scan: _infer("{}", ("x.nii.gz", scan[:-20])),
    "path": lambda scan: _infer("{}", query="?image=../../etc/passwd"),
    "long name": lambda scan: _infer("{}", ("n" * 300 + ".nii.gz", scan)),
    "twice": lambda scan: _infer("{}", ("x.nii.gz", scan), ("x.nii.gz", scan)),
    "spacing": lambda scan: _infer('{"spacing": [1e9, 1e9, 1e9]}'),
    "zip": lambda scan: _infer("{}", ("x.npz", b"PK\x03\x04" + bytes(100))),
}


# ---- a dead archive ----


class DeadArchive:
    """Takes connections and never answers."""

    def __init__(self) -> None:
        self.port = free_port()
        self.listener = socket.create_server(("127.0.0.1", self.port), backlog=50)
        self.clients: list[socket.socket] = []
        threading.Thread(target=self._take, daemon=True).start()

    def _take(self) -> None:
        while True:
            try:
                self.clients.append(self.listener.accept()[0])
            except OSError:
                return

    def stop(self) -> None:
        self.listener.close()
        for client in self.clients:
            client.close()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_a_dead_archive_neither_blocks_nor_keeps_the_server(number, tmp_path):
    archive = DeadArchive()
    server = Server(
        tmp_path / "server",
        f"http://127.0.0.1:{archive.port}/dicom-web",
        env={"MONAI_LABEL_DICOMWEB_CACHE_PATH": str(tmp_path / "cache")},
    )
    try:
        with ThreadPoolExecutor(12) as pool:
            hanging = [pool.submit(server.ask, "GET", "/datastore/?output=all") for _ in range(8)]
            hanging += [pool.submit(server.ask, *_infer("{}", query="?image=1.2.3")) for _ in range(3)]
            time.sleep(2)
            started = time.monotonic()
            assert server.ask("GET", "/info/")[0] == 200
            assert time.monotonic() - started < 5, "others are answered meanwhile"
            os.kill(server.process.pid, number)
            ended = time.monotonic()
            server.process.wait(30)
            assert time.monotonic() - ended < 5
            for asked in hanging:
                assert asked.exception(60) is not None or asked.result()[0] == 502
    finally:
        archive.stop()
        server.stop()
    assert [path.name for path in server.temporary.iterdir() if path.name.startswith("acquireless")] == []
