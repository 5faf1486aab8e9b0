"""Runs, parameters, metrics and the registry. The only file that imports mlflow.

The store is `MLFLOW_TRACKING_URI`, or SQLite in `runs/mlflow.db` under the folder that relative paths mean. Everything goes through a
client with explicit run ids: no global "active run", so that several jobs of one process (the demo) do not mix. Metrics are logged by the
driver in batches, never by a training step.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vos.config import JobConfig
from vos.config_json import to_dict
from vos.errors import InputError

DEFAULT_STORE = "runs/mlflow.db"
EXPERIMENTS = {
    "cache": "Teacher caches: what the teacher said once, for every student after it.",
    "train": "Students and teachers: loss curves, checkpoints, registered versions.",
    "tune": "Searches over w, temperature and density; each trial is a child run with its own loss curve.",
    "evaluate": "J&F, J, F and FPS of checkpoints on a split.",
    "demo": "The demo's table and pictures.",
}


def store_uri() -> str:
    """The tracking store: MLFLOW_TRACKING_URI, or SQLite under the project's folder."""
    home = os.environ.get("MOBILEVOS_HOME") or os.getcwd()
    uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{DEFAULT_STORE}"
    if uri.startswith("sqlite:///"):  # a relative file would be another one in a worker's folder
        uri = f"sqlite:///{os.path.join(home, uri.removeprefix('sqlite:///'))}"
    return uri


class Run:
    """One MLflow run."""

    def __init__(self, client: Any, run_id: str) -> None:
        self._client = client
        self.run_id = run_id

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        self.log_series([(step, time.time(), metrics)])

    def log_series(self, series: list[tuple[int, float, dict[str, float]]]) -> None:
        """Many steps at once: (step, seconds since the epoch, metrics). SQLite takes some 35 writes a second, so batch."""
        from mlflow.entities import Metric

        entries = [
            Metric(name, float(value), int(seconds * 1000), step)
            for step, seconds, metrics in series
            for name, value in metrics.items()
        ]
        for start in range(0, len(entries), 1000):
            self._client.log_batch(self.run_id, metrics=entries[start : start + 1000])

    def log_artifact(self, path: str, folder: str | None = None) -> None:
        self._client.log_artifact(self.run_id, path, folder)

    def log_dict(self, values: dict[str, Any], name: str) -> None:
        self._client.log_dict(self.run_id, values, name)

    def set_tags(self, tags: dict[str, str]) -> None:
        from mlflow.entities import RunTag

        self._client.log_batch(self.run_id, tags=[RunTag(name, str(value)) for name, value in tags.items()])

    def log_dataset(self, name: str, digest: str, source: str, profile: dict[str, Any], context: str) -> None:
        """Name what the run read or made, as one of its MLflow inputs.

        digest   fingerprint of the content; MLflow keeps 36 characters
        source   folder or URI
        profile  sizes in words, such as rows, shards and bytes; any JSON
        context  what it served for: "training", "evaluation", "teacher cache"
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        where = json.dumps({"uri": source})
        kind = source.split("://")[0] if "://" in source else "local"
        dataset = Dataset(name, digest[:36], kind, where, profile=json.dumps(profile))
        self._client.log_inputs(self.run_id, [DatasetInput(dataset, [InputTag("mlflow.data.context", context)])])

    def register(self, name: str, folder: str, description: str) -> str:
        """Keep a checkpoint folder with the run and make it the next version of a registered model; returns `name/version`."""
        from mlflow.exceptions import MlflowException

        for entry in sorted(os.listdir(folder)):
            if entry.startswith("model."):
                self.log_artifact(os.path.join(folder, entry), "checkpoint")
        try:
            self._client.create_registered_model(name)
        except MlflowException as error:
            if "RESOURCE_ALREADY_EXISTS" not in str(error.error_code):
                raise
        source = f"{self._client.get_run(self.run_id).info.artifact_uri}/checkpoint"
        version = self._client.create_model_version(name, source, self.run_id, description=description)
        return f"{name}/{version.version}"


@contextmanager
def start_run(experiment: str, name: str, config: JobConfig, tags: dict[str, str] | None = None) -> Iterator[Run]:
    """A run that ends as FINISHED, or as FAILED when the block raises; the resolved configuration is its parameters."""
    from mlflow.entities import Param, RunTag

    client = _client()
    run = Run(client, client.create_run(_experiment_id(client, experiment), run_name=name).info.run_id)
    params = [Param(key, str(value)[:6000]) for key, value in _flat(to_dict(config)).items()]
    all_tags = {**_code_tags(), "job": experiment, **(tags or {})}
    client.log_batch(run.run_id, params=params, tags=[RunTag(key, value) for key, value in all_tags.items()])
    run.log_dict(to_dict(config), "config.json")
    try:
        yield run
    except BaseException as error:
        client.set_terminated(run.run_id, "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    client.set_terminated(run.run_id, "FINISHED")


def existing_run(run_id: str) -> Run:
    """A run that was started before, to add to it."""
    return Run(_client(), run_id)


def page_line() -> str:
    """The command that opens the pages of this store."""
    if os.environ.get("MLFLOW_TRACKING_URI", "").startswith("http"):
        return f"open {os.environ['MLFLOW_TRACKING_URI']}"
    return "make ui    (MLflow on http://127.0.0.1:5000)"


def _client() -> Any:
    import logging

    # Alembic narrates every migration of a new SQLite store; nobody needs forty lines of it before their result.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    import mlflow

    uri = store_uri()
    try:
        if uri.startswith("sqlite:///"):
            os.makedirs(os.path.dirname(uri.removeprefix("sqlite:///")) or ".", exist_ok=True)
        client = mlflow.MlflowClient(tracking_uri=uri, registry_uri=uri)
        client.search_experiments(max_results=1)  # the first call that reaches the store
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"{uri}: this MLflow store cannot be used ({reason}); set MLFLOW_TRACKING_URI to one that can"
        ) from error
    return client


def _experiment_id(client: Any, name: str) -> str:
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is not None:
        return experiment.experiment_id
    uri = store_uri()
    location = None
    if uri.startswith("sqlite:///"):
        location = os.path.join(os.path.dirname(uri.removeprefix("sqlite:///")), "mlartifacts", name)
    try:
        # The kind makes MLflow open the pages for trainings (runs, charts, models), not those for language models.
        tags = {"mlflow.experimentKind": "custom_model_development", "mlflow.note.content": EXPERIMENTS.get(name, "")}
        return client.create_experiment(name, artifact_location=location, tags=tags)
    except MlflowException:  # another job made it in the meantime
        return client.get_experiment_by_name(name).experiment_id


def _code_tags() -> dict[str, str]:
    # A submitted job runs in a copy without history: the checkout is where the cluster was started.
    folder = os.environ.get("MOBILEVOS_HOME") or os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    try:
        commit = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "status", "--porcelain"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return {"git.commit": "unknown (no git checkout)"}
    return {"git.commit": commit, "git.dirty": str(bool(dirty.strip())).lower()}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
