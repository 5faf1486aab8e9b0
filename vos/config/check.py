"""Reading a whole data set before anything long is started on it."""

from __future__ import annotations

from dataclasses import dataclass

from vos.config.base import JobConfig


@dataclass(frozen=True, kw_only=True)
class CheckConfig(JobConfig):
    """Read every frame and mask of a split once and list every fault; what has none is remembered."""

    out: str = "runs/check"
    """Folder for faults.txt and warnings.txt, one line each."""
    split: str = "train"
    """Split of the data set. Only for train it is also checked that clips can be drawn from every video."""
    workers: int = 2
    """Parallel processes, each with --threads threads; one video at a time each."""
    again: bool = False
    """Read again what an earlier check has read without a fault (a damaged disk changes no file's time)."""
