"""Every number of the protocol folds, one literal for each preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipelines.studies.protocols.planned import PRETRAINED
from vos.config import ClipConfig, LabelConfig, OptimiserConfig, TrainConfig
from vos.config.presets import preset
from vos.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Networks, lengths and mixture under a preset.

    teacher, student, wide   architectures: the teacher, the student of every comparison, and the larger one that ships beside it
    teacher_weights          a key of `pipelines.studies.protocols.planned.WEIGHTS`, "" for random weights
    student_weights          the same for both students
    teacher_clip, clip       training clips of the teacher, and of the cache and the students
    optimiser                of the teacher and the students
    teacher_px               shorter side at which the teacher is scored, 0 for the students' size
    davis, stills            shares of the clips
    labels                   how a teacher labels videos, and which of its masks are kept; its size is `teacher_px`
    unlabelled               the part of `davis` that the labels of a teacher have where there are unlabelled videos
    folds, fold_videos       how many folds, and the held-out videos of each
    labelled                 labelled videos on the curve, the largest first: all that the first fold leaves to learn from
    step_s, draw_s, label_s  CPU seconds of a step (by architecture), of a cache draw and of labelling a frame, for the forecast
    """

    teacher: str
    student: str
    wide: str
    teacher_weights: str = ""
    student_weights: str = ""
    teacher_clip: ClipConfig
    clip: ClipConfig
    optimiser: OptimiserConfig
    teacher_px: int = 0
    teacher_steps: int
    student_steps: int
    curve_teacher_steps: int
    curve_student_steps: int
    davis: float = 0.5
    stills: float = 0.5
    unlabelled: float = 0.5
    folds: int = 3
    fold_videos: int = 8
    labelled: tuple[int, ...] = (22, 15, 8, 4)
    labels: LabelConfig = LabelConfig()
    real_video: bool = False
    step_s: Mapping[str, float] = field(default_factory=dict)
    draw_s: float = 0.05
    label_s: float = 0.05


_USUAL = {name: preset(TrainConfig, name) for name in ("smoke", "demo", "davis-cpu")}
RECIPES = {
    "smoke": Recipe(
        teacher="teacher-small",
        student="mobilevos-tiny",
        wide="mobilevos-tiny",
        teacher_clip=_USUAL["smoke"].clip,
        clip=_USUAL["smoke"].clip,
        optimiser=_USUAL["smoke"].optimiser,
        teacher_steps=4,
        student_steps=4,
        curve_teacher_steps=4,
        curve_student_steps=3,
        fold_videos=2,
        labelled=(10, 4, 2),
        labels=LabelConfig(min_agreement=0.0, min_confidence=0.0),  # a teacher of four steps agrees with nothing
    ),
    "demo": Recipe(
        teacher="teacher-small",
        student="mobilevos-tiny",
        wide="mobilevos-tiny",
        teacher_clip=_USUAL["demo"].clip,
        clip=_USUAL["demo"].clip,
        optimiser=_USUAL["demo"].optimiser,
        teacher_steps=300,
        student_steps=300,
        curve_teacher_steps=150,
        curve_student_steps=150,
        labelled=(88, 44, 8, 4),
    ),
    "davis-cpu": Recipe(
        teacher="teacher-mobilenetv2",
        student="mobilevos-mobilenetv2-noaspp",
        wide="mobilevos-mobilenetv2",
        teacher_weights=PRETRAINED,
        student_weights=PRETRAINED,
        teacher_clip=_USUAL["davis-cpu"].clip,
        clip=_USUAL["davis-cpu"].clip,
        optimiser=replace(_USUAL["davis-cpu"].optimiser, ema=0.995),
        teacher_px=432,
        teacher_steps=8000,
        student_steps=3800,
        curve_teacher_steps=2000,
        curve_student_steps=800,
        real_video=True,
        step_s={"teacher-mobilenetv2": 0.8, "mobilevos-mobilenetv2-noaspp": 0.6, "mobilevos-mobilenetv2": 0.7},
        draw_s=0.5,
        label_s=0.7,
    ),
}


def recipe_of(name: str) -> Recipe:
    """Return the recipe of a preset. Raises InputError for a preset without one."""
    if name not in RECIPES:
        raise InputError(f"--preset {name}: the protocol folds has no such size; use one of {', '.join(RECIPES)}")
    return RECIPES[name]
