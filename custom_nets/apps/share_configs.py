"""Copy the configs that all bundles share into each of them: ``python -m custom_nets.apps.share_configs``.

Their one source is ``bundles/shared``; a bundle has copies, so that it runs alone. What belongs to a training goes to
bundles that train, what belongs to a fit to those that are fitted to each scan, the rest to all.
"""

from __future__ import annotations

import json
from pathlib import Path

from custom_nets.bundle.folder import find_bundles
from custom_nets.utils.files import write_text

__all__ = ["copies", "main"]

_TRAINING = ("distill.json", "learn_gates.json", "mlflow.json", "multi_gpu_train.json")
_FIT = ("mlflow_fit.json",)


def copies() -> dict[Path, str]:
    """Each file that a bundle must have, and its content."""
    found: dict[Path, str] = {}
    for bundle in find_bundles():
        trained = json.loads((bundle / "configs" / "metadata.json").read_text(encoding="utf-8")).get(
            "ships_weights", True
        )
        for source in sorted((bundle.parent / "shared").iterdir()):
            if source.name not in (_FIT if trained else _TRAINING):
                found[bundle / "configs" / source.name] = source.read_text(encoding="utf-8")
    return found


def main() -> None:
    for path, text in copies().items():
        if not path.is_file() or path.read_text(encoding="utf-8") != text:
            write_text(path, text)
            print(path)


if __name__ == "__main__":
    main()
