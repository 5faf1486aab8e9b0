"""Draw the FPS benchmark's plots: speed and memory over the frame number, and J&F over speed with the published points."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.evaluation.evaluate import EVALUATE, SUMMARY, Summary
from pipelines.runtime.output_folder import existing
from pipelines.studies.benchmarks.fps_results import Measured
from vos.errors import InputError
from vos.files.written import Written
from vos.published.figures import PUBLISHED

WINDOW_FRAMES = 20
PLOTS = ("fps-by-frame.png", "memory-by-frame.png", "jf-by-fps.png")


def write_plots(measured: Sequence[Measured], folder: Written, evaluations: Sequence[str]) -> list[str]:
    """Draw the plots; returns the paths of the PNGs. Raises InputError for an evaluation that cannot be read."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    points = [_evaluated(path) for path in evaluations]
    single = [one for one in measured if one.objects == 1]
    paths = []
    for name, draw in zip(PLOTS, (_fps_by_frame, _memory_by_frame, _quality_by_speed), strict=True):
        drawing = Figure(figsize=(8.4, 4.8), layout="constrained")
        axes = drawing.subplots()
        draw(axes, single, *([points] if draw is _quality_by_speed else []))
        axes.grid(alpha=0.3, which="both")
        drawing.legend(loc="outside lower center" if draw is _quality_by_speed else "outside right upper", fontsize=7)
        FigureCanvasAgg(drawing)
        drawing.savefig(target := io.BytesIO(), dpi=130, format="png")
        paths.append(folder.write(name, target.getvalue()))
    return paths


def _evaluated(folder: str) -> dict[str, Any]:
    repair = "name the --out of a finished jobs.evaluate"
    summary = existing(folder, EVALUATE).read_json(SUMMARY, Summary, repair)
    if summary is None or "val/j_and_f" not in summary["metrics"]:
        raise InputError(f"--evaluations {folder}: holds no {SUMMARY} with J&F; {repair}")
    return {"model": summary["model"], "j_and_f": summary["metrics"]["val/j_and_f"], "size_px": summary["size_px"]}


def _longest(measured: Sequence[Measured]) -> list[Measured]:
    long = [one for one in measured if one.protocol == "long"]
    return long or [one for one in measured if one.protocol == "short"]


def _fps_by_frame(axes: Any, measured: Sequence[Measured]) -> None:
    shown = _longest(measured)
    for one in shown:
        seconds = np.asarray(one.frame_s)
        window = min(WINDOW_FRAMES, len(seconds))
        # The median of a window ignores short pauses of the machine.
        medians = np.median(np.lib.stride_tricks.sliding_window_view(seconds, window), axis=1)
        frames = np.arange(len(medians)) + window / 2
        axes.plot(frames, 1 / medians, "--" if one.integrated else "-", label=_label(one), linewidth=1.4)
    short = [len(one.frame_s) for one in measured if one.protocol == "short"]
    if short and shown[0].protocol == "long":
        axes.axvline(min(short), color="0.6", linewidth=0.8, linestyle=":")
        place = min(short), axes.get_ylim()[0]
        axes.annotate("end of the short protocol", place, fontsize=7, color="0.4", va="bottom")
    title = f"Speed over a video, one object (median of {WINDOW_FRAMES} frames)"
    axes.set(xlabel="frame", ylabel="FPS", yscale="log", title=title)
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _memory_by_frame(axes: Any, measured: Sequence[Measured]) -> None:
    soaked = [one for one in measured if one.protocol == "soak"]
    for one in [*_longest(measured), *soaked]:
        name = _label(one) + ", soak" * (one in soaked)
        axes.plot(one.rss_at, one.rss_mib, "--" if one.integrated else "-", marker=".", label=name, linewidth=1.4)
    axes.set(xlabel="frame", ylabel="resident MiB", title="Memory of each system's process, one object", ylim=(0, None))
    if soaked:
        axes.set(xscale="log")


def _quality_by_speed(axes: Any, measured: Sequence[Measured], points: Sequence[dict[str, Any]]) -> None:
    reported = {"marker": "o", "markerfacecolor": "none", "color": "0.5", "markersize": 6, "linestyle": "none"}
    for row in PUBLISHED:
        if row.davis16 is not None and row.davis16.fps is not None:
            place = row.davis16.fps, 100 * row.davis16.j_and_f
            axes.plot(*place, **reported)
            axes.annotate(row.method, place, fontsize=6.5, color="0.4", xytext=(4, 3), textcoords="offset points")
    axes.plot([], [], **reported, label="reported: the authors' figures, their GPU, their training")
    for point in points:
        same = [one for one in measured if one.protocol == "short" and one.about["model"] == point["model"]]
        for one in [one for one in same if one.system.size_px in (0, point["size_px"])]:
            place = one.fps, 100 * point["j_and_f"]
            label = f"{one.about['runtime']} {one.about['precision']}{one.network.removeprefix(one.about['model'])}"
            axes.plot(*place, "s", color="C0", markersize=5)
            axes.annotate(label, place, fontsize=6, rotation=40, xytext=(3, 3), textcoords="offset points")
    if points:
        models = ", ".join(sorted({point["model"] for point in points}))
        axes.plot([], [], "s", color="C0", label=f"measured here: {models}, this machine")
    title = "Quality against speed (different machines: compare shapes, not rows)"
    axes.set(xlabel="FPS", ylabel="DAVIS-2016 J&F (%)", xscale="log", title=title)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.margins(x=0.35)  # room for the labels


def _label(one: Measured) -> str:
    return f"{one.network} ({one.about['runtime']} {one.about['precision']})"
