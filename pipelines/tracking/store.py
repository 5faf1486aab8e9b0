"""Connect to the MLflow store, and detect whether it is reachable.

The store is `MLFLOW_TRACKING_URI`, or SQLite in `runs/mlflow.db` under the project's folder. All calls use a client with explicit run
ids and no global "active run", so that several jobs of one process (the demo) stay separate.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Iterator
from typing import Any

from pipelines.tracking import pages, sqlite_store
from vos.errors import InputError
from vos.printed import quoted
from vos.redaction import HIDDEN, hide, without_secret

DEFAULT_STORE = "runs/mlflow.db"
SPOOL = "runs/mlflow-spool"
LONGEST_REASON = 160
NO_SERVER = "what answers at this address is no MLflow server"
# MLflow's defaults are a timeout of two minutes and eight attempts, which would delay a training whose server is unreachable.
SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "15",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": "1",
    "MLFLOW_LOGGING_LEVEL": "WARNING",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # a job prints the place of its result once
}


class Unreachable(Exception):
    """The server does not answer now, but may later."""


def home() -> str:
    """Return the folder that relative paths start from."""
    return os.environ.get("MOBILEVOS_HOME") or os.getcwd()


def store_uri() -> str:
    """Return the tracking store: MLFLOW_TRACKING_URI, or SQLite under the project's folder."""
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DEFAULT_STORE}"
    if uri.startswith("sqlite:///"):  # a relative path would name another file in a worker's folder
        uri = f"sqlite:///{os.path.join(home(), uri.removeprefix('sqlite:///'))}"
    return uri


def store_name() -> str:
    """Return the tracking store without user name and password, to print and save."""
    return without_secret(store_uri()).replace(f"{HIDDEN}@", "")


def environment() -> dict[str, str]:
    """Return the environment variables that make a worker use this process's store and spool."""
    return {"MLFLOW_TRACKING_URI": store_uri(), "MOBILEVOS_HOME": home()}


def spool_folder() -> str:
    return os.path.join(home(), SPOOL)


def page_line() -> str:
    """Return the command that opens the pages of this store."""
    if store_uri().startswith(("http://", "https://")):
        return f"open {quoted(store_name())}"
    return "make ui    (MLflow on http://127.0.0.1:5000)"


def connect(writing: bool = False) -> Any:
    """Return an MLflow client of the store, which is made where it is a new SQLite file.

    writing  whether a run will be written
    Raises Unreachable for a server that does not answer, InputError for a store that cannot be used.
    """
    # Alembic logs about forty lines of migrations for a new SQLite store.
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    import mlflow

    uri, is_file = store_uri(), store_uri().startswith(sqlite_store.SCHEME)
    if is_file:
        sqlite_store.prepare(uri)
        if writing:
            sqlite_store.check_writable(uri)
    try:
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)  # the first call that reaches the store
    except Exception as error:
        if is_unreachable(error):
            raise Unreachable(f"{store_name()} does not answer") from error
        raise InputError(
            f"{store_name()}: this MLflow store cannot be used ({reason_of(error)}); set MLFLOW_TRACKING_URI to one that can"
        ) from error
    return client


def reason_of(error: BaseException) -> str:
    """Return why a store refused, in a few words and without secrets; `--debug` shows the library's own text."""
    text = " ".join(hide(str(error), store_uri()).split())
    if store_uri().startswith(("http://", "https://")):
        if re.search(r"error code 40[13]\b", text):
            return "it refuses this user: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
        if "<html" in text.lower() or "<!doctype" in text.lower() or "error code 404" in text or "JSON" in text:
            return NO_SERVER
    if "maintenance mode" in text:
        return "MLflow keeps runs in databases, not in folders"
    if missing := re.match(r"No module named '(\w+)", text):
        return f"the Python package {missing[1]}, the driver of this database, is not installed"
    text = re.split(r"\[SQL:|\(Background on this error|\. Response body|Traceback", text)[0]
    text = re.sub(r"^(\(\S+\) )+", "", text.strip())  # the driver's name of the error
    words = text if len(text) <= LONGEST_REASON else text[:LONGEST_REASON].rpartition(" ")[0] + " …"
    return words.rstrip(" .;:") or type(error).__name__


def is_unreachable(error: BaseException) -> bool:
    """Return whether a server did not answer, or answered with 5xx, as opposed to refusing the request."""
    if not store_uri().startswith(("http://", "https://")):
        return False
    import requests

    for cause in _causes(error):
        if isinstance(cause, requests.exceptions.InvalidURL | requests.exceptions.InvalidSchema):
            return False
        if isinstance(cause, requests.exceptions.ConnectionError | requests.exceptions.Timeout):
            return True
        if isinstance(cause, requests.exceptions.RetryError):  # repeated 5xx
            return True
        if isinstance(cause, requests.exceptions.HTTPError):
            return cause.response is not None and cause.response.status_code >= 500
    return "failed with error code 5" in str(error)


def _causes(error: BaseException) -> Iterator[BaseException]:
    current: BaseException | None = error
    while current is not None:
        yield current
        current = current.__cause__ or current.__context__


def experiment_id(client: Any, name: str) -> str:
    """Return the id of the experiment of that name, made with its description where it is new."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        for key, value in pages.experiment_tags(name).items():
            if key not in experiment.tags:  # made by an earlier release; a user's changes are kept
                client.set_experiment_tag(experiment.experiment_id, key, value)
        return experiment.experiment_id
    uri = store_uri()
    location = None
    if uri.startswith("sqlite:///"):
        location = os.path.join(os.path.dirname(uri.removeprefix("sqlite:///")), "mlartifacts", name)
    try:
        return client.create_experiment(name, artifact_location=location, tags=pages.experiment_tags(name))
    except MlflowException as error:
        if is_unreachable(error):
            raise
        return client.get_experiment_by_name(name).experiment_id  # another job made it in the meantime
