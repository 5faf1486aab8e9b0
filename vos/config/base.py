"""What every job takes, and where the videos are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from vos.config.fields import cosmetic, path
from vos.errors import InputError
from vos.files.limits import check_limit

Preset = Literal["smoke", "demo", "paper", "davis-cpu"]
BUILTIN_TEACHER = "builtin"
BUILTIN_STUDENT = "builtin-student"
BUILTIN_DAVIS_TEACHER = "builtin-davis"
BUILTIN_STUDENTS = {
    "mobilevos-mobilenetv2-noaspp": BUILTIN_STUDENT,
    "mobilevos-mobilenetv2": "builtin-student-mobilenetv2",
    "mobilevos-resnet18": "builtin-student-resnet18",
}
"""The students that come with the project: architecture -> name."""
BUILTINS = (BUILTIN_TEACHER, BUILTIN_DAVIS_TEACHER, *BUILTIN_STUDENTS.values())
"""Every network that comes with the project, by the names that a user may give."""
AS_TRAINED = -1
"""A working size: what the model's own description says, else the frames as they are."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the videos are. Without a root, synthetic videos are made on the fly."""

    root: str = path()
    """Folder of the data set (DAVIS, YouTube-VOS or frames with first masks). Default: $DAVIS_ROOT, else synthetic video."""
    kind: Literal["auto", "davis2016", "davis2017", "youtubevos", "folder", "synthetic"] = "auto"
    """Layout of the folder; auto looks for the files that tell them apart."""
    synthetic_videos: int = 96
    """Number of synthetic training videos; the validation split is a sixth of it."""
    synthetic_frames: int = 30
    """Frames of each synthetic video."""
    synthetic_height_px: int = 144
    """Height of synthetic frames, in pixels; the width is 3/2 of it."""
    synthetic_seed: int = 0
    """Seed of the synthetic data set (not of the training)."""

    def __post_init__(self) -> None:
        check_limit("synthetic_videos", self.synthetic_videos, f"--data.synthetic-videos {self.synthetic_videos}")
        if (
            min(self.synthetic_videos, self.synthetic_frames) < 1
            or self.synthetic_frames > 100_000
            or not 8 <= self.synthetic_height_px <= 8192
            or not 0 <= self.synthetic_seed < 2**31
        ):
            raise InputError(
                f"--data.synthetic-videos {self.synthetic_videos} --data.synthetic-frames {self.synthetic_frames} "
                f"--data.synthetic-height-px {self.synthetic_height_px} --data.synthetic-seed {self.synthetic_seed}: "
                "use 1 or more, 1 to 100000, 8 to 8192, and 0 or more"
            )


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """What every job takes."""

    least_threads: ClassVar[int] = 1
    """0 where a job takes --threads 0 for all cores."""
    smoke_is_less: ClassVar[bool] = True
    """Whether the preset smoke does less than the others."""

    preset: Preset = cosmetic("paper")
    """Named configuration the other flags change: paper (the paper's recipe, the default), davis-cpu (real video on a few cores: the
    protocol of docs/results.md; cache, train, evaluate, tune and report have it), demo (minutes), smoke (seconds, to see that it runs)."""
    out: str = path("runs/out", decides=False, written=True)
    """Folder of the result."""
    seed: int = 0
    """Seed of everything random."""
    workers: int = cosmetic(1)
    """Parallel processes, each with --threads threads."""
    threads: int = cosmetic(1)
    """Threads of each process. On few cores, one thread and several workers is the fastest."""
    data: DataConfig = field(default_factory=DataConfig)
    overwrite: bool = cosmetic(False)
    """Replace files that are in the way and that this job did not write; unrelated files are never deleted."""
    debug: bool = cosmetic(False)
    """Show the traceback of an error."""

    def inert(self) -> Mapping[str, str]:
        """Flags that have no effect in this configuration, and what to do instead: refused where they are given.

        A name stands for its whole group: "clip" for every --clip.…
        """
        return {}

    def __post_init__(self) -> None:
        if self.workers < 1 or self.threads < self.least_threads:
            least = "1 or more of each" if self.least_threads else "1 or more, and 0 (all cores) or more"
            raise InputError(f"--workers {self.workers} --threads {self.threads}: use {least}")
        if not 0 <= self.seed < 2**31:
            raise InputError(f"--seed {self.seed}: use 0 to {2**31 - 1}")
