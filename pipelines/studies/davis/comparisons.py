"""Records put side by side: families of runs that differ in their seed, and paired comparisons of two families with their intervals.

Points are percent of J&F. A comparison pairs runs of one seed on one sequence; what only one side has is left out.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.studies.davis.plan import (
    BEST_TEMPERATURE,
    LONG,
    REPEATS,
    SCALES,
    as_large,
    family_and_seed,
    lighter_kd,
    quarter,
)
from pipelines.studies.davis.records import Record
from vos.config import CacheConfig
from vos.config.presets import preset
from vos.metrics.intervals import Difference, paired_difference


@dataclass(frozen=True)
class Comparison:
    """The runs of family `a` against those of family `b`."""

    title: str
    a: str
    b: str
    seeds: tuple[int, ...] = ()
    difference: Difference | None = None
    """in points; None where no seed has both"""
    group: str = ""

    @property
    def points(self) -> str:
        return "not run" if self.difference is None else signed(self.difference.mean)

    @property
    def interval(self) -> str:
        if self.difference is None:
            return "-"
        return f"{signed(self.difference.low)} to {signed(self.difference.high)}"


def by_seed(records: Mapping[str, Record], family: str) -> dict[int, Record]:
    """The records of a family that differ in nothing but their seed."""
    names = ((*family_and_seed(name), name) for name in records)
    return {seed: records[name] for head, seed, name in names if head == family and seed is not None}


def of_family(records: Mapping[str, Record], family: str) -> list[Record]:
    """Those of every seed of a family, in the seeds' order; of a run without seeds, its own."""
    if family in records:
        return [records[family]]
    return [record for _, record in sorted(by_seed(records, family).items())]


def figure(records: Mapping[str, Record], family: str, name: str = "j_and_f") -> list[float]:
    """J&F (or "j", "f") of every one of `of_family`, in percent."""
    return [100 * record["figures"][name] for record in of_family(records, family)]


def aligned(records: Mapping[str, Record], families: Sequence[str]) -> tuple[dict[str, list[float]], list[int]]:
    """J&F of families that are put side by side, over the seeds that all of them have that were run at all; and these seeds."""
    found = {family: by_seed(records, family) for family in families}
    run = [set(one) for one in found.values() if one]
    seeds = sorted(set.intersection(*run)) if run else []
    return {
        name: [100 * one[seed]["figures"]["j_and_f"] for seed in seeds if seed in one] for name, one in found.items()
    }, seeds


def mean_of(records: Mapping[str, Record], family: str, field: str) -> float | None:
    """The mean of a cost over the seeds of a family, None where nothing was run."""
    values = [record[field] for record in by_seed(records, family).values() if record.get(field) is not None]
    return statistics.mean(values) if values else None


def compare(records: Mapping[str, Record], title: str, a: str, b: str, group: str = "") -> Comparison:
    """Pair two families over the seeds and the sequences that both have."""
    left, right = by_seed(records, a), by_seed(records, b)
    seeds = tuple(sorted(left.keys() & right.keys()))
    if not seeds:
        return Comparison(title, a, b, group=group)
    sides = [[scores(side[seed]) for seed in seeds] for side in (left, right)]
    shared = sorted(set.intersection(*(set(one) for side in sides for one in side)))
    first, second = (np.array([[one[name] for name in shared] for one in side]) for side in sides)
    return Comparison(title, a, b, seeds, paired_difference(100 * first, 100 * second), group)


def comparisons(records: Mapping[str, Record], name: str) -> list[Comparison]:
    """Every comparison of the protocol under a preset, also those of which nothing has been run."""
    labels = list(SCALES[name].students)
    main, some, cache = labels[0], quarter(name), preset(CacheConfig, name)
    rank, context, kd = cache.factor.rank, cache.teacher.context_frames, lighter_kd(name)
    listed = [
        ("Distilled against plain", "equal steps, short", "short-both", "short-plain"),
        ("", f"equal steps, short, KL weight {kd:g}", f"short-kd{kd:g}", "short-plain"),
        ("", "equal steps, full", f"full-{main}-both", f"full-{main}-plain"),
        ("", f"equal steps, full, KL weight {kd:g}", f"full-{main}-kd{kd:g}", f"full-{main}-plain"),
        ("", f"equal steps, {LONG:g} times full", f"full-{main}-both-long", f"full-{main}-plain-long"),
        ("", f"equal steps, {LONG:g} times full, every clip new", f"full-{main}-both-fresh", f"full-{main}-plain-fresh"),
        ("", "equal CPU time, short", "short-both", "longer-plain"),
        ("", "equal CPU time, full", f"full-{main}-both", f"full-{main}-plain-longer"),
        ("", "half the steps against all, short", "half-both", "short-plain"),
        ("", "half the steps against all, full", f"full-{main}-both-half", f"full-{main}-plain"),
        ("", f"full against {LONG:g} times the steps", f"full-{main}-both", f"full-{main}-plain-long"),
        ("", "logits alone, full", f"full-{main}-logits", f"full-{main}-plain"),
        ("", "L_repr alone, full", f"full-{main}-repr", f"full-{main}-plain"),
        *(("", f"{what}, full, {label}", f"full-{label}-{loss}", f"full-{label}-plain")
          for label in labels[1:]
          for what, loss in (("equal steps", "both"), ("logits alone", "logits"), ("L_repr alone", "repr"))),
        ("Clips", f"all different against a quarter of them {REPEATS} times, full, plain", f"full-{main}-plain", "repeat-plain"),
        ("", "the same, distilled", f"full-{main}-both", "repeat-both"),
        ("", f"distilled against plain, {REPEATS} times a quarter of the clips", "repeat-both", "repeat-plain"),
        *(("", f"new against mirrored clips, {LONG:g} times full, {student}", f"full-{main}-{loss}-fresh", f"full-{main}-{loss}-long")
          for student, loss in (("plain", "plain"), ("distilled", "both"))),
        ("Sampling", f"boundary against uniform, {some}", f"short-{some}", "short-uniform"),
        ("", f"boundary against uniform, {some}, half the steps", f"half-{some}", "half-uniform"),
        ("Targets", f"int8 rank {rank} from the cache against fp32, all columns", "short-both", "short-fp32"),
        ("", "cached against online teacher (fp32, all columns)", "short-both", "short-online"),
        ("", "int8 against fp16", "short-both", "short-fp16"),
        ("", f"rank {rank} against 16", "short-both", "short-rank16"),
        ("Temperature", f"{BEST_TEMPERATURE:g} against the usual", f"short-tau{BEST_TEMPERATURE:g}", "short-both"),
        ("Teacher", f"{context} context frames against none", "short-both", "short-context0"),
        ("", f"{context} context frames against 2", "short-both", "short-context2"),
        ("", "true against predicted context masks", "short-truemasks", "short-both"),
        *(
            ("Memory" if (kind, loss) == ("first", "plain") else "", f"{words} against first + recent, {student} student",
             f"memory-{kind}-{loss}", f"full-{main}-{loss}")
            for student, loss in (("plain", "plain"), ("distilled", "both"))
            for kind, words in (("first", "first alone"), ("recent", "recent alone"), ("infinite", "infinite"))
        ),
    ]  # fmt: skip
    if size := as_large(name):
        listed += [
            ("Size", "frames as large as the teacher's, plain student", f"{size}-plain-fresh", f"full-{main}-plain-fresh"),
            ("", "the same, distilled", f"{size}-both-fresh", f"full-{main}-both-fresh"),
            ("", "distilled against plain, both with larger frames", f"{size}-both-fresh", f"{size}-plain-fresh"),
        ]  # fmt: skip
    found, group = [], ""
    for head, title, a, b in listed:
        group = head or group
        found.append(compare(records, title, a, b, group))
    return found


def signed(points: float) -> str:
    """With a sign and one digit; what rounds to nothing has no sign."""
    return f"{points:+.1f}" if round(points, 1) else "0.0"


def counted(values: Sequence[object]) -> str:
    """How many seeds, in words."""
    return f"{len(values)} seed{'s' * (len(values) != 1)}"


def scores(record: Record) -> dict[str, float]:
    """J&F of every sequence, 0 to 1."""
    return {row["sequence"]: row["j_and_f"] for row in record["sequences"]}
