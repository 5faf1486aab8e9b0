"""Which process logs a run, as tags of the run, so that runs of killed processes can be closed.

    owner   JSON: boot, host, machine, pid, pids, started
    alive   when the process was last known to live, in seconds since the epoch; renewed every minute

A run is closed as KILLED only where its process is provably gone: the same boot and process namespace have no such process, or the same
machine was started again since, or the process has given no sign of life for hours on a machine that this one cannot see. Runs without
these tags are never touched: other programs made them.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
import sys
import time
from typing import Any, TypedDict

from vos.errors import InputError, printable
from vos.files.canonical import dumps
from vos.files.json_files import checked, parse_json
from vos.stopping import started_at

OWNER, ALIVE, CLOSED = "owner", "alive", "closed"
BEAT_S = 60.0
RESTARTED_S = 300.0
"""How long a process of an earlier boot of this machine must have been silent: two machines may have the same identity."""
SILENT_S = 6 * 3600.0
"""How long a process that cannot be looked at must have been silent."""


class Owner(TypedDict):
    boot: str
    """The kernel's identity, another after each start; all containers of a machine have the same."""
    host: str
    machine: str
    """Digest of the installation's identity, "" where it has none."""
    pid: int
    pids: str
    """The namespace in which `pid` is counted."""
    started: str
    """Start of the process, in the kernel's ticks since the boot: numbers of processes are used again."""


def tags() -> dict[str, str]:
    """Return the tags of a run that this process logs; none on systems other than Linux."""
    owner = _this_process()
    return {OWNER: dumps(owner), **beat()} if owner else {}


def beat() -> dict[str, str]:
    """Return the tag that says that this process is alive now."""
    return {ALIVE: str(int(time.time()))}


def close_dead(client: Any) -> None:
    """Close the runs of this store whose process is provably gone, as KILLED, and print which."""
    here = _this_process()
    if not here:
        return
    experiments = [one.experiment_id for one in client.search_experiments()]
    running = f"attributes.status = 'RUNNING' AND tags.`{OWNER}` LIKE '%boot%'"
    closed = []
    for run in client.search_runs(experiments, running, max_results=1000):
        if not is_dead(run.data.tags, here):
            continue
        if not is_dead(client.get_run(run.info.run_id).data.tags, here):  # resumed in the meantime
            continue
        said = run.data.tags.get(ALIVE, "")
        client.set_tag(run.info.run_id, CLOSED, "its process was gone; closed by a later job")
        if "trial" in run.data.tags:
            client.set_tag(run.info.run_id, "trial.status", "interrupted")
        end_ms = max(1000 * int(said) if said.isdecimal() else 0, run.info.start_time)
        client.set_terminated(run.info.run_id, "KILLED", end_ms)
        closed.append(printable(run.info.run_name or run.info.run_id))
    if closed:
        shown = ", ".join(closed[:5]) + (", …" if len(closed) > 5 else "")
        print(f"tracking: closed as KILLED, because their processes are gone: {shown}", file=sys.stderr)


def is_dead(found: dict[str, str], here: Owner, now: float | None = None) -> bool:
    """Return whether the process of a run with these tags is provably gone, as this process sees it."""
    try:
        owner: Any = checked(parse_json(found.get(OWNER, ""), OWNER, ""), Owner, OWNER, "")
        silent = (time.time() if now is None else now) - int(found.get(ALIVE, ""))
    except (InputError, ValueError):  # edited by hand
        return False
    if owner["boot"] == here["boot"] and owner["pids"] == here["pids"]:
        return started_at(owner["pid"]) != owner["started"]
    if here["machine"] and owner["machine"] == here["machine"] and owner["boot"] != here["boot"]:
        return silent > RESTARTED_S
    return silent > SILENT_S


def _this_process() -> Owner | None:
    """Return the identity of this process, None where the system does not tell."""
    boot, started = _line("/proc/sys/kernel/random/boot_id"), started_at(os.getpid())
    if not boot or not started:
        return None
    host, pids, machine = socket.gethostname(), "", _line("/etc/machine-id")
    with contextlib.suppress(OSError):
        pids = os.readlink("/proc/self/ns/pid")
    digest = hashlib.sha256(f"{machine} {host}".encode()).hexdigest()[:16] if machine else ""
    return Owner(boot=boot, host=host, machine=digest, pid=os.getpid(), pids=pids, started=started)


def _line(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.readline().strip()
    except (OSError, UnicodeDecodeError):
        return ""
