"""The protocol folds: it is closed, it keeps the validation sequences apart, and no run sees more than it says."""

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.runtime.videos import index_videos
from pipelines.studies.protocols.planned import Planned
from pipelines.studies.protocols.records import lasting
from pipelines.studies.unseen.data import fingerprints, nested, prepare, with_videos
from pipelines.studies.unseen.plan import plan
from pipelines.studies.unseen.recipes import RECIPES
from vos.config import CacheConfig, DataConfig, EvaluateConfig, JobConfig, LabelConfig, ReportConfig, TrainConfig
from vos.config.presets import preset
from vos.data.mixtures import Mixture
from vos.data.videos import Video
from vos.errors import InputError
from vos.files.canonical import differences
from vos.inference.labelling import with_given_masks
from vos.models import names


@pytest.fixture(params=list(RECIPES))
def runs(request: pytest.FixtureRequest) -> list[Planned]:
    return plan(request.param)


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> ReportConfig:
    """The smoke protocol with its synthetic data set on the disk."""
    out = str(tmp_path_factory.mktemp("report") / "out")
    return prepare(replace(preset(ReportConfig, "smoke"), out=out).completed(), plan("smoke"))


def named(runs: list[Planned], name: str) -> Planned:
    return next(one for one in runs if one.name == name)


def resolved(config: ReportConfig, planned: Planned, job: JobConfig | None = None) -> JobConfig:
    """Return a run's configuration on this machine; a run's result has a folder of its name, without content."""
    return with_videos(config, planned, job or planned.job, lambda name: os.path.join(config.out, "runs", name))


def learned_from(config: ReportConfig, planned: Planned) -> dict[str, list[Video]]:
    """Return the videos of a run by the kind of their source; a source of labels is empty, since nothing was labelled yet."""
    job = resolved(config, planned)
    data = job.data
    if isinstance(job, LabelConfig):
        return {"others": index_videos(data, job.split)}
    kept = tuple(one for one in data.sources if not one.startswith("labels="))
    videos = index_videos(replace(data, sources=kept), "train")
    return {one.name: list(one.videos) for one in videos.sources} if isinstance(videos, Mixture) else {"all": videos}


def test_names_are_unique_and_what_a_run_needs_stands_before_it(runs: list[Planned]):
    seen: set[str] = set()
    for one in runs:
        assert one.name not in seen and seen.issuperset(one.needs)
        seen.add(one.name)


def test_every_place_that_a_configuration_names_is_something_the_run_needs(runs: list[Planned]):
    for one in runs:
        job, videos = one.job, one.videos
        assert videos is not None
        places = {job.cache, job.init} - {""} if isinstance(job, TrainConfig) else set()
        places |= {job.teacher.checkpoint} if isinstance(job, CacheConfig | LabelConfig) else set()
        places |= {videos.labels} - {""}
        assert places <= set(one.needs), one.name


def test_every_network_exists_and_nothing_of_a_machine_is_in_a_plan(runs: list[Planned]):
    assert {one.job.model for one in runs if isinstance(one.job, TrainConfig)} <= set(names())
    assert not any(one.job.data.root or "/" in repr(lasting(one.job)) for one in runs)


def test_only_the_final_models_are_scored_on_the_validation_sequences(runs: list[Planned]):
    final = {one.name for one in runs if one.evaluation and one.videos and not one.videos.fold}
    assert final == {
        "teacher",
        *(f"{kind}-s{s}" for kind in ("both", "plain", "plain-longer") for s in (1, 2, 3)),
        "both-mobilenetv2-s1",
    }
    assert not any(one.job.data.fold or isinstance(one.job, EvaluateConfig) for one in runs), (
        "paths and folds come from `videos`"
    )


def test_choices_and_curve_read_no_validation_sequence(smoke: ReportConfig):
    validation = {video.name for video in index_videos(DataConfig(root=smoke.data.root, kind="davis2017"), "val")}
    assert validation
    for one in plan("smoke"):
        read = {video.name for videos in learned_from(smoke, one).values() for video in videos}
        assert read and not read & validation, one.name
        if one.evaluation and one.videos and one.videos.fold:
            job = resolved(smoke, one, one.evaluation)
            assert isinstance(job, EvaluateConfig)
            scored = {video.name for video in index_videos(job.data, job.split)}
            assert len(scored) == RECIPES["smoke"].fold_videos and not scored & (read | validation), one.name


def test_folds_do_not_overlap_and_the_curve_is_judged_by_the_first(smoke: ReportConfig):
    held_out = []
    for name in ("teacher-1", "teacher-2", "teacher-3", "both-n4-s1"):
        one = named(plan("smoke"), name)
        assert one.evaluation is not None
        job = resolved(smoke, one, one.evaluation)
        held_out.append({video.name for video in index_videos(job.data, "val")})
    assert held_out[3] == held_out[0]
    assert len(set.union(*held_out[:3])) == 3 * RECIPES["smoke"].fold_videos


def test_labelled_sets_are_nested_and_with_the_others_they_are_all_that_the_fold_leaves(smoke: ReportConfig):
    every, larger = plan("smoke"), None
    for count in RECIPES["smoke"].labelled:
        teacher = learned_from(smoke, named(every, f"teacher-n{count}"))
        known = {video.name for video in teacher["davis2017"]}
        assert len(known) == count and set(teacher) == {"davis2017"}
        assert known == {video.name for video in learned_from(smoke, named(every, f"plain-n{count}-s1"))["davis2017"]}
        if larger is None:
            whole = known
        else:
            assert known < larger
            others = {video.name for video in learned_from(smoke, named(every, f"labels-n{count}"))["others"]}
            assert not others & known and others | known == whole
        larger = known


def test_the_names_of_a_set_do_not_depend_on_the_order_in_which_they_are_listed():
    listed = [f"video{i}" for i in np.random.default_rng(0).permutation(22)]
    assert nested(listed, 8) == nested(sorted(listed), 8)
    with pytest.raises(InputError, match="23 videos .* are needed, there are 22"):
        nested(listed, 23)


def test_the_teacher_that_labels_reads_one_mask_of_each_other_video(smoke: ReportConfig):
    job = resolved(smoke, named(plan("smoke"), "labels-n4"))
    assert isinstance(job, LabelConfig) and job.masks == "first"
    for video in index_videos(job.data, job.split):
        objects = set(with_given_masks(video, False).annotated)
        assert objects <= set(video.first_seen.values()) and len(video.annotated) > len(objects)


def test_students_of_the_curve_learn_from_labels_of_the_teacher_that_saw_the_same_masks(smoke: ReportConfig):
    every = plan("smoke")
    for count in RECIPES["smoke"].labelled[1:]:
        cache, student = named(every, f"cache-n{count}"), named(every, f"both-n{count}-s1")
        assert named(every, f"labels-n{count}").needs == (f"teacher-n{count}",) and cache.videos == student.videos
        (labels,) = [one for one in resolved(smoke, cache).data.sources if one.startswith("labels=")]
        assert labels.startswith(f"labels={smoke.out}/runs/labels-n{count}:")
    most = named(every, f"both-n{max(RECIPES['smoke'].labelled)}-s1")
    assert most.videos and not most.videos.labels


@pytest.mark.parametrize(("a", "b"), [("both-s2", "plain-s2"), ("both-n8-s3", "plain-n8-s3"), ("both-1", "plain-1")])
def test_a_pair_differs_in_distillation_only(a: str, b: str):
    first, second = (named(plan("davis-cpu"), name) for name in (a, b))
    found = {line.split(":")[0] for line in differences(lasting(first.job), lasting(second.job))}
    clips = {"cache", "draws", "draw_seed", "clip"}
    assert found - clips == {"loss.kd", "loss.representation"} and first.seed == second.seed
    cache = named(plan("davis-cpu"), first.needs[0]).job
    assert isinstance(cache, CacheConfig) and isinstance(second.job, TrainConfig)
    assert (second.job.draws, second.job.draw_seed, second.job.clip) == (cache.draws, cache.seed, cache.clip)


def test_today_s_recipe_is_the_earlier_protocol_s_on_a_fold():
    from pipelines.studies.davis.plan import plan as before

    for new, old in (("teacher-before-2", "teacher"), ("plain-before-2", "full-noaspp-plain-s1")):
        one, other = named(plan("davis-cpu"), new), named(before("davis-cpu"), old)
        assert lasting(one.job) == lasting(other.job) and one.videos and not one.videos.stills


def test_what_is_missing_is_named_before_long_work(tmp_path: Path):
    config = ReportConfig(out=str(tmp_path / "out"), docs=str(tmp_path / "docs"))
    every = plan("davis-cpu")
    with pytest.raises(InputError, match="give --data.root .* and --stills"):
        prepare(config, every)
    root = replace(config, data=DataConfig(root=str(tmp_path)))
    with pytest.raises(InputError, match="--stills .none.: no such folder"):
        prepare(root, every)
    assert prepare(root, [named(every, "teacher-before-1")]) == root
    with pytest.raises(InputError, match="--preset paper: .* no such size"):
        plan("paper")


def test_the_stills_are_part_of_the_data_and_a_second_preparation_changes_nothing(smoke: ReportConfig):
    found = fingerprints(smoke, {})
    assert set(found) == {"train", "val", "stills"}
    again = prepare(replace(smoke, data=preset(ReportConfig, "smoke").data, stills=""), [])
    assert again == smoke and json.dumps(fingerprints(again, {})) == json.dumps(found)
