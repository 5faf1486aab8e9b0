"""The FPS benchmark's plots: speed and memory against the frame's number, and J&F against speed beside the published points."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines.evaluation.evaluate import EVALUATE, SUMMARY, Summary
from pipelines.runtime.output_folder import existing
from pipelines.studies.benchmarks.fps_measured import Measured
from vos.errors import InputError
from vos.files.written import Written
from vos.published.figures import PUBLISHED

WINDOW_FRAMES = 20
PLOTS = ("fps-by-frame.png", "memory-by-frame.png", "jf-by-fps.png")


def write_plots(measured: Sequence[Measured], folder: Written, evaluations: Sequence[str]) -> list[str]:
    """Draw what this run can show; returns the paths of the PNGs. Raises InputError for an evaluation that cannot be read."""
    points = [_evaluated(path) for path in evaluations]
    drawn = zip(PLOTS, (_fps_by_frame, _memory_by_frame), strict=False)
    paths = []
    for name, draw in drawn:
        figure = _figure()
        draw(figure, measured)
        paths.append(folder.write(name, _png(figure)))
    figure = _figure()
    _quality_by_speed(figure, measured, points)
    return [*paths, folder.write(PLOTS[2], _png(figure))]


def _evaluated(folder: str) -> dict[str, Any]:
    repair = "name the --out of a finished jobs.evaluate"
    summary = existing(folder, EVALUATE).read_json(SUMMARY, Summary, repair)
    if summary is None or "val/j_and_f" not in summary["metrics"]:
        raise InputError(f"--evaluations {folder}: holds no {SUMMARY} with J&F; {repair}")
    return {"model": summary["model"], "j_and_f": summary["metrics"]["val/j_and_f"], "size_px": summary["size_px"]}


def _figure() -> Any:
    from matplotlib.figure import Figure

    return Figure(figsize=(8.4, 4.8), layout="constrained")


def _png(figure: Any) -> bytes:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    FigureCanvasAgg(figure)
    target = io.BytesIO()
    figure.savefig(target, dpi=130, format="png")
    return target.getvalue()


def _fps_by_frame(figure: Any, measured: Sequence[Measured]) -> None:
    axes = figure.subplots()
    shown = [one for one in measured if one.protocol == "long" and one.objects == 1]
    shown = shown or [one for one in measured if one.protocol == "short" and one.objects == 1]
    for one in shown:
        seconds = np.asarray(one.frame_s)
        window = min(WINDOW_FRAMES, len(seconds))
        # The median of a window: a pause of the machine is not the system's.
        medians = np.median(np.lib.stride_tricks.sliding_window_view(seconds, window), axis=1)
        frames = np.arange(len(medians)) + window / 2
        axes.plot(frames, 1 / medians, "--" if one.integrated else "-", label=_label(one), linewidth=1.4)
    short = [len(one.frame_s) for one in measured if one.protocol == "short"]
    if short and shown[0].protocol == "long":
        axes.axvline(min(short), color="0.6", linewidth=0.8, linestyle=":")
        axes.annotate(
            "end of the short protocol", (min(short), axes.get_ylim()[0]), fontsize=7, color="0.4", va="bottom"
        )
    axes.set(
        xlabel="frame",
        ylabel="FPS",
        yscale="log",
        title=f"Speed over a video, one object (median of {WINDOW_FRAMES} frames)",
    )
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside right upper", fontsize=7)


def _memory_by_frame(figure: Any, measured: Sequence[Measured]) -> None:
    axes = figure.subplots()
    protocol = "long" if any(one.protocol == "long" for one in measured) else "short"
    for one in measured:
        if (one.protocol == protocol or one.protocol == "soak") and one.objects == 1 and one.rss_mib:
            name = _label(one) + (", soak" if one.protocol == "soak" else "")
            axes.plot(one.rss_at, one.rss_mib, "--" if one.integrated else "-", marker=".", label=name, linewidth=1.4)
    axes.set(xlabel="frame", ylabel="resident MiB", title="Memory of each system's process, one object", ylim=(0, None))
    if any(one.protocol == "soak" for one in measured):
        axes.set(xscale="log")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right upper", fontsize=7)


def _quality_by_speed(figure: Any, measured: Sequence[Measured], points: Sequence[dict[str, Any]]) -> None:
    axes = figure.subplots()
    for row in PUBLISHED:
        if row.davis16 is not None and row.davis16.fps is not None:
            axes.plot(
                row.davis16.fps, 100 * row.davis16.j_and_f, "o", markerfacecolor="none", color="0.5", markersize=6
            )
            axes.annotate(
                row.method,
                (row.davis16.fps, 100 * row.davis16.j_and_f),
                fontsize=6.5,
                color="0.4",
                xytext=(4, 3),
                textcoords="offset points",
            )
    axes.plot(
        [],
        [],
        "o",
        markerfacecolor="none",
        color="0.5",
        label="reported: the authors' figures, their GPU, their training",
    )
    for point in points:
        same = [
            one
            for one in measured
            if one.about["model"] == point["model"]
            and one.protocol == "short"
            and one.objects == 1
            and one.system.size_px in (0, point["size_px"])
        ]
        for one in same:
            axes.plot(one.fps, 100 * point["j_and_f"], "s", color="C0", markersize=5)
            axes.annotate(
                f"{one.about['runtime']} {one.about['precision']}{one.name.removeprefix(one.about['model'])}",
                (one.fps, 100 * point["j_and_f"]),
                fontsize=6,
                rotation=40,
                xytext=(3, 3),
                textcoords="offset points",
            )
    if points:
        axes.plot(
            [],
            [],
            "s",
            color="C0",
            label=f"measured here: {', '.join(sorted({point['model'] for point in points}))}, this machine",
        )
    axes.set(
        xlabel="FPS",
        ylabel="DAVIS-2016 J&F (%)",
        xscale="log",
        title="Quality against speed (different machines: compare shapes, not rows)",
    )
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.grid(alpha=0.3, which="both")
    axes.margins(x=0.35)  # room for the labels
    figure.legend(loc="outside lower center", fontsize=7)


def _label(one: Measured) -> str:
    return f"{one.name} ({one.about['runtime']} {one.about['precision']})"
