"""Queue a run's events while the tracking server is unreachable: JSON lines and files under `runs/mlflow-spool/`, one folder a run.

    head.json      how to find or make the run: {run_id}, or {key, experiment, name, ms}; and the store that did not answer
    events.jsonl   its events, one a line
    files/         copies of its artifacts
    said           how many lines the server has received
    lock           held by the process that writes or replays

The queue is sent when the run ends, if the server is reachable again, and when any later run of the same store starts. The oldest run is
sent first, a child run after its parent. A folder is deleted when all of it is sent. Runs of another store stay queued: sending a part
of a run to this store would split it.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import re
import shutil
import sys
from typing import Any, BinaryIO, NotRequired, TypedDict

from pipelines.tracking import events, store
from pipelines.tracking.registry import KEY
from vos.errors import InputError, printable
from vos.files.json_files import checked, parse_json, read_json_file
from vos.files.whole import read_regular, write_atomic
from vos.redaction import redact_values

PARENT = "mlflow.parentRunId"
ADVICE = "delete the folder to discard this run's events"
PREFIX = "spooled-"
"""Start of the id of a run that the server does not know yet."""


class Spool:
    """The folder of one run, held by this process until `close`."""

    def __init__(self, run_id: str, head: dict[str, Any]) -> None:
        """Open or make the folder.

        run_id  the server's id, or PREFIX + the value of KEY
        head    how to find or make the run
        """
        self.folder, self._lock = _own_folder(os.path.join(store.spool_folder(), run_id))
        path = os.path.join(self.folder, "head.json")
        if not os.path.exists(path):
            write_atomic(path, json.dumps(redact_values({**head, "store": store.store_name()})).encode())
            os.chmod(path, 0o600)
        with open(
            os.path.join(self.folder, "events.jsonl"), "ab+", opener=_private
        ) as file:  # a kill may have cut the last line
            file.seek(0)
            file.truncate(file.read().rfind(b"\n") + 1)

    def append(self, event: events.Event) -> None:
        """Store an event; the file or folder that it names is copied."""
        if "path" in event:
            number = len(os.listdir(os.path.join(self.folder, "files")))
            name = os.path.join("files", str(number), os.path.basename(os.path.normpath(event["path"])))
            copy = shutil.copytree if os.path.isdir(event["path"]) else shutil.copy2
            os.makedirs(os.path.dirname(os.path.join(self.folder, name)))
            copy(event["path"], os.path.join(self.folder, name))
            event = {**event, "path": name}
        with open(os.path.join(self.folder, "events.jsonl"), "a", encoding="utf-8") as file:
            file.write(json.dumps(event) + "\n")

    def close(self) -> None:
        """Release the folder, so that other processes can send it; the end of the object or process does the same."""
        self._lock.close()

    __del__ = close


def replay(client: Any) -> None:
    """Send everything that is queued for this store and that no running process is writing. Raises store.Unreachable."""
    root, here = store.spool_folder(), store.store_name()
    elsewhere: dict[str, int] = {}
    if not os.path.isdir(root):
        return
    waiting = [entry.path for entry in os.scandir(root) if os.path.lexists(os.path.join(entry.path, "head.json"))]
    waiting.sort(key=lambda path: os.lstat(os.path.join(path, "head.json")).st_mtime)
    while waiting:  # heads of the same time come in any order, so a child before its parent is tried again
        later = [folder for folder in waiting if _waits_for_another(client, folder, here, elsewhere)]
        if len(later) == len(waiting):
            break
        waiting = later
    for wanted, number in elsewhere.items():
        print(
            f"tracking: {number} of the runs in {root} are queued for {wanted}; a job with MLFLOW_TRACKING_URI={wanted} sends them there; "
            'remove "store" from their head.json to send them here',
            file=sys.stderr,
        )


def run_id_of(client: Any, name: str) -> str | None:
    """Return the server's id of a run with a spooled name; None where the server does not know it yet."""
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    found = client.search_runs(experiments, f"tags.`{KEY}` = '{name.removeprefix(PREFIX)}'", max_results=1)
    return found[0].info.run_id if found else None


def create(client: Any, head: dict[str, Any], tags: dict[str, str] | None = None) -> str:
    """Make the run that a head describes, {experiment, name, key, ms}, with further tags; returns its id."""
    experiment = store.experiment_id(client, head["experiment"])
    tags = {**(tags or {}), KEY: head["key"]}
    run_id = client.create_run(experiment, start_time=head["ms"], tags=tags, run_name=head["name"]).info.run_id
    if not run_id:
        raise InputError(f"{store.store_name()}: {store.NO_SERVER}; correct MLFLOW_TRACKING_URI")
    return run_id


def _waits_for_another(client: Any, folder: str, here: str, elsewhere: dict[str, int]) -> bool:
    """Send one folder; True where another run must be sent first. Counts the runs of other stores in `elsewhere`."""
    lock = _locked(folder)
    if lock is None:
        return False
    with lock:
        try:
            if not os.path.lexists(os.path.join(folder, "head.json")):  # another process was faster
                return False
            head = _head(folder)
            if (wanted := head.get("store", here)) == here:
                return not _replay_one(client, folder, head)
            elsewhere[wanted] = elsewhere.get(wanted, 0) + 1
        except Exception as error:
            if store.is_unreachable(error):
                raise store.Unreachable(str(error)) from error
            reason = " ".join(str(error).split())[:200]
            print(f"tracking: {folder} could not be sent and is kept ({reason})", file=sys.stderr)
    return False


def _replay_one(client: Any, folder: str, head: dict[str, Any]) -> bool:
    """Send one run; False where the server does not know its parent yet, or the run that it adds to."""
    sent_path = os.path.join(folder, "said")
    sent = _text(sent_path) or "0"
    if not re.fullmatch(r"\d{1,12}", sent):
        raise InputError(f"{sent_path}: holds no number; delete the folder, or only this file to send everything again")
    sent = int(sent)
    path = os.path.join(folder, "events.jsonl")
    lines = _text(path).splitlines(keepends=True)
    numbered = [
        (i, _event(folder, line)) for i, line in enumerate(lines) if line.endswith("\n")
    ]  # a kill may cut the last
    parents = [event["values"].get(PARENT, "") for _, event in numbered if event["op"] == "tags"]
    for parent in filter(lambda value: value.startswith(PREFIX), parents):
        if run_id_of(client, parent) is None:
            return False
    run_id = head.get("run_id") or run_id_of(client, head["key"])
    if run_id is None:
        if "experiment" not in head:
            return False  # the process that made the run still writes it, or it is sent later
        run_id = create(client, head)
    for number, event in events.joined(item for item in numbered if item[0] >= sent):
        if "path" in event:
            event = {**event, "path": os.path.join(folder, event["path"])}
        events.send(client, run_id, _with_known_parent(client, event))
        write_atomic(sent_path, str(number + 1).encode(), sync=False)
    shutil.rmtree(folder)
    print(f"tracking: the queued run {printable(head.get('name', run_id))} was sent to the server", file=sys.stderr)
    return True


class _Head(TypedDict):
    """Either `run_id`, or `key`, alone or with the entries from which the run is made."""

    run_id: NotRequired[str]
    key: NotRequired[str]
    experiment: NotRequired[str]
    name: NotRequired[str]
    ms: NotRequired[int]
    store: NotRequired[str]


class _Event(TypedDict):
    op: str
    path: NotRequired[str]
    folder: NotRequired[str | None]
    values: NotRequired[dict[str, str]]
    entries: NotRequired[list[tuple[str, float, int, int]]]
    name: NotRequired[str]
    text: NotRequired[str]
    status: NotRequired[str]
    ms: NotRequired[int]
    digest: NotRequired[str]
    source: NotRequired[str]
    context: NotRequired[str]


def _head(folder: str) -> dict[str, Any]:
    path = os.path.join(folder, "head.json")
    head = checked(read_json_file(path, ADVICE), _Head, path, ADVICE)
    run = head.get("run_id", head.get("key", ""))
    if not re.fullmatch(r"[0-9a-f]{32}", run) or ("experiment" in head and not {"key", "name", "ms"} <= head.keys()):
        raise InputError(f"{path}: names no run; {ADVICE}")
    return dict(head)


def _event(folder: str, line: str) -> events.Event:
    """Return one event of a spool. Raises InputError where its file is not one that `append` copied: files/NUMBER/NAME, no links."""
    path = os.path.join(folder, "events.jsonl")
    event = checked(parse_json(line, path, ADVICE, finite=False), _Event, path, ADVICE)
    if "path" in event:
        place = os.path.join(folder, event["path"])
        if not re.fullmatch(r"files/\d+/[^/\0]+", event["path"]) or os.path.basename(place) in (".", ".."):
            raise InputError(f"{path}: names a file outside of the spool; {ADVICE}")
        parts = [os.path.join(at, name) for at, folders, names in os.walk(place) for name in (*folders, *names)]
        for one in (os.path.join(folder, "files"), os.path.dirname(place), place, *parts):
            if os.path.islink(one) or not (os.path.isfile(one) or os.path.isdir(one)):
                raise InputError(f"{path}: names {one}, which is a link or not a file; {ADVICE}")
    return dict(event)


def _with_known_parent(client: Any, event: events.Event) -> events.Event:
    if event["op"] != "tags" or not event["values"].get(PARENT, "").startswith(PREFIX):
        return event
    return {**event, "values": {**event["values"], PARENT: run_id_of(client, event["values"][PARENT])}}


def _own_folder(wanted: str) -> tuple[str, BinaryIO]:
    """Make and lock a folder for this process: the wanted one, or the next of that name where another process holds it.

    Only this user can read it, because a run's server may restrict who reads the run.
    """
    os.makedirs(os.path.dirname(wanted), exist_ok=True)
    os.chmod(os.path.dirname(wanted), 0o700)
    for number in itertools.count(1):
        folder = wanted if number == 1 else f"{wanted}.{number}"
        os.makedirs(os.path.join(folder, "files"), exist_ok=True)
        lock = _locked(folder)
        if lock is not None:
            return folder, lock
    raise AssertionError("there is always a next name")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _lock_file(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT | os.O_NONBLOCK, 0o600)


def _locked(folder: str) -> BinaryIO | None:
    """Return the folder's lock file, held until it is closed or the process ends.

    None while another process holds it, and where it cannot be opened.
    """
    try:  # read and write, because opening a FIFO of this name for one of them would block
        file = open(os.path.join(folder, "lock"), "r+b", opener=_lock_file)  # noqa: SIM115
    except OSError:  # the folder is gone, or something else has this name
        return None
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        return None
    return file


def _text(path: str) -> str:
    """Return the text of a file of the spool, "" where there is none. Raises InputError where it is not a file or not text."""
    if not os.path.lexists(path):
        return ""
    advice = "delete this run's folder"
    try:
        return read_regular(path, "json_bytes", advice).decode()
    except UnicodeDecodeError:
        raise InputError(f"{path}: is not text; {advice}") from None
