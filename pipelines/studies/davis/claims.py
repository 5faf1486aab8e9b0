"""Compare the claims of the protocol with their targets: reached, below target, or not run."""

from __future__ import annotations

import math
from dataclasses import replace

from pipelines.studies.davis.plan import LONG, MAIN_CACHE
from pipelines.studies.davis.results import Results
from pipelines.studies.protocols.families import counted
from pipelines.studies.protocols.judging import equal_cpu, gain, judge, level
from pipelines.studies.protocols.planned import TEACHER
from vos.metrics.intervals import Difference
from vos.published.bounds import BELOW, REACHED, Figure

MINUTE_S = 60.0
ON_AVERAGE = f"{REACHED} on average"


def claims(results: Results) -> list[Figure]:
    """Return each claim as a figure, with its result as text in `how`."""
    study = results.study
    full, some, rank = f"full-{study.main}", study.quarter, study.cache.factor.rank
    shares = [
        ("half", "short", "half-both", "short-plain"),
        ("half", "full", f"{full}-both-half", f"{full}-plain"),
        (f"{100 / LONG:.0f} %", f"{LONG:g} times full", f"{full}-both", f"{full}-plain-long"),
    ]
    plain, teacher, best, ratio = _levels(results)
    return [
        plain,
        teacher,
        best,
        gain(results, "distilled − plain, equal steps, short", "short-both", "short-plain", 3, 5),
        gain(results, "distilled − plain, equal steps, full", f"{full}-both", f"{full}-plain", 3, 3),
        equal_cpu(results, "distilled − plain, equal CPU time, short", *_equal_in_cpu(full)["short"], seeds=5),
        equal_cpu(results, "distilled − plain, equal CPU time, full", *_equal_in_cpu(full)["full"], seeds=3),
        ratio,
        *(_as_good(results, f"distilled in {part} of the steps − plain in all, {length}", a, b)
          for part, length, a, b in shares),
        gain(results, f"boundary − uniform sampling, {some}", f"short-{some}", "short-uniform", 0, 3, most_seeds=5),
        _within(results, f"int8, rank {rank} − fp32 targets", "short-fp32", 0.5),
        _within(results, "cached − online teacher", "short-online", 0.5),
        _cost(results, "CPU seconds of a step, distilled from the cache / plain", "short-both", ("<=", 1.1), "≤ 1.1"),
        _cost(results, "the same with the teacher online", "short-online", ("", ""), "(without a cache)"),
    ]  # fmt: skip


def cpu_lines(results: Results) -> list[str]:
    """Return the lines with the CPU times behind the comparison at equal CPU time."""
    lines, records = [], results.records
    for length, families in _equal_in_cpu(f"full-{results.study.main}").items():
        distilled, plain = (results.cost(family, "cpu_s") for family in families)
        if distilled is not None and plain is not None:
            minutes = f"{distilled / MINUTE_S:.1f} CPU-minutes distilled (cache reading included), {plain / MINUTE_S:.1f} plain"
            lines.append(f"{length}: {minutes}")
    if MAIN_CACHE in records and records[MAIN_CACHE]["teacher_cpu_s"]:
        cache = records[MAIN_CACHE]
        size = f"{cache['draws']} draws, {cache['bytes'] / 2**20:.0f} MiB"
        cost = f"{cache['teacher_cpu_s'] / MINUTE_S:.1f} CPU-minutes of the teacher"
        lines.append(f"the cache: {size}, {cost}, once for all students")
    if TEACHER in records and records[TEACHER]["cpu_s"] is not None:
        lines.append(f"the teacher's own training: {records[TEACHER]['cpu_s'] / MINUTE_S:.0f} CPU-minutes, once")
    return lines


def _equal_in_cpu(full: str) -> dict[str, tuple[str, str]]:
    return {"short": ("short-both", "longer-plain"), "full": (f"{full}-both", f"{full}-plain-longer")}


def _levels(results: Results) -> tuple[Figure, Figure, Figure, Figure]:
    """Return J&F of the best plain student, the teacher and the best distilled student, and the ratio of the last to its teacher."""
    study, full, seeds_of = results.study, f"full-{results.study.main}", results.figures
    lengths = [f"{full}-plain{length}" for length in ("", "-long", "-fresh")]
    in_time = [one for one in lengths if (results.cost(one, "cpu_s") or math.inf) <= 60 * MINUTE_S]
    most = max(len(seeds_of(one)) for one in in_time or lengths)  # one seed shows little, however high
    plain = results.best([one for one in in_time or lengths if len(seeds_of(one)) == most])
    spent_s = results.cost(plain, "cpu_s")
    cost = f", {spent_s / MINUTE_S:.0f} CPU-minutes" if spent_s is not None else ""
    note = f"{cost}, {counted(seeds_of(plain))}, the best of {len(lengths)} lengths"
    of_mobilenet = [label for label in (study.main, *study.others) if label != "resnet18"]
    others = [f"{full}-{one}" for one in (f"kd{study.light_kd:g}", "both-long", "both-fresh")]
    usual = results.best(
        [f"full-{label}-{one}" for label in of_mobilenet for one in ("both", "logits", "repr")] + others
    )
    best, teacher = results.best([usual, f"{study.as_large}-both-fresh"]), results.mean(TEACHER)

    def distilled(name: str, target: str, bound: float, scale: float | None, digits: int) -> Figure:
        """Return the best one's figure, in units of `scale`, and the usual one's too where the best saw larger frames than students do."""
        values = [value / scale if value is not None and scale else None for value in map(results.mean, (best, usual))]
        note = f", {counted(seeds_of(best))}"
        if best != usual and values[1] is not None:
            note += f", frames at {study.scale.teacher_px} px like the teacher's; at {study.evaluate.size_px} px "
            note += f"{values[1]:.{digits}f}"
        return level(name, target, values[0], bound, note, digits)

    judged = level("plain student without ASPP, at most 1 CPU-hour", "J&F ≥ 82", results.mean(plain), 82, note)
    return (
        judged if in_time else replace(judged, verdict=BELOW if judged.value is not None else ""),
        level("teacher", "J&F ≥ 88", teacher, 88),
        distilled("best distilled MobileNetV2 student", "J&F ≥ 87", 87, 1.0, 1),
        distilled("distilled student / its teacher, J&F", "≥ 0.99", 0.99, teacher, 3),
    )


def _cost(results: Results, name: str, family: str, bound: tuple[str, float | str], target: str) -> Figure:
    value = results.cost_ratio(family, "short-plain", "cpu_s_per_step")
    return Figure(name, value, *bound, how="-" if value is None else f"{value:.3f}", asked=target)


def _as_good(results: Results, name: str, a: str, b: str) -> Figure:
    def verdict(found: Difference) -> str | bool:
        return found.mean >= 0 and (ON_AVERAGE if found.low <= 0 else True)

    return judge(results, name, (a, b), "≥ 0, 3 seeds", verdict, 3)


def _within(results: Results, name: str, b: str, points: float) -> Figure:
    def verdict(found: Difference) -> str | bool:
        wide = max(-found.low, found.high) > points  # two seeds rarely resolve half a point
        return abs(found.mean) <= points and (ON_AVERAGE if wide else True)

    return judge(results, name, ("short-both", b), f"within {points}", verdict, 2)
