"""Segmenting a video of one's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from vos.config.base import AS_TRAINED, BUILTIN_STUDENT, JobConfig, Preset
from vos.config.evaluate import check_gate, check_working_size
from vos.config.fields import cosmetic, path
from vos.errors import InputError

OUT_ENDINGS = (".mp4", ".m4v", ".mov", ".mkv")
STANDARD_INPUT = "-"


@dataclass(frozen=True, kw_only=True)
class SegmentConfig(JobConfig):
    """Follow the objects of a first mask through a video: an overlay video and palette PNGs."""

    least_threads: ClassVar[int] = 0
    smoke_is_less: ClassVar[bool] = False

    preset: Preset = cosmetic("demo")
    """Named configuration the other flags change: demo (the default) and smoke take the fastest runtime, paper the reference: PyTorch as it
    is, in fp32."""
    video: str = path(streamed=True, keywords=("-",))
    """Video file (MP4, MOV, MKV, WebM, AVI, MPEG, TS, Y4M, GIF, Ogg), folder of JPEG or PNG frames, or - for raw frames on standard
    input; the first word of the command line says it too."""
    sample: bool = False
    """Segment the video that comes with the package, with its own first mask: a rabbit and the rocks beside it."""
    first_mask: str = path()
    """PNG with the objects of the first frame: palette or grey, 0 is background, each other value an object; 0 and 255 mean one object."""
    mask_values: Literal["auto", "stored"] = "auto"
    """auto asks where a mask is unclear, and reads soft edges and permuted palettes as what they show; stored takes every value as an
    object's id, and a mask without background as it is."""
    add: tuple[str, ...] = ()
    """FRAME:MASK.png, objects that appear in that frame, counted from 0; may be given several times (default: none)"""
    out: str = path(decides=False, written=True)
    """The overlay video (.mp4, .m4v, .mov or .mkv): H.264 where PyAV can. Default: runs/segment.mp4, or runs/sample.mp4 with --sample."""
    masks: str = path(decides=False, written=True)
    """Folder of the palette PNGs. Default: --out without its ending, with -masks."""
    no_masks: bool = False
    """Write no palette PNGs."""
    model: str = BUILTIN_STUDENT
    """Folder of jobs.train or jobs.export, .safetensors or .pth file, champion, NAME@champion, models:/NAME/3, the id of an MLflow run,
    builtin-student (1.9 M, trained on DAVIS), builtin-student-mobilenetv2 (2.5 M, with ASPP), builtin-davis (their
    teacher) or builtin (a small teacher, synthetic video)."""
    runtime: Literal["auto", "eager", "compile", "onnxruntime", "openvino"] = "auto"
    """What runs the network: auto takes the fastest that is installed, eager is PyTorch as it is."""
    precision: Literal["auto", "fp32", "bf16", "int8"] = "auto"
    """Arithmetic; auto takes bf16 where it is faster (AMX) and the runtime can."""
    size_px: int = AS_TRAINED
    """Shorter side at which the network sees frames, in pixels (0 = as they are, -1 = what the model's model.json says, else as they
    are); outputs have the video's size."""
    upsampling: Literal["bilinear", "edge"] = "bilinear"
    """From --size-px to the video's size; edge follows the picture's edges."""
    gate: float = 0.0
    """Keep the earlier recent memory where a frame's confidence, the mean probability of its object pixels, is lower than this (0 =
    remember every frame)."""
    threads: int = cosmetic(0)
    """Threads of the network (0 = all cores)."""
    fps: float = 0.0
    """Constant frames per second of the overlay video, without sound (0 = the video's own times; 25 for a folder or standard input)."""
    damaged: Literal["report", "skip"] = cosmetic("report")
    """Of a video that is cut, or in which frames cannot be decoded, every other frame is segmented under its own number. report says so
    and exits with code 2, skip says so in a note and exits with 0."""
    no_sound: bool = False
    """Leave the video's sound out of the overlay video."""
    pipe_size: str = ""
    """WIDTHxHEIGHT of the raw RGB24 frames on standard input."""

    def inert(self) -> Mapping[str, str]:
        return {
            **dict.fromkeys(("seed", "workers", "data"), "one video is segmented, by one process; leave it out"),
            **(
                {"masks": "no palette PNGs are written with --no-masks; leave one of them out"} if self.no_masks else {}
            ),
        }

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.sample and (self.video or self.first_mask):
            raise InputError(
                "--sample: has its own video and first mask; leave out --video and --first-mask, or --sample"
            )
        if self.out and not self.out.lower().endswith(OUT_ENDINGS):
            raise InputError(f"--out {self.out}: name a video file that ends in {', '.join(OUT_ENDINGS)}")
        if not 0 <= self.fps <= 1000:
            raise InputError(f"--fps {self.fps:g}: use 0 (the video's own) to 1000")
        check_working_size(self.size_px, 0, as_trained=True)
        check_gate(self.gate, "--gate")
        for one in self.add:
            if not re.fullmatch(r"[1-9][0-9]{0,9}:.+", one):
                raise InputError(f"--add {one}: use FRAME:MASK.png with FRAME from 1 on; frame 0 has --first-mask")
        if self.pipe_size and not re.fullmatch(r"[1-9][0-9]{0,4}x[1-9][0-9]{0,4}", self.pipe_size):
            raise InputError(f"--pipe-size {self.pipe_size}: use WIDTHxHEIGHT, such as 854x480")
        if bool(self.pipe_size) != (self.video == STANDARD_INPUT):
            raise InputError(
                f"--pipe-size {self.pipe_size or '(not given)'}: raw frames on standard input need it, as in "
                "'ffmpeg -i … -f rawvideo -pix_fmt rgb24 - | python -m jobs.segment - --pipe-size 854x480 …', others do not"
            )
