"""Draw the results' plots from the records: J&F over steps, every comparison's interval, the ablations, the sequences."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pipelines.search import page as search_pages
from pipelines.studies.davis.comparisons import ablations, comparisons
from pipelines.studies.davis.results import Results
from pipelines.studies.protocols.drawings import figure, png, write_pngs
from pipelines.studies.protocols.families import counted, scores
from pipelines.studies.protocols.records import trials as trials_of
from vos.files.written import Written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PLAIN, DISTILLED = "C1", "C0"
PLOTS = ("steps.png", "differences.png", "ablations.png", "sequences.png", "search-trials.png", "search-density.png")
SEED: dict[str, Any] = {"markersize": 5, "markeredgewidth": 0}
"""Style of the point of one seed."""


def write_plots(results: Results, docs: Written, folder: str) -> list[str]:
    """Draw the plots that the records allow into `folder` of `docs` and remove the others; returns the paths of the PNGs."""
    drawings = [draw(results) for draw in (_steps, _differences, _ablations, _sequences)]
    pngs = [*(None if one is None else png(one) for one in drawings), *search_plots(results)]
    return write_pngs(docs, folder, dict(zip(PLOTS, pngs, strict=True)))


def search_plots(results: Results) -> list[bytes | None]:
    """Return the plots of the search's own page, from its record."""
    trials = [trial for trial in trials_of(results.records) if trial.score >= 0]
    searched = list(trials[0].parameters) if trials else []
    draw = search_pages.parallel_coordinates, search_pages.density_curve
    return [one(trials, (), searched) for one in draw]


def _steps(results: Results) -> Figure | None:
    """Draw J&F after trainings of several lengths, each with its own decay to zero."""
    full, some = f"full-{results.study.main}", results.study.quarter
    plain = ["short-plain", "longer-plain", *(f"{full}-plain{more}" for more in ("", "-longer", "-long"))]
    distilled = ["half-both", "short-both", *(f"{full}-both{more}" for more in ("-half", "", "-long"))]
    panels = {
        "plain and distilled": {"plain": (PLAIN, plain), "distilled": (DISTILLED, distilled)},
        f"sampling, {some}": {
            "uniform": ("C3", ["half-uniform", "short-uniform"]),
            "boundary first": ("C2", [f"half-{some}", f"short-{some}"]),
        },
    }
    shown = {title: lines for title, lines in panels.items() if any(_points(results, f) for _, f in lines.values())}
    if not shown:
        return None
    drawing = figure(5.4 * len(shown), 3.8)
    for axes, (title, lines) in zip(drawing.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        for label, (colour, families) in lines.items():
            points = _points(results, families)
            for steps, values in points.items():
                axes.plot([steps] * len(values), values, "o", color=colour, alpha=0.35, **SEED)
            means = [statistics.mean(values) for values in points.values()]
            axes.plot(list(points), means, "-o", color=colour, label=label, markersize=4)
        axes.set(xlabel="steps of the training", ylabel="J&F (%)", title=title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower right")
    return drawing


def _points(results: Results, families: Sequence[str]) -> dict[int, list[float]]:
    """Return {steps: [J&F of each seed]}."""
    found: dict[int, list[float]] = {}
    for family in families:
        for record in results.by_seed(family).values():
            found.setdefault(record["steps"], []).append(100 * record["figures"]["j_and_f"])
    return dict(sorted(found.items()))


def _differences(results: Results) -> Figure | None:
    """Draw the mean and interval of every comparison that has been run."""
    shown = [(one, one.difference) for one in comparisons(results) if one.difference is not None]
    if not shown:
        return None
    drawing = figure(9, 1.1 + 0.27 * len(shown))
    axes = drawing.subplots()
    for place, (_, (mean, low, high)) in enumerate(shown):
        colour = "C2" if low > 0 else "C3" if high < 0 else "0.45"
        axes.plot([low, high], [place, place], "-", color=colour, linewidth=2)
        axes.plot(mean, place, "o", color=colour, markersize=5)
    axes.axvline(0, color="0.2", linewidth=0.8)
    labels = [f"{one.group}: {one.title} ({counted(one.seeds)})" for one, _ in shown]
    axes.set_yticks(range(len(shown)), labels, fontsize=8)
    axes.set(ylim=(len(shown) - 0.4, -0.6), xlabel="difference of J&F, points; mean and 95 % interval")
    axes.grid(alpha=0.3, axis="x")
    return drawing


def _ablations(results: Results) -> Figure | None:
    """Draw a panel for each ablation that has runs."""
    shown = {}
    for title, values in ablations(results.study).items():
        of, _ = results.aligned([family for _, family in values])
        if sum(map(bool, of.values())) > 1:  # the base run alone is not an ablation
            shown[title] = [(label, of[family]) for label, family in values]
    if not shown:
        return None
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    drawing = figure(4.2 * columns, 3 * rows)
    plain = results.mean("short-plain")
    panels = list(drawing.subplots(rows, columns, squeeze=False).flat)
    for axes, (title, values) in zip(panels, shown.items(), strict=False):
        middle = [statistics.mean(of) if of else float("nan") for _, of in values]
        for place, (_, of) in enumerate(values):
            axes.plot([place] * len(of), of, "o", color=DISTILLED, alpha=0.4, **SEED)
        axes.plot(range(len(values)), middle, "_", color=DISTILLED, markersize=18, markeredgewidth=2)
        if plain is not None and "full" not in title:
            axes.axhline(plain, color=PLAIN, linewidth=1, linestyle="--", label="plain student")
            if axes is panels[0]:
                axes.legend(fontsize=7, loc="best")
        axes.set_xticks(range(len(values)), [label for label, _ in values], fontsize=8)
        axes.set_xlim(-0.5, len(values) - 0.5)
        axes.set_title(title, fontsize=9)
        axes.set_ylabel("J&F (%)", fontsize=8)
        axes.grid(alpha=0.3, axis="y")
    for axes in panels[len(shown) :]:
        axes.set_visible(False)
    return drawing


def _sequences(results: Results) -> Figure | None:
    """Draw distilled minus plain on every sequence, which shows whether one sequence dominates the mean."""
    full, found = f"full-{results.study.main}", {}
    for length, a, b in (("short", "short-both", "short-plain"), ("full", f"{full}-both", f"{full}-plain")):
        left, right = results.by_seed(a), results.by_seed(b)
        for seed in sorted(left.keys() & right.keys()):
            first, second = scores(left[seed]), scores(right[seed])
            for sequence in sorted(first.keys() & second.keys()):
                points = 100 * (first[sequence] - second[sequence])
                found.setdefault(length, {}).setdefault(sequence, []).append(points)
    if not found:
        return None
    names = sorted({sequence for one in found.values() for sequence in one})
    drawing = figure(9, 3.6)
    axes = drawing.subplots()
    for shift, (length, one) in zip((-0.12, 0.12), found.items(), strict=False):
        colour = {"short": "C4", "full": "C5"}[length]
        places = [place + shift for place in range(len(names))]
        for place, sequence in zip(places, names, strict=True):
            values = one.get(sequence, [])
            axes.plot([place] * len(values), values, "o", color=colour, alpha=0.5, **SEED)
        middle = [statistics.mean(one[sequence]) if sequence in one else float("nan") for sequence in names]
        label = f"{length} (points: seeds)"
        axes.plot(places, middle, "_", color=colour, markersize=14, markeredgewidth=2, label=label)
    axes.axhline(0, color="0.2", linewidth=0.8)
    axes.set_xticks(range(len(names)), names, fontsize=8, rotation=20, ha="right")
    axes.set(ylabel="distilled − plain, J&F points")
    axes.grid(alpha=0.3, axis="y")
    axes.legend(fontsize=8)
    return drawing
