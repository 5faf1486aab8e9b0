"""The clips and the targets that a teacher cache holds."""

from __future__ import annotations

from dataclasses import dataclass, field

from vos.config.base import BUILTIN_TEACHER, JobConfig
from vos.errors import InputError


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """One training clip. Every field is part of the cache fingerprint."""

    num_frames: int = 3
    """Frames of a clip; the first is given with its masks, the others are query frames."""
    max_skip_frames: int = 25
    """Largest gap between neighbouring frames of a clip, in frames of the video."""
    crop_px: int = 384
    """Side of the square crop, in pixels: a multiple of 16, the stride of the encoders."""
    max_objects: int = 2
    """Most objects of one clip."""
    flip: bool = True
    """Mirror half of the clips from left to right."""
    scale_min: float = 0.9
    """Smallest random zoom of the crop (1 = the crop's side spans the frame's shorter side)."""
    scale_max: float = 1.5
    """Largest random zoom of the crop."""
    rotate_deg: float = 15.0
    """Largest rotation either way, in degrees."""
    shear_deg: float = 10.0
    """Largest shear either way, in degrees."""
    colour: float = 0.1
    """Strength of the brightness, contrast and channel gains, 0 to 1."""

    def __post_init__(self) -> None:
        if self.num_frames < 2:
            raise InputError(
                f"--clip.num-frames {self.num_frames}: a clip needs a first frame and a query frame; use 2 or more"
            )
        if self.max_skip_frames < 1:
            raise InputError(
                f"--clip.max-skip-frames {self.max_skip_frames}: neighbours lie 1 frame apart at least; use 1 or more"
            )
        if not 1 <= self.max_objects <= 255:
            raise InputError(f"--clip.max-objects {self.max_objects}: use 1 to 255")
        if self.crop_px % 16 or self.crop_px < 32:
            nearest = max(32, round(self.crop_px / 16) * 16)
            raise InputError(f"--clip.crop-px {self.crop_px}: the encoders have stride 16; use {nearest}")
        if not 0 < self.scale_min <= self.scale_max:
            raise InputError(f"--clip.scale-min {self.scale_min} --clip.scale-max {self.scale_max}: use 0 < min <= max")
        if not 0 <= self.shear_deg < 60:
            raise InputError(f"--clip.shear-deg {self.shear_deg}: use 0 to less than 60")
        if not 0 <= self.colour <= 1:
            raise InputError(f"--clip.colour {self.colour}: use 0 to 1")


@dataclass(frozen=True, kw_only=True)
class TargetConfig:
    """What the cache keeps of the teacher, per query frame, on the grid of stride 4."""

    samples: int = 1024
    """Pixels sampled per query frame (boundary first); any smaller density is a prefix of them."""
    boundary_radius_px: int = 2
    """Radius of the boundary mask, in cells of the stride-4 grid."""
    factor_rank: int = 64
    """Rank of the stored factor of the teacher's correlation matrix."""

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise InputError(
                f"--target.samples {self.samples}: a correlation needs 2 pixels at least; the paper's scale is 1024"
            )
        if self.factor_rank < 1:
            raise InputError(f"--target.factor-rank {self.factor_rank}: use 1 or more")
        if self.boundary_radius_px < 0:
            raise InputError(f"--target.boundary-radius-px {self.boundary_radius_px}: use 0 or more")


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The frozen network that is distilled."""

    checkpoint: str = BUILTIN_TEACHER
    """Folder written by jobs.train, or an official STCN file (.pth); 'builtin' is the small one that comes with the project."""
    top_k: int = 20
    """Memory positions that each query position reads."""

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise InputError(f"--teacher.top-k {self.top_k}: use 1 or more")


@dataclass(frozen=True, kw_only=True)
class CacheConfig(JobConfig):
    """Run the teacher once over clip draws and keep its targets in Parquet shards."""

    out: str = "runs/cache"
    """Folder of the cache."""
    draws: int = 2000
    """Number of clip draws."""
    shard_draws: int = 16
    """Draws of one shard (one Parquet file)."""
    clip: ClipConfig = field(default_factory=ClipConfig)
    target: TargetConfig = field(default_factory=TargetConfig)
    teacher: TeacherConfig = field(default_factory=TeacherConfig)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1 or self.shard_draws < 1:
            raise InputError(f"--draws {self.draws} --shard-draws {self.shard_draws}: use 1 or more of each")
