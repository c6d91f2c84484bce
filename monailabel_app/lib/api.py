"""The HTTP interface: MONAI Label's, with its own ``/infer`` and ``/train``, and with errors that speak.

What differs from the stock server: long work does not block the other requests; a path is never taken for an image;
mistakes are answered by 4xx and ``{"detail": message}``; other web pages may not read answers (no CORS unless
``MONAI_LABEL_CORS_ORIGINS`` names origins); what these bundles have no use for is not there.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections.abc import Iterator
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from fastapi import APIRouter, Depends, FastAPI, Form, Request, UploadFile
from fastapi.middleware import Middleware
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, StreamingResponse
from monailabel.app import lifespan
from monailabel.config import settings
from monailabel.endpoints import datastore, info
from monailabel.endpoints import train as stock_train
from monailabel.endpoints.user.auth import RBAC
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.task import AsyncTask
from requests_toolbelt import MultipartEncoder

from monailabel_app.lib.bundles import WrongRequest
from monailabel_app.lib.infer import as_one_file

__all__ = ["app"]

logger = logging.getLogger(__name__)
router = APIRouter()

# stock routes that stay
_KEPT = {
    info: {"/info/": {"GET"}},
    datastore: {
        "/datastore/": {"GET"},
        "/datastore/image": {"GET", "HEAD", "PUT"},
        "/datastore/image/info": {"GET"},
    },
    stock_train: {"/train/": {"GET", "DELETE"}},
}


class Output(str, Enum):
    image = "image"
    json = "json"
    all = "all"


@router.post("/infer/{model}", tags=["Infer"], dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))])
def infer(
    model: str,
    image: str = "",
    params: str = Form("{}"),
    file: list[UploadFile] | None = None,
    output: Output = Output.all,
) -> Any:
    """Run a model on an image of the datastore, or on an uploaded one (several files: a DICOM series).

    The answer is the file of the result (``image``), its record (``json``), or both as multipart/form-data (``all``),
    with the page as a third part (``report``) where the option ``report`` asked for it.
    """
    options = _json_object(params)
    if bool(image) == bool(file):
        raise WrongRequest("name an image of the server (image=) or upload one (file=), one of the two.")
    work = Path(tempfile.mkdtemp(prefix="acquireless_"))
    try:
        source = _uploaded(file, work / "input") if file else image
        (work / "output").mkdir()
        request = {"model": model, "image": source, "options": options, "output_dir": work / "output"}
        result = app_instance().infer(request)
        record = result["params"]
        if output == Output.json:
            return JSONResponse(record)
        path = as_one_file(Path(result["file"]))
        stream, length = open(path, "rb"), path.stat().st_size
        pages = [(page.name, page.read_bytes(), "text/html") for page in (work / "output").glob("*.html")]
    finally:
        # an open file stays readable: nothing is left behind when a client goes away in the middle of the answer
        shutil.rmtree(work, ignore_errors=True)
    if output == Output.image:
        name = quote(path.name)
        headers = {"Content-Length": str(length), "Content-Disposition": f"attachment; filename*=utf-8''{name}"}
        return StreamingResponse(_pieces(stream, stream), media_type="application/octet-stream", headers=headers)
    both = MultipartEncoder(
        {
            "params": (None, json.dumps(record), "application/json"),
            "image": (path.name, stream, "application/octet-stream"),
            **({"report": pages[0]} if pages else {}),
        }
    )
    headers = {"Content-Length": str(both.len)}
    return StreamingResponse(_pieces(both, stream), media_type=both.content_type, headers=headers)


def _uploaded(files: list[UploadFile], folder: Path) -> Path:
    """The uploaded file, or the folder of several; of their names only the last part counts."""
    folder.mkdir()
    for upload in files:
        name = Path((upload.filename or "").replace("\\", "/")).name
        if not name or name.startswith("."):
            raise WrongRequest(f"an uploaded file needs a name with its suffix, got {upload.filename!r}.")
        with open(folder / name, "xb") as target:
            shutil.copyfileobj(upload.file, target)
    return folder if len(files) > 1 else folder / name


def _pieces(source: Any, stream: BinaryIO) -> Iterator[bytes]:
    with stream:
        while piece := source.read(1 << 20):
            yield piece


def _json_object(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text or "{}")
    except ValueError as error:
        raise WrongRequest(f"params must be JSON: {error}.") from error
    if not isinstance(content, dict):
        raise WrongRequest(f"params must be a JSON object of options, got {text[:80]}.")
    return content


@router.post("/train/{model}", tags=["Train"], dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))])
def train(model: str, params: dict[str, Any] | None = None, run_sync: bool = False, enqueue: bool = False) -> Any:
    """Train a model on the images of the datastore, in a process of its own (``run_sync``: here, and wait)."""
    request = dict(params or {})
    app_instance().check_training({**request, "model": model})
    result, detail = AsyncTask.run("train", {**request, "model": model}, force_sync=run_sync, enqueue=enqueue)
    if result is None:
        raise WrongRequest(f"{detail}: wait, stop it (DELETE /train/), or give enqueue=true.", 429)
    return result


def _mistake(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, getattr(error, "status", 400))


def _stock_mistake(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(getattr(error, "msg", error))}, 400)


def _fault(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": f"{type(error).__name__} in the server: its log says more."}, 500)


def _make_app() -> FastAPI:
    origins = [str(origin).rstrip("/") for origin in settings.MONAI_LABEL_CORS_ORIGINS]
    cors = Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"])
    made = FastAPI(title="Acquire less, see the same", lifespan=lifespan, middleware=[cors] if origins else [])
    for module, paths in _KEPT.items():
        for route in module.router.routes:
            if methods := set(route.methods or ()) & paths.get(route.path, set()):
                router.add_api_route(route.path, route.endpoint, methods=sorted(methods), tags=route.tags)
    made.include_router(router)
    made.add_exception_handler(WrongRequest, _mistake)
    made.add_exception_handler(MONAILabelException, _stock_mistake)
    made.add_exception_handler(json.JSONDecodeError, _mistake)
    made.add_exception_handler(Exception, _fault)
    return made


app = _make_app()
