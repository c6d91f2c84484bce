"""The HTTP interface: MONAI Label's, with its own ``/infer`` and ``/train``, and with errors that speak.

What differs from the stock server: long work and a silent archive do not block the other requests, nor the end of the
server; a path is never taken for an image, and none is ever replaced; mistakes are answered by 4xx and ``{"detail":
message}``; other web pages may neither ask nor read answers (unless ``MONAI_LABEL_CORS_ORIGINS`` names their origins);
what these bundles have no use for is not there.
"""

from __future__ import annotations

import json
import logging
import math
import os
import shutil
import signal
import tempfile
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from enum import Enum
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import quote

from anyio import CapacityLimiter, move_on_after, to_thread
from fastapi import APIRouter, Depends, FastAPI, Form, Request, UploadFile
from fastapi.exceptions import RequestValidationError
from fastapi.middleware import Middleware
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import FileResponse, JSONResponse, StreamingResponse
from monailabel.app import lifespan as stock_lifespan
from monailabel.config import settings
from monailabel.endpoints import train as stock_train
from monailabel.endpoints.user.auth import RBAC
from monailabel.interfaces.exception import MONAILabelException
from monailabel.interfaces.utils.app import app_instance
from monailabel.utils.async_tasks.task import AsyncTask
from requests_toolbelt import MultipartEncoder

from custom_nets.utils.files import private_folder, remove_private_folders
from monailabel_app.lib.bundles import WORK, WrongRequest
from monailabel_app.lib.guard import Guard
from monailabel_app.lib.images import check_upload, image_suffix
from monailabel_app.lib.infer import as_one_file

__all__ = ["app"]

logger = logging.getLogger(__name__)
router = APIRouter()

# stock routes that stay
_KEPT = {stock_train: {"/train/": {"GET", "DELETE"}}}
_USER = Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_USER))
_END_S = 1.5  # from a polite kill to the end


class Output(str, Enum):
    image = "image"
    json = "json"
    all = "all"


@router.post("/infer/{model}", tags=["Infer"], dependencies=[_USER])
async def infer(
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
    return await _in_turn(_INFERENCES, _infer, model, image or file, options, output)


def _infer(model: str, image: str | list[UploadFile], options: dict[str, Any], output: Output) -> Any:
    with private_folder(WORK) as work:  # an open file stays readable when it has gone: a client may leave at any time
        source = image if isinstance(image, str) else _uploaded(image, work / "input")
        (work / "output").mkdir()
        request = {"model": model, "image": source, "options": options, "output_dir": work / "output"}
        result = app_instance().infer(request)
        record = result["params"]
        if output == Output.json:
            return JSONResponse(record)
        path = as_one_file(Path(result["file"]))
        stream, length = open(path, "rb"), path.stat().st_size
        pages = [(page.name, page.read_bytes(), "text/html") for page in (work / "output").glob("*.html")]
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
    names = [check_upload(upload.filename) for upload in files]
    if len(set(names)) < len(names):
        raise WrongRequest("two of the uploaded files have the same name.")
    for upload, name in zip(files, names, strict=True):
        with open(folder / name, "xb") as target:
            shutil.copyfileobj(upload.file, target)
    return folder if len(files) > 1 else folder / names[0]


def _pieces(source: Any, stream: BinaryIO) -> Iterator[bytes]:
    with stream:
        while piece := source.read(1 << 20):
            yield piece


def _json_object(text: str) -> dict[str, Any]:
    try:
        content = json.loads(text or "{}")
    except (ValueError, RecursionError) as error:
        raise WrongRequest(f"params must be JSON: {str(error)[:200]}.") from error
    if not isinstance(content, dict):
        raise WrongRequest(f"params must be a JSON object of options, got {text[:80]}.")
    return content


@router.put("/datastore/image", tags=["Datastore"], dependencies=[_USER])
async def add_image(file: UploadFile, image: str = "") -> Any:
    """Take an image into the server's folder: a NIfTI, MGH, NPZ or DICOM file, under a name that is not there yet."""
    return await _in_turn(_FILES, _add_image, file, image)


def _add_image(upload: UploadFile, image: str) -> dict[str, str]:
    name = check_upload(upload.filename)
    suffix = image_suffix(name)
    with private_folder(WORK) as work:
        with open(work / f"image{suffix}", "xb") as target:
            shutil.copyfileobj(upload.file, target)
        added = app_instance().datastore().add_image(image or name[: -len(suffix)], str(work / f"image{suffix}"), {})
    return {"image": added}


@router.get("/info/", tags=["App"], dependencies=[_USER])
async def app_info() -> Any:
    """The models and their options."""
    return await _in_turn(_QUICK, lambda: app_instance().info())


@router.get("/datastore/", tags=["Datastore"], dependencies=[_USER])
async def images(output: str = "stats") -> Any:
    """The images of the server: how many (``stats``), or their names (``all``)."""
    store = app_instance().datastore()
    return await _in_turn(_FILES, store.json if output == "all" else store.status)


@router.get("/datastore/image", tags=["Datastore"], dependencies=[_USER])
@router.head("/datastore/image", tags=["Datastore"], dependencies=[_USER])
async def image_file(image: str) -> Any:
    """An image as a file; a series of an archive is none."""
    path = Path(await _in_turn(_FILES, app_instance().datastore().get_image_uri, image))
    if not path.is_file():
        raise WrongRequest(f"'{image}' is a folder of files, which cannot be sent as one.", 404)
    return FileResponse(path, media_type="application/octet-stream", filename=path.name)


@router.get("/datastore/image/info", tags=["Datastore"], dependencies=[_USER])
async def image_info(image: str) -> Any:
    """That an image is there."""
    await _in_turn(_FILES, app_instance().datastore().get_image_uri, image)
    return {"image": image}


@router.post("/train/{model}", tags=["Train"], dependencies=[Depends(RBAC(settings.MONAI_LABEL_AUTH_ROLE_ADMIN))])
async def train(model: str, params: dict[str, Any] | None = None, run_sync: bool = False, enqueue: bool = False) -> Any:
    """Train a model on the images of the datastore, in a process of its own (``run_sync``: here, and wait)."""
    return await _in_turn(_TRAININGS, _train, model, dict(params or {}), run_sync, enqueue)


def _train(model: str, request: dict[str, Any], run_sync: bool, enqueue: bool) -> Any:
    app_instance().check_training({**request, "model": model})
    result, detail = AsyncTask.run("train", {**request, "model": model}, force_sync=run_sync, enqueue=enqueue)
    if result is None:
        raise WrongRequest(f"{detail}: wait, stop it (DELETE /train/), or give enqueue=true.", 429)
    return result


class _Turn:
    """Threads of one kind of work: whoever waits for a slow kind keeps no other from its own.

    Args:
        threads: that work at a time.
        waiting: most that wait for them; more are sent away (503).
        limit_s: after which an answer is no longer waited for (504).
    """

    def __init__(self, threads: int, waiting: int, limit_s: float = math.inf) -> None:
        self.limiter, self.waiting, self.limit_s = CapacityLimiter(threads), waiting, limit_s


_INFERENCES = _Turn(4, 500)  # one at a time computes on a device; the others read and write
_FILES = _Turn(16, 200, limit_s=120)  # an archive may be slow
_TRAININGS = _Turn(2, 20)
_QUICK = _Turn(4, 500, limit_s=60)


async def _in_turn(turn: _Turn, work: Callable[..., Any], *args: Any) -> Any:
    if turn.limiter.statistics().tasks_waiting >= turn.waiting:
        raise WrongRequest("the server is busy: ask again later.", 503)
    with move_on_after(turn.limit_s) as waited:
        return await to_thread.run_sync(work, *args, limiter=turn.limiter, abandon_on_cancel=turn.limit_s < math.inf)
    assert waited.cancelled_caught
    raise WrongRequest(f"there was no answer within {turn.limit_s:.0f} s: ask again later.", 504)


def _mistake(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, getattr(error, "status", 400))


def _stock_mistake(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(getattr(error, "msg", error))}, 400)


def _too_deep(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": "the request is nested too deeply."}, 400)


def _not_understood(request: Request, error: Exception) -> JSONResponse:
    """What FastAPI says of a request, without what came with it: that may be large, or no JSON at all."""
    found = error.errors() if isinstance(error, RequestValidationError) else []
    lines = [f"{'.'.join(map(str, item.get('loc', ())))}: {item.get('msg')}" for item in found[:5]]
    return JSONResponse({"detail": "; ".join(lines) or "the request is not understood."}, 422)


def _fault(request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": f"{type(error).__name__} in the server: its log says more."}, 500)


# ---- start and end ----


@asynccontextmanager
async def _life(app: FastAPI) -> AsyncIterator[None]:
    remove_private_folders(WORK)
    async with stock_lifespan(app):
        _end_within(_END_S)
        yield


def _end_within(seconds: float) -> None:
    """From now on SIGTERM and SIGINT end the process in time, whatever its threads wait for.

    A thread in a blocking call cannot be stopped, and Python waits for it; so the rest is put in order here.
    """
    if threading.current_thread() is not threading.main_thread():
        return

    def end() -> None:
        for path in Path(tempfile.gettempdir()).glob(f"{WORK}*-{os.getpid()}-*"):
            shutil.rmtree(path, ignore_errors=True)
        logger.warning("ended, although some requests were not answered yet")
        logging.shutdown()
        os._exit(0)

    for number in (signal.SIGTERM, signal.SIGINT):
        usual = signal.getsignal(number)

        def handle(number: int, frame: Any, usual: Any = usual) -> None:
            threading.Thread(target=_stop_training, daemon=True).start()
            timer = threading.Timer(seconds, end)
            timer.daemon = True
            timer.start()
            if callable(usual):
                usual(number, frame)

        signal.signal(number, handle)


def _stop_training() -> None:
    with suppress(Exception):  # it may just have ended
        AsyncTask.stop("train")


def _conf() -> dict[str, Any]:
    return dict(settings.MONAI_LABEL_APP_CONF or {})


def _hosts() -> list[str]:
    return str(_conf().get("hosts", "")).split(",")


def _most_bytes() -> int:
    return int(float(_conf().get("max_upload_gb", 4)) * 2**30)


def _make_app() -> FastAPI:
    origins = [str(origin).rstrip("/") for origin in settings.MONAI_LABEL_CORS_ORIGINS]
    middleware = [Middleware(Guard, names=_hosts, origins=origins, most_bytes=_most_bytes)]
    if origins:
        middleware.append(Middleware(CORSMiddleware, allow_origins=origins, allow_methods=["*"], allow_headers=["*"]))
    made = FastAPI(title="Acquire less, see the same", lifespan=_life, middleware=middleware)
    for module, paths in _KEPT.items():
        for route in module.router.routes:
            if methods := set(route.methods or ()) & paths.get(route.path, set()):
                router.add_api_route(route.path, route.endpoint, methods=sorted(methods), tags=route.tags)
    made.include_router(router)
    made.add_exception_handler(WrongRequest, _mistake)
    made.add_exception_handler(MONAILabelException, _stock_mistake)
    made.add_exception_handler(json.JSONDecodeError, _mistake)
    made.add_exception_handler(RequestValidationError, _not_understood)
    made.add_exception_handler(RecursionError, _too_deep)
    made.add_exception_handler(Exception, _fault)
    return made


app = _make_app()
