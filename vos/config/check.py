"""Check of a whole data set before long work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

from vos.config.base import JobConfig
from vos.config.fields import cosmetic, path


@dataclass(frozen=True, kw_only=True)
class CheckConfig(JobConfig):
    """Read every frame and mask of a split once and list every fault; videos without faults are recorded."""

    smoke_is_less: ClassVar[bool] = False

    out: str = path("runs/check", decides=False, written=True)
    """Folder for faults.txt and warnings.txt, with one fault or warning per line."""
    split: str = "train"
    """Split of the data set. For train, also check that clips can be drawn from every video."""
    workers: int = cosmetic(2)
    """Parallel processes, each with --threads threads; one video at a time each."""
    again: bool = cosmetic(False)
    """Also read videos again that passed an earlier check (a failing disk does not change a file's time)."""

    def inert(self) -> Mapping[str, str]:
        return {"seed": "nothing is random here; leave it out"}
