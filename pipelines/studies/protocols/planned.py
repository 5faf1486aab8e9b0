"""A run of a protocol, as data: its configuration, the videos that it learns from and is scored on, and the runs that it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vos.config import EvaluateConfig, JobConfig
from vos.errors import InputError

TEACHER, SEARCH = "teacher", "search"
PRETRAINED = "mobilenet_v2_imagenet.fp16.safetensors"
"""Name of MobileNetV2's ImageNet weights in a plan, whatever the file's name; records hold its digest."""
TEACHER_WEIGHTS = "teacher-imagenet"
"""Name of the ImageNet weights of a teacher with another trunk."""
WEIGHTS = {PRETRAINED: "trunk_weights", TEACHER_WEIGHTS: "teacher_weights"}
"""Name in a plan -> field of ReportConfig that names the file."""
Kind = Literal["teacher", "cache", "student", "evaluation", "search", "labels"]


@dataclass(frozen=True)
class Videos:
    """What a run learns from and what scores it, without a path of any machine.

    fold        1, 2, … leaves that fold of the training videos out and is scored on it; 0 learns from all of them and is scored on the
                validation sequences
    labelled    how many of the remaining videos are learned from with their masks; 0 = all
    others      the run sees the remaining videos that are not `labelled`, and of each only the first mask
    labels      name of the run whose labels are a source, "" without
    davis, stills, unlabelled   shares of the clips; 0 leaves the source out
    """

    fold: int = 0
    fold_videos: int = 8
    labelled: int = 0
    others: bool = False
    labels: str = ""
    davis: float = 1.0
    stills: float = 0.0
    unlabelled: float = 0.0

    @property
    def scored_on(self) -> str:
        """Split of the data set from which the sequences that score the run come."""
        return "train" if self.fold else "val"


@dataclass(frozen=True)
class Planned:
    """One run. The paths in its configurations are names of other runs, or of a file."""

    name: str
    kind: Kind
    job: JobConfig
    """TrainConfig, CacheConfig, EvaluateConfig, TuneConfig or LabelConfig"""
    minutes: float
    """expected CPU minutes"""
    needs: tuple[str, ...] = ()
    evaluation: EvaluateConfig | None = None
    """of the trained model"""
    videos: Videos | None = None
    """None: all training videos, scored on the validation sequences"""

    @property
    def family(self) -> str:
        return family_and_seed(self.name)[0]

    @property
    def seed(self) -> int:
        """The seed of the run's training, or of the training that it evaluates."""
        seed = family_and_seed(self.name)[1]
        return self.job.seed if seed is None else seed


def family_and_seed(name: str) -> tuple[str, int | None]:
    """Split a run's name into its family, shared by runs that differ only in their seed, and its seed; None without a seed."""
    head, _, tail = name.rpartition("-s")
    return (head, int(tail)) if head and tail.isdigit() else (name, None)


def chosen(runs: list[Planned], words: tuple[str, ...]) -> list[Planned]:
    """Return the runs whose name contains one of `words`, and the runs that they need, in the plan's order.

    Raises InputError for a word that no name contains.
    """
    if not words:
        return runs
    for word in words:
        if not any(word in one.name for one in runs):
            raise InputError(f"--only {word}: no run has this in its name; --list shows them all")
    wanted = {one.name for one in runs if any(word in one.name for word in words)}
    for one in reversed(runs):
        if one.name in wanted:
            wanted.update(one.needs)
    return [one for one in runs if one.name in wanted]
