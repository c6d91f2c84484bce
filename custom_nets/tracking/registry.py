"""Versions of a bundle in the MLflow Model Registry: put in, named, brought back as a folder that runs.

    python -m custom_nets.tracking.registry register RUN --name arssr --tracking_uri http://HOST:5000
    python -m custom_nets.tracking.registry promote --name arssr --version 3 --tracking_uri ...
    python -m custom_nets.tracking.registry fetch --name arssr --output_dir DIR --tracking_uri ...
    python -m custom_nets.tracking.registry list --tracking_uri ...

A version is the ``bundle`` folder among the artifacts of a finished run: plain files, nothing pickled. A bundle's
configs run code, so fetch only from a registry that you trust.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from custom_nets.bundle.folder import WEIGHTS, check_bundle, copy_bundle
from custom_nets.tracking.client import experiment_id, find_run, open_client, public_uri
from custom_nets.utils.commands import CommandParser
from custom_nets.utils.errors import one_line_errors
from custom_nets.utils.files import is_dead, part_path, process_mark, remove_old_parts, write_json
from custom_nets.utils.record import environment, file_record, git_revision

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

__all__ = ["fetch", "list_versions", "promote", "register"]

_BUNDLE = "bundle"  # artifact of a run
_EXPERIMENT = "registered_bundles"  # of bundles that come from no run
_RECORD = "registered.json"
_DEFAULT_ALIAS = "production"


def register(source: str, name: str, tracking_uri: str | None = None) -> ModelVersion:
    """Make a new version of a registered bundle.

    Args:
        source: id of a run; output folder of a run that was tracked without a server (its last run is taken); or a
            bundle's folder, which is first logged in a run of its own.
        name: of the registered bundle, made if it is new.
        tracking_uri: of the registry, see :func:`custom_nets.tracking.client.open_client`. With the folder of a run the
            default is the data base there.

    Raises:
        ValueError: no bundle, weights that do not load with ``weights_only=True``, a run that is not finished, a run
            that is a version already, or a name that cannot be that of a folder.
        FileNotFoundError, ConnectionError: nothing there.
    """
    _check_name(name)
    if _is_bundle(source):
        client = open_client(tracking_uri, create=True)
        run = _log_bundle(client, Path(source), name, {"source": Path(source).resolve().name})
        with tempfile.TemporaryDirectory() as folder:
            sums = _sums(_bundle_of(client, run, folder))
    else:
        origin, run = find_run(source, tracking_uri)
        wanted = tracking_uri or os.environ.get("MLFLOW_TRACKING_URI")
        client = open_client(tracking_uri, create=True) if wanted else origin
        with tempfile.TemporaryDirectory() as folder:
            bundle = _bundle_of(origin, run, folder)
            sums = _sums(bundle)
            if client.tracking_uri != origin.tracking_uri:  # from a training's own data base to a server
                run = _log_bundle(client, bundle, name, {"source_run_id": run.info.run_id})
    return _new_version(client, name, run, sums)


def promote(name: str, version: str | int, alias: str = _DEFAULT_ALIAS, tracking_uri: str | None = None) -> str | None:
    """Give a version an alias, which another version may have had.

    Returns:
        The version that had it; None if there was none.
    """
    client = open_client(tracking_uri)
    before = _model(client, name).aliases.get(alias)
    _version(client, name, version=version)
    client.set_registered_model_alias(name, alias, str(version))
    return None if before is None else str(before)


def fetch(
    name: str,
    output_dir: str | os.PathLike,
    alias: str | None = None,
    version: str | int | None = None,
    tracking_uri: str | None = None,
    allow_unverified: bool = False,
) -> Path:
    """Bring a version back as the folder ``output_dir/name``, which appears whole or not at all.

    ``registered.json`` in it says where it came from. Its configs use its own weights, however they are read.

    Args:
        name: of the registered bundle.
        output_dir: where to make the folder.
        alias: of the version; "production" if no version is given either.
        version: its number.
        tracking_uri: of the registry.
        allow_unverified: take a version of which the registry knows the hash of the weights alone, as version 0.1
            registered it: its configs, which are code, may be others by now.

    Raises:
        FileExistsError: the folder is there already.
        ValueError: no such name, alias or version; or what came is not what was registered.
    """
    _check_name(name)
    if alias is not None and version is not None:
        raise ValueError("give --alias or --version, not both.")
    target = Path(output_dir) / name
    if target.exists():
        raise FileExistsError(f"{target} is there already: remove it, or give another --output_dir.")
    client = open_client(tracking_uri)
    found = _version(client, name, alias or _DEFAULT_ALIAS, version)
    if not found.run_id:
        raise ValueError(f"version {found.version} of '{name}' was not registered by this command: it has no run.")
    run = client.get_run(found.run_id)
    Path(output_dir).mkdir(parents=True, exist_ok=True)
    remove_old_parts(output_dir)
    with tempfile.TemporaryDirectory(prefix=f"{part_path(target).name}-", dir=output_dir) as folder:
        bundle = _bundle_of(client, run, folder)
        _check_sums(bundle, found, allow_unverified)
        _say_where(bundle, target.absolute())
        paths = sorted(path for path in bundle.rglob("*") if path.is_file())
        files = {path.relative_to(bundle).as_posix(): file_record(path)["sha256"] for path in paths}
        write_json(
            bundle / _RECORD,
            {
                "name": name,
                "version": str(found.version),
                "aliases": list(found.aliases),
                "run_id": found.run_id,
                "run_name": run.info.run_name,
                "tracking_uri": public_uri(client.tracking_uri),
                "fetched": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
                "sha256": files,
            },
        )
        bundle.rename(target)
    return target


def list_versions(name: str | None = None, tracking_uri: str | None = None) -> list[dict[str, Any]]:
    """All versions (of one registered bundle), the newest first: name, version, aliases, run, weights, time."""
    client = open_client(tracking_uri)
    models = [_model(client, name)] if name else _all_models(client)
    return [
        {
            "name": model.name,
            "version": str(version.version),
            "aliases": ", ".join(a for a, number in model.aliases.items() if str(number) == str(version.version)),
            "run": version.run_id,
            "weights": version.tags.get("weights_sha256", "")[:12],
            "registered": time.strftime("%Y-%m-%d %H:%M", time.localtime(version.creation_timestamp / 1000)),
        }
        for model in models
        for version in _versions(client, model.name)
    ]


def _check_sums(bundle: Path, version: ModelVersion, allow_unverified: bool) -> None:
    """Compare what came with what was registered: the weights, and the configs, which are code."""
    sums, what = _sums(bundle), f"version {version.version} of '{version.name}'"
    for name, text in (("weights_sha256", "the weights"), ("files_sha256", "the files (configs and docs)")):
        registered = version.tags.get(name)
        if name == "files_sha256" and registered is None:
            if allow_unverified:
                continue
            raise ValueError(
                f"nothing is known of the configs that {what} was registered with, and they are code: register the "
                "bundle again, or give --allow_unverified if you trust all who can write to that registry."
            )
        if sums[name] != registered:
            raise ValueError(
                f"{text} of {what} are not those that were registered (SHA-256 {sums[name]}, registered: "
                f"{registered}): register the bundle again."
            )


# ---- bundles and runs ----


def _check_name(name: str) -> None:
    if not re.fullmatch(r"\w[\w.-]*", name):
        raise ValueError(f"'{name}' cannot be a name: letters, digits, '_', '-' and '.' only, as for a folder.")


def _is_bundle(source: str) -> bool:
    return (Path(source) / "configs").is_dir()


def _bundle_of(client: MlflowClient, run: Run, folder: str) -> Path:
    """The bundle that a run kept, downloaded into ``folder`` and checked."""
    what = f"run '{run.info.run_name}' ({run.info.run_id})"
    if run.info.status != "FINISHED":
        raise ValueError(f"{what} is {run.info.status}, only a FINISHED run can be registered.")
    if _BUNDLE not in [entry.path for entry in client.list_artifacts(run.info.run_id)]:
        raise ValueError(f"{what} holds no bundle; those of mlflow.json and mlflow_eval.json do.")
    bundle = Path(client.download_artifacts(run.info.run_id, _BUNDLE, folder))
    check_bundle(bundle)
    return bundle


def _say_where(bundle: Path, target: Path) -> None:
    """Write into a bundle's configs where it will lie, for those that read them without telling from where."""
    for path in (bundle / "configs").glob("*.json"):
        text = path.read_text(encoding="utf-8")
        told = str(json.loads(text).get("bundle_root"))
        if own := re.match(r"\$custom_nets\.bundle_root\('\w+'", told):
            text = text.replace(json.dumps(told), json.dumps(f"{own[0]}, {str(target)!r})"))
            path.write_text(text, encoding="utf-8")


def _log_bundle(client: MlflowClient, folder: Path, name: str, tags: dict[str, str]) -> Run:
    """A run of its own for a bundle that lies in a folder."""
    check_bundle(folder)
    experiment = experiment_id(client, _EXPERIMENT)
    for left in client.search_runs([experiment], "attributes.status = 'RUNNING'"):
        if is_dead(left.data.tags.get("process", "")):  # its command was killed: nobody will finish it
            client.set_terminated(left.info.run_id, "KILLED")
    run_name = time.strftime(f"{name}_%Y%m%d_%H%M%S")
    tags = {"kind": "bundle", "process": process_mark(), **tags}
    run = client.create_run(experiment, run_name=run_name, tags=tags)
    run_id, status = run.info.run_id, "FAILED"
    try:
        for key, value in environment().items():
            client.log_param(run_id, f"version.{key}", value)
        client.log_param(run_id, "git_revision", git_revision())
        with tempfile.TemporaryDirectory() as temporary:
            bundle = copy_bundle(folder, folder / WEIGHTS, Path(temporary) / _BUNDLE)
            client.log_artifacts(run_id, str(bundle), _BUNDLE)
        client.set_tag(run_id, "weights_sha256", file_record(folder / WEIGHTS)["sha256"])
        status = "FINISHED"
    finally:
        client.set_terminated(run_id, status)
    return client.get_run(run_id)


# ---- names, versions, aliases ----


def _sums(bundle: Path) -> dict[str, str]:
    """What a version is known by: the hash of its weights, and that of the names and hashes of all files."""
    paths = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*") if path.is_file()}
    files = {name: file_record(path)["sha256"] for name, path in sorted(paths.items())}
    text = json.dumps(files, sort_keys=True)
    return {"weights_sha256": files[WEIGHTS], "files_sha256": hashlib.sha256(text.encode()).hexdigest()}


def _new_version(client: MlflowClient, name: str, run: Run, sums: dict[str, str]) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    run_id = run.info.run_id
    try:
        client.get_registered_model(name)
    except MlflowException:
        client.create_registered_model(name)
    for version in _versions(client, name):
        if version.run_id == run_id:
            raise ValueError(f"run {run_id} is version {version.version} of '{name}' already.")
    return client.create_model_version(
        name, source=f"runs:/{run_id}/{_BUNDLE}", run_id=run_id, tags=sums, await_creation_for=0
    )


def _all_models(client: MlflowClient) -> list[RegisteredModel]:
    found: list[Any] = []
    token = None
    while token != "":
        page = client.search_registered_models(page_token=token)
        found, token = [*found, *page], page.token or ""
    return found


def _versions(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Newest first."""
    found: list[Any] = []
    token = None
    while token != "":
        page = client.search_model_versions(f"name='{name}'", page_token=token)
        found, token = [*found, *page], page.token or ""
    return sorted(found, key=lambda version: -int(version.version))


def _model(client: MlflowClient, name: str) -> RegisteredModel:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        there = ", ".join(model.name for model in _all_models(client)) or "nothing"
        where = public_uri(client.tracking_uri)
        raise ValueError(f"there is no '{name}' in the registry at {where}; registered: {there}.") from error


def _version(
    client: MlflowClient, name: str, alias: str | None = None, version: str | int | None = None
) -> ModelVersion:
    """The version of a number, or without one that of an alias."""
    aliases = {key: str(value) for key, value in _model(client, name).aliases.items()}
    there = {str(found.version): found for found in _versions(client, name)}
    known = ", ".join(f"{number}{''.join(f' ({a})' for a in aliases if aliases[a] == number)}" for number in there)
    if version is None and alias not in aliases:
        raise ValueError(
            f"no version of '{name}' has the alias '{alias}'; there are {known}. Give it to one: promote --name {name} "
            f"--version N --alias {alias}"
        )
    number = aliases[str(alias)] if version is None else str(version)
    if number not in there:
        raise ValueError(f"'{name}' has no version {number}; there are {known or 'none'}.")
    # a search leaves the aliases out
    return client.get_model_version(name, number)


# ---- command line ----


def main(arguments: Sequence[str] | None = None) -> None:
    """``python -m custom_nets.tracking.registry register|promote|fetch|list``"""
    parser = CommandParser(
        prog="python -m custom_nets.tracking.registry", description="Versions of a bundle in the MLflow Model Registry."
    )
    common = CommandParser(add_help=False)
    common.add_argument("--tracking_uri", metavar="URI", help="server or data base (default: MLFLOW_TRACKING_URI)")
    named = CommandParser(add_help=False, parents=[common])
    named.add_argument("--name", required=True, help="of the registered bundle")
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("register", parents=[named], help="make a new version")
    add.add_argument("source", help="id of a run, output folder of a tracked run, or folder of a bundle")
    give = commands.add_parser("promote", parents=[named], help="give a version an alias")
    give.add_argument("--version", required=True)
    give.add_argument("--alias", default=_DEFAULT_ALIAS, help=f"default: {_DEFAULT_ALIAS}")
    bring = commands.add_parser("fetch", parents=[named], help="bring a version back as a folder that runs")
    bring.add_argument("--alias", help=f"default: {_DEFAULT_ALIAS}")
    bring.add_argument("--version")
    bring.add_argument("--allow_unverified", action="store_true", help="take configs that were registered without hash")
    bring.add_argument("--output_dir", required=True, help="where to make the folder NAME")
    show = commands.add_parser("list", parents=[common], help="show versions and aliases")
    show.add_argument("--name", help="of one registered bundle")
    commands_by_name: dict[str, Callable[..., str]] = {
        "register": _register,
        "promote": _promote,
        "fetch": _fetch,
        "list": _list,
    }
    given = vars(parser.parse_args(arguments))
    command = given.pop("command")
    with one_line_errors():
        print(commands_by_name[command](**given))


def _register(source: str, name: str, tracking_uri: str | None) -> str:
    version = register(source, name, tracking_uri)
    return f"{name} version {version.version}, from run {version.run_id}"


def _promote(name: str, version: str, alias: str, tracking_uri: str | None) -> str:
    before = promote(name, version, alias, tracking_uri)
    return f"{name} version {version} is '{alias}' now" + (f" (was version {before})" if before else "")


def _fetch(tracking_uri: str | None, **given: Any) -> str:
    folder = fetch(tracking_uri=tracking_uri, **given)
    return f"{folder}; use it: python -m monai.bundle run --config_file {folder}/configs/inference.json --input ..."


def _list(name: str | None, tracking_uri: str | None) -> str:
    rows = list_versions(name, tracking_uri)
    if not rows:
        return "nothing is registered"
    cells = [list(rows[0]), *([str(cell) for cell in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in cells)


if __name__ == "__main__":
    main()
