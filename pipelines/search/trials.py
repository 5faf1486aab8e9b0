"""A trial of a search as its folder keeps it, and trials put together."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from vos.files.json_files import built

RECORD = "trial.json"
"""What a trial's folder keeps of it."""
SIGNS = {"w": "w", "temperature": "τ", "density": "d", "kd": "kd", "representation": "λ", "lr": "lr"}


Status = Literal["running", "finished", "stopped", "failed", "interrupted"]


@dataclass(frozen=True)
class Trial:
    """What a trial found, as its folder keeps it."""

    name: str
    parameters: dict[str, float]
    seed: int
    score: float
    """J&F of its best validation, below 0 where it reached none"""
    step: int
    status: Status
    """stopped: by ASHA"""
    seconds: float = 0.0
    """of training: steps, validations, checkpoints"""
    teacher_forwards: int = 0
    run_id: str = ""
    problem: str = ""
    """why it failed"""
    validations: list[tuple[int, float]] = field(default_factory=list)
    """(steps, J&F) that Tune was told, from which a killed search is built again"""

    @property
    def done(self) -> bool:
        """Whether it is not trained any further when its search is continued: what killed a process may not kill the next."""
        return self.status in ("finished", "stopped") or (self.status == "failed" and bool(self.problem))


def trial_of(record: Any, origin: str, repair: str) -> Trial:
    """A trial from what its file, or the record of a whole search, says of it; what else that says is left out.

    Raises InputError, naming `origin`, where that is no trial.
    """
    trial = built(record, Trial, origin, repair)
    return replace(trial, validations=[(step, score) for step, score in trial.validations])


def trial_name(parameters: Mapping[str, float], number: int = 0) -> str:
    """What a trial is called in MLflow's list, whose column holds some twenty letters: its parameters."""
    parts = [f"{SIGNS[name]} {value:.2f}" if name != "lr" else f"lr {value:.1e}" for name, value in parameters.items()]
    return " ".join(parts + ([f"#{number}"] if number else []))


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Finished trials first, the best first."""
    return sorted(trials, key=lambda trial: (trial.status != "finished", -trial.score))


def by_parameters(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Trials that differ in nothing but their seed, together."""
    groups: dict[tuple[tuple[str, float], ...], list[Trial]] = {}
    for trial in trials:
        groups.setdefault(tuple(sorted(trial.parameters.items())), []).append(trial)
    return list(groups.values())


def repeat_rows(repeats: Sequence[Trial]) -> list[tuple[dict[str, float], float, float, int]]:
    """(parameters, mean J&F, sample sd, seeds) of what was repeated, most finished seeds first, then the best mean."""
    rows = []
    for group in by_parameters(repeats):
        scores = [trial.score for trial in group]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        rows.append((group[0].parameters, statistics.mean(scores), spread, len(scores)))
    # What ended with fewer seeds diverged with the others: its mean is that of the survivors.
    return sorted(rows, key=lambda row: (-row[3], -row[1]))
