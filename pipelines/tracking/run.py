"""Log a job's run to MLflow.

The driver logs metrics in batches, never a training step. If the server is unreachable, the rest of the run is queued on disk and sent
later (`spool`). The job prints this once and continues.
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

from pipelines.tracking import events, owner, spool, store
from pipelines.tracking.load import CPU, Sampler
from pipelines.tracking.spool import Spool
from vos import stopping
from vos.config import JobConfig
from vos.files.canonical import to_dict


class Run:
    """One MLflow run. Safe to use from several threads."""

    def __init__(self, client: Any | None, run_id: str, waiting: Spool | None = None) -> None:
        assert client is not None or waiting is not None
        self.run_id = run_id
        """The server's id, or one beginning with `spooled-` while the server does not know the run; existing_run takes both."""
        self._client, self._waiting = client, waiting
        self._lock = threading.Lock()

    @property
    def spooled(self) -> bool:
        """Whether events are now queued on disk."""
        return self._waiting is not None

    def log_metrics(self, metrics: dict[str, float], step: int = 0) -> None:
        self.log_series([(step, time.time(), metrics)])

    def log_series(self, series: list[tuple[int, float, dict[str, float]]]) -> None:
        """Log many steps at once: (step, seconds since the epoch, metrics). SQLite takes about 35 writes a second, so batch them."""
        entries = [
            [name, float(value), int(seconds * 1000), step]
            for step, seconds, metrics in series
            for name, value in metrics.items()
        ]
        self._send({"op": "metrics", "entries": entries})

    def log_params(self, values: dict[str, Any]) -> None:
        self._send({"op": "params", "values": {name: str(value)[:6000] for name, value in values.items()}})

    def set_tags(self, tags: dict[str, str]) -> None:
        self._send({"op": "tags", "values": {name: str(value) for name, value in tags.items()}})

    def log_artifact(self, path: str, folder: str | None = None) -> None:
        """Log a file, or a folder's content."""
        self._send({"op": "artifact", "path": path, "folder": folder})

    def log_dict(self, values: dict[str, Any], name: str) -> None:
        self.log_text(json.dumps(values, indent=2), name)

    def log_text(self, text: str, name: str) -> None:
        self._send({"op": "text", "text": text, "name": name})

    def log_dataset(self, name: str, digest: str, source: str, profile: dict[str, Any], context: str) -> None:
        """Record data that the run read or made as one of its MLflow inputs.

        digest   fingerprint of the content; MLflow keeps 36 characters
        source   folder or URI
        profile  sizes, such as rows, shards and bytes; any JSON
        context  its use: "training", "evaluation", "teacher cache"
        """
        event = {"name": name, "digest": digest[:36], "source": source, "profile": profile, "context": context}
        self._send({"op": "dataset", **event})

    def history(self, metric: str) -> dict[int, float]:
        """Return a metric as {step: value}, ordered by step; empty where the store has none or does not answer."""
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
        """Register a checkpoint folder as the next version of a model, loadable with mlflow.pyfunc; returns `name/version`.

        key  a second call with the same key returns the existing version
        """
        return self._register({"name": name, "description": description, "key": key or uuid.uuid4().hex}, folder)

    def register_evaluated(self, name: str, folder: str, evaluation: dict[str, Any], version: str = "") -> str:
        """Register an evaluated checkpoint as champion or challenger (`champion.verdict`); returns `name/version`.

        evaluation  {"metrics", "data", "weights", "protocol", "serving"}: figures; the fingerprint of the videos, digest of the weights
                    and protocol they were measured with; how to segment
        version     an existing version that was evaluated; then no new one is made
        """
        event = {"name": name, "evaluation": evaluation, "version": version, "key": uuid.uuid4().hex}
        return self._register(event, folder)

    def _register(self, event: events.Event, folder: str) -> str:
        from pipelines.tracking.packaging import packaged

        evaluation = event.get("evaluation", {})
        with packaged(folder, evaluation.get("serving", {}), evaluation.get("metrics", {})) as model:
            name = self._send({"op": "register", "path": model, **event})
        return name or f"{event['name']}/(when the tracking server is back)"

    def end(self, status: str) -> None:
        """End the run as FINISHED, FAILED or KILLED; queued events are sent if the server is reachable again."""
        self._send({"op": "end", "status": status, "ms": int(time.time() * 1000)})
        if self._waiting is None:
            return
        self._waiting.close()
        try:
            client = store.connect()
            spool.replay(client)
            self.run_id = spool.run_id_of(client, self.run_id) or self.run_id
        except store.Unreachable:
            print(f"tracking: this run is queued in {self._waiting.folder}; the next job sends it", file=sys.stderr)

    def close_dead(self) -> None:
        """Close the runs of killed processes in this run's store."""
        if self._client is not None and self._waiting is None:
            try:
                owner.close_dead(self._client)
            except Exception as error:  # a server may forbid to change the runs of others
                if not store.is_unreachable(error):
                    print(f"tracking: runs of killed jobs stay open ({store.reason_of(error)})", file=sys.stderr)

    def close_children(self) -> None:
        """End the runs of a stopped search's trials that still count as running, as KILLED."""
        if self._client is None or self._waiting is not None:
            return
        mine = f"attributes.status = 'RUNNING' AND tags.`{spool.PARENT}` = '{self.run_id}'"
        experiments = [self._client.get_run(self.run_id).info.experiment_id]
        for run in self._client.search_runs(experiments, mine, max_results=1000):
            self._client.set_tag(run.info.run_id, "trial.status", "interrupted")
            self._client.set_terminated(run.info.run_id, "KILLED")

    def reopen(self) -> None:
        """Set the run to RUNNING again. Raises MlflowException for a run that the store does not know."""
        self._send({"op": "reopen"})

    def _send(self, event: events.Event) -> Any:
        event = events.redacted(event)
        with self._lock:
            if self._waiting is None:
                try:
                    return events.send(self._client, self.run_id, event)
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
    """Start a run, which ends as FINISHED, as KILLED when a signal stops the block, or as FAILED when it raises.

    The resolved configuration is the run's parameters. A block that exits with SystemExit of code 0 has FINISHED; this is how Ray Tune
    stops a trial early.

    resume  id of an interrupted run, which is resumed if the store knows it
    Raises InputError for a store that cannot be used. If the server is unreachable, the run is queued on disk and sent later.
    """
    tags = {"job": experiment, **(tags or {}), **owner.tags()}
    found = _reopened(resume, tags) if resume else None
    run = found or _new_run(experiment, name, tags)
    try:
        with stopping.closed_at_once(lambda: run.end("KILLED")):
            if found is None:
                run.log_params(_flat(to_dict(config)))
            run.set_tags({**_code_tags(), **tags})
            run.log_dict(to_dict(config), "config.json")
            if spool.PARENT not in tags:  # a search has done it before its trials
                run.close_dead()
            first = 1 + max(run.history(CPU) if resume else (), default=-1)
            with Sampler(run.log_series, first, lambda: run.set_tags(owner.beat())):
                yield run
    except BaseException as error:
        run.end(_status_after(error))
        raise
    run.end("FINISHED")


def _status_after(error: BaseException) -> str:
    """Return the status of a run whose block raised."""
    if isinstance(error, KeyboardInterrupt) or stopping.received():
        stopping.unwinding()
        return "KILLED"
    if isinstance(error, SystemExit):
        # Ray ends the process of a trial with a message of its own when the search is stopped.
        return "KILLED" if getattr(error, "ray_terminate_msg", None) else "FAILED" if error.code else "FINISHED"
    return "FAILED"


def existing_run(run_id: str) -> Run:
    """Return a run that was started before, to add to it; what is added while the server is unreachable is sent by a later job."""
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


def _reopened(run_id: str, tags: dict[str, str]) -> Run | None:
    """Resume an interrupted run as this process's; None where this store has no run of that id."""
    from mlflow.exceptions import MlflowException

    run = existing_run(run_id)
    try:
        run.set_tags(tags)  # first, so that no other job takes it for a dead one
        run.reopen()
    except MlflowException:
        return None
    return run


def _new_run(experiment: str, name: str, tags: dict[str, str]) -> Run:
    head = {"key": uuid.uuid4().hex, "experiment": experiment, "name": name, "ms": int(time.time() * 1000)}
    try:
        client = store.connect(writing=True)
        spool.replay(client)
        return Run(client, spool.create(client, head, events.redacted({"op": "tags", "values": tags})["values"]))
    except Exception as error:
        if not isinstance(error, store.Unreachable) and not store.is_unreachable(error):
            raise
    _announce()
    placeholder = f"{spool.PREFIX}{head['key']}"
    return Run(None, placeholder, Spool(placeholder, head))


def _announce() -> None:
    print(
        f"tracking: {store.store_name()} does not answer; this run is queued in {store.spool_folder()} and sent later",
        file=sys.stderr,
    )


def commit() -> str:
    """Return the git commit of the code."""
    return _code_tags()["git.commit"]


def _code_tags() -> dict[str, str]:
    code = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    # A submitted job runs in a copy without history: the checkout is where the cluster was started.
    for folder in filter(None, (code, os.environ.get("MOBILEVOS_HOME"))):
        with suppress(OSError, subprocess.CalledProcessError):
            commit, dirty = (
                subprocess.run(
                    ["git", *arguments], cwd=folder, capture_output=True, text=True, check=True
                ).stdout.strip()
                for arguments in (("rev-parse", "HEAD"), ("status", "--porcelain"))
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
