"""One clear line instead of a page of traceback for mistakes that a person can mend."""

from __future__ import annotations

import os
import sys
import traceback
from pathlib import Path
from types import TracebackType

__all__ = ["root_cause", "show_clear_errors"]

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


def show_clear_errors() -> None:
    """From now on end the process with ``error: MESSAGE`` when it dies of an error that this package raised on purpose.

    Only the command line of ``monai.bundle`` is changed, and only for errors raised in ``custom_nets`` of the kinds
    that bad input causes; everything else keeps its traceback, and ``CUSTOM_NETS_TRACEBACK=1`` brings all back.
    """
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    if main is None or not main.name.startswith("monai.bundle") or os.environ.get("CUSTOM_NETS_TRACEBACK"):
        return

    def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        cause = root_cause(error)
        if _raised_on_purpose(cause):
            print(f"error: {cause}", file=sys.stderr)
        else:
            sys.__excepthook__(kind, error, trace)

    sys.excepthook = hook
