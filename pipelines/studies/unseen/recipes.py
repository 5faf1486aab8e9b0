"""Every number of the protocol folds, one literal for each preset."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from pipelines.studies.protocols.planned import PRETRAINED, TEACHER_WEIGHTS
from vos.config import CacheConfig, ClipConfig, LabelConfig, LossConfig, TeacherConfig, TrainConfig
from vos.config.presets import preset
from vos.errors import InputError


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Networks, lengths and mixture under a preset.

    teacher, student         trainings on all labelled videos: network, steps, clips, loss, optimiser, first weights (`trunk_weights` is a
                             key of `pipelines.studies.protocols.planned.WEIGHTS`)
    wide                     architecture of the larger student, which ships beside the other one
    looks                    how the teacher looks at a clip of the cache
    labels                   how a teacher labels videos, and which of its masks are kept; its size is `teacher_px`
    teacher_px               shorter side at which the teacher is scored, 0 for the students' size
    gate                     of the students' recent memory when they are scored
    first_teacher_steps, first_student_steps   the trainings on stills alone with which all others begin
    davis, stills            shares of the clips after that
    unlabelled               the part of `davis` that the labels of a teacher have where there are unlabelled videos
    folds, fold_videos       how many folds, and the held-out videos of each
    labelled                 labelled videos on the curve, the largest first: all that the first fold leaves to learn from
    patient, patience        clips of the most patient student, whose augmentation is stronger, and its length in students' lengths
    curve_teacher_steps, curve_student_steps   the short lengths of the curve
    step_s, draw_s, label_s  CPU seconds of a step (by architecture), of a cache draw and of labelling a frame, for the forecast
    """

    teacher: TrainConfig
    student: TrainConfig
    wide: str
    looks: TeacherConfig
    labels: LabelConfig = LabelConfig()
    teacher_px: int = 0
    gate: float = 0.0
    first_teacher_steps: int
    first_student_steps: int
    davis: float = 1.0
    stills: float = 0.0
    unlabelled: float = 0.5
    folds: int = 3
    fold_videos: int = 8
    labelled: tuple[int, ...] = (22, 15, 8, 4)
    patient: ClipConfig
    patience: float = 2.5
    curve_teacher_steps: int
    curve_student_steps: int
    real_video: bool = False
    step_s: Mapping[str, float] = field(default_factory=dict)
    draw_s: float = 0.05
    label_s: float = 0.05


_SMOKE, _DEMO, _DAVIS = (preset(TrainConfig, name) for name in ("smoke", "demo", "davis-cpu"))


def _stronger(clip: ClipConfig) -> ClipConfig:
    """Return clips with the augmentation of the patient student."""
    return replace(clip, colour=0.25, scale_min=0.7, scale_max=1.8, rotate_deg=25.0, paste=0.25)


RECIPES = {
    "smoke": Recipe(
        teacher=replace(_SMOKE, model="teacher-small", steps=4, loss=LossConfig()),
        student=replace(_SMOKE, steps=4),
        wide="mobilevos-tiny",
        looks=preset(CacheConfig, "smoke").teacher,
        labels=LabelConfig(min_agreement=0.0, min_confidence=0.0),  # a teacher of four steps agrees with nothing
        fold_videos=2,
        first_teacher_steps=3,
        first_student_steps=2,
        patient=_stronger(_SMOKE.clip),
        labelled=(10, 4, 2),
        curve_teacher_steps=4,
        curve_student_steps=3,
    ),
    "demo": Recipe(
        teacher=replace(_DEMO, model="teacher-small", steps=300, loss=LossConfig()),
        student=replace(_DEMO, steps=300),
        wide="mobilevos-tiny",
        looks=preset(CacheConfig, "demo").teacher,
        labelled=(88, 44, 8, 4),
        first_teacher_steps=300,
        first_student_steps=300,
        patient=_stronger(_DEMO.clip),
        curve_teacher_steps=150,
        curve_student_steps=150,
    ),
    "davis-cpu": Recipe(
        teacher=replace(
            _DAVIS,
            model="teacher-lite2",
            steps=4500,
            seed=1,
            loss=LossConfig(),
            trunk_weights=TEACHER_WEIGHTS,
            optimiser=replace(_DAVIS.optimiser, ema=0.995),
            checkpoint_every=300,
            half=True,  # the published weights are then those that made the caches
        ),
        student=replace(
            _DAVIS,
            model="mobilevos-mobilenetv2-noaspp",
            steps=1900,
            trunk_weights=PRETRAINED,
        ),
        wide="mobilevos-mobilenetv2",
        looks=preset(CacheConfig, "davis-cpu").teacher,
        teacher_px=432,
        first_teacher_steps=3000,
        first_student_steps=1900,
        patient=_stronger(_DAVIS.clip),
        curve_teacher_steps=2000,
        curve_student_steps=800,
        real_video=True,
        step_s={
            "teacher-lite2": 0.9,
            "teacher-mobilenetv2": 0.6,
            "mobilevos-mobilenetv2-noaspp": 0.42,
            "mobilevos-mobilenetv2": 0.5,
        },
        draw_s=0.8,
        label_s=1.1,
    ),
}


def recipe_of(name: str) -> Recipe:
    """Return the recipe of a preset. Raises InputError for a preset without one."""
    if name not in RECIPES:
        raise InputError(f"--preset {name}: the protocol folds has no such size; use one of {', '.join(RECIPES)}")
    return RECIPES[name]
