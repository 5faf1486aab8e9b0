"""The results: which runs, on how many cores, and where what they found is kept."""

from __future__ import annotations

from dataclasses import dataclass

from vos.config.base import JobConfig, Preset
from vos.config.fields import cosmetic, path
from vos.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ReportConfig(JobConfig):
    """Run what is missing of the results' protocol, keep a record of each finished run, and build tables, plots and page from them."""

    preset: Preset = cosmetic("davis-cpu")
    """Named protocol: davis-cpu (real video, many hours on 2 cores), demo and paper (their recipes), smoke (synthetic, minutes)."""
    out: str = path("runs/results", decides=False, written=True)
    """Folder of trainings, caches, evaluations and logs; may be large."""
    docs: str = path("docs/results", decides=False, written=True)
    """Folder of the records and plots, small enough to commit; the page is beside it, with .md for its name's end."""
    only: tuple[str, ...] = ()
    """Only runs whose name has one of these words, and what they need, such as: full short-both (default: all)."""
    list: bool = False
    """Print the plan with the state of every run and its expected CPU minutes, and run nothing."""
    page: bool = False
    """Build tables, plots and page from the records that are there, and run nothing."""
    ship: str = ""
    """Put the model of this finished run (its name; for maintainers) into the package, and run nothing: a student becomes
    the built-in one of its architecture, the teacher builtin-davis."""
    run: str = ""
    """Make this run alone (its name), in this process, and write its record: what jobs.report starts for each run, with a log."""
    workers: int = cosmetic(2)
    """Runs at the same time, one thread each."""
    trunk_weights: str = path()
    """ImageNet weights of MobileNetV2, a file under torchvision's names; needed where a student is trained."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.list + self.page + bool(self.ship) + bool(self.run) > 1:
            raise InputError("--list --page --ship --run: one at a time")
        if self.threads != 1 or self.seed != 0:
            raise InputError(
                f"--threads {self.threads} --seed {self.seed}: the protocol has one thread per run and names its seeds; leave them out"
            )
