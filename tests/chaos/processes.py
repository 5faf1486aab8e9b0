"""Finding and killing the processes of one command of ours, and of no other Ray on the machine (Linux)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MARK = "MOBILEVOS_CHAOS"
GONE_S = 30.0


class Command:
    """A running `python -m MODULE …` whose whole tree (Ray's daemons and workers too) carries a mark in its environment."""

    def __init__(self, argv: list[str], env: dict[str, str], log: Path) -> None:
        self._mark = f"{MARK}={uuid.uuid4().hex}"
        name, value = self._mark.split("=")
        environment = {**os.environ, "PYTHONPATH": str(ROOT), **env, name: value}
        self._log = log
        with open(log, "wb") as said:
            self.process = subprocess.Popen(
                [sys.executable, "-m", *argv],
                cwd=ROOT,
                env=environment,
                start_new_session=True,
                stdout=said,
                stderr=subprocess.STDOUT,
            )

    def said(self, lines: int = 30) -> str:
        """The end of what the command printed."""
        return "\n".join(self._log.read_text(errors="replace").splitlines()[-lines:])

    def alive(self) -> bool:
        return self.process.poll() is None

    def tree(self) -> dict[int, str]:
        """pid -> command line of every living process of the tree."""
        found = {}
        for entry in os.scandir("/proc"):
            if entry.name.isdigit():
                try:
                    environment = Path(entry.path, "environ").read_bytes()
                    if self._mark.encode() in environment.split(b"\0"):
                        line = Path(entry.path, "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                        found[int(entry.name)] = line.strip()
                except OSError:  # it has ended meanwhile
                    continue
        return {pid: line for pid, line in found.items() if line}

    def pids(self, role: str) -> list[int]:
        """Processes of a role: `driver`, `actor` (a pool's worker at its task) or `worker` (any other of Ray's Python workers)."""
        if role == "driver":
            return [self.process.pid] if self.alive() else []
        lines = self.tree().items()
        if role == "actor":
            return sorted(pid for pid, line in lines if line.startswith(ACTORS))
        return sorted(
            pid for pid, line in lines if line.startswith("ray::") and not line.startswith((*ACTORS, *DAEMONS))
        )

    def kill(self, pid: int) -> bool:
        """SIGKILL one process of the tree; False if it has ended by itself."""
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        return True

    def bury(self) -> None:
        """After the driver's death: wait for the rest of the tree to follow it, and kill what does not."""
        self.process.wait()
        end = time.monotonic() + GONE_S
        while (rest := self.tree()) and time.monotonic() < end:
            time.sleep(0.05)
        for pid in rest:
            self.kill(pid)


DAEMONS = ("ray::DashboardAgent", "ray::RuntimeEnvAgent")
"""They are a part of the node: Ray takes it down with them."""
ACTORS = ("ray::MapWorker", "ray::RayTrainWorker")
