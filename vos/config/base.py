"""Options that every job has, and the location of the videos."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Self

from vos.config.fields import cosmetic, later, path
from vos.config.sources import Kind, Spelled, read_sources, split_paths
from vos.errors import InputError
from vos.files.limits import check_limit

Preset = Literal["smoke", "demo", "paper", "davis-cpu"]
BUILTIN_TEACHER = "builtin"
BUILTIN_STUDENT = "builtin-student"
BUILTIN_DAVIS_TEACHER = "builtin-davis"
BUILTIN_STUDENTS = {
    "mobilevos-mobilenetv2-noaspp": BUILTIN_STUDENT,
    "mobilevos-mobilenetv2": "builtin-student-mobilenetv2",
}
"""Students included in the package: architecture -> name."""
BUILTINS = (BUILTIN_TEACHER, BUILTIN_DAVIS_TEACHER, *BUILTIN_STUDENTS.values())
"""Names of all networks included in the package."""
AS_TRAINED = -1
"""Working size that stands for the one in the model's model.json, or full size if it has none."""


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Location of the videos. Without a root, synthetic videos are generated."""

    root: str = path()
    """Folder of the data set (DAVIS, YouTube-VOS or frames with first masks). Default: $DAVIS_ROOT, else synthetic video."""
    kind: Kind = "auto"
    """Layout of the folder; auto detects it from the files in it."""
    sources: tuple[str, ...] = path((), split=split_paths, later=True)
    """Several data sets instead of --data.root, as KIND[@SPLIT]=PATH[:WEIGHT] each: davis2016=DAVIS:0.5 stills=STILLS:0.3. Weights are
    shares of the clips; SPLIT names another split than train, or a text file with the names (a path with a slash)."""
    fold: int = later(0)
    """Choose on training videos: 1, 2, … holds out that part of them; they become the split val, the others train (0 = the data set's own
    splits)."""
    fold_videos: int = later(8)
    """Videos of a fold; folds do not overlap."""
    skip_damaged: bool = later(False)
    """Still images that are damaged or show no object are left out, counted and named; otherwise the first of them stops the job."""
    synthetic_videos: int = 96
    """Number of synthetic training videos; the validation split is a sixth of it."""
    synthetic_frames: int = 30
    """Frames of each synthetic video."""
    synthetic_height_px: int = 144
    """Height of synthetic frames, in pixels; the width is 3/2 of it."""
    synthetic_seed: int = 0
    """Seed of the synthetic data set (not of the training)."""

    def __post_init__(self) -> None:
        if self.mixture and (self.root or self.kind != "auto"):
            given = f"--data.root {self.root}" if self.root else f"--data.kind {self.kind}"
            raise InputError(
                f"{given} --data.sources {' '.join(self.sources)}: give one of them; a source names its kind"
            )
        if self.fold < 0 or self.fold_videos < 1:
            raise InputError(
                f"--data.fold {self.fold} --data.fold-videos {self.fold_videos}: use 0 or more, and 1 or more"
            )
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

    @property
    def mixture(self) -> tuple[Spelled, ...]:
        """The data sets of `sources`; none for a single data set. Raises InputError for a wrong spelling."""
        return read_sources(self.sources)


@dataclass(frozen=True, kw_only=True)
class JobConfig:
    """Options that every job has."""

    least_threads: ClassVar[int] = 1
    """0 if the job accepts --threads 0 (all cores)."""
    smoke_is_less: ClassVar[bool] = True
    """Whether the preset smoke does less work than the others."""

    preset: Preset = cosmetic("paper")
    """Named configuration that the other flags change: paper (the paper's recipe, default), davis-cpu (real video on a few cores, the
    protocol of docs/results.md; for cache, train, evaluate, tune and report), demo (minutes), smoke (seconds, checks that it runs)."""
    out: str = path("runs/out", decides=False, written=True)
    """Folder of the result."""
    seed: int = 0
    """Seed of all random numbers."""
    workers: int = cosmetic(1)
    """Parallel processes, each with --threads threads."""
    threads: int = cosmetic(1)
    """Threads of each process. On few cores, one thread and several workers are fastest."""
    data: DataConfig = field(default_factory=DataConfig)
    overwrite: bool = cosmetic(False)
    """Also replace existing files that this job did not write; unrelated files are never deleted."""
    debug: bool = cosmetic(False)
    """Show the traceback of an error."""

    def inert(self) -> Mapping[str, str]:
        """Return flags that have no effect in this configuration, with advice; they are refused if given.

        The name of a group stands for all its flags: "clip" for every --clip.…
        """
        return {}

    def completed(self) -> Self:
        """Return the configuration with the defaults that follow from its other fields; paths in it may be relative."""
        return self

    def __post_init__(self) -> None:
        if self.workers < 1 or self.threads < self.least_threads:
            least = "1 or more of each" if self.least_threads else "1 or more, and 0 (all cores) or more"
            raise InputError(f"--workers {self.workers} --threads {self.threads}: use {least}")
        if not 0 <= self.seed < 2**31:
            raise InputError(f"--seed {self.seed}: use 0 to {2**31 - 1}")
