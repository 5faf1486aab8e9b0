"""Measuring speed and size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vos.config.base import BUILTIN_TEACHER, BUILTINS, JobConfig, Preset
from vos.config.fields import cosmetic, path
from vos.errors import InputError


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(JobConfig):
    """Measure against named baselines, interleaved in one run; medians are reported."""

    preset: Preset = cosmetic("paper")
    """Named configuration that the other flags change: smoke (seconds), demo (minutes), paper (the paper's sizes)."""
    what: Literal["cache", "train", "data", "start", "mixture"] = "cache"
    """What is measured; it can also be the first word of the command line."""
    out: str = path("runs/benchmark", decides=False, written=True)
    """Folder of the figures and of the caches built for them."""
    teacher: str = path(BUILTIN_TEACHER, keywords=BUILTINS)
    """Teacher of the cache measurements (size curve, actors): folder or .pth."""
    online_teacher: str = "stcn"
    """Architecture (random weights) of the online teacher that a training step from the cache is compared with."""
    student: str = "mobilevos-mobilenetv2"
    """Architecture of the student whose training step is timed."""
    crop_px: int = 384
    """Side of the clips."""
    samples: int = 1024
    """Sampled pixels per query frame."""
    draws: int = 24
    """Clips of each measurement."""
    rounds: int = 3
    """Repetitions of each comparison; the two sides alternate."""
    search: bool = True
    """train: also time a search (half an hour)."""
    trials: int = 16
    """train: trials of the timed search."""
    trial_steps: int = 700
    """train: steps of each trial (about three minutes of mobilevos-tiny at 112 px)."""
    json: str = path(decides=False, written=True)
    """File for the rows (default: rows.json in --out)."""

    def inert(self) -> Mapping[str, str]:
        found: dict[str, str] = dict.fromkeys(
            ("workers", "threads"), "each measurement sets its own processes and threads; leave it out"
        )
        if self.what != "train":
            found |= dict.fromkeys(("search", "trials", "trial_steps"), "it is for: python -m jobs.benchmark train")
        return found

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 12 or self.rounds < 1:
            raise InputError(f"--draws {self.draws} --rounds {self.rounds}: use 12 or more, and 1 or more")
        if self.crop_px < 32 or self.crop_px % 16 or self.samples < 2:
            raise InputError(
                f"--crop-px {self.crop_px} --samples {self.samples}: use a multiple of 16 from 32 on, and 2 or more"
            )
        if self.trials < 1 or self.trial_steps < 1:
            raise InputError(f"--trials {self.trials} --trial-steps {self.trial_steps}: use 1 or more of each")
