"""One page per result, for any browser, offline: volumes, runs, 4D reconstructions, evaluations.

A page is one HTML file. What a kind of page needs is a module here that writes it, with ``write_page``, and one script
in ``static`` that shows it; both know nothing of the other kinds. A further kind is a further pair.
"""

from __future__ import annotations

from .evaluations import evaluation_page
from .reconstructions import reconstruction_page
from .runs import run_page
from .volumes import volume_page
from .words import evaluation_facts, shown_names

__all__ = [
    "evaluation_facts", "evaluation_page", "reconstruction_page", "run_page", "shown_names", "volume_page",
]  # fmt: skip
