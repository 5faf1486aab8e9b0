"""Labelling videos with a teacher."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from vos.config.base import AS_TRAINED, BUILTIN_DAVIS_TEACHER, BUILTINS, DataConfig, JobConfig
from vos.config.evaluate import check_working_size
from vos.config.fields import cosmetic, group, path
from vos.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LabelTeacherConfig:
    """The frozen teacher network and its memory: the first frame, every so many frames, and the most recent one."""

    checkpoint: str = path(BUILTIN_DAVIS_TEACHER, decides=False, keywords=BUILTINS)
    """Folder written by jobs.train, an official STCN file (.pth), 'builtin-davis' (trained on DAVIS) or 'builtin' (small, trained on
    synthetic video)."""
    memory_every: int = 5
    """Frames between two frames that the memory keeps."""
    top_k: int = 20
    """Memory positions that each query position reads (0 = all)."""
    gpus: float = cosmetic(1.0)
    """GPUs per actor, if there are any; 0.5 puts two teachers on each GPU."""

    def __post_init__(self) -> None:
        if self.memory_every < 1 or self.top_k < 0 or not self.gpus > 0:
            raise InputError(
                f"--teacher.memory-every {self.memory_every} --teacher.top-k {self.top_k} --teacher.gpus {self.gpus}: "
                "use 1 or more, 0 or more, and above 0"
            )


@dataclass(frozen=True, kw_only=True)
class LabelConfig(JobConfig):
    """Let a teacher follow the given masks through whole videos, and keep the masks that can be trusted."""

    out: str = path("runs/labels", decides=False, written=True)
    """Folder of the labels, on this machine or a shared disk."""
    threads: int = 1
    """Threads of each process. Part of the labels' identity: the last bits of a convolution depend on it."""
    data: DataConfig = group(DataConfig, decides=False)
    split: str = "train"
    """Split of the data set."""
    teacher: LabelTeacherConfig = field(default_factory=LabelTeacherConfig)
    masks: Literal["first", "all"] = "first"
    """first reads the first given mask of each object only; all reads every given mask, which replaces the prediction there."""
    size_px: int = AS_TRAINED
    """Shorter side of the teacher's input, in pixels (0 = original size, -1 = the size in model.json, else original size)."""
    scales: tuple[float, ...] = (1.0,)
    """Factors on that size; the probabilities of several are averaged."""
    flip: bool = False
    """Follow the mirrored video too, at each scale, and average."""
    check_every: int = 10
    """Frames between two beginnings of the backward check."""
    min_agreement: float = 0.6
    """Least IoU of an object's masks forwards and backwards; below it the object is not trusted."""
    min_confidence: float = 0.8
    """Least mean probability of an object over its pixels; a frame below it is left out."""
    hold_out: int = 0
    """Leave every so many kept frames of a video without further given masks out of the clips, to score by them (0 = none)."""
    plan: bool = cosmetic(False)
    """Measure for 20 seconds and print the teacher time and the size that the labels will take, without making them."""
    verify: bool = cosmetic(False)
    """Check finished labels instead: every byte of every file."""
    show: int = cosmetic(0)
    """Draw this many videos of finished labels instead: masks, confidence, what is kept and why."""

    def __post_init__(self) -> None:
        super().__post_init__()
        check_working_size(self.size_px, 0, as_trained=True)
        if (
            not self.scales
            or len(set(self.scales)) < len(self.scales)
            or not all(0.1 <= one <= 4 for one in self.scales)
        ):
            given = " ".join(f"{one:g}" for one in self.scales)
            raise InputError(f"--scales {given}: give different factors from 0.1 to 4, such as --scales 1 1.25")
        check_rules(self)
        if self.show < 0:
            raise InputError(f"--show {self.show}: use 0 or more")
        modes = [name for name in ("plan", "verify", "show") if getattr(self, name)]
        if len(modes) > 1:
            raise InputError(f"--{' --'.join(modes)}: give only one of them")

    def inert(self) -> Mapping[str, str]:
        found = {"seed": "nothing is random here; leave it out"}
        if self.verify or self.show:
            mode = "--verify" if self.verify else "--show"
            made = ("data", "split", "teacher", "masks", "size_px", "scales", "flip", "check_every", "min_agreement")
            names = (*made, "min_confidence", "hold_out")
            found |= dict.fromkeys(names, f"the finished labels in --out decide it; leave it out with {mode}")
        return found


def check_rules(config: LabelConfig) -> None:
    """Raise InputError for rules that no frame could be judged by."""
    if not (0 <= config.min_agreement <= 1 and 0 <= config.min_confidence <= 1):
        raise InputError(
            f"--min-agreement {config.min_agreement} --min-confidence {config.min_confidence}: shares; use 0 to 1"
        )
    if config.check_every < 1 or config.hold_out < 0 or config.hold_out == 1:
        raise InputError(
            f"--check-every {config.check_every} --hold-out {config.hold_out}: use 1 or more, and 0 (none) or 2 or more"
        )
