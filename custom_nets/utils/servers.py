"""Servers of others: their addresses, and whether they are there."""

from __future__ import annotations

import re
import urllib.error
import urllib.request

__all__ = ["check_server", "public_uri"]


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
