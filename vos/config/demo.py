"""The demo of the whole pipeline."""

from __future__ import annotations

from dataclasses import dataclass

from vos.config.base import AS_TRAINED, JobConfig, Preset
from vos.config.evaluate import check_working_size
from vos.config.fields import cosmetic, path
from vos.errors import InputError


@dataclass(frozen=True, kw_only=True)
class DemoConfig(JobConfig):
    """Run the whole pipeline: adapt the built-in student to new videos from a cache of its teacher, and compare before and after."""

    preset: Preset = cosmetic("demo")
    """Named configuration that the other flags change: smoke (seconds), demo (minutes), paper (the paper's recipe)."""
    out: str = path("runs/demo", decides=False, written=True)
    """Folder of the demo's results."""
    workers: int = cosmetic(2)
    """Parallel processes, each with --threads threads."""
    draws: int = 240
    """Clip draws in the cache."""
    steps: int = 100
    """Optimiser steps of the adaptation, for each seed."""
    seeds: int = 3
    """Trainings with consecutive seeds from --seed on; their spread shows how reliable a difference is."""
    lr: float = 3e-4
    """Learning rate of the adaptation; smaller than from scratch, since the student is already trained."""
    size_px: int = AS_TRAINED
    """Shorter side of the frames in the evaluations, in pixels (0 = original size, -1 = the size each network was trained for)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_working_size(self.size_px, 0, as_trained=True)
        if min(self.draws, self.steps, self.seeds) < 1 or not 0 < self.lr < 1:
            raise InputError(
                f"--draws {self.draws} --steps {self.steps} --seeds {self.seeds} --lr {self.lr:g}: "
                "use 1 or more of each, and a rate above 0 and below 1"
            )
