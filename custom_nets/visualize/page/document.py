"""A page: one HTML file that asks for nothing else, written whole or not at all."""

from __future__ import annotations

import gzip
import html
import json
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from custom_nets import __version__
from custom_nets.utils.files import to_jsonable, write_text
from custom_nets.visualize.page.arrays import PackedArray

__all__ = ["LARGEST_PAGE", "PageTooLarge", "definitions", "warning_box", "write_page"]

LARGEST_PAGE = 25_000_000  # bytes: what most mail servers still take
_NIIVUE, _NIIVUE_VERSION = "niivue-0.69.0.umd.js.gz", "0.69.0"
# nothing is fetched, whatever a script may try
_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' blob:; style-src 'unsafe-inline'; img-src data: blob:; "
    "font-src data:; connect-src data: blob:; worker-src blob:; base-uri 'none'; form-action 'none'"
)


class PageTooLarge(ValueError):
    """A page would be larger than :data:`LARGEST_PAGE`."""


def _static(name: str) -> str:
    content = resources.files(__package__).joinpath("static").joinpath(name).read_bytes()
    return (gzip.decompress(content) if name.endswith(".gz") else content).decode("utf-8")


def _as_json(content: Any) -> str:
    """JSON that may stand in a script element."""
    return json.dumps(to_jsonable(content), allow_nan=False).replace("<", "\\u003c")


def write_page(
    path: str | Path,
    title: str,
    body: str,
    data: Mapping[str, Any],
    scripts: Sequence[str],
    arrays: Mapping[str, PackedArray] | None = None,
    viewer: bool = False,
) -> Path:
    """Write a page.

    Args:
        path: HTML file to write.
        title: of the page, plain text.
        body: HTML of the page's main part.
        data: what the scripts read, as ``page.data``.
        scripts: files of ``static`` besides ``page.js``.
        arrays: name -> array, for ``page.unpack(name)``.
        viewer: embed NiiVue.

    Returns:
        ``path``.

    Raises:
        PageTooLarge: nothing was written.
        OSError: it cannot be written; nothing is left.
    """
    arrays = arrays or {}
    data = {**data, "arrays": {name: array.header() for name, array in arrays.items()}}
    parts = [
        "<!DOCTYPE html>\n<html lang='en'>\n<head>\n<meta charset='utf-8'>\n"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        "<meta name='viewport' content='width=device-width, initial-scale=1'>\n"
        "<meta name='referrer' content='no-referrer'>\n"
        "<link rel='icon' href='data:,'>\n"
        f"<title>{html.escape(title)}</title>\n<style>\n{_static('page.css')}</style>\n</head>\n<body>\n"
        f"<header><h1>{html.escape(title)}</h1></header>\n<main>\n"
        "<noscript><p class='warning'>This page needs JavaScript to show pictures.</p></noscript>\n"
        f"{body}\n</main>\n<footer><p>Made by custom_nets {html.escape(__version__)}. Research use only. This page "
        f"asks for nothing from the network.</p>{_licences() if viewer else ''}</footer>\n",
        f"<script type='application/json' id='page-data'>{_as_json(data)}</script>\n",
        *(f"<script type='text/plain' id='array-{name}'>{a.text}</script>\n" for name, a in arrays.items()),
        # as text: parsed when it is needed
        f"<script type='text/plain' id='niivue-source'>{_static(_NIIVUE)}</script>\n" if viewer else "",
        *(f"<script>\n{_static(name)}</script>\n" for name in ("page.js", *scripts)),
        "</body>\n</html>\n",
    ]
    text = "".join(parts)
    if len(text.encode("utf-8")) > LARGEST_PAGE:
        raise PageTooLarge(f"{path} would have {len(text) / 1e6:.0f} MB, and at most {LARGEST_PAGE / 1e6:.0f} are let.")
    write_text(path, text)
    return Path(path)


def _licences() -> str:
    text = html.escape(_static("NIIVUE_LICENSE"))
    summary = f"NiiVue {_NIIVUE_VERSION} (BSD-2-Clause) is in this page"
    return f"<details><summary>{summary}</summary><pre>{text}</pre></details>"


def definitions(facts: Sequence[tuple[str, str]]) -> str:
    """Terms and what is so, as a description list."""
    rows = "".join(f"<dt>{html.escape(term)}</dt><dd>{html.escape(text)}</dd>" for term, text in facts)
    return f"<dl class='facts'>{rows}</dl>"


def warning_box(warnings: Sequence[str]) -> str:
    """What has to be known before anything else is looked at; nothing where there is nothing."""
    if not warnings:
        return ""
    items = "".join(f"<li>{html.escape(text)}</li>" for text in warnings)
    return f"<section class='warning' role='note' aria-label='Warnings'><h2>Mind</h2><ul>{items}</ul></section>"
