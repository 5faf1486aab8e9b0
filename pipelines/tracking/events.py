"""Send a run's events to MLflow. An event is a JSON object, so it can be sent at once, or stored and sent later.

Sending an event twice changes nothing (metrics, params, tags and inputs are sets; files are replaced). The exception is `register`, so
`spool` records how far it was sent. Paths in `path` are files or folders on this machine.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pipelines.tracking import registry, store
from vos.redaction import redact_all, redact_values

Event = dict[str, Any]
BATCH = 1000
"""Metrics that MLflow takes in one call."""


def send(client: Any, run_id: str, event: Event) -> Any:
    """Send one event; returns the version's name for `register`, else None."""
    return _SEND[event["op"]](client, run_id, event)


def redacted(event: Event) -> Event:
    """Return the event without secrets, to be sent or spooled. `path` is kept, since the file must be found."""
    return {name: value if name == "path" else redact_values(value, redact_all) for name, value in event.items()}


def joined(events: Iterable[tuple[int, Event]]) -> Iterator[tuple[int, Event]]:
    """Yield numbered events with neighbouring metrics merged, each under the number of its last part."""
    waiting: tuple[int, Event] | None = None
    for number, event in events:
        if waiting and event["op"] == "metrics" and len(waiting[1]["entries"]) < BATCH:
            waiting = (number, {"op": "metrics", "entries": waiting[1]["entries"] + event["entries"]})
            continue
        if waiting:
            yield waiting
        waiting = (number, event) if event["op"] == "metrics" else None
        if waiting is None:
            yield number, event
    if waiting:
        yield waiting


def _metrics(client: Any, run_id: str, event: Event) -> None:
    from mlflow.entities import Metric

    entries = [Metric(*entry) for entry in event["entries"]]
    for start in range(0, len(entries), BATCH):
        client.log_batch(run_id, metrics=entries[start : start + BATCH])


def _params(client: Any, run_id: str, event: Event) -> None:
    from mlflow.entities import Param

    params = [Param(name, value) for name, value in event["values"].items()]
    for start in range(0, len(params), 100):
        client.log_batch(run_id, params=params[start : start + 100])


def _tags(client: Any, run_id: str, event: Event) -> None:
    from mlflow.entities import RunTag

    client.log_batch(run_id, tags=[RunTag(name, value) for name, value in event["values"].items()])


def _artifact(client: Any, run_id: str, event: Event) -> None:
    if os.path.isdir(event["path"]):
        client.log_artifacts(run_id, event["path"], event["folder"])
    else:
        client.log_artifact(run_id, event["path"], event["folder"])


def _text(client: Any, run_id: str, event: Event) -> None:
    client.log_text(run_id, event["text"], event["name"])


def _dataset(client: Any, run_id: str, event: Event) -> None:
    from mlflow.entities import Dataset, DatasetInput, InputTag
    from mlflow.exceptions import MlflowException

    source = json.dumps({"uri": event["source"]})
    kind = event["source"].split("://")[0] if "://" in event["source"] else "local"
    dataset = Dataset(event["name"], event["digest"], kind, source, profile=json.dumps(event["profile"]))
    inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", event["context"])])]
    try:
        client.log_inputs(run_id, inputs)
    except MlflowException as error:
        if store.is_unreachable(error):
            raise
        # If several runs log new data at the same moment, the store accepts one of them; the others find it there when they retry.
        client.log_inputs(run_id, inputs)


def _end(client: Any, run_id: str, event: Event) -> None:
    client.set_terminated(run_id, event["status"], event["ms"])


def _reopen(client: Any, run_id: str, event: Event) -> None:
    client.update_run(run_id, status="RUNNING")


_SEND: dict[str, Callable[[Any, str, Event], Any]] = {
    "metrics": _metrics,
    "params": _params,
    "tags": _tags,
    "artifact": _artifact,
    "text": _text,
    "dataset": _dataset,
    "register": registry.register,
    "end": _end,
    "reopen": _reopen,
}
