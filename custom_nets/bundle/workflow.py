"""The bundle run that is going on, seen from inside one of its config expressions."""

from __future__ import annotations

import sys
from pathlib import Path
from types import FrameType
from typing import Any

from monai.bundle import ConfigParser, ConfigWorkflow
from monai.utils import ensure_tuple

from custom_nets.bundle.as_typed import text_of

__all__ = [
    "command_line_files",
    "frames",
    "merged_config",
    "network_arguments",
    "plain_settings",
    "running_bundle",
    "running_workflow",
]


def frames() -> list[FrameType]:
    """The calling frames, innermost first."""
    found: list[FrameType] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        found.append(frame)
        frame = frame.f_back
    return found


def running_workflow() -> ConfigWorkflow | None:
    """The ``ConfigWorkflow`` whose config expression calls this function; None when a config is parsed without one.

    MONAI evaluates expressions without telling them which workflow they belong to, and keeps no list of workflows, so
    the one way that serves the command line and Python alike is to look for it in the callers' frames.
    """
    for frame in frames():
        candidate = frame.f_locals.get("self")
        if isinstance(candidate, ConfigWorkflow):
            return candidate
    return None


def _parser() -> ConfigParser | None:
    workflow = running_workflow()
    return None if workflow is None else workflow.parser


def command_line_files() -> list[Path]:
    """Config files in the arguments of a command of ``monai.bundle``."""
    for frame in frames():
        if frame.f_globals.get("__name__") == "monai.bundle.scripts" and "config_file" in frame.f_locals:
            given = frame.f_locals["config_file"]
            return [Path(p) for p in ensure_tuple(given) if isinstance(p, (str, Path)) and Path(p).is_file()]
    return []


def running_bundle(name: str) -> Path | None:
    """Folder of the bundle that the running config file lies in; None when it is not the bundle ``name``.

    Which bundle a config belongs to is what its own ``bundle_root`` says, so the folder may have any name.
    """
    workflow = running_workflow()
    files = command_line_files()
    folder = files[0].parent if workflow is None and files else getattr(workflow, "config_root_path", None)
    if folder is None or not (folder / "metadata.json").is_file():
        return None
    parsers = (frame.f_locals.get("self") for frame in frames())
    parser = next((found for found in parsers if isinstance(found, ConfigParser)), None)
    own = "" if parser is None else str(parser.get("bundle_root", ""))
    return folder.parent if f"bundle_root('{name}'" in own else None


def network_arguments(network_id: str = "network_def") -> dict[str, Any]:
    """How to rebuild a network: ``{"name": class, argument: value, ...}`` in plain types, from its config entry.

    Empty outside a bundle run, and when the entry is an expression instead of a component with a ``_target_``, unless
    the network that comes of it knows by itself (``arch``).
    """
    parser = _parser()
    entry = None if parser is None else parser.get(network_id)
    if parser is None or entry is None:
        return {}
    if not isinstance(entry, dict) or "_target_" not in entry:
        return dict(getattr(parser.get_parsed_content(network_id), "arch", {}))
    arguments = {
        key: parser.get_parsed_content(f"{network_id}::{key}") for key in entry if not str(key).startswith("_")
    }
    return {"name": str(entry["_target_"]).rsplit(".", 1)[-1], **arguments}


def merged_config() -> dict[str, Any]:
    """The whole config of the running bundle as it was started, files and overrides merged."""
    parser = _parser()
    return {} if parser is None else _readable(parser.get())


def _readable(value: Any) -> Any:
    """The config with names as they were typed."""
    if isinstance(value, dict):
        return {key: _readable(item) for key, item in value.items()}
    return [_readable(item) for item in value] if isinstance(value, list) else text_of(value)


def plain_settings(max_length: int = 500) -> dict[str, str]:
    """All numbers and words of the running config as ``{"id::id": text}``, for a tracking server.

    Expressions and references stay as they are written; sections that only wire things together are left out.
    """
    parser = _parser()
    settings: dict[str, str] = {}

    def walk(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, item in value.items():
                walk(f"{prefix}::{key}" if prefix else str(key), item)
        elif isinstance(value, (list, tuple)) and any(isinstance(item, (dict, list)) for item in value):
            for index, item in enumerate(value):
                walk(f"{prefix}::{index}", item)
        elif len(str(value)) <= max_length:
            settings[prefix] = str(text_of(value))

    wiring = {"_meta_", "imports", "initialize", "run", "finalize", "trainer", "validator", "evaluator"}
    if parser is not None:
        walk("", {key: value for key, value in parser.get().items() if key not in wiring})
    return settings
