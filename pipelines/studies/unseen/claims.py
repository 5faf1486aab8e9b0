"""Compare the targets of the protocol folds with what was found: reached, below target, or not run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from pipelines.studies.protocols.families import Comparison, Families, counted, scores
from pipelines.studies.protocols.judging import equal_cpu, gain, level
from pipelines.studies.protocols.planned import TEACHER, family_and_seed
from pipelines.studies.unseen.plan import JUDGE
from pipelines.studies.unseen.recipes import Recipe
from vos.metrics.intervals import paired_difference
from vos.published.bounds import BELOW, NOT_RUN, REACHED, Figure

ELSEWHERE = "judged elsewhere"
LABELLED = 8
"""Labelled videos of the target for unlabelled video."""


def claims(results: Families, recipe: Recipe) -> list[Figure]:
    """Return each target as a figure, with its result as text in `how`."""
    folds = range(1, recipe.folds + 1)
    few = min(recipe.labelled[1:], key=lambda count: abs(count - LABELLED))
    teacher, student = fold_mean(results, folds, "teacher"), fold_mean(results, folds, "both")
    ratio = student / teacher if student is not None and teacher else None
    seeds, distilled = counted(results.figures("both")), "distilled with unlabelled video − plain"
    return [
        _over_folds(results, folds),
        level("teacher, 8 validation sequences", "J&F ≥ 88 (before: 85.6)", results.mean(TEACHER), 88),
        _elsewhere("teacher, 12 unseen sequences", "J&F ≥ 82 (before: 72.4)"),
        level(
            "1.9 M student, 8 validation sequences",
            "J&F ≥ 86 (before: 83.4)",
            results.mean("both"),
            86,
            f", mean of {seeds}",
        ),
        _elsewhere("1.9 M student, 12 unseen sequences", "J&F ≥ 80 (before: 70.2)"),
        level("student / teacher, choice folds", "≥ 0.98", ratio, 0.98, digits=3),
        gain(results, f"{distilled}, {few} labelled videos", f"both-n{few}", f"plain-n{few}", 5, 3),
        gain(results, "distilled − plain, all labelled, equal steps, full length", "both", "plain", 2, 3),
        equal_cpu(results, "the same at equal CPU time", "both", "plain-longer", 3),
        Figure(
            "adapting to 5 unlabelled videos, before → after",
            None,
            how="-",
            asked="≥ +5 J&F in ≤ 10 CPU-minutes",
            verdict="measured by `jobs.adapt`",
        ),
        Figure(
            "CPU seconds of a step, mixture / DAVIS alone",
            None,
            how="-",
            asked="≤ 1.1",
            verdict="measured by `jobs.benchmark mixture`",
        ),
    ]


def comparisons(results: Families, recipe: Recipe) -> list[Comparison]:
    """Return the paired comparisons over seeds: the final models, and the curve at every number of labelled videos."""
    group = "Everything labelled"
    found = [
        results.compare("both", "plain", "distilled against plain, equal steps", group),
        results.compare("both", "plain-longer", "distilled against plain, equal CPU time", group),
        replace(
            on_folds(results, (JUDGE,), "both-patient", "both"),
            a=f"both-patient-{JUDGE}",
            b=f"both-{JUDGE}",
            title=f"{recipe.patience:g} times the steps with stronger augmentation, distilled, fold {JUDGE}",
            group=group,
        ),
    ]
    for count in recipe.labelled:
        what = (
            "distilled, all labelled, against plain"
            if count == max(recipe.labelled)
            else "distilled with unlabelled against plain"
        )
        found.append(results.compare(f"both-n{count}", f"plain-n{count}", f"{what}, {count} labelled", "Curve"))
    return found


def on_folds(results: Families, folds: Sequence[int], a: str, b: str) -> Comparison:
    """Compare runs of one kind with those of another on the held-out videos of all folds that have both.

    Every fold has its own videos and one training, so the interval is over videos only.
    """
    pairs = [(results.records.get(f"{a}-{fold}"), results.records.get(f"{b}-{fold}")) for fold in folds]
    both = [(scores(one), scores(other)) for one, other in pairs if one and other]
    rows = [(one[name], other[name]) for one, other in both for name in sorted(one.keys() & other.keys())]
    if not rows:
        return Comparison(a, b)
    sides = 100 * np.array(rows).T
    return Comparison(a, b, seeds=(1,), difference=paired_difference(sides[:1], sides[1:]))


def fold_mean(results: Families, folds: Sequence[int], kind: str) -> float | None:
    """Return the mean J&F of a kind of runs over all folds, in percent; None until every fold has its run."""
    found = [results.records.get(f"{kind}-{fold}") for fold in folds]
    return statistics.mean(100 * one["figures"]["j_and_f"] for one in found if one) if all(found) else None


def looks(results: Families) -> dict[str, int]:
    """Return how often each family of models was scored on the validation sequences."""
    found: dict[str, int] = {}
    for record in results.records.values():
        if "figures" in record and not record["videos"]["fold"]:
            family = family_and_seed(record["name"])[0]
            found[family] = found.get(family, 0) + 1
    return found


def _over_folds(results: Families, folds: Sequence[int]) -> Figure:
    name, target = "teacher − today's recipe, choice folds", "≥ +6"
    found = on_folds(results, folds, "teacher", "teacher-before")
    done = sum(all(f"{kind}-{fold}" in results.records for kind in ("teacher", "teacher-before")) for fold in folds)
    if found.difference is None:
        return Figure(name, None, how="-", asked=target)
    how = f"{found.points} ({found.interval}), {done} of {len(folds)} folds"
    verdict = REACHED if found.difference.mean >= 6 else BELOW
    if done < len(folds):
        verdict = f"{NOT_RUN}: {done} of {len(folds)} folds"
    return Figure(name, found.difference.mean, how=how, asked=target, verdict=verdict)


def _elsewhere(name: str, target: str) -> Figure:
    return Figure(name, None, how="-", asked=target, verdict=ELSEWHERE)
