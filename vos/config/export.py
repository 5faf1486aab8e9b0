"""Export of a model to another runtime."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from vos.config.base import BUILTIN_STUDENT, JobConfig, Preset
from vos.config.fields import cosmetic, path
from vos.errors import InputError

FREE = "free"


@dataclass(frozen=True, kw_only=True)
class ExportConfig(JobConfig):
    """Export the whole video pipeline, memory included, for another runtime, and check it against PyTorch."""

    preset: Preset = cosmetic("paper")
    """Named configuration that the other flags change: smoke and demo (small synthetic frames), paper (854x480)."""
    out: str = path("runs/export", decides=False, written=True)
    """Folder of the graphs, their description (graphs.json), the model card (README.md) and the example program (segment.py)."""
    model: str = BUILTIN_STUDENT
    """Folder of jobs.train, .safetensors or .pth file, champion, NAME@champion, models:/NAME/3, the id of an MLflow run,
    builtin-student, builtin-student-mobilenetv2, builtin-davis or builtin."""
    to: Literal["onnx", "openvino", "torch-export", "executorch"] = "onnx"
    """Format of the files."""
    size: str = "854x480"
    """WIDTHxHEIGHT of the frames, any size (padded inside), or 'free': any sides that are multiples of 16."""
    objects: int = 0
    """Number of objects (0 = any; executorch: the largest number, for which memory is reserved)."""
    int8: bool = False
    """Quantise to int8, calibrated on clips of the training split (onnx and openvino; needs NNCF)."""
    calibration_clips: int = 10
    """Clips of four frames for --int8, spread over the training split."""
    evaluation: str = path()
    """Folder of jobs.evaluate; the model card reports its scores (empty: 'not measured')."""

    def inert(self) -> Mapping[str, str]:
        found: dict[str, str] = dict.fromkeys(
            ("seed", "workers"), "one process writes the files, nothing is random; leave it out"
        )
        return found if self.int8 else found | {"calibration_clips": "only --int8 uses it; add that, or leave this out"}

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.size != FREE and (not re.fullmatch(r"\d{2,4}x\d{2,4}", self.size) or min(self.frame_size or (0,)) < 64):
            raise InputError(f"--size {self.size}: use WIDTHxHEIGHT, both from 64, such as 854x480, or free")
        if not 0 <= self.objects <= 254 or self.calibration_clips < 1:
            raise InputError(
                f"--objects {self.objects} --calibration-clips {self.calibration_clips}: use 0 to 254, and 1 or more"
            )
        if self.to == "executorch" and (not self.objects or self.size == FREE):
            raise InputError(
                "--to executorch: its memory is fixed at export; give --objects 1 (or more) and --size WIDTHxHEIGHT"
            )
        if self.int8 and self.to not in ("onnx", "openvino"):
            raise InputError(f"--int8 --to {self.to}: int8 is available for onnx and openvino; use one of them")

    @property
    def frame_size(self) -> tuple[int, int] | None:
        """(H, W), or None if the size is free."""
        if self.size == FREE:
            return None
        width, height = self.size.split("x")
        return int(height), int(width)
