"""The protocol: every run can be reached, and what is compared differs in one thing."""

from dataclasses import replace

import pytest
import torch

from pipelines.cache.read import draws_of_step
from pipelines.studies.davis.comparisons import ablations, comparisons
from pipelines.studies.davis.plan import SCALES, plan
from pipelines.studies.davis.results import Results
from pipelines.studies.protocols.planned import TEACHER, Planned, chosen
from pipelines.studies.protocols.records import lasting
from pipelines.training.loop import make_source, new_model
from vos.config import CacheConfig, DataConfig, EvaluateConfig, TrainConfig, TuneConfig
from vos.errors import InputError
from vos.files.canonical import differences
from vos.models import names

EVERY = list(SCALES)


@pytest.fixture(params=EVERY)
def runs(request: pytest.FixtureRequest) -> list[Planned]:
    return plan(request.param)


def named(runs: list[Planned], name: str) -> Planned:
    return next(one for one in runs if one.name == name)


def test_names_are_unique_and_what_a_run_needs_stands_before_it(runs: list[Planned]):
    seen: set[str] = set()
    for one in runs:
        assert one.name not in seen
        assert seen.issuperset(one.needs)
        seen.add(one.name)


def test_every_place_that_a_configuration_names_is_something_the_run_needs(runs: list[Planned]):
    for one in runs:
        job = one.job
        if isinstance(job, TrainConfig):
            assert {job.cache} - {""} <= set(one.needs)
        elif isinstance(job, TuneConfig):
            assert job.cache in one.needs
        elif isinstance(job, CacheConfig):
            assert job.teacher.checkpoint in one.needs
        else:
            assert isinstance(job, EvaluateConfig) and job.checkpoint in one.needs


def test_every_run_trains_a_network_that_exists(runs: list[Planned]):
    assert {one.job.model for one in runs if isinstance(one.job, TrainConfig)} <= set(names())


def test_no_two_runs_are_the_same(runs: list[Planned]):
    # A smoke-sized protocol may meet itself, where a value is its default; the real one must not.
    if runs[1].job.preset == "davis-cpu":
        jobs = [repr((one.kind, lasting(one.job))) for one in runs]
        assert len(set(jobs)) == len(jobs)


def test_nothing_of_a_machine_is_in_a_plan(runs: list[Planned]):
    for one in runs:
        assert one.job.data.root == "" and "/" not in repr(lasting(one.job))


@pytest.mark.parametrize(
    ("a", "b", "fields"),
    [
        ("short-both", "short-plain", {"loss.kd", "loss.representation"}),
        ("full-noaspp-both", "full-noaspp-plain", {"loss.kd", "loss.representation"}),
        ("full-mobilenetv2-both", "full-mobilenetv2-plain", {"loss.kd", "loss.representation"}),
        ("full-resnet18-both", "full-resnet18-plain", {"loss.kd", "loss.representation"}),
        ("full-noaspp-logits", "full-noaspp-plain", {"loss.kd"}),
        ("full-noaspp-repr", "full-noaspp-plain", {"loss.representation"}),
        ("repeat-both", "repeat-plain", {"loss.kd", "loss.representation"}),
        ("full-noaspp-both", "repeat-both", {"cache"}),
        ("full-noaspp-plain", "repeat-plain", {"draws"}),
        ("short-both", "longer-plain", {"loss.kd", "loss.representation", "steps"}),
        ("half-both", "short-both", {"steps"}),
        ("full-noaspp-both-half", "full-noaspp-both", {"steps"}),
        ("full-noaspp-both-long", "full-noaspp-plain-long", {"loss.kd", "loss.representation"}),
        ("full-noaspp-both-long", "full-noaspp-both", {"steps", "mirror"}),
        ("full-noaspp-both-fresh", "full-noaspp-plain-fresh", {"loss.kd", "loss.representation"}),
        ("full-noaspp-both-fresh", "full-noaspp-both-long", {"cache", "mirror"}),
        ("short-n256", "short-uniform", {"cache"}),
        ("half-n256", "half-uniform", {"cache"}),
        ("short-both", "short-fp32", {"cache"}),
        ("short-both", "short-online", {"teacher_online"}),
        ("short-both", "short-rank16", {"loss.rank"}),
        ("short-both", "short-w0.5", {"loss.w"}),
        ("short-both", "short-tau4", {"loss.temperature"}),
        ("short-both", "short-kd1", {"loss.kd"}),
        ("full-noaspp-both", "full-noaspp-kd1", {"loss.kd"}),
        ("short-both", "short-kd32", {"loss.kd"}),
        ("short-both", "short-repr1", {"loss.representation"}),
        ("short-both", "short-n128", {"loss.density"}),
        ("short-both", "short-n2048", {"cache"}),
        ("short-both", "short-truemasks", {"cache"}),
    ],
)
def test_a_pair_differs_in_what_it_is_about_and_in_nothing_else(a: str, b: str, fields: set[str]):
    runs = plan("davis-cpu")
    for seed in (1, 2) if not a.startswith("full") else (1,):
        first, second = (named(runs, f"{family}-s{seed}") for family in (a, b))
        assert first.seed == second.seed == seed
        found = differences(lasting(first.job), lasting(second.job))
        clips_of_its_own = {"cache", "draws", "draw_seed", "clip"} if "plain" in b and "plain" not in a else set()
        assert {line.split(":")[0] for line in found} - clips_of_its_own == fields


def test_a_plain_student_makes_the_draws_of_the_cache_that_its_counterpart_reads(runs: list[Planned]):
    for one in runs:
        if one.kind != "student" or "plain" not in one.name:
            continue
        length = "fresh" if "fresh" in one.name else one.name.split("-")[0]
        caches = {"full": "cache-main", "fresh": "cache-long", "repeat": "cache-repeat"}
        cache = named(runs, caches.get(length, "cache-short")).job
        assert isinstance(one.job, TrainConfig) and isinstance(cache, CacheConfig) and not one.needs
        assert (one.job.draws, one.job.draw_seed, one.job.clip) == (cache.draws, cache.seed, cache.clip)


def test_students_scored_on_frames_as_large_as_the_teachers_differ_in_nothing_else():
    runs = plan("davis-cpu")
    teacher = named(runs, TEACHER).evaluation
    for loss in ("plain", "both"):
        larger, usual = (named(runs, f"{family}-{loss}-fresh-s1") for family in ("size432", "full-noaspp"))
        assert isinstance(larger.job, EvaluateConfig) and teacher is not None and usual.evaluation is not None
        assert larger.job.size_px == teacher.size_px
        found = differences(lasting(usual.evaluation), lasting(larger.job))
        assert [line.split(":")[0] for line in found] == ["size_px"]


def test_a_student_sees_each_of_its_clips_once_but_where_that_is_the_question():
    runs = plan("davis-cpu")
    cases = (
        ("full-noaspp-plain", 1),
        ("short-plain", 1),
        ("repeat-plain", 4),
        ("full-noaspp-plain-long", 2.5),
        ("full-noaspp-plain-fresh", 1),
    )
    for family, times in cases:
        job = named(runs, f"{family}-s1").job
        assert isinstance(job, TrainConfig) and job.steps * job.batch == times * job.draws


def test_caches_that_are_compared_have_the_same_draws_in_the_same_order():
    """The order is a function of the seed of the training and the number of draws; a draw, of the cache's seed and its number."""
    runs = plan("davis-cpu")
    usual = named(runs, "cache-short").job
    for name, field in {
        "cache-uniform": "sampling",
        "cache-fp16": "factor.dtype",
        "cache-n2048": "samples",
        "cache-context0": "teacher.context_frames",
        "cache-context2": "teacher.context_frames",
        "cache-truemasks": "teacher.context_masks",
    }.items():
        found = differences(lasting(usual), lasting(named(runs, name).job))
        assert [line.split(":")[0] for line in found] == [field], name


def test_every_comparison_and_ablation_is_of_runs_that_the_plan_has(runs: list[Planned]):
    families = {one.family for one in runs}
    results = Results(runs[0].job.preset, {})
    assert {family for one in comparisons(results) for family in (one.a, one.b)} <= families
    assert {family for values in ablations(results.study).values() for _, family in values} <= families


def test_chosen_runs_come_with_all_that_they_need_and_in_order():
    runs = plan("davis-cpu")
    names = [one.name for one in chosen(runs, ("memory-first-both-s1", "uniform"))]
    assert names[:3] == ["teacher", "cache-main", "full-noaspp-both-s1"] and "cache-uniform" in names
    assert names == [one.name for one in runs if one.name in names]
    assert chosen(runs, ()) == runs


def test_a_word_that_no_run_has_is_refused():
    with pytest.raises(InputError, match="--only nonsense"):
        chosen(plan("smoke"), ("short", "nonsense"))


@pytest.mark.parametrize("seed", [1, 2])
def test_a_plain_and_a_distilled_student_begin_alike_and_see_the_same_clips(
    cache_config: CacheConfig, cache: str, seed: int
):
    """With the real cache: equal weights, bit for bit, and equal clips in equal order, with targets only for one of them."""
    runs, config = plan("smoke"), cache_config
    jobs = []
    for loss in ("plain", "both"):
        job = named(runs, f"short-{loss}-s{seed}").job
        assert isinstance(job, TrainConfig)
        place = {"cache": cache, "data": DataConfig()} if job.cache else {"data": config.data, "draws": config.draws}
        jobs.append(replace(job, **place))
    first, second = (new_model(job).state_dict() for job in jobs)
    assert first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
    plain, distilled = (make_source(job) for job in jobs)
    assert plain.num_draws == distilled.num_draws
    orders = [
        [draws_of_step(step, one.num_draws, job.batch, job.seed, stages=one.clip.stages) for step in range(job.steps)]
        for one, job in zip((plain, distilled), jobs, strict=True)
    ]
    assert orders[0] == orders[1]
    without, with_targets = plain.batch([3, 0]), distilled.batch([3, 0])
    assert torch.equal(without.frames, with_targets.frames) and torch.equal(without.labels, with_targets.labels)
    assert without.targets is None and with_targets.targets is not None
