"""Who may ask, and how much: host names, origins, sizes and times of requests."""

from __future__ import annotations

import asyncio
import ipaddress
import json
import socket
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

__all__ = ["Guard", "is_own_host"]

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_SILENCE_S = 60.0  # between two pieces of a body


class _Refused(Exception):
    def __init__(self, status: int, detail: str) -> None:
        super().__init__(detail)
        self.status, self.detail = status, detail


def is_own_host(host: str, names: Iterable[str] = ()) -> bool:
    """Whether a Host header names this server: localhost, this machine, an address, or one of ``names``.

    A page that makes its own name point here (DNS rebinding) sends that name; an address cannot be made to point.
    """
    name = urlsplit(f"//{host}").hostname or ""
    try:
        ipaddress.ip_address(name)
        return True
    except ValueError:
        return name in {"localhost", socket.gethostname().casefold(), *(n.strip().casefold() for n in names)} - {""}


class Guard:
    """ASGI middleware: refuses other hosts (421), pages of other origins (403), bodies too large (413) or silent (408).

    Args:
        app: what answers the rest.
        names: host names of this server beside localhost and this machine's, asked for each request.
        origins: of web pages that may ask (scheme://host:port), beside those that this server serves itself.
        most_bytes: of a body.
    """

    def __init__(
        self, app: Any, names: Callable[[], Iterable[str]], origins: Iterable[str], most_bytes: Callable[[], int]
    ) -> None:
        self.app, self.names, self.origins, self.most_bytes = app, names, set(origins), most_bytes

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            return await self.app(scope, receive, send)
        if scope["type"] != "http":
            return await send({"type": "websocket.close", "code": 1008})
        refused: list[_Refused] = []
        started = False

        async def tell(message: Message) -> None:
            nonlocal started
            if started or not refused:  # otherwise it is what the app makes of a body that was cut off here
                started = True
                await send(message)

        try:
            self._check(scope)
            await self.app(scope, self._bounded(receive, refused), tell)
        except _Refused as error:
            refused.append(error)
        if refused and not started:
            await _answer(send, refused[0])
        return None

    def _check(self, scope: Message) -> None:
        fields: dict[str, list[str]] = {}
        for key, value in scope["headers"]:
            fields.setdefault(key.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts = fields.get("host", [])
        if len(hosts) != 1 or not is_own_host(hosts[0], self.names()):
            raise _Refused(421, "this server does not answer to that host name: start it with --conf hosts NAME.")
        origin, site = (fields.get(name, [""])[0] for name in ("origin", "sec-fetch-site"))
        own = {f"{scheme}://{hosts[0]}" for scheme in ("http", "https")}
        reading = scope["method"] == "GET" and fields.get("sec-fetch-mode", [""])[0] == "navigate"
        if (origin and origin not in own | self.origins) or (site == "cross-site" and not origin and not reading):
            raise _Refused(403, "another web page may not ask this server: name it in MONAI_LABEL_CORS_ORIGINS.")
        length = fields.get("content-length", ["0"])[0]
        if length.isdecimal() and int(length) > self.most_bytes():
            raise _Refused(413, self._too_large())

    def _too_large(self) -> str:
        return f"at most {self.most_bytes() / 2**30:.3g} GiB are taken: start the server with --conf max_upload_gb N."

    def _bounded(self, receive: Receive, refused: list[_Refused]) -> Receive:
        taken, whole = 0, False

        async def bounded() -> Message:
            nonlocal taken, whole
            if whole:  # what comes now is that the client leaves
                return await receive()
            try:
                message = await asyncio.wait_for(receive(), _SILENCE_S)
            except TimeoutError:
                refused.append(_Refused(408, f"nothing came for {_SILENCE_S:.0f} s."))
                raise refused[0] from None
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                whole = not message.get("more_body", False)
                if taken > self.most_bytes():
                    refused.append(_Refused(413, self._too_large()))
                    raise refused[0]
            return message

        return bounded


async def _answer(send: Send, error: _Refused) -> None:
    body = json.dumps({"detail": error.detail}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    await send(
        {"type": "http.response.start", "status": error.status, "headers": [*headers, (b"connection", b"close")]}
    )
    await send({"type": "http.response.body", "body": body})
