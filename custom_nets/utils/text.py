"""Words that others chose (names of files, elements of headers), made safe to show."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from typing import Any

__all__ = ["one_line", "protect_logs"]


def one_line(text: object, encoding: str = "utf-8") -> str:
    """A text as one line that can be shown: line breaks, control characters and what ``encoding`` lacks are escaped.

    A name of a file may hold any bytes but two. Printed as they are, they forge lines of a log, move the cursor of a
    terminal, or end the program with a ``UnicodeEncodeError``.
    """
    shown = "".join(sign if sign.isprintable() else _escaped(sign) for sign in str(text))
    return shown.encode(encoding, "backslashreplace").decode(encoding)


def _escaped(sign: str) -> str:
    return sign.encode("unicode_escape", "surrogatepass").decode("ascii")


def protect_logs(package: str = "custom_nets") -> None:
    """From now on every text and path that is put into a log message of the package goes through :func:`one_line`."""
    usual = logging.getLogRecordFactory()
    if getattr(usual, "protects", None) == package:
        return

    def factory(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = usual(*args, **kwargs)
        if record.name.partition(".")[0] == package and isinstance(record.args, tuple):
            record.args = tuple(_safe(value) for value in record.args)
        elif record.name.partition(".")[0] == package and isinstance(record.args, Mapping):
            record.args = {key: _safe(value) for key, value in record.args.items()}
        return record

    factory.protects = package  # type: ignore[attr-defined]
    logging.setLogRecordFactory(factory)


def _safe(value: Any) -> Any:
    return one_line(value) if isinstance(value, str | os.PathLike | BaseException) else value
