"""Compare records: families of runs that differ in their seed, and paired comparisons of two families.

Points are percent of J&F. A comparison pairs runs of the same seed on the same sequence; unpaired ones are omitted.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from pipelines.studies.protocols.planned import family_and_seed
from pipelines.studies.protocols.records import Record
from vos.metrics.intervals import Difference, paired_difference


@dataclass(frozen=True)
class Comparison:
    """A comparison of the runs of family `a` with those of family `b`."""

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


class Families:
    """The records of a protocol, by family."""

    def __init__(self, records: Mapping[str, Record]) -> None:
        self.records = records
        self._by_seed: dict[str, dict[int, Record]] = {}
        for run, record in records.items():
            family, seed = family_and_seed(run)
            if seed is not None:
                self._by_seed.setdefault(family, {})[seed] = record

    def by_seed(self, family: str) -> dict[int, Record]:
        """Return the records of a family by seed."""
        return dict(sorted(self._by_seed.get(family, {}).items()))

    def of_family(self, family: str) -> list[Record]:
        """Return the records of a family in the order of their seeds, or the single record of a run without seeds."""
        return [self.records[family]] if family in self.records else list(self.by_seed(family).values())

    def figures(self, family: str, name: str = "j_and_f") -> list[float]:
        """Return J&F (or "j", "f") of every record of a family, in percent."""
        return [100 * record["figures"][name] for record in self.of_family(family)]

    def mean(self, family: str) -> float | None:
        """Return the mean J&F over seeds, in percent."""
        return mean(self.figures(family))

    def best(self, families: Sequence[str]) -> str:
        """Return the family with the highest mean J&F, or the first one where none was run."""
        return max(families, key=lambda family: self.mean(family) or -math.inf)

    def cost(self, family: str, field: str) -> float | None:
        """Return the mean of a cost over the seeds of a family, None where it was not measured."""
        return mean([record[field] for record in self.by_seed(family).values() if record.get(field) is not None])

    def cost_ratio(self, a: str, b: str, field: str) -> float | None:
        """Return the median ratio of a cost over common seeds, None where there are none."""
        left, right = self.by_seed(a), self.by_seed(b)
        pairs = [(left[seed][field], right[seed][field]) for seed in left.keys() & right.keys()]
        values = [one / other for one, other in pairs if one is not None and other is not None]
        return statistics.median(values) if values else None

    def aligned(self, families: Sequence[str]) -> tuple[dict[str, list[float]], list[int]]:
        """Return J&F of each family over the seeds that all families with runs share, and these seeds."""
        found = {family: self.by_seed(family) for family in families}
        run = [set(one) for one in found.values() if one]
        seeds = sorted(set.intersection(*run)) if run else []
        scores = {name: [100 * one[seed]["figures"]["j_and_f"] for seed in seeds if one] for name, one in found.items()}
        return scores, seeds

    def compare(self, a: str, b: str, title: str = "", group: str = "") -> Comparison:
        """Compare two families over the seeds and sequences that both have."""
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
    """Return points with a sign and one decimal; 0.0 has no sign."""
    return f"{points:+.1f}" if round(points, 1) else "0.0"


def counted(values: Sequence[object]) -> str:
    """Return the number of seeds as text."""
    return f"{len(values)} seed{'s' * (len(values) != 1)}"


def scores(record: Record) -> dict[str, float]:
    """Return J&F of every sequence, in [0, 1]."""
    return {row["sequence"]: row["j_and_f"] for row in record["sequences"]}
