"""The demo of the whole product."""

from __future__ import annotations

from dataclasses import dataclass

from vos.config.base import JobConfig, Preset
from vos.config.fields import cosmetic, path
from vos.errors import InputError


@dataclass(frozen=True, kw_only=True)
class DemoConfig(JobConfig):
    """See the whole product work: cache, train with and without distillation, evaluate, compare."""

    preset: Preset = cosmetic("demo")
    """Named configuration the other flags change: smoke (seconds), demo (minutes), paper (the paper's recipe)."""
    out: str = path("runs/demo", decides=False, written=True)
    """Folder of the demo's results."""
    workers: int = cosmetic(2)
    """Parallel processes, each with --threads threads."""
    draws: int = 500
    """Clip draws in the cache."""
    steps: int = 300
    """Optimiser steps of each student."""
    teacher_steps: int = 150
    """Steps that fine-tune the built-in teacher on your videos (real data only)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1 or self.steps < 1 or self.teacher_steps < 0:
            raise InputError(
                f"--draws {self.draws} --steps {self.steps} --teacher-steps {self.teacher_steps}: "
                "use 1 or more, 1 or more, and 0 or more"
            )
