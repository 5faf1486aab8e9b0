"""Reading a whole data set before anything long is started on it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from vos.config.base import JobConfig
from vos.config.fields import cosmetic, path


@dataclass(frozen=True, kw_only=True)
class CheckConfig(JobConfig):
    """Read every frame and mask of a split once and list every fault; what has none is remembered."""

    smoke_is_less: ClassVar[bool] = False

    out: str = path("runs/check", decides=False, written=True)
    """Folder for faults.txt and warnings.txt, one line each."""
    split: str = "train"
    """Split of the data set. Only for train it is also checked that clips can be drawn from every video."""
    workers: int = cosmetic(2)
    """Parallel processes, each with --threads threads; one video at a time each."""
    again: bool = cosmetic(False)
    """Read again what an earlier check has read without a fault (a damaged disk changes no file's time)."""

    def inert(self) -> Mapping[str, str]:
        return {"seed": "nothing is drawn at random here; leave it out"}
