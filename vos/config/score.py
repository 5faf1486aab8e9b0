"""Scores of folders of masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from vos.config.base import JobConfig
from vos.config.fields import cosmetic, path
from vos.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ScoreConfig(JobConfig):
    """Score a folder of predicted masks, from any source, against a folder of true ones: J, F and J&F."""

    smoke_is_less: ClassVar[bool] = False

    out: str = path("runs/scores", decides=False, written=True)
    """Folder of scores.csv."""
    gt: str = path()
    """Folder of true masks, one folder per sequence."""
    pred: str = path()
    """Folder of predicted masks, one folder per sequence."""
    csv: str = path(decides=False, written=True)
    """File for the per-object table (default: scores.csv in --out)."""
    protocol: Literal["auto", "davis2017", "davis2016", "youtubevos"] = "auto"
    """davis2017 averages over objects, davis2016 over sequences of one object, youtubevos scores sparse masks and objects that begin later.
    auto: youtubevos for sequences of this kind and davis2017 for all others, as evaluations of a model do."""
    meta: str = path()
    """youtubevos: meta.json of these videos; with --train-meta the scores are split into seen and unseen."""
    train_meta: str = path()
    """youtubevos: meta.json of the training set; its categories are the seen ones."""
    sequences: str = ""
    """Sequences to score, separated by commas, or a file with one per line (default: all in --gt)."""
    strict: bool = cosmetic(False)
    """Refuse sequences that are absent, too short or lack predicted masks; they are left out and named otherwise."""
    official: bool = cosmetic(False)
    """Also print the figures of the official davis2017-evaluation, which counts ids that no true mask shows as objects."""

    def inert(self) -> Mapping[str, str]:
        return dict.fromkeys(("seed", "threads", "data"), "only masks are compared; leave it out")

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.gt) != bool(self.pred):
            raise InputError("--gt and --pred: give both, the folder of true masks and the folder of predicted masks")
        if bool(self.meta) != bool(self.train_meta):
            raise InputError("--meta and --train-meta: give both, the categories of these videos and the seen ones")
