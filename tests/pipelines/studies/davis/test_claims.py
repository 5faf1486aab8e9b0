"""Claims and comparisons, from made-up records: what counts as reached, and what is put beside what."""

from dataclasses import replace

import pytest

from pipelines.studies.davis.claims import claims
from pipelines.studies.davis.plan import plan
from pipelines.studies.davis.results import Results
from pipelines.studies.protocols import records as results_records
from pipelines.studies.protocols.planned import Planned
from tests.pipelines.studies.protocols.made_up_results import noisy, records_of
from vos.published.bounds import BELOW, NOT_RUN, REACHED, Figure


@pytest.fixture(scope="module")
def runs() -> list[Planned]:
    return plan("davis-cpu")


def test_a_comparison_pairs_seeds_and_sequences_and_leaves_out_what_only_one_side_has(runs: list[Planned]):
    records = records_of(runs, lambda one, place: noisy(replace(one, name=f"plain-s{one.seed}"), place))
    for seed in (1, 2, 3):
        for row in records[f"short-both-s{seed}"]["sequences"]:
            row["j_and_f"] += 0.05
    del records["short-plain-s3"], records["short-both-s4"], records["short-plain-s5"]
    found = Results("davis-cpu", records).compare("short-both", "short-plain")
    assert found.seeds == (1, 2) and found.difference is not None
    assert tuple(found.difference) == pytest.approx((5, 5, 5), abs=1e-6)


def judged(records: dict[str, results_records.Record]) -> dict[str, Figure]:
    return {one.name: one for one in claims(Results("davis-cpu", records))}


def verdicts(records: dict[str, results_records.Record]) -> dict[str, str]:
    return {name: one.outcome for name, one in judged(records).items()}


EQUAL = "distilled − plain, equal steps, short"


@pytest.mark.parametrize(
    ("gain", "seeds", "verdict"),
    [
        (0.05, 5, REACHED),
        (0.02, 5, BELOW),
        (-0.05, 5, BELOW),
        (0.05, 4, f"{NOT_RUN}: 4 of 5 seeds"),
        (0.05, 0, NOT_RUN),
    ],
)
def test_a_gain_is_reached_with_enough_points_and_enough_seeds(
    runs: list[Planned], gain: float, seeds: int, verdict: str
):
    def score(one: Planned, place: int) -> float:
        return 0.7 - 0.01 * place + 0.001 * one.seed + gain * one.name.startswith("short-both")

    records = records_of(runs, score)
    for seed in range(seeds + 1, 6):
        del records[f"short-both-s{seed}"]
    assert verdicts(records)[EQUAL] == verdict


def test_a_gain_whose_interval_holds_nothing_is_not_reached_however_large_its_mean(runs: list[Planned]):
    """One sequence of four gains 20 points, the others nothing."""
    records = records_of(runs, lambda one, place: 0.6 + 0.2 * (one.name.startswith("short-both") and place == 0))
    found = Results("davis-cpu", records).compare("short-both", "short-plain").difference
    assert found is not None and found.mean == pytest.approx(5) and found.low == pytest.approx(0)
    assert verdicts(records)[EQUAL] == BELOW


def test_as_good_in_fewer_steps_is_reached_on_average_where_the_interval_says_no_more(runs: list[Planned]):
    claim = next(one for one in verdicts({}) if "half of the steps" in one and "full" in one)
    for gain, verdict in ((0.02, REACHED), (0.0, f"{REACHED} on average"), (-0.02, BELOW)):
        records = records_of(runs, lambda one, place, gain=gain: 0.7 + gain * ("both-half" in one.name))
        assert verdicts(records)[claim] == verdict


def test_sampling_that_makes_no_difference_with_five_seeds_is_called_that(runs: list[Planned]):
    claim = next(one for one in verdicts({}) if one.startswith("boundary"))
    same = records_of(runs, lambda one, place: 0.7 + 0.002 * ((one.seed + place + len(one.name)) % 3))
    assert verdicts(same)[claim] == "no difference (5 seeds)"
    better = records_of(runs, lambda one, place: 0.7 + 0.02 * (one.family == "short-n256"))
    assert verdicts(better)[claim] == REACHED


def test_within_half_a_point_is_reached_only_where_the_interval_is_within_too(runs: list[Planned]):
    claim = next(one for one in verdicts({}) if one.startswith("cached"))
    for spread, verdict in ((0.004, REACHED), (0.04, f"{REACHED} on average")):
        sign = {True: spread, False: -spread}
        records = records_of(
            runs, lambda one, place, sign=sign: 0.7 + (one.family == "short-online") * sign[place % 2 == 0]
        )
        assert verdicts(records)[claim] == verdict
    records = records_of(runs, lambda one, place: 0.7 + 0.01 * (one.family == "short-online"))
    assert verdicts(records)[claim] == BELOW


def test_a_teacher_that_finds_nothing_has_no_ratio(runs: list[Planned]):
    records = records_of(runs, lambda one, place: 0.0 if one.name == "teacher" else 0.5)
    claim = next(one for one in verdicts({}) if one.startswith("distilled student / its teacher"))
    assert verdicts(records)[claim] == NOT_RUN


@pytest.mark.parametrize(("larger", "said"), [(0.9, True), (0.5, False)])
def test_a_best_student_that_saw_larger_frames_than_students_do_is_said_to(
    runs: list[Planned], larger: float, said: bool
):
    records = records_of(runs, lambda one, place: larger if one.name.startswith("size432-both") else 0.8)
    found = judged(records)
    best, ratio = (
        found[name].how for name in ("best distilled MobileNetV2 student", "distilled student / its teacher, J&F")
    )
    assert best.startswith(f"{100 * max(larger, 0.8):.1f}")
    assert all(("frames at 432 px" in text) == said and "seed" in text for text in (best, ratio))


def test_a_comparison_at_equal_cpu_time_is_none_where_the_plain_students_had_less(runs: list[Planned]):
    claim = next(one for one in verdicts({}) if "equal CPU time, short" in one)
    records = records_of(runs, lambda one, place: 0.7 + 0.05 * one.name.startswith("short-both"))
    assert verdicts(records)[claim] == REACHED
    for seed in range(1, 6):
        records[f"longer-plain-s{seed}"]["cpu_s"] /= 1.2
    assert verdicts(records)[claim].startswith("not equal: plain had")


def test_an_ablation_compares_values_over_the_seeds_that_all_of_them_have(runs: list[Planned]):
    records = records_of(runs)
    scores, seeds = Results("davis-cpu", records).aligned(
        ["short-both", "short-w0", "short-w1"]
    )  # five, two and two seeds
    assert seeds == [1, 2] and {len(one) for one in scores.values()} == {2}
    del records["short-w1-s1"], records["short-w1-s2"]
    scores, seeds = Results("davis-cpu", records).aligned(["short-both", "short-w0", "short-w1"])
    assert seeds == [1, 2] and scores["short-w1"] == []


def test_a_plain_student_that_took_more_than_an_hour_has_not_reached_its_target(runs: list[Planned]):
    claim = next(one for one in verdicts({}) if one.startswith("plain student"))
    records = records_of(runs, lambda one, place: 0.83)
    assert verdicts(records)[claim] == REACHED
    records["full-noaspp-plain-fresh-s1"]["figures"]["j_and_f"] = 0.99  # of one seed, where others have three
    assert judged(records)[claim].how.startswith("83.0")
    for seed in (1, 2, 3):
        records[f"full-noaspp-plain-long-s{seed}"]["cpu_s"] = 3700.0
        records[f"full-noaspp-plain-long-s{seed}"]["figures"]["j_and_f"] = 0.9
    assert verdicts(records)[claim] == REACHED
    for seed in (1, 2, 3):
        records[f"full-noaspp-plain-s{seed}"]["cpu_s"] = 3700.0
    assert verdicts(records)[claim] == BELOW
