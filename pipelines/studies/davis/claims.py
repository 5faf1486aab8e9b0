"""The claims of the protocol beside their targets: reached, below target, or not run."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from pipelines.studies.davis.comparisons import Comparison, by_seed, comparisons, counted, figure, mean_of
from pipelines.studies.davis.plan import LONG, MAIN_CACHE, SCALES, TEACHER, as_large, lighter_kd, quarter
from pipelines.studies.davis.records import Record
from vos.config import CacheConfig, EvaluateConfig
from vos.config.presets import preset
from vos.metrics.intervals import Difference

REACHED, BELOW, NOT_RUN = "reached", "below target", "not run"
MINUTE_S = 60.0
FAIR = 0.98
"""Least CPU time of the plain students, as a share of the distilled ones', called equal: a busy machine's clocks differ by that."""


@dataclass(frozen=True)
class Claim:
    """A claim, what was asked, what was found, and whether that is it."""

    claim: str
    target: str
    found: str
    verdict: str


def claims(records: Mapping[str, Record], name: str) -> list[Claim]:
    """The claims of the protocol beside their targets."""
    found = {(one.a, one.b): one for one in comparisons(records, name)}
    labels = list(SCALES[name].students)
    main = labels[0]
    teacher = figure(records, TEACHER)
    lengths = [f"full-{main}-plain{length}" for length in ("", "-long", "-fresh")]
    in_time = [one for one in lengths if (mean_of(records, one, "cpu_s") or math.inf) <= 60 * MINUTE_S]
    # One seed shows little, however high.
    most = max(len(figure(records, one)) for one in in_time or lengths)
    plain = _best(records, [one for one in in_time or lengths if len(figure(records, one)) == most])
    of_mobilenet = [
        f"full-{label}-{loss}" for label in labels if label != "resnet18" for loss in ("both", "logits", "repr")
    ]
    others = [f"full-{main}-{one}" for one in (f"kd{lighter_kd(name):g}", "both-long", "both-fresh")]
    usual, larger = _best(records, [*of_mobilenet, *others]), f"{as_large(name)}-both-fresh"
    best = _best(records, [usual, larger])
    spent_s = mean_of(records, plain, "cpu_s")
    cost = f", {spent_s / MINUTE_S:.0f} CPU-minutes" if spent_s is not None else ""
    # A teacher of a few steps may find nothing at all.
    distilled = {family: _mean(figure(records, family)) for family in (usual, best)}
    ratio = {
        family: value / teacher[0] if value is not None and any(teacher) else None
        for family, value in distilled.items()
    }
    seeds = f", {counted(figure(records, best))}"
    size = f", frames at {SCALES[name].teacher_px} px like the teacher's; at {preset(EvaluateConfig, name).size_px} px "
    steps = {one: _ratio(records, f"short-{one}", "short-plain", "cpu_s_per_step") for one in ("both", "online")}
    some, rank = quarter(name), preset(CacheConfig, name).factor.rank
    return [
        _level(
            "plain student without ASPP, at most 1 CPU-hour",
            "J&F ≥ 82",
            _mean(figure(records, plain)),
            82,
            f"{cost}, {counted(figure(records, plain))}, the best of {len(lengths)} lengths",
            bool(in_time),
        ),
        _level("teacher", "J&F ≥ 88", _mean(teacher), 88),
        _level(
            "best distilled MobileNetV2 student",
            "J&F ≥ 87",
            distilled[best],
            87,
            seeds + _also(size, distilled[usual], best != usual),
        ),
        _gain(
            found["short-both", "short-plain"], "distilled − plain, equal steps, short", "≥ +3, interval above 0", 3, 5
        ),
        _gain(
            found[f"full-{main}-both", f"full-{main}-plain"],
            "distilled − plain, equal steps, full",
            "≥ +3, interval above 0",
            3,
            3,
        ),
        _equal_cpu(records, found["short-both", "longer-plain"], "short", 5),
        _equal_cpu(records, found[f"full-{main}-both", f"full-{main}-plain-longer"], "full", 3),
        _level(
            "distilled student / its teacher, J&F",
            "≥ 0.99",
            ratio[best],
            0.99,
            seeds + _also(size, ratio[usual], best != usual, 3),
            digits=3,
        ),
        *(
            _gain(
                found[pair], f"distilled in {share} of the steps − plain in all, {length}", "≥ 0", 0, 3, interval=False
            )
            for share, length, pair in (
                ("half", "short", ("half-both", "short-plain")),
                ("half", "full", (f"full-{main}-both-half", f"full-{main}-plain")),
                (f"{100 / LONG:.0f} %", f"{LONG:g} times full", (f"full-{main}-both", f"full-{main}-plain-long")),
            )
        ),
        _gain(
            found[f"short-{some}", "short-uniform"],
            f"boundary − uniform sampling, {some}",
            "> 0, interval above 0",
            0,
            3,
            most_seeds=5,
        ),
        _within(found["short-both", "short-fp32"], f"int8, rank {rank} − fp32 targets", 0.5),
        _within(found["short-both", "short-online"], "cached − online teacher", 0.5),
        _most("CPU seconds of a step, distilled from the cache / plain", "≤ 1.1", steps["both"], 1.1),
        _most("the same with the teacher online", "(without a cache)", steps["online"], None),
    ]


def cpu_lines(records: Mapping[str, Record], name: str) -> list[str]:
    """What the comparison at equal CPU time rests on."""
    lines = []
    main = next(iter(SCALES[name].students))
    for length, a, b in (
        ("short", "short-both", "longer-plain"),
        ("full", f"full-{main}-both", f"full-{main}-plain-longer"),
    ):
        spent = [mean_of(records, family, "cpu_s") for family in (a, b)]
        if spent[0] is not None and spent[1] is not None:
            lines.append(
                f"{length}: {spent[0] / MINUTE_S:.1f} CPU-minutes distilled (cache reading included), {spent[1] / MINUTE_S:.1f} plain"
            )
    if MAIN_CACHE in records:
        cache = records[MAIN_CACHE]
        size = f"{cache['draws']} draws, {cache['bytes'] / 2**20:.0f} MiB"
        cost = f"{cache['teacher_cpu_s'] / MINUTE_S:.1f} CPU-minutes of the teacher"
        lines.append(f"the cache: {size}, {cost}, once for all students")
    if TEACHER in records and records[TEACHER]["cpu_s"] is not None:
        lines.append(f"the teacher's own training: {records[TEACHER]['cpu_s'] / MINUTE_S:.0f} CPU-minutes, once")
    return lines


def _best(records: Mapping[str, Record], families: Sequence[str]) -> str:
    """The family whose mean over seeds is highest, the first of those that were not run."""
    return max(families, key=lambda family: _mean(figure(records, family)) or -math.inf)


def _mean(values: Sequence[float]) -> float | None:
    return statistics.mean(values) if values else None


def _also(words: str, value: float | None, wanted: bool, digits: int = 1) -> str:
    return f"{words}{value:.{digits}f}" if wanted and value is not None else ""


def _ratio(records: Mapping[str, Record], a: str, b: str, field: str) -> float | None:
    """The median over common seeds of a cost's ratio."""
    left, right = by_seed(records, a), by_seed(records, b)
    pairs = [(left[seed][field], right[seed][field]) for seed in left.keys() & right.keys()]
    values = [one / other for one, other in pairs if one is not None and other is not None]
    return statistics.median(values) if values else None


def _level(
    claim: str, target: str, value: float | None, least: float, note: str = "", also: bool = True, digits: int = 1
) -> Claim:
    if value is None:
        return Claim(claim, target, "-", NOT_RUN)
    return Claim(claim, target, f"{value:.{digits}f}{note}", REACHED if value >= least and also else BELOW)


def _most(claim: str, target: str, value: float | None, most: float | None) -> Claim:
    if value is None:
        return Claim(claim, target, "-", NOT_RUN)
    return Claim(claim, target, f"{value:.3f}", "" if most is None else REACHED if value <= most else BELOW)


def _gain(
    one: Comparison, claim: str, target: str, least: float, seeds: int, interval: bool = True, most_seeds: int = 0
) -> Claim:  # fmt: skip
    def holds(found: Difference) -> bool:
        enough = found.mean >= least if least or not interval else found.mean > 0
        return enough and (found.low > 0 or not interval)

    judged = _judged(one, claim, f"{target}, {seeds} seeds", seeds, holds, most_seeds)
    unsure = one.difference is not None and one.difference.low <= 0
    return _on_average(judged) if unsure else judged


def _equal_cpu(records: Mapping[str, Record], one: Comparison, length: str, seeds: int) -> Claim:
    """A comparison at equal CPU time is none where the plain students had less of it."""
    judged = _gain(one, f"distilled − plain, equal CPU time, {length}", "> 0, interval above 0", 0, seeds)
    ratio = _ratio(records, one.b, one.a, "cpu_s")
    if ratio is None or ratio >= FAIR or judged.verdict.startswith(NOT_RUN):
        return judged
    return Claim(
        judged.claim, judged.target, judged.found, f"not equal: plain had {100 * (1 - ratio):.0f} % less CPU time"
    )


def _within(one: Comparison, claim: str, points: float, seeds: int = 2) -> Claim:
    judged = _judged(one, claim, f"within {points}", seeds, lambda found: abs(found.mean) <= points)
    wide = one.difference is not None and max(-one.difference.low, one.difference.high) > points
    # Two seeds rarely say more than this of half a point.
    return _on_average(judged) if wide else judged


def _on_average(judged: Claim) -> Claim:
    return replace(judged, verdict=f"{REACHED} on average") if judged.verdict == REACHED else judged


def _judged(
    one: Comparison, claim: str, target: str, seeds: int, holds: Callable[[Difference], bool], most_seeds: int = 0
) -> Claim:  # fmt: skip
    if one.difference is None:
        return Claim(claim, target, "-", NOT_RUN)
    found = f"{one.points} ({one.interval}), {counted(one.seeds)}"
    if len(one.seeds) >= most_seeds > 0 and one.difference.low <= 0 <= one.difference.high:
        return Claim(claim, target, found, f"no difference ({len(one.seeds)} seeds)")
    if len(one.seeds) < seeds:
        return Claim(claim, target, found, f"{NOT_RUN}: {len(one.seeds)} of {seeds} seeds")
    return Claim(claim, target, found, REACHED if holds(one.difference) else BELOW)
