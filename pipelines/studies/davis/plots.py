"""The results' plots, from the records: J&F against steps, every comparison's interval, the ablations, the sequences."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipelines.search import page as search_pages
from pipelines.studies.davis.ablations import ablation_families
from pipelines.studies.davis.comparisons import aligned, by_seed, comparisons, counted, figure, scores
from pipelines.studies.davis.plan import SCALES, quarter
from pipelines.studies.davis.records import Record
from pipelines.studies.davis.records import trials as trials_of
from vos.files.written import Written

PLAIN, DISTILLED = "C1", "C0"


PLOTS = ("steps.png", "differences.png", "ablations.png", "sequences.png", "search-trials.png", "search-density.png")


def write_plots(name: str, records: Mapping[str, Record], docs: Written, folder: str) -> list[str]:
    """Draw what the records can show into `folder` of `docs`, remove what they no longer can; returns the paths of the PNGs."""
    drawn: dict[str, Callable[[str, Mapping[str, Record]], Any]] = {
        "steps.png": _steps,
        "differences.png": _differences,
        "ablations.png": _ablations,
        "sequences.png": _sequences,
    }
    found = {}
    for file, draw in drawn.items():
        figure_ = draw(name, records)
        found[file] = None if figure_ is None else _png(figure_)
    paths = []
    for file, png in {**found, **_search(records)}.items():
        if png is None:
            docs.remove(f"{folder}/{file}")
        else:
            paths.append(docs.write(f"{folder}/{file}", png))
    return paths


def _figure(width: float, height: float) -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), layout="constrained")


def _png(drawing: Any) -> bytes:
    import io

    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(drawing)
    data = io.BytesIO()
    # Without the program's version: the same records give the same file.
    drawing.savefig(data, dpi=110, format="png", metadata={"Software": None})
    return data.getvalue()


def _search(records: Mapping[str, Record]) -> dict[str, bytes | None]:
    """The plots of the search's own page, from its record."""
    trials = [trial for trial in trials_of(records) if trial.score >= 0]
    searched = list(trials[0].parameters) if trials else []
    return {
        "search-trials.png": search_pages.parallel_coordinates(trials, (), searched),
        "search-density.png": search_pages.density_curve(trials, (), searched),
    }


def _steps(name: str, records: Mapping[str, Record]) -> Any:
    """J&F after trainings of several lengths, each with its own decay to zero."""
    main, some = next(iter(SCALES[name].students)), quarter(name)
    panels = {
        "plain and distilled": {
            "plain": (
                PLAIN,
                ("short-plain", "longer-plain", *(f"full-{main}-plain{more}" for more in ("", "-longer", "-long"))),
            ),
            "distilled": (
                DISTILLED,
                ("half-both", "short-both", *(f"full-{main}-both{more}" for more in ("-half", "", "-long"))),
            ),
        },
        f"sampling, {some}": {
            "uniform": ("C3", ("half-uniform", "short-uniform")),
            "boundary first": ("C2", (f"half-{some}", f"short-{some}")),
        },
    }
    shown = {title: lines for title, lines in panels.items() if any(_points(records, f) for _, f in lines.values())}
    if not shown:
        return None
    drawing = _figure(5.4 * len(shown), 3.8)
    for axes, (title, lines) in zip(drawing.subplots(1, len(shown), squeeze=False)[0], shown.items(), strict=True):
        for label, (colour, families) in lines.items():
            points = _points(records, families)
            for steps, values in points.items():
                axes.plot([steps] * len(values), values, "o", color=colour, alpha=0.35, markersize=5, markeredgewidth=0)
            means = [statistics.mean(values) for values in points.values()]
            axes.plot(list(points), means, "-o", color=colour, label=label, markersize=4)
        axes.set(xlabel="steps of the training", ylabel="J&F (%)", title=title)
        axes.grid(alpha=0.3)
        axes.legend(fontsize=8, loc="lower right")
    return drawing


def _points(records: Mapping[str, Record], families: Sequence[str]) -> dict[int, list[float]]:
    """Steps -> J&F of each seed."""
    found: dict[int, list[float]] = {}
    for family in families:
        for record in by_seed(records, family).values():
            found.setdefault(record["steps"], []).append(100 * record["figures"]["j_and_f"])
    return dict(sorted(found.items()))


def _differences(name: str, records: Mapping[str, Record]) -> Any:
    """Every comparison that has been run, as its mean and interval."""
    shown = [one for one in comparisons(records, name) if one.difference is not None]
    if not shown:
        return None
    drawing = _figure(9, 1.1 + 0.27 * len(shown))
    axes = drawing.subplots()
    for place, one in enumerate(shown):
        assert one.difference is not None
        mean, low, high = one.difference
        colour = "C2" if low > 0 else "C3" if high < 0 else "0.45"
        axes.plot([low, high], [place, place], "-", color=colour, linewidth=2)
        axes.plot(mean, place, "o", color=colour, markersize=5)
    axes.axvline(0, color="0.2", linewidth=0.8)
    labels = [f"{one.group}: {one.title} ({counted(one.seeds)})" for one in shown]
    axes.set_yticks(range(len(shown)), labels, fontsize=8)
    axes.set(ylim=(len(shown) - 0.4, -0.6), xlabel="difference of J&F, points; mean and 95 % interval")
    axes.grid(alpha=0.3, axis="x")
    return drawing


def _ablations(name: str, records: Mapping[str, Record]) -> Any:
    """A panel for each ablation of which something has been run."""
    found = {}
    for title, values in ablation_families(name).items():
        of, _ = aligned(records, [family for _, family in values])
        found[title] = [(label, of[family]) for label, family in values]
    own = {
        title: sum(bool(of) for _, of in values) for title, values in found.items()
    }  # the base run alone is no ablation
    shown = {title: values for title, values in found.items() if own[title] > 1}
    if not shown:
        return None
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    drawing = _figure(4.2 * columns, 3 * rows)
    plain = figure(records, "short-plain")
    panels = list(drawing.subplots(rows, columns, squeeze=False).flat)
    for axes, (title, values) in zip(panels, shown.items(), strict=False):
        middle = [statistics.mean(of) if of else float("nan") for _, of in values]
        for place, (_, of) in enumerate(values):
            axes.plot([place] * len(of), of, "o", color=DISTILLED, alpha=0.4, markersize=5, markeredgewidth=0)
        axes.plot(range(len(values)), middle, "_", color=DISTILLED, markersize=18, markeredgewidth=2)
        if plain and "full" not in title:
            axes.axhline(statistics.mean(plain), color=PLAIN, linewidth=1, linestyle="--", label="plain student")
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


def _sequences(name: str, records: Mapping[str, Record]) -> Any:
    """Distilled minus plain on every sequence: whether a mean is one sequence's."""
    main = next(iter(SCALES[name].students))
    pairs = {"short": ("short-both", "short-plain"), "full": (f"full-{main}-both", f"full-{main}-plain")}
    found: dict[str, dict[str, list[float]]] = {}
    for length, (a, b) in pairs.items():
        left, right = by_seed(records, a), by_seed(records, b)
        for seed in sorted(left.keys() & right.keys()):
            first, second = scores(left[seed]), scores(right[seed])
            for sequence in sorted(first.keys() & second.keys()):
                points = 100 * (first[sequence] - second[sequence])
                found.setdefault(length, {}).setdefault(sequence, []).append(points)
    if not found:
        return None
    names = sorted({sequence for one in found.values() for sequence in one})
    drawing = _figure(9, 3.6)
    axes = drawing.subplots()
    for shift, (length, one) in zip((-0.12, 0.12), found.items(), strict=False):
        colour = {"short": "C4", "full": "C5"}[length]
        for place, sequence in enumerate(names):
            values = one.get(sequence, [])
            axes.plot(
                [place + shift] * len(values), values, "o", color=colour, alpha=0.5, markersize=5, markeredgewidth=0
            )
        middle = [statistics.mean(one[sequence]) if sequence in one else float("nan") for sequence in names]
        places = [place + shift for place in range(len(names))]
        axes.plot(
            places, middle, "_", color=colour, markersize=14, markeredgewidth=2, label=f"{length} (points: seeds)"
        )
    axes.axhline(0, color="0.2", linewidth=0.8)
    axes.set_xticks(range(len(names)), names, fontsize=8, rotation=20, ha="right")
    axes.set(ylabel="distilled − plain, J&F points")
    axes.grid(alpha=0.3, axis="y")
    axes.legend(fontsize=8)
    return drawing
