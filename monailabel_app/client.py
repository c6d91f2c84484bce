"""Ask a server of this app from Python or the command line; needs nothing but Python (3D Slicer's will do).

python -m monailabel_app.client models
python -m monailabel_app.client images
python -m monailabel_app.client infer arssr SCAN.nii.gz --output OUT --option spacing=[1,1,1]
python -m monailabel_app.client train arssr --option max_epochs=5
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.error
import urllib.parse
import urllib.request
import uuid
from collections.abc import Sequence
from email import message_from_string
from pathlib import Path
from typing import Any

__all__ = ["LabelClient", "ServerError"]

SERVER = "http://127.0.0.1:8000"


class ServerError(RuntimeError):
    """The server refused, with its message; ``status`` is the HTTP status (0: there was no answer)."""

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


class LabelClient:
    """
    Args:
        server: its URL.
        timeout_s: to wait for an answer; large volumes take minutes on a CPU.
    """

    def __init__(self, server: str = SERVER, timeout_s: float = 3600) -> None:
        self.server = server.rstrip("/")
        self.timeout_s = timeout_s

    def models(self) -> dict[str, dict[str, Any]]:
        """Name -> description and ``config``: the options of a request with their defaults."""
        return self._json("GET", "/info/")["models"]

    def images(self) -> list[str]:
        """Names of the images that the server has."""
        return sorted(self._json("GET", "/datastore/?output=all")["objects"])

    def infer(
        self,
        model: str,
        image: str | Path | Sequence[Path],
        output_dir: str | Path,
        options: dict[str, Any] | None = None,
    ) -> tuple[Path, dict[str, Any]]:
        """Run a model and save its result.

        Args:
            model: name of a model.
            image: a name of :meth:`images` (text), a file to upload (``Path``), or the folder or the files of a DICOM
                series to upload.
            output_dir: folder for the result; made if it is not there.
            options: of the request, see :meth:`models`.

        Returns:
            The saved file, and the record of how it was made. With the option ``report`` the page lies beside the file.

        Raises:
            ServerError: the server refused; the message says why.
        """
        query, files = "", []
        if isinstance(image, str):
            query = "&image=" + urllib.parse.quote(image, safe="")
        else:
            paths = [image] if isinstance(image, Path) else list(image)
            files = [f for p in paths for f in (sorted(p.iterdir()) if p.is_dir() else [p]) if f.is_file()]
        body, kind = _form({"params": json.dumps(options or {})}, files)
        path = f"/infer/{urllib.parse.quote(model, safe='')}?output=all{query}"
        answer, content_type = self._ask("POST", path, body, kind)
        parts = _parts(answer, content_type)
        folder = Path(output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        for name in ("report", "image"):
            if name in parts:
                target = folder / Path(parts[name][0]).name
                part = target.with_name(f".{target.name}.part")
                part.write_bytes(parts[name][1])
                os.replace(part, target)
        return target, json.loads(parts["params"][1])

    def train(self, model: str, options: dict[str, Any] | None = None, wait: bool = False) -> dict[str, Any]:
        """Start a training on the server's images (``wait``: until it has ended); options as ``trainers`` of /info."""
        path = f"/train/{urllib.parse.quote(model, safe='')}?run_sync={str(wait).lower()}"
        return self._json("POST", path, json.dumps(options or {}).encode(), "application/json")

    def training(self) -> dict[str, Any]:
        """State of the training that was started last."""
        return self._json("GET", "/train/")

    def _json(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> Any:
        return json.loads(self._ask(method, path, body, kind)[0])

    def _ask(self, method: str, path: str, body: bytes | None = None, kind: str = "") -> tuple[bytes, str]:
        headers = {"Content-Type": kind} if kind else {}
        request = urllib.request.Request(self.server + path, body, headers, method=method)
        # a proxy of the environment is for other machines
        handlers = [urllib.request.ProxyHandler({})] if self._is_local() else []
        opener = urllib.request.build_opener(*handlers)
        try:
            with opener.open(request, timeout=self.timeout_s) as answer:
                return answer.read(), answer.headers["Content-Type"]
        except urllib.error.HTTPError as error:
            text = error.read().decode("utf-8", "replace")
            try:
                detail = json.loads(text)["detail"]
            except (ValueError, KeyError, TypeError):
                detail = text
            raise ServerError(str(detail), error.code) from None
        except OSError as error:
            raise ServerError(f"no answer from {self.server}: {error}. Is the server running?") from error

    def _is_local(self) -> bool:
        return urllib.parse.urlsplit(self.server).hostname in ("127.0.0.1", "localhost", "::1")


def _form(fields: dict[str, str], files: Sequence[Path]) -> tuple[bytes, str]:
    """Body and content type of multipart/form-data."""
    boundary = uuid.uuid4().hex
    pieces = []
    for name, value in fields.items():
        pieces += [f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()]
    for file in files:
        # as browsers do (RFC 7578 leaves it to them): a line break would end the header
        quoted = file.name.replace("\r", "%0D").replace("\n", "%0A").replace('"', "%22")
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{quoted}"\r\n'
        pieces += [
            head.encode("utf-8", "replace"),
            b"Content-Type: application/octet-stream\r\n\r\n",
            file.read_bytes(),
            b"\r\n",
        ]
    pieces.append(f"--{boundary}--\r\n".encode())
    return b"".join(pieces), f"multipart/form-data; boundary={boundary}"


def _parts(answer: bytes, content_type: str) -> dict[str, tuple[str, bytes]]:
    """Name -> file name and content, of a multipart answer: at least the result and its record."""
    boundary = message_from_string(f"Content-Type: {content_type}\n\n").get_boundary()
    parts: dict[str, tuple[str, bytes]] = {}
    for piece in answer.split(f"--{boundary}".encode()) if boundary else []:
        head, _, content = piece.partition(b"\r\n\r\n")
        about = message_from_string(head.decode("utf-8", "replace").strip() + "\n\n")
        name = str(about.get_param("name", header="content-disposition"))
        parts[name] = str(about.get_filename()), content.removesuffix(b"\r\n")
    if not {"params", "image"} <= set(parts):
        raise ServerError(f"not an answer of this app: {content_type}, {len(answer)} bytes.")
    return parts


def _option(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals:
        raise argparse.ArgumentTypeError(f"an option is NAME=VALUE, got {text!r}")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser("python -m monailabel_app.client", description=__doc__.splitlines()[0])
    parser.add_argument("--server", default=SERVER)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("models", help="what the server offers, with options")
    commands.add_parser("images", help="what the server has")
    infer = commands.add_parser("infer", help="run a model on a file, a DICOM folder, or an image of the server")
    infer.add_argument("model")
    infer.add_argument("image", help="a path to upload; where there is none, the name of an image of the server")
    infer.add_argument("--output", default=".", help="folder for the result")
    train = commands.add_parser("train", help="fine-tune a model on the server's images")
    train.add_argument("model")
    train.add_argument("--wait", action="store_true")
    for command in (infer, train):
        command.add_argument("--option", type=_option, action="append", default=[], metavar="NAME=VALUE")
    asked = parser.parse_args(argv)
    client = LabelClient(asked.server)
    try:
        if asked.command == "models":
            print(json.dumps({name: model["config"] for name, model in client.models().items()}, indent=2))
        elif asked.command == "images":
            print("\n".join(client.images()))
        elif asked.command == "train":
            print(json.dumps(client.train(asked.model, dict(asked.option), asked.wait), indent=2))
        else:
            path = Path(asked.image)
            image: str | Path = path if path.exists() else asked.image
            saved, record = client.infer(asked.model, image, asked.output, dict(asked.option))
            saved.with_name(saved.name + ".json").write_text(json.dumps(record, indent=2) + "\n")
            print(saved)
    except ServerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
