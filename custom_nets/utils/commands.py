"""What all commands of this package do with their arguments."""

from __future__ import annotations

import argparse
import sys
from typing import Any

__all__ = ["CommandParser"]


class CommandParser(argparse.ArgumentParser):
    """Refuse empty arguments: ``--output_dir "$UNSET"`` would be the current folder."""

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """As argparse's.

        Raises:
            SystemExit: an argument is empty, or not allowed.
        """
        given = sys.argv[1:] if args is None else list(args)
        for before, argument in zip(["", *given], given, strict=False):
            option, equals, value = argument.partition("=")
            if not argument.strip() or (option.startswith("--") and equals and not value.strip()):
                named = option if equals else before if before.startswith("--") else "an argument"
                self.error(f"{named} is empty: give a value (is a variable of your shell not set?), or leave it out.")
        return super().parse_args(given, namespace)
