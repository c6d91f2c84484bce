"""Where MLflow keeps runs and models, and finding them there."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from custom_nets.utils.servers import check_server, make_database, public_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

__all__ = ["DATABASE", "experiment_id", "find_run", "open_client", "public_uri", "sqlite_uri"]

DATABASE = "mlruns.db"  # in the output folder of a run that is tracked without a server
_SQLITE = "sqlite:///"


def sqlite_uri(folder: str | os.PathLike) -> str:
    """Address of the data base in a folder. (MONAI's ``path_to_sqlite_uri`` splits the files of a folder with a space.)

    Raises:
        ValueError: the path has a character that such an address cannot hold.
    """
    path = (Path(folder) / DATABASE).absolute().as_posix()
    if found := sorted(set("%?") & set(path)):
        raise ValueError(
            f"MLflow cannot keep its data base in '{path}' because of the {' and '.join(found)}: give another "
            "--output_dir, or --tracking_uri."
        )
    return _SQLITE + path


def open_client(tracking_uri: str | None = None, create: bool = False) -> MlflowClient:
    """Client of a tracking server or data base.

    Args:
        tracking_uri: its address; None takes MLFLOW_TRACKING_URI.
        create: a data base that is not there yet is made.

    Raises:
        ValueError: no address, two different ones, or one that MLflow does not take.
        FileNotFoundError: no such data base.
        ConnectionError: no server answers there.
    """
    variable = os.environ.get("MLFLOW_TRACKING_URI")
    if variable and tracking_uri and variable != tracking_uri:
        raise ValueError(
            f"MLFLOW_TRACKING_URI says {public_uri(variable)} and --tracking_uri {public_uri(tracking_uri)}: leave one "
            "of them out."
        )
    uri = tracking_uri or variable
    example = "http://HOST:5000, or sqlite:////FOLDER/mlruns.db"
    if not uri:
        raise ValueError(f"where are the runs? Give --tracking_uri, such as {example}.")
    if "://" not in uri or uri.startswith("file:"):
        raise ValueError(f"MLflow keeps nothing in plain folders any more: give {example} instead of {uri}.")
    if uri.startswith(_SQLITE):
        path = Path(uri.removeprefix(_SQLITE)).absolute()
        if not create and not path.is_file():
            raise FileNotFoundError(f"no MLflow data base at {path}.")
        uri = _SQLITE + path.as_posix()
        make_database(uri)
    if uri.startswith(("http://", "https://")):
        check_server(uri)
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=uri)


def experiment_id(client: MlflowClient, name: str) -> str:
    """Id of an experiment, made if it is new; files of a data base's runs lie beside it, as those of trainings do."""
    if (found := client.get_experiment_by_name(name)) is not None:
        return found.experiment_id
    uri = client.tracking_uri
    beside = (Path(uri.removeprefix(_SQLITE)).parent / "mlruns").as_uri() if uri.startswith(_SQLITE) else None
    return client.create_experiment(name, artifact_location=beside)


def find_run(run: str, tracking_uri: str | None = None) -> tuple[MlflowClient, Run]:
    """A run and the client of where it is kept.

    Args:
        run: the id of a run; or the output folder of a training or evaluation that was tracked without a server, for
            the last run there.
        tracking_uri: where to look for an id, see :func:`open_client`.

    Raises:
        ValueError, FileNotFoundError, ConnectionError: no such run, and as :func:`open_client`.
    """
    from mlflow.exceptions import MlflowException

    if not Path(run).is_dir():
        if not re.fullmatch(r"[0-9a-f]{32}", run):
            raise ValueError(f"'{run}' is neither the id of a run (32 letters and digits) nor a folder.")
        client = open_client(tracking_uri)
        try:
            return client, client.get_run(run)
        except MlflowException as error:
            raise ValueError(f"there is no run {run} at {public_uri(client.tracking_uri)}: {error.message}") from error
    if not (Path(run) / DATABASE).is_file():
        raise FileNotFoundError(
            f"{run} holds no {DATABASE}, so no run was tracked there: give another folder, or the id of a run and "
            "--tracking_uri."
        )
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=sqlite_uri(run))
    ids = [experiment.experiment_id for experiment in client.search_experiments()]
    runs = client.search_runs(ids, order_by=["attributes.start_time DESC"], max_results=1)
    if not runs:
        raise ValueError(f"{Path(run) / DATABASE} holds no run.")
    return client, runs[0]
