"""A run: what jobs say to MLflow.

Metrics are logged by the driver in batches, never by a training step. Where the server stops answering, the rest of the run goes to disk
and is said later (`spool`): told once, and the job goes on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pipelines.tracking import events, spool, store
from pipelines.tracking.load import CPU, Sampler
from pipelines.tracking.spool import Spool
from vos.config import JobConfig
from vos.files.canonical import to_dict


class Run:
    """One MLflow run. Safe to use from several threads."""

    def __init__(self, client: Any | None, run_id: str, waiting: Spool | None = None) -> None:
        assert client is not None or waiting is not None
        self.run_id = run_id
        """The server's, or one beginning with `spooled-` while the server has not heard of the run; existing_run takes both."""
        self._client, self._waiting = client, waiting
        self._lock = threading.Lock()

    @property
    def spooled(self) -> bool:
        """Whether what is said now waits on disk."""
        return self._waiting is not None

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        self.log_series([(step, time.time(), metrics)])

    def log_series(self, series: list[tuple[int, float, dict[str, float]]]) -> None:
        """Many steps at once: (step, seconds since the epoch, metrics). SQLite takes some 35 writes a second, so batch."""
        entries = [
            [name, float(value), int(seconds * 1000), step]
            for step, seconds, metrics in series
            for name, value in metrics.items()
        ]
        self._say({"op": "metrics", "entries": entries})

    def log_params(self, values: dict[str, Any]) -> None:
        self._say({"op": "params", "values": {name: str(value)[:6000] for name, value in values.items()}})

    def set_tags(self, tags: dict[str, str]) -> None:
        self._say({"op": "tags", "values": {name: str(value) for name, value in tags.items()}})

    def log_artifact(self, path: str, folder: str | None = None) -> None:
        """A file, or a folder's content."""
        self._say({"op": "artifact", "path": path, "folder": folder})

    def log_dict(self, values: dict[str, Any], name: str) -> None:
        self.log_text(json.dumps(values, indent=2), name)

    def log_text(self, text: str, name: str) -> None:
        self._say({"op": "text", "text": text, "name": name})

    def log_dataset(self, name: str, digest: str, source: str, profile: dict[str, Any], context: str) -> None:
        """Name what the run read or made, as one of its MLflow inputs.

        digest   fingerprint of the content; MLflow keeps 36 characters
        source   folder or URI
        profile  sizes in words, such as rows, shards and bytes; any JSON
        context  what it served for: "training", "evaluation", "teacher cache"
        """
        event = {"name": name, "digest": digest[:36], "source": source, "profile": profile, "context": context}
        self._say({"op": "dataset", **event})

    def history(self, metric: str) -> dict[int, float]:
        """Step -> value of a metric, in the order of the steps; empty where the store has none or does not answer."""
        if self._client is None or self._waiting is not None:
            return {}
        try:
            history = self._client.get_metric_history(self.run_id, metric)
        except Exception as error:
            if not store.is_unreachable(error):
                raise
            return {}
        return {one.step: one.value for one in sorted(history, key=lambda one: one.step)}

    def register(self, name: str, folder: str, description: str, key: str = "") -> str:
        """Make a checkpoint folder the next version of a registered model, loadable with mlflow.pyfunc; returns `name/version`.

        key  registering again under the same one finds the version that is there
        """
        return self._register({"name": name, "description": description, "key": key or uuid.uuid4().hex}, folder)

    def register_evaluated(self, name: str, folder: str, evaluation: dict[str, Any], version: str = "") -> str:
        """The same for an evaluated checkpoint, which becomes champion or challenger (`champion.verdict`).

        evaluation  {"metrics", "data", "weights", "protocol", "serving"}: figures; fingerprint of the videos, digest of the weights and
                    protocol they hold for; how to segment
        version     an existing version that was evaluated; no new one is made then
        """
        event = {"name": name, "evaluation": evaluation, "version": version, "key": uuid.uuid4().hex}
        return self._register(event, folder)

    def _register(self, event: events.Event, folder: str) -> str:
        from pipelines.tracking.packaging import packaged

        evaluation = event.get("evaluation", {})
        with packaged(folder, evaluation.get("serving", {}), evaluation.get("metrics", {})) as model:
            name = self._say({"op": "register", "path": model, **event})
        return name or f"{event['name']}/(when the tracking server is back)"

    def end(self, status: str) -> None:
        """FINISHED, FAILED or KILLED; what waits is said if the server is back."""
        self._say({"op": "end", "status": status, "ms": int(time.time() * 1000)})
        if self._waiting is None:
            return
        self._waiting.close()
        try:
            client = store.connect()
            spool.replay(client)
            self.run_id = spool.run_id_of(client, self.run_id) or self.run_id
        except store.Unreachable:
            print(f"tracking: this run waits in {self._waiting.folder}; any later job sends it", file=sys.stderr)

    def reopen(self) -> None:
        """RUNNING again. Raises MlflowException for a run that the store does not know."""
        self._say({"op": "reopen"})

    def _say(self, event: events.Event) -> Any:
        event = events.redacted(event)
        with self._lock:
            if self._waiting is None:
                try:
                    return events.say(self._client, self.run_id, event)
                except Exception as error:
                    if not store.is_unreachable(error):
                        raise
                    self._waiting = Spool(self.run_id, {"run_id": self.run_id})
                    _announce()
            self._waiting.append(event)
            return None


@contextmanager
def start_run(
    experiment: str, name: str, config: JobConfig, tags: dict[str, str] | None = None, resume: str = ""
) -> Iterator[Run]:
    """A run that ends as FINISHED, or as FAILED when the block raises; the resolved configuration is its parameters.

    A block that was told to exit (SystemExit with code 0) has FINISHED: so Ray Tune stops a trial that is behind.

    resume  id of a run that was interrupted: it goes on, if the store knows it
    Raises InputError for a store that cannot be used; a server that does not answer stops nothing.
    """
    run = _reopened(resume) if resume else None
    if run is None:
        run = _new_run(experiment, name)
        run.log_params(_flat(to_dict(config)))
    run.set_tags({**_code_tags(), "job": experiment, **(tags or {})})
    run.log_dict(to_dict(config), "config.json")
    try:
        with Sampler(run.log_series, 1 + max(run.history(CPU) if resume else (), default=-1)):
            yield run
    except BaseException as error:
        told_to_exit = isinstance(error, SystemExit) and not error.code
        run.end("FINISHED" if told_to_exit else "KILLED" if isinstance(error, KeyboardInterrupt) else "FAILED")
        raise
    run.end("FINISHED")


def existing_run(run_id: str) -> Run:
    """A run that was started before, to add to it; what is added while its server does not answer is sent by a later job."""
    known = not run_id.startswith(spool.PREFIX)
    try:
        client = store.connect()
        spool.replay(client)
        real = run_id if known else spool.run_id_of(client, run_id)
        if real is not None:
            return Run(client, real)
    except store.Unreachable:
        pass
    head = {"run_id": run_id} if known else {"key": run_id.removeprefix(spool.PREFIX)}
    return Run(None, run_id, Spool(run_id, head))


def _reopened(run_id: str) -> Run | None:
    """An interrupted run, running again; None where this store has none of that id."""
    from mlflow.exceptions import MlflowException

    run = existing_run(run_id)
    try:
        run.reopen()
    except MlflowException:
        return None
    return run


def _new_run(experiment: str, name: str) -> Run:
    head = {"key": uuid.uuid4().hex, "experiment": experiment, "name": name, "ms": int(time.time() * 1000)}
    try:
        client = store.connect()
        spool.replay(client)
        return Run(client, spool.create(client, head))
    except Exception as error:
        if not isinstance(error, store.Unreachable) and not store.is_unreachable(error):
            raise
    _announce()
    placeholder = f"{spool.PREFIX}{head['key']}"
    return Run(None, placeholder, Spool(placeholder, head))


def _announce() -> None:
    print(
        f"tracking: {store.store_name()} does not answer; this run is written to {store.spool_folder()} and sent later",
        file=sys.stderr,
    )


def commit() -> str:
    """The git commit of the code."""
    return _code_tags()["git.commit"]


def _code_tags() -> dict[str, str]:
    code = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    # A submitted job runs in a copy without history: the checkout is where the cluster was started.
    for folder in filter(None, (code, os.environ.get("MOBILEVOS_HOME"))):
        with suppress(OSError, subprocess.CalledProcessError):
            commit, dirty = (
                subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()
                for words in (("rev-parse", "HEAD"), ("status", "--porcelain"))
            )
            return {"git.commit": commit, "git.dirty": str(bool(dirty)).lower()}
    return {"git.commit": "unknown (no git checkout)"}


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= _flat(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = value
    return flat
