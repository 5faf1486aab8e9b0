"""What can be configured: one frozen dataclass per job.

No torch, no Ray here, so `--help` answers at once. A preset (`vos/presets.py`) is a whole value, flags change single fields
(`vos/command_line.py`), and the resolved value is saved as `config.json` beside every output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from vos.errors import InputError

Preset = Literal["smoke", "demo", "paper"]
BUILTIN_TEACHER = "builtin"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Where the videos are. Without a root, synthetic videos are made on the fly."""

    root: str = ""
    """Folder of the data set (DAVIS, YouTube-VOS or frames with first masks). Default: $DAVIS_ROOT, else synthetic video."""
    kind: Literal["auto", "davis2016", "davis2017", "youtubevos", "folder", "synthetic"] = "auto"
    """Layout of the folder; auto looks for the files that tell them apart."""
    synthetic_videos: int = 96
    """Number of synthetic training videos; the validation split is a sixth of it."""
    synthetic_frames: int = 30
    """Frames of each synthetic video."""
    synthetic_height_px: int = 144
    """Height of synthetic frames, in pixels; the width is 3/2 of it."""
    synthetic_seed: int = 0
    """Seed of the synthetic data set (not of the training)."""


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
class LossConfig:
    """Weights of the training loss (PAPER: segmentation + logit distillation + representation)."""

    kd: float = 1.0
    """Weight of the KL divergence from the cached teacher logits (0 switches it off)."""
    temperature: float = 2.0
    """Softening of both logits in the KL divergence."""
    representation: float = 0.1
    """Weight of |S| x L_repr, the bracket of equation 1 (0 switches it off)."""
    w: float = 0.95
    """Share of the teacher's correlations in the target, the rest is the labels' (equation 2), 0 to 1."""
    density: float = 1.0
    """Share of the cached sampled pixels that enter L_repr (a prefix of the nested order), above 0 to 1."""
    dice: float = 0.5
    """Weight of the soft Dice term beside bootstrapped cross-entropy."""
    jaccard: float = 0.0
    """Weight of a soft Jaccard term (0 switches it off)."""
    poly: float = 0.0
    """Epsilon of poly-1 cross-entropy; 0 is plain cross-entropy, the paper takes 1."""
    kd_boundary: bool = False
    """Take the KL divergence on the cached boundary mask alone."""
    hardest: float = 0.25
    """Share of pixels that cross-entropy keeps at the end of training, from all of them at the start."""

    def __post_init__(self) -> None:
        for name in ("w", "density", "hardest"):
            value = getattr(self, name)
            if not 0 <= value <= 1 or (value == 0 and name != "w"):
                raise InputError(f"--loss.{name} {value}: a share; use {'0' if name == 'w' else 'above 0'} to 1")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"--loss.temperature {self.temperature}: use a value above 0")
        for name in ("kd", "representation", "dice", "jaccard", "poly"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"--loss.{name} {getattr(self, name)}: weights are 0 or more")


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW with a linear warm-up and a polynomial decay to zero."""

    lr: float = 6e-4
    """Learning rate of new layers."""
    query_trunk_scale: float = 1.0
    """Factor on the learning rate of the query trunk (0.15 suits ImageNet weights)."""
    value_trunk_scale: float = 1.0
    """Factor on the learning rate of the value trunk (0.3 suits ImageNet weights)."""
    weight_decay: float = 1e-4
    """Weight decay of matrices; biases and norms have none."""
    warmup_steps: int = 40
    """Steps of the linear warm-up."""
    power: float = 0.9
    """Power of the polynomial decay."""
    clip_norm: float = 5.0
    """Largest norm of the gradient."""
    ema: float = 0.99
    """Decay of the averaged weights, per step; the average is what is saved."""

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise InputError(f"--optimiser.lr {self.lr}: use a value above 0")
        if not 0 <= self.ema < 1:
            raise InputError(f"--optimiser.ema {self.ema}: use 0 to less than 1")


@dataclass(frozen=True, kw_only=True)
class MemoryConfig:
    """Which frames a query frame reads from."""

    kind: Literal["auto", "infinite", "first_recent"] = "auto"
    """first_recent has constant cost; infinite grows; auto takes what the checkpoint was trained for."""
    every: int = 5
    """Infinite memory: a memory frame every so many frames."""
    top_k: int = 20
    """Memory positions that each query position reads (0 = all)."""


def _check_working_size(size_px: int, max_frames: int) -> None:
    if size_px < 0:
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
class JobConfig:
    """What every job takes."""

    preset: Preset = "smoke"
    """Named configuration the other flags change: smoke (seconds), demo (minutes), paper (the paper's recipe)."""
    out: str = "runs/out"
    """Folder of the result."""
    seed: int = 0
    """Seed of everything random."""
    workers: int = 1
    """Parallel processes, each with --threads threads."""
    threads: int = 1
    """Threads of each process. On few cores, one thread and several workers is the fastest."""
    data: DataConfig = field(default_factory=DataConfig)
    debug: bool = False
    """Show the traceback of an error."""

    def __post_init__(self) -> None:
        if self.workers < 1 or self.threads < 1:
            raise InputError(f"--workers {self.workers} --threads {self.threads}: use 1 or more of each")
        if not 0 <= self.seed < 2**31:
            raise InputError(f"--seed {self.seed}: use 0 to {2**31 - 1}")


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


@dataclass(frozen=True, kw_only=True)
class TrainConfig(JobConfig):
    """Train a student from a teacher cache, or a teacher from the videos."""

    out: str = "runs/student"
    """Folder of the checkpoint."""
    role: Literal["student", "teacher"] = "student"
    """A student has first + recent memory and reads a cache; a teacher has infinite memory and reads only videos."""
    model: str = "mobilevos-tiny"
    """Architecture, one of vos.models.names()."""
    cache: str = ""
    """Teacher cache made by jobs.cache; it also decides the videos, the clips and their order. Empty: no distillation."""
    init: str = ""
    """Checkpoint folder to start from (empty: from scratch)."""
    trunk_weights: str = ""
    """ImageNet weights of the trunk, torchvision's names (.safetensors or .pth)."""
    steps: int = 1000
    """Optimiser steps."""
    batch: int = 4
    """Clips per step over all workers together."""
    clip: ClipConfig = field(default_factory=ClipConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    checkpoint_every: int = 200
    """Steps between checkpoints; a killed run continues from the last one."""
    half: bool = False
    """Save the model's weights as float16: half the size, loaded as float32."""
    experiment: str = "train"
    """MLflow experiment of the run."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.checkpoint_every < 1:
            raise InputError(f"--steps {self.steps} --checkpoint-every {self.checkpoint_every}: use 1 or more of each")
        if self.batch < 1 or self.batch % self.workers:
            raise InputError(
                f"--batch {self.batch}: it is shared by --workers {self.workers}; use a multiple of {self.workers}"
            )
        if self.role == "teacher" and self.cache:
            raise InputError(
                "--cache: a teacher is trained on the videos alone; leave --cache out or use --role student"
            )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(JobConfig):
    """Segment the sequences of a split, write palette PNGs, score J&F and measure FPS; or score two folders of masks."""

    out: str = "runs/evaluation"
    """Folder of the masks and scores."""
    checkpoint: str = BUILTIN_TEACHER
    """Folder written by jobs.train, an official STCN file (.pth), 'builtin', or 'copy' (repeat the first mask)."""
    split: str = "val"
    """Split of the data set."""
    size_px: int = 0
    """Shorter side at which the network sees frames, in pixels (0 = as they are); masks are scored at full size."""
    max_frames: int = 0
    """Only the first so many frames of each sequence (0 = all)."""
    memory: MemoryConfig = field(default_factory=MemoryConfig)
    fps: FpsConfig = field(default_factory=FpsConfig)
    gt: str = ""
    """Score only: folder of true masks, one folder per sequence."""
    pred: str = ""
    """Score only: folder of predicted masks, one folder per sequence."""
    csv: str = ""
    """Another file for the per-object table; it is scores.csv in --out otherwise."""
    protocol: Literal["davis2017", "davis2016", "youtubevos"] = "davis2017"
    """Score only: davis2017 averages over objects, davis2016 over sequences of one object, youtubevos scores sparse masks."""
    meta: str = ""
    """Score only, youtubevos: meta.json of these videos; with --train-meta the scores are split into seen and unseen."""
    train_meta: str = ""
    """Score only, youtubevos: meta.json of the training set, whose categories are the seen ones."""
    sequences: str = ""
    """Score only: sequences to score, separated by commas, or a file with one per line (default: all that --gt has)."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.gt) != bool(self.pred):
            raise InputError("--gt and --pred go together: the folder of true masks and the folder of predicted masks")
        if bool(self.meta) != bool(self.train_meta):
            raise InputError("--meta and --train-meta go together: the categories of these videos and the seen ones")
        _check_working_size(self.size_px, self.max_frames)


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
        _check_working_size(self.size_px, self.max_frames)


@dataclass(frozen=True, kw_only=True)
class DemoConfig(JobConfig):
    """See the whole product work: cache, train with and without distillation, evaluate, compare."""

    preset: Preset = "demo"
    """Named configuration the other flags change: smoke (seconds), demo (minutes), paper (the paper's recipe)."""
    out: str = "runs/demo"
    """Folder of the demo's results."""
    workers: int = 2
    """Parallel processes, each with --threads threads."""
    draws: int = 500
    """Clip draws in the cache."""
    steps: int = 300
    """Optimiser steps of each student."""
    teacher_steps: int = 150
    """Steps that fine-tune the built-in teacher on your videos (real data only)."""


@dataclass(frozen=True, kw_only=True)
class VerifyConfig(JobConfig):
    """Check that models, losses, sampling and scores are the published ones, number by number."""

    out: str = ""
    """Folder for checks.json (empty: the checks are only printed)."""
    golden: str = ""
    """Folder of golden numbers of the official code. Default: ../shared/golden of the checkout, where it exists."""
    weights: str = ""
    """ImageNet weights of MobileNetV2, a file or its folder. Default: ../shared/data/weights of the checkout, where it exists."""
    strict: bool = False
    """Fail also where a check was skipped for want of a file."""
