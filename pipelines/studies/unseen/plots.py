"""Draw the plots of docs/unseen.md: the curve over labelled videos, and the choice folds."""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING

from pipelines.studies.protocols.drawings import figure, png, write_pngs
from pipelines.studies.protocols.families import Families, scores
from pipelines.studies.unseen.recipes import Recipe
from vos.files.written import Written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVE, FOLDS = "curve.png", "folds.png"
PLOTS = (CURVE, FOLDS)
LINES = {
    "both": ("C0", "distilled, the others with their first mask only"),
    "plain": ("C1", "plain, without the others"),
}
KINDS = {"teacher-before": "0.6", "teacher": "C2", "plain-before": "C4", "plain": "C1", "both": "C0"}


def write_plots(results: Families, recipe: Recipe, docs: Written, folder: str) -> list[str]:
    """Draw the plots that the records allow into `folder` of `docs` and remove the others; returns the paths of the PNGs."""
    drawings = {CURVE: curve(results, recipe), FOLDS: folds(results, recipe)}
    return write_pngs(docs, folder, {name: None if one is None else png(one) for name, one in drawings.items()})


def curve(results: Families, recipe: Recipe) -> Figure | None:
    """Draw J&F over the number of labelled videos: points are seeds, lines their mean, bands their deviation."""
    found = {kind: _points(results, recipe, kind) for kind in LINES}
    if not any(found.values()):
        return None
    drawing = figure(6.8, 4.4)
    axes = drawing.subplots()
    for kind, points in found.items():
        if not points:
            continue
        colour, label = LINES[kind]
        counts, means = list(points), [statistics.mean(values) for values in points.values()]
        spreads = [statistics.stdev(values) if len(values) > 1 else 0.0 for values in points.values()]
        low, high = ([mean + sign * one for mean, one in zip(means, spreads, strict=True)] for sign in (-1, 1))
        axes.fill_between(counts, low, high, color=colour, alpha=0.15, linewidth=0)
        axes.plot(counts, means, "-o", color=colour, label=label, markersize=4)
        for count, values in points.items():
            axes.plot([count] * len(values), values, "o", color=colour, alpha=0.35, markersize=5, markeredgewidth=0)
    teachers = {
        n: 100 * one["figures"]["j_and_f"]
        for n in sorted(recipe.labelled)
        if (one := results.records.get(f"teacher-n{n}"))
    }
    if teachers:
        axes.plot(list(teachers), list(teachers.values()), "--", color="0.5", label="the teacher", linewidth=1)
    axes.set_xscale("log")
    axes.set_xticks(sorted(recipe.labelled), [str(n) for n in sorted(recipe.labelled)])
    axes.minorticks_off()
    axes.set(xlabel="labelled videos", ylabel="J&F on the held-out videos (%)")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="lower right")
    return drawing


def folds(results: Families, recipe: Recipe) -> Figure | None:
    """Draw J&F of every held-out video of every fold: points are videos, bars the mean of a fold."""
    shown = [fold for fold in range(1, recipe.folds + 1) if any(f"{kind}-{fold}" in results.records for kind in KINDS)]
    if not shown:
        return None
    drawing = figure(7.6, 3.8)
    axes = drawing.subplots()
    for at, fold in enumerate(shown):
        for step, (kind, colour) in enumerate(KINDS.items()):
            if (record := results.records.get(f"{kind}-{fold}")) is None:
                continue
            values, place = [100 * one for one in scores(record).values()], at + 0.16 * (step - 2)
            axes.plot([place] * len(values), values, "o", color=colour, alpha=0.4, markersize=5, markeredgewidth=0)
            label = kind if fold == shown[0] else None
            axes.plot(place, statistics.mean(values), "_", color=colour, markersize=14, markeredgewidth=2, label=label)
    axes.set_xticks(range(len(shown)), [f"fold {fold}" for fold in shown])
    axes.set(ylabel="J&F (%)")
    axes.grid(alpha=0.3, axis="y")
    axes.legend(fontsize=7, loc="lower left", bbox_to_anchor=(0, 1), ncols=len(KINDS), frameon=False)
    return drawing


def _points(results: Families, recipe: Recipe, kind: str) -> dict[int, list[float]]:
    """Return {labelled videos: [J&F of each seed]}."""
    found = {count: results.figures(f"{kind}-n{count}") for count in sorted(recipe.labelled)}
    return {count: values for count, values in found.items() if values}
