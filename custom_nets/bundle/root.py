"""Where a bundle lies."""

from __future__ import annotations

from pathlib import Path

__all__ = ["bundle_root"]


def bundle_root(name: str, folder: str | None = None) -> str:
    """Where the bundle ``name`` lies, for the default ``bundle_root`` of its configs.

    Args:
        name: of the bundle.
        folder: where it was fetched to (written into its configs by :mod:`custom_nets.tracking.registry`); such a
            bundle must never run with the weights of the checkout.

    Returns:
        The bundle that the running config file is part of: a copy of a bundle uses its own weights. Where that is not
        known (a bare ``ConfigParser`` does not tell its file) ``folder``. Without it "." when the current directory is
        that bundle (also for a packed bundle that carries this package), otherwise the ``bundles/<name>`` folder of
        the checkout that this package was installed from.

    Raises:
        FileNotFoundError: none of them is there.
    """
    from custom_nets.bundle.workflow import running_bundle

    if (running := running_bundle(name)) is not None:
        return str(running)
    if folder is not None:
        if (Path(folder) / "configs" / "metadata.json").is_file():
            return folder
        raise FileNotFoundError(f"bundle '{name}' is no longer in {folder}: give --bundle_root PATH.")
    here = Path.cwd()
    if (here / "configs" / "metadata.json").is_file() and here.name == name:
        return "."
    package = Path(__file__).resolve().parents[1]
    for candidate in (package.parent / "bundles" / name, package.parent):
        if (candidate / "configs" / "metadata.json").is_file():
            return str(candidate)
    raise FileNotFoundError(
        f"bundle '{name}' not found beside {package}: run from the bundle's folder or give --bundle_root PATH."
    )
