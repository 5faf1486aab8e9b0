"""What each job opens to the network, and what a stranger on those ports can do to a training.

    python -m tests.chaos.network             every job: the sockets on which its processes listened, looked at all the time
    python -m tests.chaos.network --attack    two workers train while a stranger speaks on every port; an undisturbed training beside it

Synthetic video, the smallest presets. Exit code 1 when a job listened beyond loopback, or the attack changed the outcome.
"""

from __future__ import annotations

import argparse
import os
import pickle
import socket
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from cluster.local_head import is_loopback, listeners
from tests.chaos.processes import Command

Address = tuple[str, int]
LOOK_S = 0.1


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (self.path, "w")


def jobs(folder: str) -> dict[str, list[str]]:
    """name -> its command, in an order in which each finds what it needs."""
    smoke = ["--preset", "smoke"]
    return {
        "cache": ["jobs.cache", *smoke, "--out", f"{folder}/cache"],
        "train, 2 workers": [
            *("jobs.train", *smoke, "--cache", f"{folder}/cache", "--workers", "2", "--out", f"{folder}/student")
        ],
        "tune": ["jobs.tune", *smoke, "--cache", f"{folder}/cache", "--out", f"{folder}/tune"],
        "evaluate": ["jobs.evaluate", *smoke, "--checkpoint", f"{folder}/student", "--out", f"{folder}/evaluation"],
        "export": ["jobs.export", "--model", f"{folder}/student", "--to", "onnx", "--out", f"{folder}/export"],
    }


def watched(argv: list[str], folder: str, on_look: Callable[[set[Address]], None] | None = None) -> set[Address]:
    """Run a job to its end; returns every address on which one of its processes listened. Raises SystemExit where it fails."""
    env = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "OMP_NUM_THREADS": "1"}
    command = Command(argv, env, Path(folder, "log"))
    seen: set[Address] = set()
    while command.alive():
        now = listeners(command.tree())
        seen |= now
        if on_look is not None:
            on_look(now)
        time.sleep(LOOK_S)
    if command.process.returncode:
        raise SystemExit(f"{' '.join(argv)} ended with {command.process.returncode}:\n{command.said()}")
    return seen


def table(folder: str) -> bool:
    """Run every job and print where it listened; whether that was loopback alone."""
    print(f"{'job':18} {'sockets':>7}  beyond loopback", flush=True)
    closed = True
    for name, argv in jobs(folder).items():
        seen = watched(argv, folder)
        outside = sorted(f"{host}:{port}" for host, port in seen if not is_loopback(host))
        closed &= not outside
        print(f"{name:18} {len(seen):7}  {', '.join(outside) or 'none'}", flush=True)
    return closed


class Stranger:
    """Speaks on every port that it has not tried before: garbage, HTTP, a pickle; and keeps its connections open."""

    def __init__(self, proof: str) -> None:
        self.tried: set[Address] = set()
        self._payload = pickle.dumps(Payload(proof))
        self._open: list[socket.socket] = []

    def __call__(self, addresses: set[Address]) -> None:
        for address in addresses - self.tried:
            for data in (b"\0" * 64, b"GET / HTTP/1.0\r\n\r\n", os.urandom(4096), self._payload):
                try:
                    one = socket.create_connection(address, timeout=1)
                    one.sendall(data)
                    self._open.append(one)
                except OSError:
                    continue  # the port was closed meanwhile, or does not like this
        self.tried |= addresses


def attack(folder: str) -> bool:
    """Train twice, once under attack; whether the weights are the same and nothing of the stranger's ran."""
    watched(jobs(folder)["cache"], folder)
    train = jobs(folder)["train, 2 workers"]
    watched(train, folder)
    stranger = Stranger(f"{folder}/it-ran")
    watched([*train[:-1], f"{folder}/attacked"], folder, stranger)
    weights = [Path(folder, name, "model.safetensors").read_bytes() for name in ("student", "attacked")]
    same, ran = weights[0] == weights[1], os.path.exists(f"{folder}/it-ran")
    print(f"ports attacked           {len(stranger.tried)}")
    print(f"exit code                0\nweights as undisturbed   {'yes' if same else 'NO'}")
    print(f"stranger's code ran      {'YES' if ran else 'no'}")
    return same and not ran


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--attack", action="store_true", help="train under attack instead of watching every job")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        return 0 if (attack if chosen.attack else table)(folder) else 1


if __name__ == "__main__":
    sys.exit(main())
