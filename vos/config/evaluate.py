"""Scoring a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from vos.config.base import AS_TRAINED, BUILTIN_TEACHER, BUILTINS, JobConfig
from vos.config.fields import cosmetic, path
from vos.errors import InputError


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """Which frames a query frame reads from."""

    kind: Literal["auto", "infinite", "first_recent", "first", "recent"] = "auto"
    """first_recent has constant cost, first and recent are one of the two alone; infinite grows; auto takes what the checkpoint was
    trained for."""
    every: int = 5
    """Infinite memory: a memory frame every so many frames."""
    include_last: bool = False
    """Infinite memory: the most recent frame too, until the next one comes (STCN's option of this name)."""
    top_k: int = 20
    """Memory positions that each query position reads (0 = all)."""

    def __post_init__(self) -> None:
        if self.every < 1 or self.top_k < 0:
            raise InputError(f"--memory.every {self.every} --memory.top-k {self.top_k}: use 1 or more, and 0 or more")


def check_working_size(size_px: int, max_frames: int, as_trained: bool = False) -> None:
    if size_px < 0 and not (as_trained and size_px == AS_TRAINED):
        raise InputError(f"--size-px {size_px}: use 0 (frames as they are) or more")
    if max_frames < 0 or max_frames == 1:
        raise InputError(f"--max-frames {max_frames}: use 0 (all), or 2 or more, since the first frame is given")


@dataclass(frozen=True, kw_only=True)
class FpsConfig:
    """Speed protocol: batch 1, first frame excluded, after warm-up, decoding excluded."""

    sequences: int = 1
    """Sequences that are timed, the first ones by name (0 = no timing)."""
    long_repeats: int = 10
    """The long protocol plays a sequence this many times in a row."""

    def __post_init__(self) -> None:
        if self.sequences < 0 or self.long_repeats < 1:
            raise InputError(
                f"--fps.sequences {self.sequences} --fps.long-repeats {self.long_repeats}: use 0 or more, and 1 or more"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(JobConfig):
    """Segment the sequences of a split, write palette PNGs, score J&F and measure FPS."""

    out: str = path("runs/evaluation", decides=False, written=True)
    """Folder of the masks and scores."""
    checkpoint: str = path(BUILTIN_TEACHER, keywords=(*BUILTINS, "copy"))
    """Folder written by jobs.train, models:/NAME/3 or models:/NAME@champion, an official STCN file (.pth), 'builtin' (the small teacher),
    'builtin-student', 'builtin-student-mobilenetv2', 'builtin-student-resnet18' and 'builtin-davis' (trained on DAVIS), or 'copy'
    (repeat the first mask). With --runtime also a folder of jobs.export."""
    register: bool = cosmetic(False)
    """Make it a version in the registry: champion where this very evaluation is better than the champion's, else challenger."""
    split: str = "val"
    """Split of the data set."""
    size_px: int = AS_TRAINED
    """Shorter side at which the network sees frames, in pixels (0 = as they are, -1 = what the model's model.json says, else as they
    are); masks are scored at full size."""
    max_frames: int = 0
    """Only the first so many frames of each sequence (0 = all)."""
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    runtime: Literal["", "auto", "eager", "compile", "onnxruntime", "openvino"] = ""
    """Segment with the real-time engine on this runtime, with first and recent memory (empty: the reference loop with --memory)."""
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    """Arithmetic of the engine; auto takes bf16 where it is faster (AMX) and the runtime can."""
    fps: FpsConfig = field(default_factory=FpsConfig)
    csv: str = path(decides=False, written=True)
    """Another file for the per-object table; it is scores.csv in --out otherwise."""

    def inert(self) -> Mapping[str, str]:
        found = {"seed": "nothing is drawn at random here; leave it out"}
        if self.runtime:
            names = ("every", "include_last", "top_k")
            found |= {f"memory.{name}": "the engine has first and recent memory; leave --runtime out" for name in names}
        if not self.fps.sequences:
            found["fps.long_repeats"] = "nothing is timed; leave it out, or give --fps.sequences"
        return found

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.register and (self.checkpoint == "copy" or self.runtime):
            raise InputError(
                "--register: there is no network to register; name one with --checkpoint, without --runtime"
            )
        if self.precision != "auto" and not self.runtime:
            raise InputError(
                f"--precision {self.precision}: the reference loop is fp32; name the engine's --runtime too"
            )
        if self.runtime and (self.checkpoint == "copy" or self.memory.kind not in ("auto", "first_recent")):
            raise InputError(
                f"--runtime {self.runtime}: the engine runs networks with first and recent memory; leave it out"
            )
        check_working_size(self.size_px, self.max_frames, as_trained=True)


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(JobConfig):
    """Check that models, losses, sampling and scores are the published ones, number by number."""

    smoke_is_less: ClassVar[bool] = False

    out: str = path(decides=False, written=True)
    """Folder for checks.json (empty: the checks are only printed)."""
    golden: str = path()
    """Folder of golden numbers of the official code; nothing in it is executed (empty: its checks are skipped)."""
    weights: str = path()
    """ImageNet weights of MobileNetV2, a file or its folder (empty: its checks are skipped)."""
    strict: bool = False
    """Fail also where a check was skipped for want of a file."""

    def inert(self) -> Mapping[str, str]:
        return {} if self.out else {"overwrite": "nothing is written without --out; leave it out"}
