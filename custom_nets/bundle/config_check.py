"""Refuse config overrides that MONAI would take and ignore."""

from __future__ import annotations

import difflib
import inspect
import json
import os
import re
from collections.abc import Iterable
from pydoc import locate
from typing import Any, NoReturn

from monai.bundle import ConfigParser, ConfigWorkflow
from monai.bundle.utils import DEFAULT_MLFLOW_SETTINGS

from custom_nets.bundle.as_typed import is_path_or_name, keep_as_typed
from custom_nets.bundle.workflow import command_line_files, running_workflow
from custom_nets.utils.errors import show_clear_errors

__all__ = ["check_config"]

_PYTHON_WORDS = {"true": "True", "false": "False", "none": "None", "null": "None"}


def check_config() -> None:
    """First entry of ``initialize`` in every bundle config: stop at an override that would have no effect.

    MONAI sets whatever id it is given, so ``--max_epoch 5`` trains the default number of epochs without a word, and
    ``--amp false`` switches AMP on (a non-empty string is true). This function stops the run with one line for

    - a top-level or nested id that the bundle's config files do not define and nothing refers to,
    - an argument that a component does not take,
    - the strings "true", "false" and "none" where True, False and None were meant,
    - a word where the config has a number,
    - tracking settings that track nothing: those of a training given to an evaluation, or the other way round,
    - an option that names a path and has no value, or an empty one (that would be the current folder).

    Paths and names get the value that was typed (see :mod:`custom_nets.bundle.as_typed`).

    It serves the command line and ``ConfigWorkflow(...)`` alike. Configs that are parsed without a workflow
    (``monai.bundle.load``, ``verify_net_in_out``, MONAI Label) are left alone.

    Raises:
        SystemExit: with the message. (An ordinary exception would reach the person inside three others.)
    """
    show_clear_errors()
    workflow = running_workflow()
    if workflow is None:
        return
    keep_as_typed(workflow.parser)
    merged = {key: value for key, value in workflow.parser.get().items() if key != "_meta_"}
    known = _known_config(workflow, merged)
    referred = _referred_ids(merged)
    _check_ids(merged, known, "", referred)
    _check_values(merged, known, "")
    if "tracking_uri" in merged and "tracking_uri" not in referred:
        _stop(
            "these --tracking settings track nothing in this config: give mlflow.json to a training, "
            "mlflow_eval.json to an evaluation."
        )


def _stop(message: str) -> NoReturn:
    raise SystemExit(f"error: {message}")


def _known_config(workflow: ConfigWorkflow, merged: dict[str, Any]) -> dict[str, Any]:
    """What the config files that this run was given define.

    A workflow does not remember its files. On the command line they are found in the callers' frames; otherwise a
    file of the bundle counts as given when all its ids are in the merged config, which also finds ``--tracking`` files.
    """
    found = [ConfigParser.load_config_file(path) for path in command_line_files()]
    on_command_line = bool(found)
    for path in sorted(workflow.config_root_path.glob("*")):
        if path.suffix in (".json", ".yaml", ".yml") and path.stem != "metadata":
            content = ConfigParser.load_config_file(path)
            added = _top_level(content)
            if {_plain_id(key) for key in added} <= set(merged) and (added is not content or not on_command_line):
                found.append(added)
    if set(settings := _top_level(DEFAULT_MLFLOW_SETTINGS)) <= set(merged):
        found.append(settings)
    # overlays (nested ids, merges) need their base before them
    found.sort(key=lambda content: sum(_plain_id(key) == key for key in content), reverse=True)
    parser = ConfigParser()
    parser.set({})
    for content in found:
        for key, value in content.items():
            _put(parser, key, value)
    return parser.get()


def _put(parser: ConfigParser, key: str, value: Any) -> None:
    value = json.loads(json.dumps(value))  # a copy: the parser changes what it holds
    name = key.lstrip("+")
    if key.startswith("+") and isinstance(value, dict) and isinstance(parser.get(name), dict):
        value = {**parser.get(name), **value}
    try:
        parser[name] = value
    except (KeyError, IndexError, ValueError, TypeError):
        pass  # a place inside something that another overlay replaces: nothing to compare with


def _top_level(content: dict[str, Any]) -> dict[str, Any]:
    """The ids that a file adds to the config; of a ``--tracking`` file, what it adds besides its handlers."""
    if set(content) == {"handlers_id", "configs"}:
        return {key: value for key, value in content["configs"].items() if key not in content["handlers_id"]}
    return content


def _plain_id(key: str) -> str:
    return re.split("#|::", key.lstrip("+"))[0]


def _referred_ids(value: Any) -> set[str]:
    """All ids written as ``@id`` or ``%id``, with ``::`` between levels."""
    return {
        name.replace("#", "::") for name in re.findall(r"[@%](\w+(?:(?:::|#)\w+)*)", json.dumps(value, default=str))
    }


def _check_ids(given: dict[str, Any], known: dict[str, Any], prefix: str, referred: set[str]) -> None:
    for key, value in given.items():
        name = prefix + str(key)
        if key in known:
            if isinstance(value, dict) and isinstance(known[key], dict) and not _is_data(known[key]):
                _check_ids(value, known[key], f"{name}::", referred)
        elif name not in referred and not str(key).startswith("_"):
            _refuse_unknown(str(key), name, given, known, prefix)


def _is_data(value: Any) -> bool:
    """Whether a value holds neither components nor references nor expressions: its keys are the person's to name."""
    if isinstance(value, str):
        return not value.startswith(("@", "$", "%"))
    return all(key != "_target_" and _is_data(child) for key, child in _items(value))


def _refuse_unknown(key: str, name: str, given: dict[str, Any], known: dict[str, Any], prefix: str) -> None:
    allowed = {str(k) for k in known if not str(k).startswith("_")}
    what = "an id of this config"
    if "_target_" in given:
        target = str(given["_target_"])
        arguments = _arguments(target)
        if arguments is None or key in arguments:
            return
        allowed |= arguments
        what = f"an argument of {target}"
    close = difflib.get_close_matches(key, sorted(allowed), n=3, cutoff=0.6)
    if close:
        hint = "did you mean " + " or ".join(f"'{prefix}{c}'" for c in close) + "?"
    else:
        hint = f"there are: {', '.join(sorted(prefix + a for a in allowed))}."
    _stop(f"'{name}' is not {what}; {hint}")


def _arguments(target: str) -> set[str] | None:
    """Names that a component takes; None when it takes any, or cannot be looked at."""
    found = locate(target)
    if found is None:
        from monai.bundle.config_item import ComponentLocator

        path = ComponentLocator().get_component_module_name(target)
        found = locate(f"{path}.{target}") if isinstance(path, str) else None
    try:
        parameters = inspect.signature(found).parameters.values()  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_KEYWORD for p in parameters):
        return None
    return {p.name for p in parameters}


def _items(value: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(value, dict):
        return value.items()
    return enumerate(value) if isinstance(value, (list, tuple)) else ()


def _check_values(given: Any, known: Any, prefix: str) -> None:
    for key, value in _items(given):
        if str(key) == "_desc_":
            continue
        expected = dict(_items(known)).get(key)
        name = f"{prefix}{key}"
        # without a postfix a file keeps its name, without a competitor's checkpoint it is left out of the comparison
        may_be_empty = name.endswith(("_postfix", "_checkpoint"))
        if is_path_or_name(name) and not may_be_empty and str(value).strip() == "" != expected:
            _stop(f"--{name} is empty: give a value (is a variable of your shell not set?), or leave it out.")
        if is_path_or_name(name) and (expected is not None or os.path.lexists(str(value))):
            continue  # anything may be a name
        if isinstance(value, str) and value != expected:
            if value.strip().lower() in _PYTHON_WORDS:
                word = _PYTHON_WORDS[value.strip().lower()]
                if isinstance(expected, str) and not expected.startswith(("$", "@", "%")):
                    _stop(f"{name} must be a word such as {expected!r}, got '{value}'.")
                _stop(f"{name} is the text '{value}', which counts as true; write {word}.")
            number = isinstance(expected, (int, float)) and not isinstance(expected, bool)
            if isinstance(expected, bool) and not value.startswith(("$", "@", "%")):
                _stop(f"{name} must be True or False, got '{value}', which would count as true.")
            if number and not value.startswith(("$", "@", "%")):
                _stop(f"{name} must be a number such as {expected}, got '{value}'.")
        if isinstance(expected, bool) and not isinstance(value, (bool, str)) and value not in (0, 1, None):
            _stop(f"{name} must be True or False, got {value!r}.")
        if isinstance(value, bool) and isinstance(expected, (int, float)) and not isinstance(expected, bool):
            _stop(f"{name} must be a number such as {expected}, got {value} (is the value missing?).")
        _check_values(value, expected, f"{name}::")
