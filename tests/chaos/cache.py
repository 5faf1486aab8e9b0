"""Kill a cache build again and again, flip bytes of the finished cache, and see that nothing is lost, doubled or overlooked.

Examples:
  python -m tests.chaos.cache --kills 100 --flips 1000
  python -m tests.chaos.cache --kills 3 --flips 50 --draws 24
"""

from __future__ import annotations

import argparse
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from pipelines.cache import schema
from pipelines.cache.manifest import read_manifest
from pipelines.cache.read import prove_shard
from tests.chaos.processes import Command
from vos.errors import InputError

ROLES = ("driver", "actor", "worker")
GIVING_UP = 5
LONGEST_WAIT_S = {"driver": 14.0, "actor": 1.5, "worker": 3.0}
"""Kills come at a random moment up to so long after their victim could be seen: Ray takes some ten seconds to start."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kills", type=int, default=100, help="SIGKILLs: driver, teacher actors, other workers in turn"
    )
    parser.add_argument("--flips", type=int, default=1000, help="single flipped bytes in shards and manifest")
    parser.add_argument("--draws", type=int, default=600, help="clip draws of each build, in shards of 2")
    parser.add_argument("--workers", type=int, default=2, help="teacher actors")
    parser.add_argument("--seed", type=int, default=0, help="seed of moments, victims and flips")
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        flags = [
            "--preset",
            "smoke",
            "--draws",
            str(options.draws),
            "--shard-draws",
            "2",
            "--workers",
            str(options.workers),
        ]
        env = {"MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "RAY_BACKEND_LOG_LEVEL": "warning"}
        calm = Path(folder, "calm")
        undisturbed = Command(["jobs.cache", *flags, "--out", str(calm)], env, Path(folder, "log"))
        assert undisturbed.process.wait() == 0, f"the undisturbed build failed: {undisturbed.said()}"
        faults = kill_builds(options.kills, random.Random(options.seed), flags, env, calm, Path(folder))
        faults += flip_bytes(options.flips, random.Random(options.seed), calm)
    print("verdict: " + ("nothing lost, doubled, changed or overlooked" if not faults else "; ".join(faults)))
    return 1 if faults else 0


def kill_builds(
    kills: int, moments: random.Random, flags: list[str], env: dict[str, str], calm: Path, folder: Path
) -> list[str]:
    """Builds that are killed until `kills` is reached, each compared with the undisturbed one."""
    done: Counter[str] = Counter()
    faults: list[str] = []
    trail: list[str] = []
    builds = starts = gave_up = 0
    began = time.monotonic()
    while sum(done.values()) < kills:
        out = folder / f"killed-{builds}"
        builds += 1
        while True:
            starts += 1
            command = Command(["jobs.cache", *flags, "--out", str(out)], env, folder / "log")
            code = _disturb(command, moments, done, kills, trail)
            if code == 0:
                break
            if code != -signal.SIGKILL:  # Ray itself gave up: no row may be lost by that either
                gave_up += 1
                print(f"exit code {code} after {trail[-3:]}:\n{command.said()}", file=sys.stderr, flush=True)
                if gave_up > GIVING_UP:
                    return [*faults, f"{gave_up} builds ended with an error of their own"]
        faults += compare(out, calm)
        shutil.rmtree(out)
        print(
            f"build {builds}: {sum(done.values())}/{kills} kills ({', '.join(f'{n} {role}' for role, n in sorted(done.items()))}), "
            f"{starts} starts, {gave_up} errors of its own, {time.monotonic() - began:.0f} s, {faults or 'as undisturbed'}",
            flush=True,
        )
    return faults


def _disturb(command: Command, moments: random.Random, done: Counter[str], kills: int, trail: list[str]) -> int:
    """Kill processes of a running build in turn until its driver is among them, or it ends; returns its exit code."""
    while command.alive() and sum(done.values()) < kills:
        role = ROLES[sum(done.values()) % len(ROLES)]
        while command.alive() and not command.pids(role):
            time.sleep(0.02)
        wait_until = time.monotonic() + moments.uniform(0, LONGEST_WAIT_S[role])
        while command.alive() and time.monotonic() < wait_until:
            time.sleep(0.01)
        if victims := command.pids(role):
            victim = moments.choice(victims)
            name = command.tree().get(victim, "")[:60]
            if command.kill(victim):
                done[role] += 1
                trail.append(f"{role} ({name})")
    command.process.wait()
    command.bury()
    return command.process.returncode


def compare(out: Path, calm: Path) -> list[str]:
    """Rows lost or doubled, files that differ from the undisturbed build, leftovers."""
    faults = []
    draws = Counter(
        row["draw"] for path in sorted((out / "shards").iterdir()) for row in schema.read_rows(str(path), [], ("draw",))
    )
    wanted = set(range(read_manifest(str(calm))["draws"]))
    if lost := wanted - set(draws):
        faults.append(f"{len(lost)} rows lost")
    if doubled := [draw for draw, count in draws.items() if count > 1]:
        faults.append(f"{len(doubled)} rows doubled")
    names = [{str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()} for root in (out, calm)]
    if names[0] != names[1]:
        faults.append(f"other files: {sorted(names[0] ^ names[1])[:3]}")
    if changed := [
        name for name in sorted(names[0] & names[1]) if (out / name).read_bytes() != (calm / name).read_bytes()
    ]:
        faults.append(f"other bytes: {changed[:3]}")
    return faults


def flip_bytes(flips: int, places: random.Random, cache: Path) -> list[str]:
    """Flip one byte at a time, anywhere; each must be noticed with the file named."""
    files = [*sorted((cache / "shards").iterdir()), cache / schema.MANIFEST]
    sizes = [path.stat().st_size for path in files]
    unseen: list[str] = []
    hit: Counter[str] = Counter()
    for _ in range(flips):
        # The manifest is small beside the shards: every fifth flip goes there.
        path = places.choices([files[-1], places.choices(files, sizes)[0]], (1, 4))[0]
        intact = path.read_bytes()
        changed = bytearray(intact)
        place = places.randrange(len(changed))
        changed[place] ^= places.randrange(1, 256)
        path.write_bytes(changed)
        hit[path.name if path.name == schema.MANIFEST else "shards"] += 1
        if not _noticed(cache, path):
            unseen.append(f"{path.name} byte {place}")
        path.write_bytes(intact)
    print(
        f"flips: {flips} ({', '.join(f'{n} in {name}' for name, n in sorted(hit.items()))}), {len(unseen)} overlooked",
        flush=True,
    )
    return [f"{len(unseen)} flips overlooked: {unseen[:3]}"] if unseen else []


def _noticed(cache: Path, path: Path) -> bool:
    try:
        manifest = read_manifest(str(cache))
        if path.name != schema.MANIFEST:
            prove_shard(str(path), manifest["recipe"])
    except InputError as error:
        return str(path) in str(error)
    return False


if __name__ == "__main__":
    sys.exit(main())
