"""Weights that were trained through the server: ``<folder>/<bundle>/<name>/model.pt``, never the shipped ones."""

from __future__ import annotations

import re
from pathlib import Path

from monailabel_app.lib.bundles import Bundle, WrongRequest

__all__ = ["SHIPPED", "Trained"]

SHIPPED = "shipped"


class Trained:
    """
    Args:
        folder: that holds a folder for each bundle, and in it one for each training.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self, bundle: str) -> list[str]:
        """Trainings of a bundle that left weights."""
        return sorted(path.parent.name for path in (self.folder / bundle).glob("*/model.pt"))

    def path(self, bundle: Bundle, name: str) -> Path:
        """The weights that a request names.

        Raises:
            WrongRequest: there are none of that name.
        """
        if name == SHIPPED:
            return bundle.weights
        if name not in (known := self.names(bundle.name)):
            raise WrongRequest(f"checkpoint must be one of {', '.join([SHIPPED, *known])}, got {name!r}.")
        return self.folder / bundle.name / name / "model.pt"

    def new(self, bundle: str, name: str) -> Path:
        """The folder of a new training.

        Raises:
            WrongRequest: no word, or there is a training of that name.
        """
        if not re.fullmatch(r"\w[\w.-]{0,63}", name) or name == SHIPPED:
            raise WrongRequest(f"name must be a word of letters, digits, '_', '.' and '-', got {name!r}.")
        folder = self.folder / bundle / name
        if folder.exists():
            raise WrongRequest(f"there is a training '{name}' of {bundle} already: choose another name.")
        return folder
