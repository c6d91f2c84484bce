"""The page of an evaluation: its tables, sortable; wins and losses; a heat map; every case's picture."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from custom_nets.visualize.page.document import PageTooLarge, definitions, warning_box, write_page
from custom_nets.visualize.page.words import without_names

__all__ = ["evaluation_page"]

_WIDTHS = (1600, 1100, 700, 450)  # of pictures, pixels; smaller where there are many

_BODY = """
<section aria-label='Wins and losses'><h2>Wins and losses, case by case</h2><div class='controls' id='controls'></div>
<p id='summary' class='readout' role='status' aria-live='polite'></p><div class='scroll' id='heat'></div>
<div class='scroll' id='cases'></div></section>
"""


def evaluation_page(
    path: str | Path,
    table: str,
    pairs: Sequence[Mapping[str, Any]],
    group: str,
    lower_is_better: Sequence[str],
    facts: Sequence[tuple[str, str]],
    pictures: Sequence[tuple[str, str, Path]] = (),
    names: Mapping[str, str] | None = None,
    warnings: Sequence[str] = (),
) -> Path:
    """Write the page of an evaluation.

    Args:
        path: HTML file to write (whole or not at all).
        table: the Markdown report; its headings and tables become the page's.
        pairs: of :func:`custom_nets.evaluation.tables.paired_differences`; they have "case" and ``group``.
        group: the column that says what was measured ("degradation", "missing"). Groups called "PROFILE/SCALE", or
            rows with a column "profile", make the heat map a matrix of the two.
        lower_is_better: metrics that are errors.
        facts: (term, text), shown at the end.
        pictures: (case, what it shows, file).
        names: case -> how the page calls it. The pictures of a case that is called otherwise are left out: its name
            stands in them.
        warnings: what comes first.

    Returns:
        ``path``.
    """
    names = dict(names or {})
    renamed = {case for case, shown in names.items() if shown != case}
    rows = [{**row, "case": names.get(row["case"], row["case"])} for row in pairs]
    columns = ["case", group, *(["profile"] if rows and "profile" in rows[0] else [])]
    columns += ["baseline", "region", "metric", "ours", "other", "difference", "win"]
    data = {
        "kind": "evaluation",
        "group": group,
        "columns": columns,
        "rows": [[row[name] for name in columns] for row in rows],
        "lower_is_better": list(lower_is_better),
    }
    safe = [(case, what, file) for case, what, file in pictures if case not in renamed]
    left_out = len(pictures) - len(safe)
    facts = [(term, without_names(text, sorted(renamed))) for term, text in facts]
    tables = _tables(table, names)
    start = warning_box(warnings) + _BODY
    end = f"<section><h2>What was done</h2>{definitions(facts)}</section>"
    for width in _WIDTHS:
        try:
            body = start + tables + _gallery(safe, width, left_out) + end
            return write_page(path, "Evaluation", body, data, ("evaluations.js",))
        except PageTooLarge:
            continue
    body = start + tables + _gallery([], 0, len(pictures)) + end
    return write_page(path, "Evaluation", body, data, ("evaluations.js",))


def _tables(text: str, names: Mapping[str, str]) -> str:
    """Headings, tables and sentences of a Markdown report as HTML; tables can be sorted."""
    parts: list[str] = []
    rows: list[list[str]] = []

    def flush() -> None:
        if rows:
            head, *body = [r for r in rows if not all(set(cell) <= set("-: ") for cell in r)]
            heads = "".join(f"<th scope='col'>{html.escape(cell)}</th>" for cell in head)
            lines = "".join(f"<tr>{''.join(f'<td>{html.escape(c)}</td>' for c in r)}</tr>" for r in body)
            parts.append(
                f"<div class='scroll'><table class='sortable'><thead><tr>{heads}</tr></thead>"
                f"<tbody>{lines}</tbody></table></div>"
            )
            rows.clear()

    for line in text.splitlines():
        if line.startswith("|"):
            rows.append([names.get(c.strip(), c.strip()) for c in line.strip().strip("|").split("|")])
            continue
        flush()
        if line.startswith("#"):
            parts.append(f"<h2>{html.escape(line.lstrip('# '))}</h2>")
        elif line.strip():
            sentence = without_names(line.replace("**", ""), [case for case in names if names[case] != case])
            parts.append(f"<p>{html.escape(sentence)}</p>")
    flush()
    return "<section aria-label='Tables'>" + "\n".join(parts) + "</section>"


def _gallery(pictures: Sequence[tuple[str, str, Path]], width: int, left_out: int) -> str:
    figures = []
    for case, what, file in pictures:
        if file.is_file():
            caption = html.escape(f"{case}, {what}")
            figures.append(
                f"<figure tabindex='0'><img loading='lazy' alt='Picture of {caption}' src='{_image(file, width)}'>"
                f"<figcaption>{caption}</figcaption></figure>"
            )
    # a figure that is clicked, or reached by the tab key, takes the whole width
    note = f"<p>{left_out} pictures are not in this page; they lie in the folder <code>pictures</code>.</p>"
    if not figures and not left_out:
        return ""
    return (
        f"<section><h2>Pictures</h2>{note if left_out else ''}<div class='gallery'>{''.join(figures)}</div></section>"
    )


def _image(file: Path, width: int) -> str:
    from PIL import Image

    with Image.open(file) as opened:
        picture = opened.convert("RGB")
    if picture.width > width:
        picture = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.LANCZOS)
    stream = io.BytesIO()
    picture.save(stream, "WEBP", quality=88, method=2)
    return "data:image/webp;base64," + base64.b64encode(stream.getvalue()).decode("ascii")
