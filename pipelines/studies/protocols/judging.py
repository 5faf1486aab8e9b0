"""Judge figures and paired comparisons by their targets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from pipelines.studies.protocols.families import Families, counted
from vos.metrics.intervals import Difference
from vos.published.bounds import BELOW, NOT_RUN, REACHED, Figure

FAIR = 0.98
"""Smallest share of the distilled students' CPU time at which the plain students' counts as equal; a busy machine varies by that."""


def level(name: str, target: str, value: float | None, least: float, note: str = "", digits: int = 1) -> Figure:
    """Require a value of at least `least`; `note` follows it."""
    found = "-" if value is None else f"{value:.{digits}f}{note}"
    return Figure(name, value, ">=", least, found, asked=target)


def gain(results: Families, name: str, a: str, b: str, least: float, seeds: int, most_seeds: int = 0) -> Figure:
    """Require at least `least` points (0: more than none), with the whole interval above 0."""
    target = (f"≥ +{least:g}" if least else "> 0") + f", interval above 0, {seeds} seeds"

    def verdict(found: Difference) -> str | bool:
        return (found.mean >= least if least else found.mean > 0) and found.low > 0

    return judge(results, name, (a, b), target, verdict, seeds, most_seeds)


def equal_cpu(results: Families, name: str, a: str, b: str, seeds: int) -> Figure:
    """Judge a comparison at equal CPU time; it does not count where the plain students `b` had less."""
    found = gain(results, name, a, b, 0, seeds)
    ratio = results.cost_ratio(b, a, "cpu_s")
    if ratio is None or ratio >= FAIR or found.outcome.startswith(NOT_RUN):
        return found
    return replace(found, verdict=f"not equal: plain had {100 * (1 - ratio):.0f} % less CPU time")


def judge(
    results: Families,
    name: str,
    pair: tuple[str, str],
    target: str,
    holds: Callable[[Difference], str | bool],
    seeds: int,
    most_seeds: int = 0,
) -> Figure:
    """Compare two families with a target; `holds` returns whether it is met, or a text for a partial result."""
    one = results.compare(*pair)
    if one.difference is None:
        return Figure(name, None, how="-", asked=target)
    mean, low, high = one.difference
    found = f"{one.points} ({one.interval}), {counted(one.seeds)}"
    verdict = holds(one.difference)
    if len(one.seeds) >= most_seeds > 0 and low <= 0 <= high:
        verdict = f"no difference ({len(one.seeds)} seeds)"
    elif len(one.seeds) < seeds:
        verdict = f"{NOT_RUN}: {len(one.seeds)} of {seeds} seeds"
    outcome = verdict if isinstance(verdict, str) else REACHED if verdict else BELOW
    return Figure(name, mean, how=found, low=low, high=high, asked=target, verdict=outcome)
