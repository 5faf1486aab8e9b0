"""Adapting a student to videos of one's own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vos.config.base import AS_TRAINED, BUILTIN_STUDENT, BUILTINS, DataConfig, JobConfig, Preset
from vos.config.evaluate import check_working_size
from vos.config.fields import cosmetic, group, path
from vos.config.label import LabelConfig
from vos.errors import InputError


@dataclass(frozen=True, kw_only=True)
class AdaptConfig(JobConfig):
    """Adapt a student to videos with one mask each: label them with a teacher, cache its outputs, train, and score before and after."""

    preset: Preset = cosmetic("demo")
    """Named configuration that the other flags change: demo (minutes, the default), paper (an hour), smoke (seconds)."""
    out: str = path("runs/adapted", decides=False, written=True)
    """Folder of the labels, the cache, the adapted student and the scores; the same command resumes an interrupted one."""
    threads: int = 1
    """Threads of each process. Part of the result's identity: the last bits of a convolution depend on it."""
    data: DataConfig = group(DataConfig, decides=False)
    split: str = "train"
    """Split of the data set."""
    sample: bool = False
    """Adapt to the video that comes with the package, with its own first mask; its frames are written into --out."""
    teacher: str = path(decides=False, keywords=BUILTINS)
    """Folder written by jobs.train, an official STCN file (.pth) or a built-in one. Default: builtin-davis; builtin for synthetic video."""
    student: str = path(BUILTIN_STUDENT, decides=False, keywords=BUILTINS)
    """The student to adapt: a folder written by jobs.train, or a built-in one."""
    min_agreement: float = LabelConfig.min_agreement
    """Least IoU of an object's masks forwards and backwards; below it the teacher is not trusted (jobs.label)."""
    min_confidence: float = LabelConfig.min_confidence
    """Least mean probability of an object over its pixels; a frame below it is left out (jobs.label)."""
    hold_out: int = 5
    """Videos without further true masks: every so many kept frames are not learned from, and score the student (0 = none)."""
    draws: int = 200
    """Clip draws in the cache."""
    steps: int = 200
    """Optimiser steps, for each seed."""
    batch: int = 2
    """Clips per step."""
    lr: float = 3e-4
    """Learning rate; smaller than from scratch, since the student is already trained."""
    crop_px: int = 0
    """Side of the clips' square crop, in pixels, a multiple of 16 (0 = three quarters of the student's working size)."""
    max_skip_frames: int = 8
    """Largest gap between neighbouring frames of a clip, in frames of the video."""
    seeds: int = 1
    """Trainings with consecutive seeds from --seed on; their spread shows how reliable a gain is."""
    size_px: int = AS_TRAINED
    """Shorter side of the student's input when it is scored, in pixels (0 = original size, -1 = the size in its model.json)."""

    def inert(self) -> Mapping[str, str]:
        return {"data": "--sample has its own video; leave one of them out"} if self.sample else {}

    def __post_init__(self) -> None:
        super().__post_init__()
        check_working_size(self.size_px, 0, as_trained=True)
        LabelConfig(min_agreement=self.min_agreement, min_confidence=self.min_confidence, hold_out=self.hold_out)
        if min(self.draws, self.steps, self.seeds, self.batch, self.max_skip_frames) < 1 or not 0 < self.lr < 1:
            raise InputError(
                f"--draws {self.draws} --steps {self.steps} --seeds {self.seeds} --batch {self.batch} --max-skip-frames "
                f"{self.max_skip_frames} --lr {self.lr:g}: use 1 or more of each, and a rate above 0 and below 1"
            )
        if self.crop_px < 0 or self.crop_px % 16 or 0 < self.crop_px < 32:
            nearest = max(32, round(self.crop_px / 16) * 16)
            raise InputError(f"--crop-px {self.crop_px}: the encoders have stride 16; use 0 (chosen) or {nearest}")
