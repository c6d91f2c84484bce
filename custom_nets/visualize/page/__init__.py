"""One page per result, for any browser, offline: volumes, runs, evaluations.

A page is one HTML file. What a kind of page needs is a module here that writes it, with ``write_page``, and one script
in ``static`` that shows it; both know nothing of the other kinds. A further kind (4D) is a further pair.
"""

from __future__ import annotations

from .runs import run_page
from .volumes import volume_page

__all__ = ["run_page", "volume_page"]
