"""A server of the app in a process of its own, for tests."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path
from typing import Any

from monailabel_app.client import LabelClient, ServerError

REPOSITORY = Path(__file__).resolve().parents[2]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def stop_process(process: subprocess.Popen) -> None:
    """Ask it to end, and end it."""
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()


class Server:
    """Started on a free port of the loopback; what it says goes to ``<folder>/server.log``, its files to
    ``<folder>/tmp`` and ``<folder>/trained``.

    Args:
        folder: to work in.
        studies: folder of images, or URL of an archive.
        conf: further ``--conf`` settings.
        env: further environment variables.
    """

    def __init__(self, folder: Path, studies: Path | str, env: dict[str, str] | None = None, **conf: str) -> None:
        self.folder = folder
        self.temporary = folder / "tmp"
        self.trained = folder / "trained"
        self.temporary.mkdir(parents=True)
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        settings = {"trained_dir": str(self.trained), **conf}
        line = [sys.executable, "-m", "monailabel_app.serve", "--studies", str(studies), "--port", str(self.port)]
        line += [word for item in settings.items() for word in ("--conf", *item)]
        variables = {**os.environ, "OMP_NUM_THREADS": "1", "TMPDIR": str(self.temporary), **(env or {})}
        self.log = open(folder / "server.log", "w")  # noqa: SIM115
        self.process = subprocess.Popen(line, cwd=REPOSITORY, env=variables, stdout=self.log, stderr=self.log)
        self.client = LabelClient(self.url, timeout_s=300)
        until = time.monotonic() + 400  # a busy machine takes its time to import
        while not self._answers():
            if self.process.poll() is not None or time.monotonic() > until:
                self.stop()
                raise RuntimeError("the server did not start:\n" + self.said()[-3000:])
            time.sleep(0.3)

    def _answers(self) -> bool:
        try:
            return bool(self.client.models())
        except ServerError:
            return False

    def said(self) -> str:
        return (self.folder / "server.log").read_text()

    def stop(self) -> None:
        stop_process(self.process)
        self.log.close()

    def left_behind(self, wait_s: float = 20) -> list[str]:
        """Temporary files of requests that are still there after a while."""
        until = time.monotonic() + wait_s
        while (left := sorted(p.name for p in self.temporary.glob("acquireless_*"))) and time.monotonic() < until:
            time.sleep(0.2)
        return left

    def ask(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        fields: dict[str, str] | None = None,
        files: list[tuple[str, bytes]] | None = None,
    ) -> tuple[int, str]:
        """Status and text of the answer to any request: with a JSON body, or a form."""
        data, headers = None, {}
        if body is not None:
            data, headers = json.dumps(body).encode(), {"Content-Type": "application/json"}
        elif fields is not None or files is not None:
            data, headers = form(fields or {}, files or [])
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=300) as answer:
                return answer.status, answer.read().decode("utf-8", "replace")
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode("utf-8", "replace")


def form(fields: dict[str, str], files: list[tuple[str, bytes]]) -> tuple[bytes, dict[str, str]]:
    """multipart/form-data with any file names."""
    boundary = uuid.uuid4().hex
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in fields.items()
    ]
    for name, content in files:
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{name}"\r\n\r\n'
        parts.append(head.encode() + content + b"\r\n")
    return b"".join([*parts, f"--{boundary}--\r\n".encode()]), {
        "Content-Type": f"multipart/form-data; boundary={boundary}"
    }
