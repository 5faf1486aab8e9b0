"""The search over training configurations."""

from __future__ import annotations

from dataclasses import dataclass, field

from vos.config.base import JobConfig
from vos.config.evaluate import check_working_size
from vos.config.train import TrainConfig
from vos.errors import InputError


@dataclass(frozen=True, kw_only=True)
class TuneConfig(JobConfig):
    """Search w, temperature and sampling density; every trial reads the one cache."""

    out: str = "runs/tune"
    """Folder of the search."""
    cache: str = "runs/cache"
    """Teacher cache made by jobs.cache."""
    trials: int = 16
    """Number of trials."""
    concurrent: int = 2
    """Trials at the same time."""
    train: TrainConfig = field(default_factory=TrainConfig)
    val_videos: int = 8
    """Sequences of the validation split that score a trial, the first ones by name."""
    size_px: int = 0
    """Shorter side at which the network sees validation frames, in pixels (0 = as they are)."""
    max_frames: int = 0
    """Only the first so many frames of each validation sequence (0 = all)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.trials, self.concurrent, self.val_videos) < 1:
            raise InputError(
                f"--trials {self.trials} --concurrent {self.concurrent} --val-videos {self.val_videos}: use 1 or more of each"
            )
        check_working_size(self.size_px, self.max_frames)
