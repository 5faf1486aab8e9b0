"""Named configurations. A preset is a complete configuration of a job; flags change single fields of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from vos.config import (
    BUILTIN_TEACHER,
    AdaptConfig,
    BenchmarkConfig,
    CacheConfig,
    CheckConfig,
    ClipConfig,
    DataConfig,
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    FactorConfig,
    FpsBenchmarkConfig,
    FpsConfig,
    JobConfig,
    LabelConfig,
    LabelTeacherConfig,
    LossConfig,
    OptimiserConfig,
    ReportConfig,
    ScoreConfig,
    SegmentConfig,
    TeacherConfig,
    TrainConfig,
    TuneConfig,
    VerifyConfig,
)
from vos.errors import InputError

Job = TypeVar("Job", bound=JobConfig)

SMOKE_DATA = DataConfig(synthetic_videos=12, synthetic_frames=10, synthetic_height_px=96)
DEMO_DATA = DataConfig()
SMOKE_CLIP = ClipConfig(crop_px=64, max_skip_frames=3, max_objects=2)
DEMO_CLIP = ClipConfig(crop_px=112, max_skip_frames=8, max_objects=2)
PAPER_CLIP = ClipConfig(skip_curriculum=(10, 15, 20, 25, 5))
DEMO_OPTIMISER = OptimiserConfig(lr=1.5e-3, ema=0.98, warmup_steps=20)

# STCN's main training is Adam at 1e-5 with a step at 125 k. Here it is AdamW with polynomial decay at the same
# rate; 150 k steps of 4 clips of 3 frames of 384².
PAPER_OPTIMISER = OptimiserConfig(lr=1e-5, weight_decay=1e-7, warmup_steps=1000)
PAPER_LOSS = LossConfig(hardest=0.15)

# docs/results.md: DAVIS on two CPU cores, minutes to an hour per run. ImageNet trunks get a low learning rate, new layers a high one.
DAVIS_CLIP = ClipConfig(crop_px=240, max_skip_frames=15, max_objects=1)
DAVIS_OPTIMISER = OptimiserConfig(query_trunk_scale=0.15, value_trunk_scale=0.3)
DAVIS_LOSS = LossConfig(kd=8.0)
DAVIS_SIZE_PX = 320
SHORT_STEPS = 400


def _train_davis() -> TrainConfig:
    return TrainConfig(
        preset="davis-cpu",
        model="mobilevos-mobilenetv2-noaspp",
        steps=SHORT_STEPS,
        batch=2,
        clip=DAVIS_CLIP,
        loss=DAVIS_LOSS,
        optimiser=DAVIS_OPTIMISER,
        freeze_early=True,
        here=True,
    )


def _train_paper() -> TrainConfig:
    return TrainConfig(
        preset="paper",
        model="mobilevos-mobilenetv2",
        clip=PAPER_CLIP,
        steps=150_000,
        batch=4,
        loss=PAPER_LOSS,
        optimiser=PAPER_OPTIMISER,
        checkpoint_every=2000,
    )


def _train_demo() -> TrainConfig:
    return TrainConfig(
        preset="demo",
        steps=300,
        batch=4,
        workers=2,
        clip=DEMO_CLIP,
        data=DEMO_DATA,
        optimiser=DEMO_OPTIMISER,
        checkpoint_every=100,
    )


def _train_smoke() -> TrainConfig:
    return TrainConfig(
        preset="smoke",
        steps=6,
        batch=2,
        clip=SMOKE_CLIP,
        data=SMOKE_DATA,
        optimiser=OptimiserConfig(lr=1e-3, warmup_steps=2, ema=0.5),
        checkpoint_every=3,
    )


PRESETS: dict[type[JobConfig], dict[str, Callable[[], Any]]] = {
    CacheConfig: {
        "smoke": lambda: CacheConfig(
            preset="smoke",
            draws=24,
            shard_draws=4,
            clip=SMOKE_CLIP,
            samples=128,
            boundary_radius_px=1,
            factor=FactorConfig(rank=16),
            data=SMOKE_DATA,
        ),
        "demo": lambda: CacheConfig(
            preset="demo",
            draws=400,
            clip=DEMO_CLIP,
            samples=512,
            boundary_radius_px=1,
            factor=FactorConfig(rank=48),
            data=DEMO_DATA,
            workers=2,
        ),
        # The teacher of the paper has seen the video from its start: without context it would hold what its student holds.
        "paper": lambda: CacheConfig(
            preset="paper",
            draws=60_000,
            clip=PAPER_CLIP,
            teacher=TeacherConfig(context_frames=5),
        ),
        "davis-cpu": lambda: CacheConfig(
            preset="davis-cpu",
            draws=2 * SHORT_STEPS,
            clip=DAVIS_CLIP,
            teacher=TeacherConfig(context_frames=5),
        ),
    },
    TrainConfig: {"smoke": _train_smoke, "demo": _train_demo, "paper": _train_paper, "davis-cpu": _train_davis},
    EvaluateConfig: {
        "smoke": lambda: EvaluateConfig(preset="smoke", max_frames=8, data=SMOKE_DATA, fps=FpsConfig(long_repeats=10)),
        "demo": lambda: EvaluateConfig(preset="demo", size_px=144, workers=2, data=DEMO_DATA),
        "paper": lambda: EvaluateConfig(preset="paper"),
        "davis-cpu": lambda: EvaluateConfig(preset="davis-cpu", size_px=DAVIS_SIZE_PX),
    },
    TuneConfig: {
        "smoke": lambda: TuneConfig(
            preset="smoke", trials=2, concurrent=2, val_videos=2, train=_train_smoke(), data=SMOKE_DATA
        ),
        "demo": lambda: TuneConfig(preset="demo", trials=6, concurrent=2, train=_train_demo(), data=DEMO_DATA),
        "paper": lambda: TuneConfig(preset="paper", trials=32, train=_train_paper()),
        "davis-cpu": lambda: TuneConfig(
            preset="davis-cpu", trials=12, train=_train_davis(), size_px=DAVIS_SIZE_PX, max_frames=30
        ),
    },
    DemoConfig: {
        "smoke": lambda: DemoConfig(preset="smoke", draws=24, steps=4, seeds=2, data=SMOKE_DATA),
        "demo": lambda: DemoConfig(data=DEMO_DATA),
        "paper": lambda: DemoConfig(preset="paper", draws=60_000, steps=150_000, lr=1e-5),
    },
    BenchmarkConfig: {
        "smoke": lambda: BenchmarkConfig(
            preset="smoke",
            student="mobilevos-tiny",
            online_teacher="teacher-small",
            crop_px=64,
            samples=128,
            draws=12,
            rounds=1,
            trials=2,
            trial_steps=6,
            data=SMOKE_DATA,
        ),
        "demo": lambda: BenchmarkConfig(preset="demo", crop_px=224, samples=512, data=DEMO_DATA),
        "paper": lambda: BenchmarkConfig(),
    },
    ExportConfig: {
        "smoke": lambda: ExportConfig(preset="smoke", size="144x96", calibration_clips=2, data=SMOKE_DATA),
        "demo": lambda: ExportConfig(preset="demo", size="216x144", data=DEMO_DATA),
        "paper": lambda: ExportConfig(preset="paper"),
    },
    FpsBenchmarkConfig: {
        "smoke": lambda: FpsBenchmarkConfig(
            preset="smoke",
            width_px=144,
            height_px=96,
            systems=("tiny", "teacher-small"),
            rounds=2,
            data=SMOKE_DATA,
        ),
        "demo": lambda: FpsBenchmarkConfig(preset="demo", data=DEMO_DATA),
        "paper": lambda: FpsBenchmarkConfig(),
    },
    AdaptConfig: {
        "smoke": lambda: AdaptConfig(
            preset="smoke", draws=12, steps=3, batch=2, crop_px=64, max_skip_frames=3, data=SMOKE_DATA
        ),
        "demo": lambda: AdaptConfig(data=DEMO_DATA),
        "paper": lambda: AdaptConfig(preset="paper", draws=4000, steps=4000),
    },
    # The preset davis-cpu is for real video on a few cores, which is what the defaults are for.
    LabelConfig: {
        "smoke": lambda: LabelConfig(
            preset="smoke", teacher=LabelTeacherConfig(checkpoint=BUILTIN_TEACHER), check_every=4, data=SMOKE_DATA
        ),
        "demo": lambda: LabelConfig(
            preset="demo", teacher=LabelTeacherConfig(checkpoint=BUILTIN_TEACHER), workers=2, data=DEMO_DATA
        ),
        "paper": lambda: LabelConfig(),
        "davis-cpu": lambda: LabelConfig(preset="davis-cpu", workers=2),
    },
    # Only davis-cpu writes to folders that are committed to the repository.
    ReportConfig: {
        "smoke": lambda: ReportConfig(preset="smoke", data=SMOKE_DATA),
        "demo": lambda: ReportConfig(preset="demo", data=DEMO_DATA),
        "paper": lambda: ReportConfig(preset="paper"),
        "davis-cpu": lambda: ReportConfig(),
    },
    # The presets differ in the runtime: the fastest, or the reference (paper).
    SegmentConfig: {
        "smoke": lambda: SegmentConfig(preset="smoke"),
        "demo": lambda: SegmentConfig(preset="demo"),
        "paper": lambda: SegmentConfig(preset="paper", runtime="eager", precision="fp32"),
    },
    ScoreConfig: {
        "smoke": lambda: ScoreConfig(preset="smoke"),
        "demo": lambda: ScoreConfig(preset="demo"),
        "paper": lambda: ScoreConfig(preset="paper"),
    },
    CheckConfig: {
        "smoke": lambda: CheckConfig(preset="smoke", data=SMOKE_DATA),
        "demo": lambda: CheckConfig(preset="demo", data=DEMO_DATA),
        "paper": lambda: CheckConfig(preset="paper"),
    },
    VerifyConfig: {
        "smoke": lambda: VerifyConfig(preset="smoke"),
        "demo": lambda: VerifyConfig(preset="demo"),
        "paper": lambda: VerifyConfig(preset="paper"),
    },
}


def preset(cls: type[Job], name: str | None) -> Job:
    """Return the named configuration of a job; None gives the job's default preset.

    Raises InputError for an unknown name.
    """
    default = cls()
    table = PRESETS.get(cls, {default.preset: lambda: default})  # a job without presets has only its defaults
    if name is None:
        name = default.preset
    if not isinstance(name, str) or name not in table:
        raise InputError(f"--preset {name}: unknown; use one of {', '.join(table)}")
    return table[name]()
