"""One clear line instead of a page of traceback for mistakes that a person can mend."""

from __future__ import annotations

import errno
import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

__all__ = ["explain", "one_line_errors", "root_cause", "show_clear_errors"]

_PACKAGE = str(Path(__file__).resolve().parent.parent) + os.sep
_MENDABLE = (ValueError, OSError, MemoryError, ModuleNotFoundError)


def root_cause(error: BaseException) -> BaseException:
    """What a chain of errors is about: the first one from outside that this package raised, otherwise the innermost.

    The config parser wraps what it meets in several layers; this package in turn may explain an error of a library.
    """
    while error.__cause__ is not None and not _raised_on_purpose(error):
        error = error.__cause__
    return error


def _raised_on_purpose(error: BaseException) -> bool:
    place = traceback.extract_tb(error.__traceback__)[-1:]
    return isinstance(error, _MENDABLE) and bool(place) and place[0].filename.startswith(_PACKAGE)


def explain(error: BaseException) -> str | None:
    """What happened and what to do, for an error of another library that a person can mend; None for all others.

    Looked for in the whole chain of causes: full disk, no permission, a port in use, a server that does not answer,
    what MLflow refuses, memory.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if (found := _explained(link)) is not None:
            return found
        link = link.__cause__ or link.__context__
    return None


def _explained(error: BaseException) -> str | None:
    library = type(error).__module__.split(".")[0]
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
    if "deleted experiment" in reason or (library == "mlflow" and "deleted" in reason):
        return (
            f"{reason}: restore it (mlflow experiments restore --experiment-id ID), or give another --experiment_name."
        )
    if library in ("requests", "urllib3") or isinstance(error, ConnectionError):
        return f"no answer from a server ({reason}): is it running, and is its address right (--tracking_uri)?"
    if library == "mlflow":
        return f"MLflow refuses: {reason.rstrip('.')}. Give another --tracking_uri or --experiment_name, or --run_name."
    if library in ("sqlalchemy", "sqlite3"):
        return (
            f"MLflow's data base cannot be used ({reason}): is it writable and on a disk with space (--tracking_uri)?"
        )
    if isinstance(error, OSError) and error.errno in _OF_THE_SYSTEM:
        where = f" ({error.filename})" if error.filename else ""
        return f"{_OF_THE_SYSTEM[error.errno]}{where}."
    if "PytorchStreamWriter" in reason or "inline_container" in reason:
        return (
            f"a checkpoint could not be written ({reason}): is the disk full? Free some space, and go on by --resume."
        )
    if type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError):
        return (
            f"there is not enough memory ({reason}): give a smaller --memory_gb or --batch_size, or another --device."
        )
    return None


_OF_THE_SYSTEM = {
    errno.ENOSPC: "no space is left on the disk: free some, or give another --output_dir",
    errno.EDQUOT: "no space is left for you on the disk: free some, or give another --output_dir",
    errno.EACCES: "no permission: change it, or give another path",
    errno.EPERM: "no permission: change it, or give another path",
    errno.EISDIR: "a folder lies where a file is to be written: take it away, or give another --output_dir",
    errno.ENOTDIR: "a file lies where a folder is needed: give another --output_dir",
    errno.ENAMETOOLONG: "a name is too long: give a shorter one, or a shorter --output_postfix",
    errno.ELOOP: "links lead in a circle: give another path",
    errno.EROFS: "the disk can only be read: give another --output_dir",
    errno.EADDRINUSE: "the port is in use by another program: end that one, or give another port",
}


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End a command with ``error: MESSAGE`` for what a person can mend; ``CUSTOM_NETS_TRACEBACK=1`` shows all.

    Raises:
        SystemExit: with the message.
    """
    try:
        yield
    except Exception as error:
        cause = root_cause(error)
        text = str(cause) if _raised_on_purpose(cause) else explain(error)
        if text is None and isinstance(error, ValueError | OSError | ModuleNotFoundError):
            text = str(error)
        if text is None or os.environ.get("CUSTOM_NETS_TRACEBACK"):
            raise
        raise SystemExit(f"error: {text}") from error


def show_clear_errors() -> None:
    """From now on end the process with ``error: MESSAGE`` when it dies of what a person can mend.

    Only the command line of ``monai.bundle`` is changed, and only for errors raised in ``custom_nets`` of the kinds
    that bad input causes and for those that :func:`explain` knows; everything else keeps its traceback, and
    ``CUSTOM_NETS_TRACEBACK=1`` brings all back.
    """
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    if main is None or not main.name.startswith("monai.bundle") or os.environ.get("CUSTOM_NETS_TRACEBACK"):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        cause = root_cause(error)
        if _raised_on_purpose(cause):
            print(f"error: {cause}", file=sys.stderr)
        elif (text := explain(error)) is not None:
            print(f"error: {text} (CUSTOM_NETS_TRACEBACK=1 shows where it was raised)", file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook
