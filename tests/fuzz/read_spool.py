"""What waits for the tracking server."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
from pathlib import Path
from typing import Any

from numpy.random import Generator

from pipelines.tracking import spool, store
from tests.fuzz.cases import Files, Reader
from tests.fuzz.json_mutations import change_text, change_value, json_file_mutations, strict, written
from vos.errors import InputError


class Listener:
    """Stands for a server: it notes what it is sent. Every run but the parent is known by its key."""

    def __init__(self) -> None:
        self.heard: list[Any] = []

    def search_experiments(self) -> list[Any]:
        return []

    def search_runs(self, *_: Any, **__: Any) -> list[Any]:
        return []

    def log_batch(self, run_id: str, metrics: Any = (), params: Any = (), tags: Any = ()) -> None:
        self.heard += [[run_id, "metric", one.key, one.value, one.timestamp, one.step] for one in metrics]
        self.heard += [[run_id, "param", one.key, one.value] for one in params]
        self.heard += [[run_id, "tag", one.key, one.value] for one in tags]

    def log_artifact(self, run_id: str, path: str, folder: str | None = None) -> None:
        self.heard.append(
            [run_id, "file", os.path.realpath(path).partition("/mlflow-spool/")[2] or f"OUTSIDE {path}", folder]
        )

    log_artifacts = log_artifact

    def log_text(self, run_id: str, text: str, name: str) -> None:
        self.heard.append([run_id, "text", text, name])

    def set_terminated(self, run_id: str, status: str, ms: int) -> None:
        self.heard.append([run_id, "end", status, ms])

    def update_run(self, run_id: str, status: str) -> None:
        self.heard.append([run_id, "reopen", status])


RUN = "a" * 32
SPOOL = f"runs/mlflow-spool/{RUN}"


def spool_samples(folder: Path) -> dict[str, Files]:
    events = [
        {"op": "params", "values": {"seed": "3", "steps": "4"}},
        {"op": "tags", "values": {"fps.hardware": "one core"}},
        {"op": "metrics", "entries": [["train/total", 0.5, 1000, 1]]},
        {"op": "metrics", "entries": [["train/total", 0.25, 2000, 2]]},
        {"op": "artifact", "path": "files/0/picture.txt", "folder": "pictures"},
        {"op": "text", "text": "hello", "name": "notes.txt"},
        {"op": "end", "status": "FINISHED", "ms": 3000},
    ]
    return {
        "a run": {
            f"{SPOOL}/head.json": json.dumps({"run_id": RUN, "name": "student"}).encode(),
            f"{SPOOL}/events.jsonl": "".join(json.dumps(event) + "\n" for event in events).encode(),
            f"{SPOOL}/files/0/picture.txt": b"drawn",
        }
    }


def read_spool(folder: Path) -> Any:
    """What the server is sent. A run that cannot be replayed is kept, in a line on standard error: an error of our own."""
    os.environ["MOBILEVOS_HOME"], listener, said = str(folder), Listener(), io.StringIO()
    with contextlib.redirect_stderr(said):
        spool.replay(listener)
    lines = [line for line in said.getvalue().splitlines() if "was sent to the server" not in line]
    if any("OUTSIDE" in str(one) for one in listener.heard):
        raise AssertionError(f"a file outside the spool was sent: {listener.heard}")
    if lines:
        if len(lines) > 1:
            raise AssertionError(f"{len(lines)} lines: {lines}")
        if not os.path.lexists(folder / SPOOL / "events.jsonl"):
            raise AssertionError("what was not sent is gone")
        raise InputError(lines[0] if str(folder) in lines[0] else f"{folder}: {lines[0]}")
    return listener.heard


def change_line(rng: Generator, files: Files, corpus: list[Files]) -> Files:
    """One event changed, dropped, doubled, or a number of sent lines that does not fit."""
    name = f"{SPOOL}/events.jsonl"
    data = files.get(name)
    if not isinstance(data, bytes):
        return files
    lines = data.decode("utf-8", "replace").splitlines()
    if not lines:
        return files
    at = int(rng.integers(len(lines)))
    action = int(rng.integers(8))
    if action == 0:
        del lines[at]
    elif action == 1:
        lines.insert(at, lines[at])
    elif action == 2:
        texts = ("0", "3", "7", "8", "-1", "1e3", "", "x", "9" * 5000, "\n", "٣")
        return files | {f"{SPOOL}/said": texts[int(rng.integers(len(texts)))].encode()}
    elif action == 3:
        lines[at] = change_text(rng, lines[at])
    else:
        try:
            lines[at] = written(change_value(rng, json.loads(lines[at])))
        except (ValueError, RecursionError):
            return files
    return files | {name: "".join(line + "\n" for line in lines).encode("utf-8", "surrogatepass")}


def spool_by_others(folder: Path) -> Any:
    """Every whole line from the first that was not sent yet, in order."""
    place = folder / SPOOL
    if not (place / "head.json").exists():
        return []
    head = strict((place / "head.json").read_bytes())
    if head.get("store", store.store_name()) != store.store_name():
        return []
    run_id, heard = head["run_id"], []
    assert isinstance(run_id, str) and re.fullmatch("[0-9a-f]{32}", run_id), "no run's id"
    lines = (
        (place / "events.jsonl").read_bytes().decode().splitlines(keepends=True)
        if (place / "events.jsonl").exists()
        else []
    )
    said = int((place / "said").read_text()) if (place / "said").exists() else 0
    for event in [strict(line.encode()) for line in lines if line.endswith("\n")][said:]:
        heard += _heard(event, run_id)
    return heard


def _heard(event: dict[str, Any], run_id: str) -> list[Any]:
    kind = event["op"]
    if kind == "metrics":
        assert all(isinstance(one[0], str) and isinstance(one[1], int | float) for one in event["entries"])
        return [[run_id, "metric", *one] for one in event["entries"]]
    if kind in ("params", "tags"):
        assert all(isinstance(value, str) for value in event["values"].values())
        return [[run_id, kind[:-1], name, value] for name, value in event["values"].items()]
    if kind == "artifact":
        assert os.path.normpath(event["path"]).startswith("files/")
        return [[run_id, "file", f"{RUN}/{os.path.normpath(event['path'])}", event["folder"]]]
    if kind == "text":
        assert isinstance(event["text"], str) and isinstance(event["name"], str)
        return [[run_id, "text", event["text"], event["name"]]]
    assert kind in ("end", "reopen"), "no such event"
    return [[run_id, "end", event["status"], event["ms"]] if kind == "end" else [run_id, "reopen", "RUNNING"]]


MUTATIONS = {**json_file_mutations("head.json"), **{f"line {i}": change_line for i in range(10)}}
READERS = [Reader("spool", spool_samples, read_spool, spool_by_others, MUTATIONS, 1)]
