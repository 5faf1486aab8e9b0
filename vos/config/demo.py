"""The demo of the whole product."""

from __future__ import annotations

from dataclasses import dataclass

from vos.config.base import AS_TRAINED, JobConfig, Preset
from vos.config.evaluate import check_working_size
from vos.config.fields import cosmetic, path
from vos.errors import InputError


@dataclass(frozen=True, kw_only=True)
class DemoConfig(JobConfig):
    """See the whole product work: adapt the student that ships to new videos from a cache of its teacher, and compare before and after."""

    preset: Preset = cosmetic("demo")
    """Named configuration the other flags change: smoke (seconds), demo (minutes), paper (the paper's recipe)."""
    out: str = path("runs/demo", decides=False, written=True)
    """Folder of the demo's results."""
    workers: int = cosmetic(2)
    """Parallel processes, each with --threads threads."""
    draws: int = 240
    """Clip draws in the cache."""
    steps: int = 120
    """Optimiser steps that adapt the student, for each seed."""
    seeds: int = 3
    """Trainings from different seeds, --seed and those after it: their spread says how far a difference can be trusted."""
    lr: float = 3e-4
    """Learning rate of the adaptation; smaller than from scratch, since the student is trained already."""
    size_px: int = AS_TRAINED
    """Shorter side at which networks see frames in the evaluations, in pixels (0 = as they are, -1 = what each was trained for)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_working_size(self.size_px, 0, as_trained=True)
        if min(self.draws, self.steps, self.seeds) < 1 or not 0 < self.lr < 1:
            raise InputError(
                f"--draws {self.draws} --steps {self.steps} --seeds {self.seeds} --lr {self.lr:g}: "
                "use 1 or more of each, and above 0 to less than 1"
            )
