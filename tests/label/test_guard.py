"""Who may ask the server, what an uploaded file may be called, and what the client sends: no server is needed."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from monailabel_app.client import _form
from monailabel_app.lib import guard
from monailabel_app.lib.bundles import WrongRequest
from monailabel_app.lib.guard import Guard, is_own_host
from monailabel_app.lib.images import LONGEST_NAME, check_image, check_upload, image_suffix


async def _app(scope, receive, send):
    while (await receive()).get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"{}"})


def ask(method: str = "GET", body: tuple[bytes, ...] = (b"",), silent: bool = False, **headers: str) -> tuple[int, str]:
    """Status and text of the answer."""
    guarded = Guard(_app, names=lambda: ["label.hospital"], origins=["https://viewer"], most_bytes=lambda: 100)
    fields = {"host": "127.0.0.1:8000", **{key.replace("_", "-"): value for key, value in headers.items()}}
    pieces, sent = list(body), []

    async def receive():
        if silent:
            await asyncio.sleep(3)
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message):
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "headers": [(k.encode(), v.encode()) for k, v in fields.items() if v is not None],
    }
    asyncio.run(guarded(scope, receive, send))
    assert len(sent) == 2
    return sent[0]["status"], sent[1]["body"].decode()


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8000", "127.0.0.1", "[::1]:8000", "10.1.2.3:80", "LABEL.hospital"],
)
def test_own_hosts(host):
    assert ask(host=host)[0] == 200


@pytest.mark.parametrize(
    "host",
    ["evil.example", "evil.example:8000", "localhost.evil.example", "127.0.0.1.evil.example", "", "a@x"],
)
def test_a_name_that_was_made_to_point_here_is_refused(host):
    status, text = ask(host=host)
    assert status == 421 and "--conf hosts" in json.loads(text)["detail"]
    assert not is_own_host(host)


def test_two_host_headers_or_none_are_refused():
    assert ask(host=None)[0] == 421


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"sec_fetch_site": "cross-site"},
        {"origin": "http://localhost.evil.example"},
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE"])
def test_other_pages_may_not_ask(method, headers):
    assert ask(method, **headers)[0] == 403


def test_own_pages_named_pages_and_links_may():
    for headers in (
        {"origin": "http://127.0.0.1:8000", "sec_fetch_site": "same-origin"},
        {"origin": "https://viewer", "sec_fetch_site": "cross-site"},
        {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"},
        {},
    ):
        assert ask(**headers)[0] == 200


def test_bodies_have_a_size_and_a_time(monkeypatch):
    assert ask("POST", (b"x" * 50, b"y" * 50))[0] == 200
    assert ask("POST", (b"x" * 50, b"y" * 51))[0] == 413
    assert ask("POST", content_length="101")[0] == 413
    monkeypatch.setattr(guard, "_SILENCE_S", 0.05)
    assert ask("POST", silent=True)[0] == 408


@pytest.mark.parametrize("name", [None, "", ".hidden.nii", "a\nb.nii", "n" * 300 + ".nii", "..", "a/.x", "\ud800.nii"])
def test_names_that_cannot_be_those_of_files_are_refused(name):
    with pytest.raises(WrongRequest, match="needs a name"):
        check_upload(name)


def test_of_a_path_the_last_part_counts():
    assert check_upload("../../etc/a.nii.gz") == "a.nii.gz" and check_upload("C:\\x\\a.nii") == "a.nii"
    assert len(check_upload("n" * (LONGEST_NAME - 4) + ".nii")) == LONGEST_NAME


@pytest.mark.parametrize("name", ["a.json", "a.txt", "a.py", "a.gz", "a", "a.nii.gz.py", "nii", "a.zip"])
def test_images_only(name):
    with pytest.raises(WrongRequest, match="images only") as caught:
        image_suffix(name)
    assert caught.value.status == 415


@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz", "a.mgz", "a.npz", "a.dcm"])
def test_what_is_called_an_image_has_to_be_one(name, tmp_path):
    (tmp_path / name).write_bytes(b"import os")
    with pytest.raises(WrongRequest) as caught:
        check_image(tmp_path / name)
    assert str(tmp_path) not in str(caught.value)
    np.savez(tmp_path / "b.npz", frames=np.zeros((3, 4, 4)))
    check_image(tmp_path / "b.npz")


def test_a_line_break_in_a_name_stays_in_the_form(tmp_path):
    path = tmp_path / 'a"\r\nX-Header: 1\r\n\r\nb.nii'
    path.write_bytes(b"content")
    body, _ = _form({}, [path])
    head = body.split(b"\r\n\r\n")[0]
    assert b'filename="a%22%0D%0AX-Header: 1%0D%0A%0D%0Ab.nii"' in head and head.count(b"\r\n") == 2
