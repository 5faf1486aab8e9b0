"""The published results: which protocol and runs, on how many cores, and where their records are kept."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from vos.config.base import JobConfig, Preset
from vos.config.fields import cosmetic, path
from vos.errors import InputError

FOLDERS = {"folds": "unseen", "validation": "results"}
"""Protocol -> name of its page and of the folders of its records and runs."""


@dataclass(frozen=True, kw_only=True)
class ReportConfig(JobConfig):
    """Do the missing runs of a protocol, keep a record of each finished run, and build tables, plots and page from the records."""

    preset: Preset = cosmetic("davis-cpu")
    """Size of the protocol: davis-cpu (real video, days on 2 cores), demo (hours), smoke (synthetic video, minutes), paper (only with
    --protocol validation)."""
    protocol: Literal["folds", "validation"] = "folds"
    """folds: choices on folds of the training videos, one look at the validation sequences, and the curve over labelled videos
    (docs/unseen.md); validation: the earlier results, whose settings were chosen on the validation sequences (docs/results.md)."""
    out: str = path(decides=False, written=True)
    """Folder of trainings, caches, evaluations and logs; may be large. Default: runs/unseen; runs/results for validation."""
    docs: str = path(decides=False, written=True)
    """Folder of the records and plots, small enough to commit; the page is beside it, under the same name with .md. Default: docs/unseen;
    docs/results for validation; in --out for other presets than davis-cpu."""
    stills: str = path()
    """Folder of still images with masks, for the protocol folds on real video (docs/data.md, kind stills)."""
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
    teacher_weights: str = path()
    """ImageNet weights of the protocol folds' teacher, where its trunk is another than MobileNetV2."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.list + self.page + bool(self.ship) + bool(self.run) > 1:
            raise InputError("--list --page --ship --run: give only one of them")
        if self.threads != 1 or self.seed != 0:
            raise InputError(
                f"--threads {self.threads} --seed {self.seed}: the protocol sets one thread per run and its seeds; leave them out"
            )
        if self.data.sources or self.data.fold:
            raise InputError(
                "--data.sources --data.fold: the protocol sets them; name the data sets by --data.root and --stills"
            )

    def inert(self) -> Mapping[str, str]:
        if self.protocol == "folds":
            return {}
        return dict.fromkeys(("stills", "teacher_weights"), "only --protocol folds reads it; leave it out")

    def completed(self) -> ReportConfig:
        name, home = FOLDERS[self.protocol], self.preset == "davis-cpu"
        out = self.out or (f"runs/{name}" if home else f"runs/{name}-{self.preset}")
        return replace(self, out=out, docs=self.docs or (f"docs/{name}" if home else f"{out}/{name}"))
