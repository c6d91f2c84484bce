"""Options as they were typed: neither the parser of the command line nor that of configs may change them.

On the way from a shell to a config, Fire reads each value as Python (``data#2`` loses its end as a comment,
``2020_01_02`` and ``1e3`` become numbers, ``None`` is dropped), and MONAI's parser makes ``::`` of every ``#``. Both
are right for numbers and lists, and wrong for whatever a person called a folder.
"""

from __future__ import annotations

import ast
import inspect
import os
import re
import sys
from collections.abc import Sequence
from typing import Any

from monai.bundle import ConfigParser, run

__all__ = ["as_text", "is_path_or_name", "keep_as_typed", "text_of", "typed_options"]

_NAMES = frozenset(
    {
        "cases",
        "checkpoint",
        "datalist",
        "finetune",
        "inherit_from",
        "input",
        "like",
        "masks",
        "pairs",
        "prior",
        "teacher",
    }
)
_MANY = ("cases", "input", "masks", "pairs")  # may be lists or dictionaries
_ENDS = ("_root", "_checkpoint", "_dir", "_file", "_folder", "_name", "_path", "_postfix", "_uid", "_uri", "_weights")


def is_path_or_name(option: str) -> bool:
    """Whether the value of an option (``output_dir``, ``saver::output_dir``) is a path or a name in any bundle."""
    last = re.split("#|::", option)[-1]
    return last in _NAMES or last.endswith(_ENDS)


def as_text(text: str) -> str:
    """What to put into a config so that its parser gives exactly ``text``: an expression where it would change it."""
    if "#" not in text and text[:1] not in ("$", "@", "%"):
        return text
    literal = ascii(text)
    for character in "#@%$":
        literal = literal.replace(character, f"\\x{ord(character):02x}")
    return f"${literal}"


def text_of(value: Any) -> Any:
    """The text that :func:`as_text` hid from the parser; anything else as it is."""
    if isinstance(value, str) and re.fullmatch(r"\$(['\"]).*\1", value, re.DOTALL):
        try:
            found = ast.literal_eval(value[1:])
        except (SyntaxError, ValueError):
            return value
        return found if as_text(found) == value else value
    return value


def keep_as_typed(parser: ConfigParser) -> None:
    """Give paths and names in a config the value that was typed, before anything is made of it, and None to any other
    option that it was typed for, which MONAI's runner takes for "not given".

    Values in the config's own language stay what they are: ``@id`` of an id that is there, ``$expression``,
    ``%macro``. A file or folder of just that name goes first. ``None`` for an option that is null by default is null.

    What Python gave has been through the parser already: where a path with ``::`` is not there, ``#`` was meant. (Give
    :func:`as_text` of it, and nothing has to be guessed.)

    Raises:
        SystemExit: an option without a value.
    """
    options = {name: value for name, value in parser.get().items() if is_path_or_name(str(name))}
    typed = _typed_on_command_line()
    for name, text in typed.items():
        if text == "None" and not is_path_or_name(name) and name in parser:
            parser.set(None, name)
    typed = {name: text for name, text in typed.items() if is_path_or_name(name)}
    for name, text in typed.items():
        if text is None:
            raise SystemExit(f"error: the value of --{name} is missing.")
        if text == "None" and parser.get(name) is None and not os.path.lexists(text):
            continue
        options[name] = _meant(text) if name.split("::")[-1] in _MANY else text
    for name, value in options.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        kept = _kept(str(value) if number else value, parser, typed=name in typed)
        if kept != parser.get(name):
            parser.set(kept, name)


def typed_options(arguments: Sequence[str]) -> dict[str, str | None]:
    """Options of a command line that Fire reads, with their text; None where there is no value."""
    if "--" in arguments:  # what follows the last one is for Fire itself
        arguments = arguments[: len(arguments) - 1 - list(arguments)[::-1].index("--")]
    found: dict[str, str | None] = {}
    position = 0
    while position < len(arguments):
        argument = arguments[position]
        position += 1
        if not _is_flag(argument):
            continue
        name, equals, text = argument.lstrip("-").partition("=")
        value: str | None = text if equals else None
        if not equals and position < len(arguments) and not _is_flag(arguments[position]):
            value = arguments[position]
            position += 1
        found[name.replace("-", "_").replace("#", "::")] = value
    return found


def _is_flag(argument: str) -> bool:
    return argument.startswith("--") or re.match("-[a-zA-Z]", argument) is not None


def _typed_on_command_line() -> dict[str, str | None]:
    main = getattr(sys.modules.get("__main__"), "__spec__", None)
    if main is None or not main.name.startswith("monai.bundle"):
        return {}
    own = inspect.signature(run).parameters  # what is for the runner itself
    return {name: text for name, text in typed_options(sys.argv[1:]).items() if name not in own}


def _meant(text: str) -> Any:
    """The text itself; a list, a dictionary or a quoted string where one was written and no such path is there."""
    if os.path.lexists(text) or text[:1] not in ("[", "(", "{", "'", '"'):
        return text
    try:
        tree = ast.parse(text, mode="eval").body
    except SyntaxError:
        return text
    if isinstance(tree, ast.List | ast.Tuple) and all(isinstance(item, ast.Constant | ast.Name) for item in tree.elts):
        return [
            item.value if isinstance(item, ast.Constant) and isinstance(item.value, str)
            else ast.get_source_segment(text, item)
            for item in tree.elts
        ]  # fmt: skip
    from fire.parser import DefaultParseValue  # the command line's own; from Python it is not needed

    return DefaultParseValue(text)


def _kept(value: Any, parser: ConfigParser, typed: bool) -> Any:
    if isinstance(value, dict):
        return value if "_target_" in value else {key: _kept(item, parser, typed) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_kept(item, parser, typed) for item in value]
    if not isinstance(value, str):
        return value
    there = os.path.lexists(value)
    if not there and _in_configs_language(value, parser, typed):
        return value
    return as_text(value if there or typed else value.replace("::", "#"))


def _in_configs_language(value: str, parser: ConfigParser, typed: bool) -> bool:
    """Whether a text is meant for the config's parser: in a config whatever begins so; typed, what it can make
    something of: "$" with a reference, a call, a text or an index, "%" with a file or an id that is there."""
    if value.startswith("@"):
        return value[1:] in parser
    if value.startswith("%"):
        file, _, _ = value[1:].partition("::")
        return not typed or os.path.isfile(file) or value[1:] in parser
    return value.startswith("$") and (not typed or bool(set(value) & set("@(['\"")))
