"""Does this tree compute what another commit computed? `python -m tests.unchanged --against COMMIT`

Both run the same commands on synthetic video: a cache, a training of 20 steps from it, an evaluation. Compared are the digests of all
shards, the losses of every step, the weights, every mask, the scores, and the names that MLflow shows. Exit code 1 where one differs.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = (
    "jobs.cache --preset smoke --out cache",
    "jobs.train --preset smoke --cache cache --steps 20 --out student",
    "jobs.evaluate --preset smoke --checkpoint student --size-px 0 --fps.sequences 0 --out evaluation",
)
TIMES = ("seconds", "_s", "system/", "cpu")
"""Metrics of the machine: their names are compared, their values are not."""


def measured(tree: Path, work: Path) -> dict[str, Any]:
    """What the commands leave when they run in `tree`; they write into `work`."""
    environment = {**os.environ, "MOBILEVOS_HOME": str(work), "MLFLOW_TRACKING_URI": f"sqlite:///{work}/mlflow.db"}
    environment |= {"MOBILEVOS_CACHE": str(work / "graphs"), "PYTHONPATH": str(tree)}
    environment.pop("DAVIS_ROOT", None)
    for command in COMMANDS:
        subprocess.run([sys.executable, "-m", *command.split()], cwd=tree, env=environment, check=True, stdout=2)
    found: dict[str, Any] = {
        "cache fingerprint": json.loads((work / "cache/manifest.json").read_bytes())["fingerprint"]
    }
    for pattern in ("cache/shards/*.parquet", "student/model.safetensors", "evaluation/masks/*/*.png"):
        for path in sorted(work.glob(pattern)):
            found[str(path.relative_to(work))] = hashlib.sha256(path.read_bytes()).hexdigest()
    found["evaluation/scores.csv"] = (work / "evaluation/scores.csv").read_text()
    return found | dict(tracked(work / "mlflow.db"))


def tracked(store: Path) -> Iterator[tuple[str, Any]]:
    """Experiments, runs and metrics as MLflow keeps them."""
    with sqlite3.connect(store) as connection:
        runs = "select e.name, r.name from runs r join experiments e using (experiment_id) order by 1, 2"
        yield "MLflow runs", connection.execute(runs).fetchall()
        rows = connection.execute("select e.name, m.key, m.step, m.value from metrics m join runs r using (run_uuid) "
                                  "join experiments e using (experiment_id) order by 1, 2, 3")  # fmt: skip
        for experiment, key, step, value in rows:
            if any(part in key for part in TIMES):
                yield f"{experiment} {key}", "a metric of the machine"
            else:
                yield f"{experiment} {key} at step {step}", value


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", required=True, metavar="COMMIT", help="the commit to compare with")
    commit = parser.parse_args().against
    with tempfile.TemporaryDirectory() as folder:
        before, after, tree = Path(folder, "before"), Path(folder, "after"), Path(folder, "tree")
        for work in (before, after):
            work.mkdir()
        subprocess.run(["git", "worktree", "add", "-q", "--detach", str(tree), commit], cwd=ROOT, check=True)
        try:
            old, new = measured(tree, before), measured(ROOT, after)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=ROOT, check=True)
    differing = [name for name in sorted(old.keys() | new.keys()) if old.get(name) != new.get(name)]
    for name in differing:
        print(f"differs: {name}: {str(old.get(name, 'absent'))[:80]} -> {str(new.get(name, 'absent'))[:80]}")
    print(
        f"{len(old)} digests, figures and names of {commit[:12]}: {len(old.keys() - set(differing))} are the same here"
    )
    return int(bool(differing))


if __name__ == "__main__":
    sys.exit(main())
