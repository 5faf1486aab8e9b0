"""Training of a student or a teacher."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from vos.config.base import BUILTINS, JobConfig
from vos.config.cache import ClipConfig
from vos.config.evaluate import check_working_size
from vos.config.fields import cosmetic, path
from vos.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """Weights of the training loss: segmentation + logit distillation + representation."""

    kd: float = 1.0
    """Weight of the KL divergence from the cached teacher logits (0 switches it off)."""
    temperature: float = 2.0
    """Temperature of both logits in the KL divergence."""
    representation: float = 0.1
    """Weight of N x L_repr, N sampled pixels: the bracket of equation 1 (0 switches it off)."""
    w: float = 0.95
    """Share of the teacher's correlations in the target, 0 to 1; the rest are the labels' (equation 2)."""
    density: float = 1.0
    """Share of the cached sampled pixels used in L_repr (a prefix of the nested order), above 0 to 1."""
    dice: float = 0.5
    """Weight of the soft Dice term, added to bootstrapped cross-entropy."""
    jaccard: float = 0.0
    """Weight of a soft Jaccard term (0 switches it off)."""
    poly: float = 0.0
    """Epsilon of poly-1 cross-entropy; 0 is plain cross-entropy, the paper uses 1."""
    kd_boundary: bool = False
    """Compute the KL divergence only on the cached boundary mask."""
    rank: int = 0
    """Columns of the cached factor used in L_repr (0 = all stored ones)."""
    hardest: float = 0.25
    """Share of the hardest pixels that cross-entropy uses at the end of training; it starts at 1."""

    def __post_init__(self) -> None:
        for name in ("w", "density", "hardest"):
            value = getattr(self, name)
            if not 0 <= value <= 1 or (value == 0 and name != "w"):
                raise InputError(f"--loss.{name} {value}: a share; use {'0' if name == 'w' else 'above 0'} to 1")
        if not 0 < self.temperature < math.inf:
            raise InputError(f"--loss.temperature {self.temperature}: use a value above 0")
        shares = ("w", "density", "hardest", "temperature")
        for one in fields(self):
            value = getattr(self, one.name)
            if isinstance(value, float) and one.name not in shares and not 0 <= value < math.inf:
                raise InputError(f"--loss.{one.name} {value}: a weight; use 0 or more")
        if self.rank < 0:
            raise InputError(f"--loss.rank {self.rank}: use 0 (all stored columns) or more")


@dataclass(frozen=True, kw_only=True)
class OptimiserConfig:
    """AdamW with a linear warm-up, then one of three schedules."""

    lr: float = 6e-4
    """Learning rate of new layers."""
    query_trunk_scale: float = 1.0
    """Factor on the learning rate of the query trunk (0.15 suits ImageNet weights)."""
    value_trunk_scale: float = 1.0
    """Factor on the learning rate of the value trunk (0.3 suits ImageNet weights)."""
    weight_decay: float = 1e-4
    """Weight decay of weight matrices; biases and norms have none."""
    warmup_steps: int = 40
    """Steps of the linear warm-up."""
    schedule: Literal["polynomial", "cosine", "step"] = "polynomial"
    """Learning rate after the warm-up: polynomial or cosine decay to zero, or constant with one drop."""
    power: float = 0.9
    """Power of the polynomial decay."""
    drop_at: float = 0.8333
    """Share of the training after which the step schedule drops (STCN: 125 k of 150 k steps)."""
    drop_to: float = 0.1
    """Factor of that drop."""
    clip_norm: float = 5.0
    """Largest norm of the gradient; longer gradients are scaled down."""
    ema: float = 0.99
    """Decay per step of the averaged weights; the average is saved."""

    def __post_init__(self) -> None:
        if not 0 < self.lr < math.inf:
            raise InputError(f"--optimiser.lr {self.lr}: use a value above 0")
        for name in ("query_trunk_scale", "value_trunk_scale", "weight_decay", "warmup_steps", "power"):
            if not 0 <= getattr(self, name) < math.inf:
                raise InputError(f"--optimiser.{name.replace('_', '-')} {getattr(self, name)}: use 0 or more")
        if not 0 <= self.ema < 1:
            raise InputError(f"--optimiser.ema {self.ema}: use 0 to less than 1")
        if not (0 < self.drop_at <= 1 and 0 < self.drop_to <= 1):
            raise InputError(
                f"--optimiser.drop-at {self.drop_at} --optimiser.drop-to {self.drop_to}: shares; use above 0 to 1"
            )
        if not 0 < self.clip_norm < math.inf:
            raise InputError(f"--optimiser.clip-norm {self.clip_norm}: use a value above 0")


@dataclass(frozen=True, kw_only=True)
class ValidationConfig:
    """Scores of the averaged weights during training, by the engine and the scorer of jobs.evaluate."""

    every: int = 0
    """Steps between validations; the last step is validated too and the best model is kept (0 = no validation, keep the last model)."""
    videos: int = 4
    """Sequences of the validation split, the first ones by name (of a mixture, its sources take turns); workers share them."""
    size_px: int = 0
    """Shorter side of the network's input, in pixels (0 = original size)."""
    max_frames: int = 0
    """Use only this many frames from the start of each sequence (0 = all)."""
    patience: int = 0
    """Stop after this many validations in a row without a better J&F (0 = never)."""

    def __post_init__(self) -> None:
        if self.every < 0 or self.patience < 0 or self.videos < 1:
            raise InputError(
                f"--validation.every {self.every} --validation.patience {self.patience} --validation.videos {self.videos}: "
                "use 0 or more, 0 or more, and 1 or more"
            )
        if self.patience and not self.every:
            raise InputError(f"--validation.patience {self.patience}: nothing is validated; add --validation.every N")
        check_working_size(self.size_px, self.max_frames)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(JobConfig):
    """Train a student from a teacher cache, or a teacher from the videos."""

    out: str = path("runs/student", decides=False, written=True)
    """Folder of the checkpoint."""
    role: Literal["student", "teacher"] = "student"
    """A student has first + recent memory and can read a cache; a teacher has infinite memory and reads only videos."""
    model: str = "mobilevos-tiny"
    """Architecture, one of vos.models.names()."""
    cache: str = path()
    """Teacher cache made by jobs.cache; it also decides the videos, the clips and their order (empty: no distillation)."""
    teacher_online: bool = False
    """Run the teacher of --cache at every step instead of reading its stored outputs: the same clips, but slower."""
    init: str = path(keywords=BUILTINS)
    """Checkpoint folder to start from (empty: from scratch)."""
    trunk_weights: str = path()
    """ImageNet weights of the trunk with torchvision's names (.safetensors or .pth)."""
    steps: int = 1000
    """Optimiser steps."""
    draws: int = 0
    """Without a cache: number of clip draws, repeated epoch by epoch (0 = a new draw each time)."""
    draw_seed: int = -1
    """Without a cache: seed of the draws (-1: --seed). A cache's seed, draws, clip settings and videos give the clips of that cache."""
    mirror: bool = False
    """Mirror every clip and its targets on every second pass over the draws, which doubles their number."""
    batch: int = 4
    """Clips per step over all workers together; the result does not depend on the number of workers."""
    micro_batch: int = cosmetic(0)
    """Clips per forward pass of a worker; gradients are accumulated to save memory (0 = its whole part of the batch)."""
    clip: ClipConfig = field(default_factory=ClipConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optimiser: OptimiserConfig = field(default_factory=OptimiserConfig)
    validation: ValidationConfig = field(default_factory=ValidationConfig)
    freeze_batch_norm: bool = False
    """Keep BatchNorm's statistics fixed, as in STCN's training; always on for ImageNet trunks without these statistics."""
    freeze_early: bool = False
    """Freeze the query trunk's weights up to stride 4: a step takes a fifth less time."""
    here: bool = cosmetic(False)
    """Train in this process without Ray Train (one worker); starts in seconds."""
    compile: bool = cosmetic(False)
    """Compile the network with torch.compile (a minute or more at the start; needs a C++ compiler on CPU)."""
    checkpoint_every: int = cosmetic(200)
    """Steps between checkpoints; a killed run continues from the last one."""
    max_failures: int = cosmetic(3)
    """Worker failures after which the command stops; checkpoints stay, and the same command resumes the run."""
    peer_timeout_s: int = cosmetic(600)
    """Seconds that a worker waits for the others; then the workers are restarted, which counts as a worker failure."""
    half: bool = False
    """Save the model's weights as float16 (half the size); they are loaded as float32."""
    experiment: str = cosmetic("train")
    """MLflow experiment of the run."""

    def inert(self) -> Mapping[str, str]:
        found: dict[str, str] = {}
        if self.cache:
            found["clip"] = "the cache decides the clips; leave it out, or build another cache"
        else:
            targets = ("kd", "temperature", "representation", "w", "density", "kd_boundary", "rank")
            found = {
                f"loss.{name}": "without a cache there is no teacher; add --cache, or leave it out" for name in targets
            }
        if not self.validation.every:
            names = ("videos", "size_px", "max_frames")
            found |= {f"validation.{name}": "nothing is validated; add --validation.every N" for name in names}
        if self.here:
            names = ("max_failures", "peer_timeout_s")
            found |= dict.fromkeys(names, "there are no workers with --here; add --no-here, or leave it out")
        return found

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.steps < 1 or self.checkpoint_every < 1:
            raise InputError(f"--steps {self.steps} --checkpoint-every {self.checkpoint_every}: use 1 or more of each")
        if self.batch < 1 or self.batch % self.workers:
            raise InputError(
                f"--batch {self.batch}: it is shared by --workers {self.workers}; use a multiple of {self.workers}"
            )
        if self.draws < 0 or (self.draws and self.cache):
            raise InputError(
                f"--draws {self.draws}: use 0 or more, and leave it out with --cache, which has its own draws"
            )
        if self.draw_seed < -1 or (self.draw_seed >= 0 and self.cache):
            raise InputError(
                f"--draw-seed {self.draw_seed}: use 0 or more, and leave it out with --cache, which has its own draws"
            )
        if self.here and self.workers > 1:
            raise InputError(
                f"--here --workers {self.workers}: without Ray Train there is one worker; add --no-here, or leave --workers out"
            )
        if not 1 <= self.peer_timeout_s <= 86_400:
            raise InputError(f"--peer-timeout-s {self.peer_timeout_s}: use 1 to 86400")
        if self.micro_batch < 0 or self.max_failures < 0:
            raise InputError(
                f"--micro-batch {self.micro_batch} --max-failures {self.max_failures}: use 0 or more of each"
            )
        if self.teacher_online and not self.cache:
            raise InputError("--teacher-online: clips and teacher come from a cache; give it with --cache")
        if self.role == "teacher" and self.cache:
            raise InputError("--cache: a teacher is trained only on videos; leave --cache out or use --role student")
