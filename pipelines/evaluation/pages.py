"""Make an evaluation's pages in MLflow: a table of sequences, J over time, the best and worst sequences, and a video of the worst."""

from __future__ import annotations

import csv
import io
import os
import tempfile
from typing import Any

import numpy as np

from pipelines import storage
from pipelines.evaluation import pictures
from pipelines.tracking import Run
from vos.data.videos import Video
from vos.files.written import Written
from vos.inference.whole_video import segmented_span
from vos.media.frame_files import by_numbers
from vos.media.images import frame_file

PAGES = "pages"
TABLE, CURVES, SHEET = "sequences.csv", "j-over-time.png", "best-and-worst.jpg"
SHOWN = 3
"""Number of best and of worst sequences that are shown."""
COLOURS = 10
"""Number of curves with distinct colours."""
COLUMNS = ("sequence", "objects", "frames", "J&F", "J", "F", "J first quarter", "J last quarter")


def page_names(videos: list[Video]) -> list[str]:
    """Return the names that files of the pages may have."""
    films = [f"worst-{_flat(video.name)}{ending}" for video in videos for ending in pictures.FILM_ENDINGS]
    return [f"{PAGES}/{name}" for name in (TABLE, CURVES, SHEET, *films)]


def log_pages(
    run: Run, folder: Written, masks: str, videos: list[Video], rows: list[dict[str, Any]], max_frames: int
) -> None:
    """Make the table and pictures in OUT/pages and log them to the run.

    rows  one for each scored sequence, at least one: {"sequence", "scores", "j_and_f", "j", "f", "frames"}
    """
    ranked = sorted(rows, key=lambda row: -row["j_and_f"])
    paths = [
        folder.write(f"{PAGES}/{TABLE}", sequence_csv(ranked).encode()),
        folder.write(f"{PAGES}/{CURVES}", j_over_time(ranked)),
    ]
    by_name = {video.name: video for video in videos}
    shown = ranked if len(ranked) <= 2 * SHOWN else ranked[:SHOWN] + ranked[-SHOWN:]
    chosen = [by_name[row["sequence"]] for row in shown]
    titles = [
        f"{_rank(ranked.index(row), len(ranked))}: {row['sequence']}   J&F {100 * row['j_and_f']:.1f}   J {100 * row['j']:.1f}   "
        f"F {100 * row['f']:.1f}"
        for row in shown
    ]
    titles[0] += "   (white: true contours)"
    notes = [_frame_notes(video, row) for video, row in zip(chosen, shown, strict=True)]
    spans = [segmented_span(video, max_frames) for video in chosen]
    sheet = pictures.contact_sheet(chosen, titles, notes, spans, masks)
    paths.append(folder.write(f"{PAGES}/{SHEET}", frame_file(SHEET, sheet, quality=90)))
    with tempfile.TemporaryDirectory() as place:
        name = os.path.join(place, f"worst-{_flat(ranked[-1]['sequence'])}")
        film = pictures.save_overlay_video(name, chosen[-1], masks, spans[-1])
        paths.append(folder.write(f"{PAGES}/{os.path.basename(film)}", storage.read_bytes(film)))
    for path in paths:
        run.log_artifact(path)


def _flat(name: str) -> str:
    """Return a sequence's name as a part of a file name; that of a mixture is SOURCE/NAME."""
    return name.replace("/", "-")


def sequence_csv(ranked: list[dict[str, Any]]) -> str:
    """Return a CSV table with one line a sequence, the best first, in percent."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in ranked:
        curve = mean_curve(row)
        quarter = max(1, len(curve) // 4)
        figures = (row["j_and_f"], row["j"], row["f"], curve[:quarter].mean(), curve[-quarter:].mean())
        counts = (len(row["scores"]["objects"]), row["frames"])
        writer.writerow((row["sequence"], *counts, *(f"{100 * figure:.1f}" for figure in figures)))
    return text.getvalue()


def mean_curve(row: dict[str, Any]) -> np.ndarray:
    """Return J of each scored frame (T,), the mean over the objects that are scored in it."""
    names = _scored_frames(row)
    values = [
        [item["j"][item["frames"].index(name)] for item in row["scores"]["objects"] if name in item["frames"]]
        for name in names
    ]
    return np.array([np.mean(value) for value in values])


def _scored_frames(row: dict[str, Any]) -> list[str]:
    return sorted({name for item in row["scores"]["objects"] for name in item["frames"]}, key=by_numbers)


def j_over_time(ranked: list[dict[str, Any]]) -> bytes:
    """Return a PNG of J over each sequence's scored frames, with the mean as a thick line.

    With more than COLOURS sequences, only the best and worst are named.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 5), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    curves = [100 * mean_curve(row) for row in ranked]
    named = set(range(len(ranked)))
    if len(ranked) > COLOURS:
        named = {*range(SHOWN), *range(len(ranked) - SHOWN, len(ranked))}
    for number, (row, curve) in enumerate(zip(ranked, curves, strict=True)):
        x = np.arange(1, len(curve) + 1)
        if number in named:
            axes.plot(x, curve, lw=1.4, marker=".", label=f"{row['sequence']}  J {100 * row['j']:.0f}")
        else:
            axes.plot(x, curve, lw=0.8, color="0.75")
    longest = max(len(curve) for curve in curves)
    mean = [np.mean([curve[i] for curve in curves if i < len(curve)]) for i in range(longest)]
    axes.plot(np.arange(1, longest + 1), mean, lw=3, color="black", label="mean of sequences")
    axes.set(xlabel="scored frame", ylabel="J (%)", ylim=(-2, 102), title="J over time")
    axes.grid(alpha=0.3)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5), frameon=False, fontsize=9)
    target = io.BytesIO()
    figure.savefig(target, format="png")
    return target.getvalue()


def _rank(place: int, count: int) -> str:
    return f"best {place + 1}" if place < (count + 1) // 2 else f"worst {count - place}"


def _frame_notes(video: Video, row: dict[str, Any]) -> dict[int, str]:
    index_of = {video.frame_name(index): index for index in range(video.num_frames)}
    names = _scored_frames(row)
    return {index_of[name]: f"  J {100 * j:.0f}" for name, j in zip(names, mean_curve(row), strict=True)}
