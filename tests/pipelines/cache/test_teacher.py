"""The teacher at work on one draw: what it sees, what is kept, what stops it. No Ray here."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from pipelines.cache import schema
from pipelines.cache.build import blueprint
from pipelines.cache.plan import ShardPlan
from pipelines.cache.teacher import Teacher, receipt
from vos.config import BUILTIN_TEACHER, CacheConfig, FactorConfig, TeacherConfig
from vos.config.presets import preset
from vos.data.clips import checksum, decode_clip, read_clip
from vos.data.draw_records import ClipDraw
from vos.data.draws import draw_clip
from vos.distillation.clip_forward import sampled_features
from vos.distillation.representation import correlation
from vos.errors import InputError
from vos.models.builtin import BUILTIN
from vos.models.checkpoint import load_checkpoint, save_checkpoint

BASE = replace(preset(CacheConfig, "smoke"), draws=3)


def teacher_of(config: CacheConfig) -> Teacher:
    plan = blueprint(config)
    return Teacher(config, plan.videos, plan.shapes, plan.recipe)


def row_of(config: CacheConfig, number: int = 0) -> dict[str, Any]:
    teacher = teacher_of(config)
    return teacher.row(teacher.work(number))


@pytest.fixture(scope="module")
def plain() -> dict[str, Any]:
    return row_of(BASE)


def test_the_stored_factor_rebuilds_the_teachers_correlations_at_the_stored_pixels(plain: dict[str, Any]):
    config = replace(BASE, factor=FactorConfig(rank=0, dtype="fp32"))
    teacher = teacher_of(config)
    work, before = teacher.work(0), teacher.forwards
    row, (_, features) = teacher.row(work), teacher.look(work)
    assert teacher.forwards == before + 2, "a search proves by this number that it never asks a teacher"
    index = torch.from_numpy(row["sample_index"].astype(np.int64))
    wanted = correlation(sampled_features(features[None], index[None])[0])
    exact, stored = (torch.from_numpy(schema.factor_of(one)) for one in (row, plain))
    torch.testing.assert_close(exact @ exact.mT, wanted, rtol=0, atol=1e-4)
    error = (stored @ stored.mT - wanted).norm(dim=(1, 2)) / wanted.norm(dim=(1, 2))
    np.testing.assert_allclose(plain["factor_error"], error.numpy(), atol=1e-5)
    assert (plain["factor_error"] > 10 * row["factor_error"]).all()


def test_a_row_does_not_depend_on_the_rows_before_it(plain: dict[str, Any]):
    teacher = teacher_of(BASE)
    for work in teacher.read_ahead([2, 1]):
        teacher.row(work)
    again = teacher.row(teacher.work(0))
    assert again.keys() == plain.keys()
    for name, value in plain.items():
        np.testing.assert_array_equal(value, again[name])


def test_clips_are_read_ahead_in_the_order_asked():
    teacher = teacher_of(BASE)
    assert [work.draw.number for work in teacher.read_ahead([2, 0, 2, 1])] == [2, 0, 2, 1]
    assert list(teacher.read_ahead([])) == []


@pytest.mark.parametrize("masks", ["predicted", "true"])
def test_context_changes_what_the_teacher_says_and_nothing_that_the_student_sees(plain: dict[str, Any], masks: Any):
    row = row_of(replace(BASE, teacher=TeacherConfig(context_frames=3, context_masks=masks)))
    for name in ("clip_crc32", "sample_index", "sample_label", "boundary", "num_objects"):
        np.testing.assert_array_equal(row[name], plain[name])
    record, before = json.loads(row["record"]), json.loads(plain["record"])
    assert len(record.pop("context")) == 3 and before.pop("context") == []
    assert record == before
    assert not np.array_equal(row["logits"], plain["logits"])


def test_true_masks_of_the_context_frames_make_a_better_teacher():
    """Labels that the student never sees: the cross-entropy of the teacher's own words falls."""
    losses = {}
    for masks in ("predicted", "true"):
        teacher = teacher_of(replace(BASE, teacher=TeacherConfig(context_frames=4, context_masks=masks)))
        total = 0.0
        for work in teacher.read_ahead(range(8)):
            logits, _ = teacher.look(work)
            labels = torch.from_numpy(work.clip.labels[1:, 2::4, 2::4])
            for number in range(1, logits.shape[1] + 1):
                wanted = (labels == number).float()
                total += float(torch.nn.functional.binary_cross_entropy_with_logits(logits[:, number - 1], wanted))
        losses[masks] = total
    assert losses["true"] < losses["predicted"]


def test_stored_frames_are_those_that_the_teacher_saw(plain: dict[str, Any]):
    teacher = teacher_of(replace(BASE, frames="store"))
    work = teacher.work(0)
    row = teacher.row(work)
    decoded = decode_clip(row["frames"], row["labels"])
    np.testing.assert_array_equal(decoded.frames, work.clip.frames)
    assert checksum(decoded) == row["clip_crc32"] != plain["clip_crc32"]
    videos = {video.name: video for video in blueprint(BASE).videos}
    raw = read_clip(videos[work.draw.video], work.draw, BASE.clip.crop_px)
    np.testing.assert_array_equal(decoded.labels, raw.labels)
    assert np.abs(decoded.frames.astype(int) - raw.frames).mean() < 4  # JPEG, but a good one


def test_the_draw_of_a_row_is_the_draw_of_its_number(plain: dict[str, Any]):
    drawn = draw_clip(blueprint(BASE).videos, BASE.clip, BASE.seed, 0)
    assert ClipDraw.from_dict(json.loads(plain["record"])) == drawn


def test_a_receipt_is_a_function_of_the_shards_bytes(tmp_path: Path):
    config = replace(BASE, out=str(tmp_path))
    (tmp_path / "shards").mkdir()
    answer = teacher_of(config)({"number": 0, "first_draw": 0, "num_draws": 3})
    plan = ShardPlan(0, 0, 3)
    data = (tmp_path / "shards" / plan.file_name).read_bytes()
    assert answer["receipt"] == receipt(plan, data) and answer["cpu_s"] > 0
    rows = schema.read_rows(str(tmp_path / "shards" / plan.file_name), [])
    assert answer["receipt"]["factor_error_max"] == max(float(row["factor_error"].max()) for row in rows)


def test_a_teacher_whose_output_is_not_finite_stops_with_the_draw_and_the_frame(tmp_path: Path):
    model, _ = load_checkpoint(BUILTIN[BUILTIN_TEACHER])
    with torch.no_grad():
        model.get_parameter("decoder.pred.weight").sign_().mul_(3e38)  # finite weights, whose sums are not
    save_checkpoint(str(tmp_path / "teacher"), model, {"role": "teacher"})
    with pytest.raises(
        InputError, match=r"draw 0 \(train.*frame \d+\).*not finite.*finished shards are kept"
    ) as refusal:
        row_of(replace(BASE, teacher=TeacherConfig(checkpoint=str(tmp_path / "teacher"))))
    assert "\n" not in str(refusal.value)
