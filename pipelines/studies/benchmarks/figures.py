"""Figures beside their targets, as every benchmark reports them.

Each ratio compares two sides that take turns in one run; a figure is the median over the rounds, its spread the smallest and largest.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Any

from pipelines.cache.build import build_cache
from pipelines.runtime.tables import table
from vos.config import BenchmarkConfig, CacheConfig
from vos.files.canonical import fingerprint

BENCHMARK, ROWS = "benchmark", "rows.json"


@dataclass(frozen=True)
class Row:
    """One figure beside what it should be."""

    name: str
    value: float
    low: float
    high: float
    target: str
    met: bool | None
    how: str


Measure = Callable[[BenchmarkConfig], Iterable[Row]]


def figure(name: str, values: list[float], target: str, reached: Callable[[float], bool], how: str) -> Row:
    """The median of some rounds beside its target."""
    middle = statistics.median(values)
    return Row(name, middle, min(values), max(values), target, reached(middle), how)


def built(cache: CacheConfig) -> CacheConfig:
    """Build a cache in a folder that is its configuration's own, so that a benchmark of other sizes into the same --out finds none of
    another one's."""
    cache = replace(cache, out=f"{cache.out}-{fingerprint(replace(cache, out=''))[:8]}")
    build_cache(cache)
    return cache


def seconds(call: Callable[..., Any], *arguments: Any) -> float:
    began = time.monotonic()
    call(*arguments)
    return time.monotonic() - began


def slug(name: str) -> str:
    return "".join(char if char.isalnum() else "_" for char in name.lower()).strip("_")


def row_table(rows: list[Row]) -> str:
    lines = [
        [
            row.name,
            f"{row.value:.3g}",
            f"{row.low:.3g} to {row.high:.3g}",
            row.target,
            {True: "reached", False: "below target", None: ""}[row.met],
        ]
        for row in rows
    ]
    notes = dict.fromkeys(f"{row.name}: {row.how}" for row in rows if row.how)
    return "\n".join([table(["figure", "median", "spread", "target", ""], lines), "", *notes])
