"""Records put side by side: families of runs that differ in their seed, and paired comparisons of two families.

Points are percent of J&F. A comparison pairs runs of one seed on one sequence; what only one side has is left out.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.studies.davis.plan import family_and_seed, study
from pipelines.studies.davis.records import Record
from vos.metrics.intervals import Difference, paired_difference


@dataclass(frozen=True)
class Comparison:
    """The runs of family `a` against those of family `b`."""

    a: str
    b: str
    title: str = ""
    group: str = ""
    seeds: tuple[int, ...] = ()
    difference: Difference | None = None
    """in points; None where no seed has both"""

    @property
    def points(self) -> str:
        return "not run" if self.difference is None else signed(self.difference.mean)

    @property
    def interval(self) -> str:
        return "-" if self.difference is None else " to ".join(signed(end) for end in self.difference[1:])


class Results:
    """What the records of a preset say, by family."""

    def __init__(self, name: str, records: Mapping[str, Record]) -> None:
        self.study, self.records = study(name), records
        self._by_seed: dict[str, dict[int, Record]] = {}
        for run, record in records.items():
            family, seed = family_and_seed(run)
            if seed is not None:
                self._by_seed.setdefault(family, {})[seed] = record

    def by_seed(self, family: str) -> dict[int, Record]:
        """The records of a family that differ in nothing but their seed."""
        return dict(sorted(self._by_seed.get(family, {}).items()))

    def of_family(self, family: str) -> list[Record]:
        """Those of every seed of a family, in the seeds' order; of a run without seeds, its own."""
        return [self.records[family]] if family in self.records else list(self.by_seed(family).values())

    def figures(self, family: str, name: str = "j_and_f") -> list[float]:
        """J&F (or "j", "f") of every one of `of_family`, in percent."""
        return [100 * record["figures"][name] for record in self.of_family(family)]

    def mean(self, family: str) -> float | None:
        """Mean J&F over seeds, in percent."""
        return mean(self.figures(family))

    def best(self, families: Sequence[str]) -> str:
        """The family whose mean J&F is highest, the first of those that were not run."""
        return max(families, key=lambda family: self.mean(family) or -math.inf)

    def cost(self, family: str, field: str) -> float | None:
        """The mean of a cost over the seeds of a family, None where it was not measured."""
        return mean([record[field] for record in self.by_seed(family).values() if record.get(field) is not None])

    def cost_ratio(self, a: str, b: str, field: str) -> float | None:
        """The median over common seeds of a cost's ratio."""
        left, right = self.by_seed(a), self.by_seed(b)
        pairs = [(left[seed][field], right[seed][field]) for seed in left.keys() & right.keys()]
        values = [one / other for one, other in pairs if one is not None and other is not None]
        return statistics.median(values) if values else None

    def aligned(self, families: Sequence[str]) -> tuple[dict[str, list[float]], list[int]]:
        """J&F of families that are put side by side, over the seeds that all that were run at all have; and these seeds."""
        found = {family: self.by_seed(family) for family in families}
        run = [set(one) for one in found.values() if one]
        seeds = sorted(set.intersection(*run)) if run else []
        scores = {name: [100 * one[seed]["figures"]["j_and_f"] for seed in seeds if one] for name, one in found.items()}
        return scores, seeds

    def compare(self, a: str, b: str, title: str = "", group: str = "") -> Comparison:
        """Pair two families over the seeds and the sequences that both have."""
        left, right = self.by_seed(a), self.by_seed(b)
        seeds = tuple(sorted(left.keys() & right.keys()))
        if not seeds:
            return Comparison(a, b, title, group)
        sides = [[scores(side[seed]) for seed in seeds] for side in (left, right)]
        shared = sorted(set.intersection(*(set(one) for side in sides for one in side)))
        first, second = (np.array([[one[name] for name in shared] for one in side]) for side in sides)
        return Comparison(a, b, title, group, seeds, paired_difference(100 * first, 100 * second))


def mean(values: Sequence[float]) -> float | None:
    return statistics.mean(values) if values else None


def signed(points: float) -> str:
    """With a sign and one digit; what rounds to nothing has no sign."""
    return f"{points:+.1f}" if round(points, 1) else "0.0"


def counted(values: Sequence[object]) -> str:
    """How many seeds, in words."""
    return f"{len(values)} seed{'s' * (len(values) != 1)}"


def scores(record: Record) -> dict[str, float]:
    """J&F of every sequence, 0 to 1."""
    return {row["sequence"]: row["j_and_f"] for row in record["sequences"]}
