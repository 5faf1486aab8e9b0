"""The clips and targets in a teacher cache."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from vos.config.base import BUILTIN_TEACHER, BUILTINS, DataConfig, JobConfig
from vos.config.fields import cosmetic, group, later, path
from vos.errors import InputError

GRID_STRIDE = 4
"""Pixels of a clip per cell of the grid on which the teacher is sampled."""


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """One training clip. Every field is part of the cache fingerprint."""

    num_frames: int = 3
    """Frames of a clip; the first has given masks, the others are query frames."""
    max_skip_frames: int = 25
    """Largest gap between neighbouring frames of a clip, in frames of the video."""
    skip_curriculum: tuple[int, ...] = ()
    """Largest gaps in S stages instead, e.g. 10 15 20 25 5: draw n belongs to stage n mod S; an epoch visits the stages in order."""
    crop_px: int = 384
    """Side of the square crop, in pixels: a multiple of 16, the stride of the encoders."""
    max_objects: int = 2
    """Most objects in one clip."""
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
    paste: float = 0.0
    """Share of the clips with a pasted object of another video, 0 to 1. It is a further object (if there is room for one) or background."""
    colour: float = 0.1
    """Strength of the brightness, contrast and channel gains, 0 to 1."""
    compose: float = later(0.5)
    """Stills: share of the clips in which objects of other images move over the image, 0 to 1; the others warp one image."""

    def __post_init__(self) -> None:
        if self.num_frames < 2:
            raise InputError(
                f"--clip.num-frames {self.num_frames}: a clip needs a first frame and a query frame; use 2 or more"
            )
        if min((self.max_skip_frames, *self.skip_curriculum)) < 1:
            raise InputError(
                f"--clip.max-skip-frames {self.max_skip_frames} --clip.skip-curriculum {self.skip_curriculum}: "
                "neighbouring frames are at least 1 frame apart; use 1 or more"
            )
        if not 1 <= self.max_objects <= 255:
            raise InputError(f"--clip.max-objects {self.max_objects}: use 1 to 255")
        if self.crop_px % 16 or self.crop_px < 32:
            nearest = max(32, round(self.crop_px / 16) * 16)
            raise InputError(f"--clip.crop-px {self.crop_px}: the encoders have stride 16; use {nearest}")
        if not 0 < self.scale_min <= self.scale_max:
            raise InputError(f"--clip.scale-min {self.scale_min} --clip.scale-max {self.scale_max}: use 0 < min <= max")
        if self.scale_max > 100 or self.crop_px > 8192 or self.num_frames > 255:
            raise InputError(
                f"--clip.scale-max {self.scale_max} --clip.crop-px {self.crop_px} --clip.num-frames {self.num_frames}: "
                "use 100, 8192 and 255 at most"
            )
        if not 0 <= self.rotate_deg <= 180:
            raise InputError(f"--clip.rotate-deg {self.rotate_deg}: use 0 to 180")
        if not 0 <= self.shear_deg < 60:
            raise InputError(f"--clip.shear-deg {self.shear_deg}: use 0 to less than 60")
        if not (0 <= self.colour <= 1 and 0 <= self.paste <= 1 and 0 <= self.compose <= 1):
            raise InputError(
                f"--clip.colour {self.colour} --clip.paste {self.paste} --clip.compose {self.compose}: use 0 to 1"
            )

    @property
    def frame_size_px(self) -> int:
        """Shorter side, in pixels, of whole frames whose objects are about as large as in these clips: 4/3 of the crop."""
        return round(self.crop_px * 4 / 3 / 16) * 16

    @property
    def stages(self) -> int:
        """Stages of the gap curriculum, 1 without one."""
        return max(1, len(self.skip_curriculum))

    def max_skip_of(self, number: int) -> int:
        """Return the largest gap of draw `number`, in frames."""
        return self.skip_curriculum[number % self.stages] if self.skip_curriculum else self.max_skip_frames


@dataclass(frozen=True, kw_only=True)
class FactorConfig:
    """Factor Z_t of the teacher's correlations, C_t = Z_t Z_t' over the sampled pixels of one query frame."""

    rank: int = 64
    """Columns of the closest low-rank factor; training may use fewer. 0 keeps all: exact, but large for wide teachers."""
    dtype: Literal["int8", "fp16", "fp32"] = "int8"
    """Stored type of an entry; int8 has one scale per query frame, so small columns compress well."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise InputError(f"--factor.rank {self.rank}: use 1 or more, or 0 for all columns")


@dataclass(frozen=True, kw_only=True)
class TeacherConfig:
    """The frozen teacher network and its input."""

    checkpoint: str = path(BUILTIN_TEACHER, decides=False, keywords=BUILTINS)
    """Folder written by jobs.train, or an official STCN file (.pth); included are 'builtin' (small, trained on synthetic video) and
    'builtin-davis' (trained on DAVIS)."""
    top_k: int = 20
    """Memory positions that each query position reads."""
    context_frames: int = 0
    """Further frames of the video, before and between the clip's frames, in the teacher's memory only."""
    flip: bool = later(False)
    """Also run the teacher on the mirrored clip, and store the mean of both probabilities: twice the time, the same size."""
    scales: tuple[float, ...] = later(())
    """Also run the teacher at these scales of the clip, such as 0.75 1.25, and store the mean."""
    context_masks: Literal["predicted", "true"] = "predicted"
    """Masks of the context frames in the teacher's memory: its own predictions, or the true ones (which the student never sees)."""
    workers: int = cosmetic(0)
    """Teacher actors, each with --threads threads (0 = as many as --workers)."""
    gpus: float = cosmetic(1.0)
    """GPUs per actor, if there are any; 0.5 puts two teachers on each GPU."""

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise InputError(f"--teacher.top-k {self.top_k}: use 1 or more")
        if not all(0.25 <= scale <= 4 for scale in self.scales):
            raise InputError(f"--teacher.scales {' '.join(map(str, self.scales))}: use 0.25 to 4")
        if self.context_frames < 0:
            raise InputError(f"--teacher.context-frames {self.context_frames}: use 0 or more")
        if self.workers < 0 or not self.gpus > 0:
            raise InputError(
                f"--teacher.workers {self.workers} --teacher.gpus {self.gpus}: use 0 or more workers and above 0 GPUs"
            )


@dataclass(frozen=True, kw_only=True)
class CacheConfig(JobConfig):
    """Run the teacher once over clip draws and store its outputs in Parquet shards."""

    out: str = path("runs/cache", decides=False, written=True)
    """Folder of the cache."""
    threads: int = 1
    """Threads of each process. On few cores, one thread and several workers are fastest. Part of the cache's identity: the last bits of
    a convolution depend on it."""
    data: DataConfig = group(DataConfig, decides=False)
    draws: int = 2000
    """Number of clip draws."""
    shard_draws: int = 16
    """Draws of one shard (one Parquet file)."""
    clip: ClipConfig = field(default_factory=ClipConfig)
    samples: int = 1024
    """Pixels sampled per query frame (boundary first) on the grid of stride 4; a smaller density is a prefix of them."""
    sampling: Literal["boundary", "uniform"] = later("boundary")
    """Order of the sampled pixels: the boundary mask first, or all pixels in random order (baseline of boundary-aware sampling)."""
    boundary_radius_px: int = 2
    """Radius of the boundary mask, in cells of the grid of stride 4."""
    factor: FactorConfig = field(default_factory=FactorConfig)
    logits: Literal["none", "int8", "fp16"] = "int8"
    """Stored type of the teacher's logits at stride 4; none is enough for students that learn only from correlations."""
    frames: Literal["replay", "store"] = "replay"
    """replay: training reads the clips again from the videos; store: the shards hold them as JPEG, for slow disks or missing videos."""
    teacher: TeacherConfig = field(default_factory=TeacherConfig)
    extend: bool = cosmetic(False)
    """Add draws to the cache in --out: give the new total with --draws."""
    plan: bool = cosmetic(False)
    """Measure for 20 seconds and print the size and teacher time that the cache will take, without building it."""
    verify: bool = cosmetic(False)
    """Check a finished cache instead: all bytes and rows, and some rows against the teacher."""
    verify_rows: int = cosmetic(3)
    """With --verify: rows that the teacher computes again (0 = none)."""
    show: int = cosmetic(0)
    """Plot this many draws of a finished cache instead: frames, masks, sampled pixels, correlations."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.draws < 1 or self.shard_draws < 1:
            raise InputError(f"--draws {self.draws} --shard-draws {self.shard_draws}: use 1 or more of each")
        if self.samples < 2:
            raise InputError(
                f"--samples {self.samples}: a correlation needs 2 pixels; use 2 or more (the paper's scale is 1024)"
            )
        if self.boundary_radius_px < 0:
            raise InputError(f"--boundary-radius-px {self.boundary_radius_px}: use 0 or more")
        if self.verify_rows < 0 or self.show < 0:
            raise InputError(f"--verify-rows {self.verify_rows} --show {self.show}: use 0 or more of each")
        modes = [name for name in ("extend", "plan", "verify", "show") if getattr(self, name)]
        if len(modes) > 1:
            raise InputError(f"--{' --'.join(modes)}: give only one of them")

    def inert(self) -> Mapping[str, str]:
        found = {} if self.verify else {"verify_rows": "only --verify checks rows; add it, or leave this out"}
        if self.verify or self.show:
            made = (
                "draws",
                "shard_draws",
                "clip",
                "samples",
                "sampling",
                "boundary_radius_px",
                "factor",
                "logits",
                "frames",
            )
            mode = "--verify" if self.verify else "--show"
            found |= dict.fromkeys(made, f"the finished cache in --out decides it; leave it out with {mode}")
        return found

    @property
    def actors(self) -> int:
        """Teacher actors of this build."""
        return self.teacher.workers or self.workers
