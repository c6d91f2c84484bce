"""Time limits for a DICOMweb archive: until it is connected, between two pieces of an answer, and for the whole."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import requests
from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

__all__ = ["ANSWER_S", "answered_within", "with_time_limit"]

ANSWER_S = 600.0  # of an archive, in seconds: for all of a series, however slowly it comes
_SILENCE_S = (5.0, 30.0)  # until it is connected, between two pieces of an answer

_asking = threading.local()


def with_time_limit(session: requests.Session) -> requests.Session:
    """The session, of which every request fails where an archive does not answer, or falls silent; and where it drips,
    within :func:`answered_within`."""
    ask = session.request

    def request(method: str, url: str, **kwargs: Any) -> requests.Response:
        kwargs["timeout"] = kwargs.get("timeout") or _SILENCE_S
        return ask(method, url, **kwargs)

    session.request = request  # type: ignore[method-assign, assignment]
    for scheme in ("http://", "https://"):
        session.mount(scheme, _Adapter())
    return session


@contextmanager
def answered_within(seconds: float) -> Iterator[None]:
    """End what this thread asks of an archive after a time, wherever it waits: its connections are shut.

    Raises:
        TimeoutError: the time is over.
    """
    limit, late = _Limit(), f"no whole answer in {seconds:g} s"
    _asking.limit = limit
    timer = threading.Timer(seconds, limit.end)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception as error:
        if not limit.over:
            raise
        raise TimeoutError(late) from error
    finally:
        timer.cancel()
        _asking.limit = None
    if limit.over:  # the end of a connection may look like the end of an answer
        raise TimeoutError(late)


class _Limit:
    """The connections of one question."""

    def __init__(self) -> None:
        self.sockets: list[socket.socket] = []
        self.over = False

    def add(self, connection: socket.socket) -> None:
        self.sockets.append(connection)
        if self.over:
            self.end()

    def end(self) -> None:
        self.over = True
        for connection in list(self.sockets):
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


class _Noted:
    """A connection that the limit of its question can end."""

    def request(self, *args: Any, **kwargs: Any) -> None:
        super().request(*args, **kwargs)  # type: ignore[misc]
        if (limit := getattr(_asking, "limit", None)) is not None:
            limit.add(self.sock)  # type: ignore[attr-defined]


class _Connection(_Noted, HTTPConnection):
    pass


class _SecureConnection(_Noted, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _SecurePool(HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Adapter(HTTPAdapter):
    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {"http": _Pool, "https": _SecurePool}
