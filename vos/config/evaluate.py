"""Evaluation of a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from vos.config.base import AS_TRAINED, BUILTIN_TEACHER, BUILTINS, JobConfig
from vos.config.fields import cosmetic, path
from vos.errors import InputError


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """Memory frames that a query frame reads from."""

    kind: Literal["auto", "infinite", "first_recent", "first", "recent"] = "auto"
    """first_recent has constant cost; first and recent are one of the two alone; infinite grows; auto is the kind the checkpoint was
    trained with."""
    every: int = 5
    """Infinite memory: frames between two memory frames."""
    include_last: bool = False
    """Infinite memory: also read the most recent frame (STCN's option of this name)."""
    top_k: int = 20
    """Memory positions that each query position reads (0 = all)."""
    gate: float = 0.0
    """Recent memory: keep the earlier one where a frame's confidence, the mean probability of its object pixels, is lower than this (0 =
    remember every frame)."""

    def __post_init__(self) -> None:
        check_gate(self.gate, "--memory.gate")
        if self.gate and self.kind in ("infinite", "first"):
            raise InputError(
                f"--memory.gate {self.gate}: {self.kind} memory has no recent frame; use --memory.kind first_recent"
            )
        if self.every < 1 or self.top_k < 0:
            raise InputError(f"--memory.every {self.every} --memory.top-k {self.top_k}: use 1 or more, and 0 or more")


def check_gate(gate: float, flag: str) -> None:
    if not 0 <= gate <= 1:
        raise InputError(f"{flag} {gate}: use 0 (remember every frame) to 1")


def check_working_size(size_px: int, max_frames: int, as_trained: bool = False) -> None:
    if size_px < 0 and not (as_trained and size_px == AS_TRAINED):
        raise InputError(f"--size-px {size_px}: use 0 (frames as they are) or more")
    if max_frames < 0 or max_frames == 1:
        raise InputError(f"--max-frames {max_frames}: use 0 (all), or 2 or more, since the first frame is given")


@dataclass(frozen=True, kw_only=True)
class FpsConfig:
    """Speed protocol: batch 1, after a warm-up, without the first frame and without decoding."""

    sequences: int = 1
    """Sequences to time, the first ones by name (0 = no timing)."""
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
    'builtin-student', 'builtin-student-mobilenetv2' and 'builtin-davis' (trained on DAVIS), or 'copy' (repeat the first mask).
    With --runtime also a folder of jobs.export."""
    register: bool = cosmetic(False)
    """Register the model: as champion if it scores better than the champion in the same evaluation, else as challenger."""
    split: str = "val"
    """Split of the data set."""
    size_px: int = AS_TRAINED
    """Shorter side of the network's input, in pixels (0 = original size, -1 = the size in model.json, else original size); masks are
    scored at full size."""
    max_frames: int = 0
    """Use only this many frames from the start of each sequence (0 = all)."""
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    runtime: Literal["", "auto", "eager", "compile", "onnxruntime", "openvino"] = ""
    """Segment with the real-time engine on this runtime, with first and recent memory (empty: the reference loop with --memory)."""
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    """Arithmetic of the engine; auto is bf16 if it is faster (AMX) and the runtime supports it, else fp32."""
    fps: FpsConfig = field(default_factory=FpsConfig)
    csv: str = path(decides=False, written=True)
    """File for the per-object table (default: scores.csv in --out)."""

    def inert(self) -> Mapping[str, str]:
        found = {"seed": "nothing is random here; leave it out"}
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
                "--register: there is no network to register; give one with --checkpoint, without --runtime"
            )
        if self.precision != "auto" and not self.runtime:
            raise InputError(
                f"--precision {self.precision}: the reference loop is fp32; also give the engine's --runtime"
            )
        if self.runtime and (self.checkpoint == "copy" or self.memory.kind not in ("auto", "first_recent")):
            raise InputError(
                f"--runtime {self.runtime}: the engine runs networks with first and recent memory; leave it out"
            )
        check_working_size(self.size_px, self.max_frames, as_trained=True)


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(JobConfig):
    """Check models, losses, sampling and scores against the published numbers."""

    smoke_is_less: ClassVar[bool] = False

    out: str = path(decides=False, written=True)
    """Folder for checks.json (empty: the checks are only printed)."""
    golden: str = path()
    """Folder of reference numbers from the official code; nothing in it is executed (empty: skip these checks)."""
    weights: str = path()
    """ImageNet weights of MobileNetV2, a file or its folder (empty: skip these checks)."""
    strict: bool = False
    """Also fail if a check was skipped because a file is missing."""

    def inert(self) -> Mapping[str, str]:
        return {} if self.out else {"overwrite": "nothing is written without --out; leave it out"}
