"""A trial of a search as its folder records it, and functions over many trials."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from vos.files.json_files import built

RECORD = "trial.json"
"""File of a trial's record in its folder."""
SIGNS = {"w": "w", "temperature": "τ", "density": "d", "kd": "kd", "representation": "λ", "lr": "lr"}


Status = Literal["running", "finished", "stopped", "failed", "interrupted"]


@dataclass(frozen=True)
class Trial:
    """The record of a trial in its folder."""

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
    """(steps, J&F) that were reported to Tune, from which a killed search is rebuilt"""

    @property
    def done(self) -> bool:
        """Whether a resumed search does not train it further. A trial whose process was killed is trained again."""
        return self.status in ("finished", "stopped") or (self.status == "failed" and bool(self.problem))


def trial_of(record: Any, origin: str, repair: str) -> Trial:
    """Return a trial from its file, or from the record of a whole search; other entries are ignored.

    Raises InputError, naming `origin`, where the record is not a trial.
    """
    trial = built(record, Trial, origin, repair)
    return replace(trial, validations=[(step, score) for step, score in trial.validations])


def trial_name(parameters: Mapping[str, float], number: int = 0) -> str:
    """Return a trial's name in MLflow's list, whose column holds about twenty letters: its parameters."""
    parts = [f"{SIGNS[name]} {value:.2f}" if name != "lr" else f"lr {value:.1e}" for name, value in parameters.items()]
    return " ".join(parts + ([f"#{number}"] if number else []))


def ranked(trials: Sequence[Trial]) -> list[Trial]:
    """Return the trials, finished ones first, then by J&F."""
    return sorted(trials, key=lambda trial: (trial.status != "finished", -trial.score))


def by_parameters(trials: Sequence[Trial]) -> list[list[Trial]]:
    """Return groups of trials that differ only in their seed."""
    groups: dict[tuple[tuple[str, float], ...], list[Trial]] = {}
    for trial in trials:
        groups.setdefault(tuple(sorted(trial.parameters.items())), []).append(trial)
    return list(groups.values())


def repeat_rows(repeats: Sequence[Trial]) -> list[tuple[dict[str, float], float, float, int]]:
    """Return (parameters, mean J&F, sample sd, seeds) of repeated trials, most finished seeds first, then the best mean."""
    rows = []
    for group in by_parameters(repeats):
        scores = [trial.score for trial in group]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        rows.append((group[0].parameters, statistics.mean(scores), spread, len(scores)))
    # Fewer finished seeds mean that the others diverged, so the mean is only over the surviving ones.
    return sorted(rows, key=lambda row: (-row[3], -row[1]))
