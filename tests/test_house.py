"""The layout holds: floors without an upward import or a circle, targets that resolve, old names that still work."""

from __future__ import annotations

import ast
import importlib
import json
import re
import warnings
from functools import cache
from pathlib import Path

import pytest

from custom_nets import _moved

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "custom_nets"

# each may import from what stands before it, never the other way round
FLOORS = (
    ("_moved",),
    ("utils",),
    ("geometry",),
    ("operators",),
    ("data",),
    ("simulation",),
    ("networks",),
    ("checkpoints",),
    ("transforms", "losses", "metrics", "optimizers"),
    ("engines",),
    ("inferers",),
    ("bundle",),
    ("visualize",),
    ("handlers",),
    ("evaluation",),
    ("tracking",),
    ("apps",),
)
FLOOR = {name: level for level, names in enumerate(FLOORS) for name in names}


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {_module(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def _imports(name: str, path: Path, at_import_only: bool = False) -> set[str]:
    """Modules of this package that ``path`` imports, anywhere in it (or only when it is imported itself)."""
    tree = _tree(path)
    skipped: set[ast.AST] = set()
    if at_import_only:  # what functions import is imported later, and types never
        functions = ast.FunctionDef | ast.AsyncFunctionDef
        skipped = {n for f in ast.walk(tree) if isinstance(f, functions) for n in ast.walk(f)}
        conditions = [node for node in ast.walk(tree) if isinstance(node, ast.If)]
        skipped |= {n for i in conditions if "TYPE_CHECKING" in ast.unparse(i.test) for n in ast.walk(i)}
    found: set[str] = set()
    for node in ast.walk(tree):
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                here = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
                here = here[: len(here) - node.level + 1]
                base = ".".join([*here, *filter(None, [node.module])])
            whole = {f"{base}.{alias.name}" for alias in node.names}
            found |= {m for m in whole if m in MODULES} | ({base} if whole - MODULES.keys() else set())
        elif isinstance(node, ast.Call) and (called := _import_call(node)) is not None:
            found.add(getattr(called, "value", ""))  # a plain text
    return {module for module in found if module in MODULES and module != name}


def _import_call(call: ast.Call) -> ast.expr | None:
    """The name that ``import_module(...)`` or ``__import__(...)`` is given; None for other calls."""
    if getattr(call.func, "attr", getattr(call.func, "id", "")) not in ("import_module", "__import__"):
        return None
    return (call.args or [keyword.value for keyword in call.keywords])[0]


def test_every_package_has_a_floor() -> None:
    rooms = {name.split(".")[1] for name in MODULES if "." in name}
    assert rooms == FLOOR.keys()


def test_no_import_goes_up() -> None:
    upward = [
        f"{name} -> {other}"
        for name, path in MODULES.items()
        if "." in name
        for other in _imports(name, path)
        if "." in other and FLOOR[other.split(".")[1]] > FLOOR[name.split(".")[1]]
    ]
    assert not upward, "\n".join(upward)


def test_no_import_is_hidden_in_a_call() -> None:
    """A name that is put together cannot be seen above: only parts of the own package are imported so."""
    hidden = []
    for name, path in MODULES.items():
        calls = [node for node in ast.walk(_tree(path)) if isinstance(node, ast.Call)]
        names = [ast.unparse(given) for call in calls if (given := _import_call(call)) is not None]
        seen = re.compile(r"""f'\{__name__\}\.[^']*'|'[^'.][^']*'""")
        hidden += [f"{name}: {given}" for given in names if name != "custom_nets._moved" and not seen.fullmatch(given)]
    assert not hidden, "\n".join(hidden)
    assert _import_call(ast.parse("importlib.import_module(name)").body[0].value) is not None  # type: ignore[attr-defined]


def test_no_circle() -> None:
    graph = {name: _imports(name, path, at_import_only=True) for name, path in MODULES.items()}
    # a package's face imports its parts; a part that needs a sister names her, not the face
    done: set[str] = set()

    def visit(name: str, way: tuple[str, ...]) -> None:
        assert name not in way, " -> ".join([*way[way.index(name) :], name])
        if name not in done:
            for other in sorted(graph[name]):
                visit(other, (*way, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_volumes_and_angiography_do_not_know_each_other() -> None:
    for one, other in (("volumes", "angiography"), ("angiography", "volumes")):
        for name, path in MODULES.items():
            if name.startswith(f"custom_nets.data.{one}"):
                wrong = [m for m in _imports(name, path) if m.startswith(f"custom_nets.data.{other}")]
                assert not wrong, f"{name} imports {wrong}"


CONFIGS = sorted((ROOT / "bundles").glob("*/configs/*.json"))
TARGET = re.compile(r"(?<!from )(?<!import )custom_nets(?:\.\w+)+")


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: "/".join(path.parts[-3::2]))
def test_every_name_in_a_config_resolves_and_none_is_an_old_one(path: Path) -> None:
    text = json.dumps(json.loads(path.read_text(encoding="utf-8")))
    names = sorted(set(TARGET.findall(text)))
    for name in names:
        with warnings.catch_warnings():
            warnings.simplefilter("error", FutureWarning)
            assert _resolve(name) is not None, name
        for statement in re.findall(r'"\$((?:from|import) custom_nets[^"]*)"', text):
            exec(statement, {})


def _resolve(dotted: str) -> object:
    parts = dotted.split(".")
    thing: object = importlib.import_module(parts[0])
    for k, part in enumerate(parts[1:], 1):
        try:
            thing = getattr(thing, part)
        except AttributeError:
            thing = importlib.import_module(".".join(parts[: k + 1]))
    return thing


def test_old_modules_and_names_say_where_they_are() -> None:
    for old, new in _moved.MODULES.items():
        module = importlib.import_module(f"custom_nets.{new}")
        public = [name for name in getattr(module, "__all__", ()) if f"{old}.{name}" not in _moved.NAMES]
        moved = importlib.reload(importlib.import_module(f"custom_nets.{old}"))
        for name in public[:2]:
            assert getattr(moved, name) is getattr(module, name)
    for old, new in _moved.NAMES.items():
        place, _, name = old.rpartition(".")
        new, _, now = new.partition(":")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            owner, moved = (
                _resolve(f"custom_nets.{place}"),
                getattr(importlib.import_module(f"custom_nets.{new}"), now or name),
            )
            assert callable(getattr(owner, name)) if isinstance(owner, type) else getattr(owner, name) is moved, old


@pytest.mark.slow
def test_an_old_name_warns_once_and_names_the_new_place() -> None:
    import subprocess
    import sys

    code = (
        "import warnings\n"
        "with warnings.catch_warnings(record=True) as said:\n"
        "    warnings.simplefilter('default')\n"
        "    from custom_nets.resampling import bspline_matrix, slice_profile_matrix\n"
        "    from custom_nets.resampling import degrade\n"
        "found = [str(w.message) for w in said if 'custom_nets.resampling' in str(w.message)]\n"
        "assert len(found) == 1 and 'custom_nets.operators.interpolation' in found[0], found\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def _code_words(path: Path) -> set[str]:
    """Names and strings of a file's code: no comments, no docstrings."""
    tree = _tree(path)
    described = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, described) and node.body and isinstance(node.body[0], ast.Expr)
    }
    words: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings:
            words.add(node.value)
        elif isinstance(node, ast.Name):
            words.add(node.id)
        elif isinstance(node, ast.Attribute):
            words.add(node.attr)
        elif isinstance(node, ast.alias | ast.FunctionDef | ast.ClassDef):
            words.add(node.name)
    return words


def test_a_method_is_named_in_its_own_files_alone() -> None:
    """Else a new method would have to be entered in a table somewhere."""
    methods = [path.parents[1].name for path in (ROOT / "bundles").glob("*/configs/metadata.json")]
    formats = "acquisition"  # files for folder layouts, which are called by the methods that brought them
    found = []
    for path in [*PACKAGE.rglob("*.py"), *(ROOT / "monailabel_app").rglob("*.py")]:
        others = [m for m in methods if m.replace("_", "") not in path.stem.replace("_", "")]
        if others and path.stem not in ("__init__", "_moved") and formats not in path.stem:
            pattern = re.compile(".*(" + "|".join(m.replace("_", "_?") for m in others) + ").*", re.IGNORECASE)
            if words := [word for word in _code_words(path) if pattern.match(word)]:
                found.append(f"{path.relative_to(ROOT)}: {words}")
    assert not found, "\n".join(found)
