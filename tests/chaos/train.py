"""Kill a training again and again, workers and driver in turn, and see that its weights are those of an undisturbed one, bit for bit.

Examples:
  python -m tests.chaos.train --kills 30
  python -m tests.chaos.train --kills 2 --steps 60 --workers 1
"""

from __future__ import annotations

import argparse
import json
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from safetensors.torch import load_file

from tests.chaos.processes import Command

ROLES = ("driver", "actor")
"""Ray calls a training worker's process what it calls a cache's: an actor."""
GIVING_UP = 5


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=30, help="SIGKILLs: driver and training workers in turn")
    parser.add_argument("--steps", type=int, default=300, help="steps of the training")
    parser.add_argument("--workers", type=int, default=2, help="DDP workers")
    parser.add_argument("--seed", type=int, default=0, help="seed of moments and victims")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        faults = run(options.kills, options.steps, options.workers, random.Random(options.seed), Path(folder))
    print("verdict: " + ("weights bit-identical to the undisturbed training" if not faults else "; ".join(faults)))
    return 1 if faults else 0


def run(kills: int, steps: int, workers: int, moments: random.Random, folder: Path) -> list[str]:
    """An undisturbed training and one that is killed `kills` times; returns what differs."""
    env = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db"}
    cache = folder / "cache"
    _finish(["jobs.cache", "--preset", "smoke", "--out", str(cache)], env, folder)
    flags = [
        "jobs.train",
        "--preset",
        "smoke",
        "--cache",
        str(cache),
        "--steps",
        str(steps),
        "--batch",
        str(2 * workers),
    ]
    flags += ["--workers", str(workers), "--checkpoint-every", "5", "--max-failures", str(kills)]
    began = time.monotonic()
    _finish([*flags, "--out", str(folder / "calm")], env, folder)
    print(f"undisturbed: {steps} steps on {workers} workers, {time.monotonic() - began:.0f} s", flush=True)
    out = folder / "killed"
    done: Counter[str] = Counter()
    starts = errors = 0
    while not (out / "result.json").exists():
        starts += 1
        command = Command([*flags, "--out", str(out)], env, folder / "log")
        _disturb(command, moments, done, kills, steps, out)
        if command.process.returncode not in (0, -signal.SIGKILL):
            errors += 1
            print(f"exit code {command.process.returncode}:\n{command.said()}", file=sys.stderr, flush=True)
            if errors > GIVING_UP:
                return [f"{errors} commands ended with an error of their own"]
        told = ", ".join(f"{count} {role}" for role, count in sorted(done.items()))
        spent = time.monotonic() - began
        print(
            f"start {starts}: {sum(done.values())}/{kills} kills ({told}), at step {_step(out)}, {spent:.0f} s",
            flush=True,
        )
    faults = compare(out, folder / "calm")
    if sum(done.values()) < kills:
        faults.append(f"only {sum(done.values())} of {kills} kills fell into the training; give more --steps")
    return faults


def _finish(argv: list[str], env: dict[str, str], folder: Path) -> None:
    command = Command(argv, env, folder / "log")
    assert command.process.wait() == 0, f"{argv[0]} failed: {command.said()}"


def _step(out: Path) -> int:
    """The last step that a checkpoint holds."""
    return max((int(path.parent.name.split("-")[1]) for path in out.glob("checkpoints/*/state.json")), default=0)


def _disturb(command: Command, moments: random.Random, done: Counter[str], kills: int, steps: int, out: Path) -> None:
    """Kill a process each time that the training has gone a random number of steps on, until the driver was it, or the end.

    The training is `kills + 1` stretches long on average, so that the kills fall anywhere in it.
    """
    while command.alive() and sum(done.values()) < kills:
        role = ROLES[sum(done.values()) % len(ROLES)]
        left = kills - sum(done.values())
        stretch = moments.uniform(0, 1.5 * (steps - _step(out)) / (left + 1))
        goal, wait_s = _step(out) + stretch, moments.uniform(0, 0.5)
        while command.alive() and not (_step(out) >= goal - 5 and command.pids("actor")):
            time.sleep(0.02)
        until = time.monotonic() + wait_s  # not only right after a checkpoint
        while command.alive() and time.monotonic() < until:
            time.sleep(0.01)
        if (victims := command.pids(role)) and command.kill(moments.choice(victims)):
            done[role] += 1
            if role == "driver":
                break
            while command.alive() and set(victims) & set(command.pids("actor")):
                time.sleep(0.02)  # the whole group is replaced
    command.process.wait()
    command.bury()


def compare(out: Path, calm: Path) -> list[str]:
    """Weights that differ in any bit: of the shipped model, and of all that a later step would need."""
    faults = []
    newest = max(path.name for path in (calm / "checkpoints").iterdir())
    for name in ("model.safetensors", f"checkpoints/{newest}/state.safetensors"):
        if (out / name).read_bytes() != (calm / name).read_bytes():
            ours, theirs = load_file(out / name), load_file(calm / name)
            differing = [key for key in theirs if key not in ours or not ours[key].equal(theirs[key])]
            faults.append(f"{name}: {len(differing)} of {len(theirs)} tensors differ")
    steps = [json.loads((folder / "model.json").read_text())["step"] for folder in (out, calm)]
    if steps[0] != steps[1]:
        faults.append(f"ended at step {steps[0]}, not {steps[1]}")
    return faults


if __name__ == "__main__":
    sys.exit(main())
