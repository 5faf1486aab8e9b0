"""The published results: which runs, on how many cores, and where their records are kept."""

from __future__ import annotations

from dataclasses import dataclass

from vos.config.base import JobConfig, Preset
from vos.config.fields import cosmetic, path
from vos.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ReportConfig(JobConfig):
    """Do the missing runs of a protocol, keep a record of each finished run, and build tables, plots and page from the records."""

    preset: Preset = cosmetic("davis-cpu")
    """Named protocol: davis-cpu (real video, many hours on 2 cores), demo and paper (their recipes), smoke (synthetic, minutes)."""
    out: str = path("runs/results", decides=False, written=True)
    """Folder of trainings, caches, evaluations and logs; may be large."""
    docs: str = path("docs/results", decides=False, written=True)
    """Folder of the records and plots, small enough to commit; the page is beside it, under the same name with .md."""
    only: tuple[str, ...] = ()
    """Only runs whose name contains one of these words, and the runs they need, such as: full short-both (default: all)."""
    list: bool = False
    """Only print the plan: state and expected CPU minutes of every run."""
    page: bool = False
    """Only build tables, plots and page from the existing records."""
    ship: str = ""
    """Only copy the model of this finished run (its name) into the package, for maintainers: a student becomes the built-in one of its
    architecture, the teacher becomes builtin-davis."""
    run: str = ""
    """Do only this run (its name), in this process, and write its record; jobs.report starts this command for each run, with a log."""
    workers: int = cosmetic(2)
    """Runs at the same time, one thread each."""
    trunk_weights: str = path()
    """ImageNet weights of MobileNetV2, a file with torchvision's names; needed if a student is trained."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.list + self.page + bool(self.ship) + bool(self.run) > 1:
            raise InputError("--list --page --ship --run: give only one of them")
        if self.threads != 1 or self.seed != 0:
            raise InputError(
                f"--threads {self.threads} --seed {self.seed}: the protocol sets one thread per run and its seeds; leave them out"
            )
