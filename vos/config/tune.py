"""Search over training configurations."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields

from vos.config.base import DataConfig, JobConfig
from vos.config.evaluate import check_working_size
from vos.config.fields import cosmetic, group, path
from vos.config.train import TrainConfig
from vos.errors import InputError

SHARED = ("cache", "data", "seed", "workers", "threads", "overwrite", "debug")
"""Fields of a trial whose value is the search's field of the same name."""


@dataclass(frozen=True, kw_only=True)
class SpaceConfig:
    """Search ranges, lowest and highest value; empty = the value in --train is used. All but w are on a logarithmic scale."""

    w: tuple[float, ...] = (0.0, 1.0)
    """Share of the teacher's correlations in the target (--train.loss.w)."""
    temperature: tuple[float, ...] = (0.1, 10.0)
    """Temperature of the logits (--train.loss.temperature)."""
    density: tuple[float, ...] = (0.0625, 1.0)
    """Share of the cached sampled pixels, a prefix of their nested order (--train.loss.density)."""
    kd: tuple[float, ...] = ()
    """Weight of the logit distillation (--train.loss.kd)."""
    representation: tuple[float, ...] = ()
    """Weight of the representation loss (--train.loss.representation)."""
    lr: tuple[float, ...] = ()
    """Learning rate (--train.optimiser.lr)."""

    def __post_init__(self) -> None:
        for name, bounds in self.ranges().items():
            lowest = 0.0 if name == "w" else 1e-12
            highest = 1.0 if name in ("w", "density") else float("inf")
            if len(bounds) != 2 or not lowest <= bounds[0] < bounds[1] <= highest:
                limits = "0 to 1" if name == "w" else "above 0 to 1" if name == "density" else "above 0"
                given = " ".join(map(str, bounds))
                raise InputError(f"--space.{name} {given}: give the lowest and the highest value, {limits}")
        if not self.ranges():
            raise InputError("--space: nothing is searched; give a range, such as --space.w 0 1")

    def ranges(self) -> dict[str, tuple[float, ...]]:
        """Return the ranges by name, in the order of the fields."""
        return {one.name: getattr(self, one.name) for one in fields(self) if getattr(self, one.name)}


@dataclass(frozen=True, kw_only=True)
class TuneConfig(JobConfig):
    """Search w, temperature and sampling density (and more); all trials read one cache."""

    out: str = path("runs/tune", decides=False, written=True)
    """Folder of the search; the same command resumes an interrupted one."""
    cache: str = path("runs/cache")
    """Teacher cache made by jobs.cache."""
    trials: int = 16
    """Number of trials."""
    concurrent: int = cosmetic(2)
    """Trials that run at the same time."""
    space: SpaceConfig = field(default_factory=SpaceConfig)
    asha: bool = True
    """Stop trials early whose J&F is low at a validation (successive halving)."""
    rungs: int = 3
    """Validations of a trial, spread over its steps; the best J&F counts."""
    repeat: int = cosmetic(0)
    """Train the best three again with this many other seeds, and choose the winner by the mean."""
    resume: bool = cosmetic(False)
    """Fail if there is no search to resume in --out (without it, a new search is started then)."""
    data: DataConfig = group(DataConfig, decides=False)
    train: TrainConfig = group(TrainConfig, apart=("data", "cache", "seed", "validation"))
    val_videos: int = 8
    """Sequences of the validation split that score a trial, the first ones by name."""
    size_px: int = 0
    """Shorter side of the network's input in validations, in pixels (0 = original size)."""
    max_frames: int = 0
    """Use only this many frames from the start of each validation sequence (0 = all)."""

    def inert(self) -> Mapping[str, str]:
        searched = {
            f"train.{'optimiser' if name == 'lr' else 'loss'}.{name}": f"it is searched; give --space.{name} without a value to fix it"
            for name in self.space.ranges()
        }
        own = {f"train.{name}": f"the search decides it; give --{name.replace('_', '-')}" for name in SHARED}
        by_cache = ("clip", "draws", "draw_seed", "role")
        return {
            **searched,
            **own,
            **{f"train.{name}": "the cache decides it; leave it out" for name in by_cache},
            "train.out": "each trial has its folder in --out; leave it out",
            "train.experiment": "trials are logged in the experiment tune; leave it out",
            "train.preset": "give --preset",
            "train.validation": "give --rungs, --val-videos, --size-px or --max-frames",
            "train.here": "--workers decides it: trials of one worker train without Ray Train; give --workers",
        }

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.trials, self.concurrent, self.val_videos, self.rungs) < 1:
            raise InputError(
                f"--trials {self.trials} --concurrent {self.concurrent} --val-videos {self.val_videos} --rungs {self.rungs}: "
                "use 1 or more of each"
            )
        if self.repeat == 1 or self.repeat < 0:
            raise InputError(f"--repeat {self.repeat}: a spread needs 2 seeds or more (0 = no repetition)")
        check_working_size(self.size_px, self.max_frames)
