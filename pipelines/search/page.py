"""Draw a search: a table, four plots, and one self-contained page with all of them."""

from __future__ import annotations

import base64
import csv
import html
import io
import statistics
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.search.trials import Trial, by_parameters, ranked, repeat_rows
from vos.files.written import Written

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAGES, PAGE = "pages", "search.html"
"""Subfolder of a search's plots and the page in it, which is written last."""
FEWEST = 4
"""Finished trials that importance needs at least."""
NAMES = {
    "w": "w (teacher's share)",
    "temperature": "temperature τ",
    "density": "sampling density",
    "kd": "λ_kd",
    "representation": "λ_repr",
    "lr": "learning rate",
}
SCORE = "J&F"
TICKS = [part * 10.0**power for power in range(-4, 4) for part in (1, 2, 5)]
PLATE = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 1}


def page_names() -> list[str]:
    """Return the names that files of the pages may have, within the search's folder."""
    pictures = ("parallel-coordinates", "density-curve", "w-temperature", "importance")
    return [f"{PAGES}/{name}" for name in (PAGE, "trials.csv", *(f"{picture}.png" for picture in pictures))]


def write(
    folder: Written,
    names: Sequence[str],
    trials: Sequence[Trial],
    repeats: Sequence[Trial],
    winner: dict[str, float],
    metrics: dict[str, float],
) -> str:
    """Write trials.csv, the plots and the page into the search's folder; returns the page's path.

    names  of the searched parameters
    """
    scored = [trial for trial in trials if trial.score >= 0]
    drawn = {
        "parallel-coordinates": (
            parallel_coordinates,
            "Every trial is a line; bright is better. Broken lines were stopped early.",
        ),
        "density-curve": (density_curve, "Density against J&F. Squares: mean and sd over further seeds."),
        "w-temperature": (w_temperature_map, "Where w and τ were tried; the surface is interpolated between trials."),
        "importance": (
            importance,
            "Share of the variance of J&F that each parameter explains (PED-ANOVA, finished trials).",
        ),
    }
    pictures: dict[str, tuple[bytes, str]] = {}
    for name, (draw, caption) in drawn.items():
        png = draw(scored, repeats, names)
        if png is not None:
            folder.write(f"{PAGES}/{name}.png", png)
            pictures[name] = png, caption
    folder.write(f"{PAGES}/trials.csv", trial_csv([*trials, *repeats], names).encode())
    return folder.write(f"{PAGES}/{PAGE}", _page(names, scored, repeats, winner, metrics, pictures).encode())


def trial_csv(trials: Sequence[Trial], names: Sequence[str]) -> str:
    """Return a CSV table with one line a trial, the best first."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["trial", *names, "seed", "val/j_and_f", "steps", "status", "seconds", "run_id"])
    for one in sorted(trials, key=lambda trial: -trial.score):
        values = [one.parameters[name] for name in names]
        writer.writerow(
            [one.name, *values, one.seed, one.score, one.step, one.status, round(one.seconds, 1), one.run_id]
        )
    return text.getvalue()


def _drawn(figure: Figure) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    target = io.BytesIO()
    FigureCanvasAgg(figure).print_png(target, metadata={"Software": None})  # the same trials give the same file
    return target.getvalue()


def _figure(title: str, width: float = 7.0, height: float = 4.2) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=110, layout="constrained")
    axes = figure.subplots()
    axes.set_title(title, loc="left", fontsize=11)
    return figure, axes


def _scale(name: str, values: np.ndarray) -> np.ndarray:
    return values if name == "w" else np.log10(values)


def _tick(name: str, place: float) -> str:
    return f"{place if name == 'w' else 10**place:.3g}"


def parallel_coordinates(trials: Sequence[Trial], repeats: Sequence[Trial], names: Sequence[str]) -> bytes | None:
    """Return a PNG with one line a trial over an axis for each parameter and for J&F; None without trials."""
    if not trials:
        return None
    from matplotlib import colormaps

    figure, axes = _figure("All trials", width=1.9 * (len(names) + 1) + 1.2)
    columns = [_scale(name, np.array([trial.parameters[name] for trial in trials])) for name in names]
    columns.append(np.array([100 * trial.score for trial in trials]))
    limits = [_limits(column) for column in columns]
    lines = np.stack([(column - low) / (high - low) for column, (low, high) in zip(columns, limits, strict=True)], 1)
    for i in np.argsort(columns[-1]):
        broken = trials[i].status != "finished"
        colour = colormaps["viridis"](lines[i, -1])
        axes.plot(lines[i], color=colour, lw=1 if broken else 1.8, ls=":" if broken else "-", alpha=0.9)
    for x, (name, (low, high)) in enumerate(zip([*names, SCORE], limits, strict=True)):
        axes.axvline(x, color="0.5", lw=0.8)
        for part in (0.0, 0.25, 0.5, 0.75, 1.0):
            place = low + part * (high - low)
            text = f"{place:.1f}" if name == SCORE else _tick(name, place)
            axes.annotate(
                text, (x, part), xytext=(4, 0), textcoords="offset points", fontsize=8, va="center", bbox=PLATE
            )
    axes.set_xticks(range(len(columns)), [NAMES.get(name, name) for name in names] + [f"{SCORE} (%)"])
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(columns) - 0.65)
    axes.spines[:].set_visible(False)
    return _drawn(figure)


def _limits(values: np.ndarray) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (low - 0.5, high + 0.5) if low == high else (low, high)


def w_temperature_map(trials: Sequence[Trial], repeats: Sequence[Trial], names: Sequence[str]) -> bytes | None:
    """Return a PNG of J&F over w and log τ; None where one of the two was not searched."""
    if not trials or not {"w", "temperature"} <= set(names):
        return None
    figure, axes = _figure(f"{SCORE} over w and τ")
    w = np.array([trial.parameters["w"] for trial in trials])
    tau = np.array([trial.parameters["temperature"] for trial in trials])
    score = np.array([100 * trial.score for trial in trials])
    if len(trials) >= FEWEST and _spans_a_plane(w, np.log(tau)):
        axes.tricontourf(w, tau, score, levels=12, cmap="viridis", alpha=0.45)
    stopped = np.array([trial.status != "finished" for trial in trials])
    limits = {"vmin": score.min(), "vmax": score.max(), "cmap": "viridis", "edgecolors": "white"}
    points = axes.scatter(w[~stopped], tau[~stopped], c=score[~stopped], s=70, **limits)
    axes.scatter(w[stopped], tau[stopped], c=score[stopped], s=90, marker="X", **limits)
    figure.colorbar(points, ax=axes, label=f"{SCORE} (%)   X: stopped early")
    axes.set_yscale("log")
    axes.set_yticks([tick for tick in TICKS if tau.min() / 1.3 <= tick <= tau.max() * 1.3], minor=False)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter("{x:g}")
    axes.set_xlim(w.min() - 0.04, w.max() + 0.04)  # the surface sets no margin
    axes.set_ylim(tau.min() / 1.3, tau.max() * 1.3)
    axes.set_xlabel(NAMES["w"])
    axes.set_ylabel(NAMES["temperature"])
    return _drawn(figure)


def _spans_a_plane(x: np.ndarray, y: np.ndarray) -> bool:
    points = np.stack([x - x.mean(), y - y.mean()], 1)
    return bool(np.linalg.matrix_rank(points, tol=1e-3) == 2)


def density_curve(trials: Sequence[Trial], repeats: Sequence[Trial], names: Sequence[str]) -> bytes | None:
    """Return a PNG of J&F over density, with the spread over seeds where there were several; None where density was not searched."""
    if not trials or "density" not in names:
        return None
    figure, axes = _figure(f"{SCORE} over sampling density")
    density = np.array([trial.parameters["density"] for trial in trials])
    score = np.array([100 * trial.score for trial in trials])
    stopped = np.array([trial.status != "finished" for trial in trials])
    axes.scatter(density[~stopped], score[~stopped], color="C0", s=40, label="trial")
    if stopped.any():
        axes.scatter(density[stopped], score[stopped], color="0.6", marker="X", s=35, label="stopped early")
    if (~stopped).sum() >= FEWEST:
        edges = np.geomspace(density.min(), density.max() * (1 + 1e-9), 5)
        place = np.digitize(density[~stopped], edges) - 1
        groups = [(density[~stopped][place == i], score[~stopped][place == i]) for i in range(4) if (place == i).any()]
        middle = [float(np.exp(np.log(d).mean())) for d, _ in groups]
        axes.plot(middle, [s.mean() for _, s in groups], color="C0", alpha=0.5, label="mean of a quarter of the range")
    for number, group in enumerate(by_parameters(repeats)):
        scores = [100 * trial.score for trial in group]
        spread = statistics.stdev(scores) if len(scores) > 1 else 0.0
        label = f"mean ± sd of {len(scores)} further seeds" if number == 0 else None
        place_of = group[0].parameters["density"]
        axes.errorbar(place_of, statistics.mean(scores), spread, fmt="s", color="C3", capsize=4, label=label)
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel(f"{NAMES['density']} (share of the cached pixels)")
    axes.set_ylabel(f"{SCORE} (%)")
    figure.legend(fontsize=8, loc="outside lower center", ncols=4)  # inside the axes it would cover a trial
    axes.grid(alpha=0.3)
    return _drawn(figure)


def importance(trials: Sequence[Trial], repeats: Sequence[Trial], names: Sequence[str]) -> bytes | None:
    """Return a PNG of `importances` as bars; None where there are too few finished trials."""
    shares = importances(trials, names)
    if not shares:
        return None
    figure, axes = _figure("What mattered", height=1.2 + 0.45 * len(shares))
    ranked = sorted(shares.items(), key=lambda item: item[1])
    axes.barh([NAMES.get(name, name) for name, _ in ranked], [100 * share for _, share in ranked], color="C0")
    axes.set_xlabel("% of the variance of J&F")
    axes.spines[["top", "right"]].set_visible(False)
    return _drawn(figure)


def importances(trials: Sequence[Trial], names: Sequence[str]) -> dict[str, float]:
    """Return Optuna's PED-ANOVA importances of the searched parameters, shares of 1; empty where there are too few finished trials."""
    finished = [trial for trial in trials if trial.status == "finished"]
    if len(finished) < FEWEST or len({trial.score for trial in finished}) < 2:
        return {}
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize")
    distributions: dict[str, Any] = {}
    for name in names:
        values = [trial.parameters[name] for trial in finished]
        if min(values) == max(values):
            return {}
        distributions[name] = optuna.distributions.FloatDistribution(min(values), max(values), log=name != "w")
    for trial in finished:
        params = {name: trial.parameters[name] for name in names}
        study.add_trial(optuna.trial.create_trial(params=params, distributions=distributions, value=trial.score))
    found = optuna.importance.get_param_importances(study, evaluator=_evaluator())
    total = sum(found.values()) or 1.0
    return {name: value / total for name, value in found.items()}


def _evaluator() -> Any:
    import warnings

    import optuna

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.importance.PedAnovaImportanceEvaluator()


STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2em auto; padding: 0 1em; color: #222 }
table { border-collapse: collapse; margin: 1em 0 } th, td { padding: .25em .8em; text-align: right; border-bottom: 1px solid #ddd }
th:first-child, td:first-child { text-align: left; font-family: monospace } tr.winner { background: #e9f6ec; font-weight: 600 }
tr.stopped { color: #888 } figure { margin: 1.5em 0 } img { max-width: 100% } figcaption { color: #555; font-size: 13px }
"""


def _page(
    names: Sequence[str],
    trials: Sequence[Trial],
    repeats: Sequence[Trial],
    winner: dict[str, float],
    metrics: dict[str, float],
    pictures: dict[str, tuple[bytes, str]],
) -> str:
    chosen = ", ".join(f"{NAMES[name]} = {value:.4g}" for name, value in winner.items())
    score = f"{100 * metrics['val/j_and_f']:.1f}"
    if "val/j_and_f_sd" in metrics:
        seeds = sum(trial.parameters == winner for trial in repeats)
        score += f" ± {100 * metrics['val/j_and_f_sd']:.1f} (sd of {seeds} further seeds)"
    head = (
        f"<p><b>Winner:</b> {html.escape(chosen)}: J&amp;F {score}</p>"
        f"<p>{len(trials)} trials, {metrics['tune/stopped_early']:.0f} stopped early, "
        f"{metrics['tune/train_seconds']:.0f} s of training, {metrics['tune/teacher_forwards']:.0f} teacher forwards.</p>"
    )
    figures = "".join(_html_figure(name, png, caption) for name, (png, caption) in pictures.items())
    tables = _html_table(names, trials, winner)
    if repeats:
        tables = f"<h2>Best trials again, with other seeds</h2>{_html_repeats(names, repeats, winner)}<h2>Trials</h2>{tables}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Search</title><style>{STYLE}</style>'
        f"<h1>Search over {html.escape(', '.join(names))}</h1>{head}{figures}{tables}</html>\n"
    )


def _html_figure(name: str, png: bytes, text: str) -> str:
    data = base64.b64encode(png).decode()
    caption = f"<figcaption>{html.escape(text)}</figcaption>"
    return f'<figure><img alt="{name}" src="data:image/png;base64,{data}">{caption}</figure>'


def _html_table(names: Sequence[str], trials: Sequence[Trial], winner: dict[str, float]) -> str:
    rows = []
    for one in ranked(trials):
        kind = "winner" if one.parameters == winner else "stopped" if one.status != "finished" else ""
        cells = [
            one.name,
            *(f"{one.parameters[name]:.4g}" for name in names),
            f"{100 * one.score:.1f}",
            str(one.step),
            one.status,
        ]
        rows.append((kind, cells))
    return _rows(["trial", *names, "J&F", "steps", ""], rows)


def _html_repeats(names: Sequence[str], repeats: Sequence[Trial], winner: dict[str, float]) -> str:
    rows = []
    for parameters, mean, spread, count in repeat_rows(repeats):
        cells = [*(f"{parameters[name]:.4g}" for name in names), f"{100 * mean:.1f} ± {100 * spread:.1f}", str(count)]
        rows.append(("winner" if parameters == winner else "", cells))
    return _rows([*names, "J&F, mean ± sd", "seeds"], rows)


def _rows(header: Sequence[str], rows: Sequence[tuple[str, Sequence[str]]]) -> str:
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "".join(
        f'<tr class="{kind}">' + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"
        for kind, cells in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"
