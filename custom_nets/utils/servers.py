"""Servers and data bases of MLflow: their addresses, and whether they are there."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from pathlib import Path

from custom_nets.utils.files import part_path, remove_old_parts

__all__ = ["check_server", "make_database", "public_uri"]


def public_uri(uri: str) -> str:
    """The address without user and password."""
    return re.sub(r"//[^/@]*@", "//", uri)


def check_server(uri: str) -> None:
    """Ask an MLflow server once: MLflow itself would try for minutes before it gives up.

    Raises:
        ConnectionError: no answer.
    """
    try:
        urllib.request.urlopen(f"{public_uri(uri).rstrip('/')}/health", timeout=20).close()
    except urllib.error.HTTPError:
        pass  # somebody is there; what is wrong MLflow will say
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise ConnectionError(f"no MLflow server answers at {public_uri(uri)}: {reason}") from error


def make_database(tracking_uri: str) -> None:
    """Make the SQLite data base of an address where there is none, whole or not at all; other addresses pass.

    MLflow makes it in dozens of steps, and opens none again that it was killed in the midst of.
    """
    path = Path(tracking_uri.removeprefix("sqlite:///")).absolute()
    if not tracking_uri.startswith("sqlite:///") or path.name == ":memory:":
        return
    if path.parent.is_dir():
        remove_old_parts(path.parent)
    if path.exists():
        return
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    path.parent.mkdir(parents=True, exist_ok=True)
    part = part_path(path)
    try:
        SqlAlchemyStore(f"sqlite:///{part.as_posix()}", (path.parent / "mlruns").as_uri()).engine.dispose()
        if not path.exists():  # another process may have been faster
            part.rename(path)
    finally:
        part.unlink(missing_ok=True)
