"""Draw finished labels: masks, confidence as a heat map, what is kept and why, and the agreement of both directions over time."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from pipelines import tracking
from pipelines.labelling.build import LABEL
from pipelines.runtime.output_folder import check_folder
from vos.config import LabelConfig
from vos.data.labels import CONFIDENCE, MASKS, Frame, Receipt, labelled_video, read_label, read_labels, read_receipt
from vos.data.videos import Video
from vos.media.images import overlay
from vos.media.palette import davis_palette

SHOW = "show"
COLUMNS = 6
KEPT, LEFT_OUT = "#2a8f3c", "#c0392b"
DPI = 90


def show_labels(config: LabelConfig) -> list[str]:
    """Draw `--show` videos, spread over the labels in --out, into OUT/show, and log them to MLflow; returns their paths.

    Raises InputError when the labels are absent or damaged, or the frames are gone.
    """
    labels = read_labels(config.out)
    count = min(config.show, len(labels["videos"]))
    chosen = [labels["videos"][int(i)] for i in np.linspace(0, len(labels["videos"]) - 1, count).round()]
    folder = check_folder(config, LABEL)
    folder.check(f"{SHOW}/{listed['name']}.png" for listed in chosen)
    paths = []
    with tracking.start_run("label", "show", config) as run:
        for listed in chosen:
            receipt = read_receipt(config.out, labels, listed)
            video = labelled_video(config.out, labels, listed)
            threshold = labels["identity"].get("min_agreement", 0.0)
            data = page(config.out, video, receipt, float(threshold) if isinstance(threshold, int | float) else 0.0)
            paths.append(folder.write(f"{SHOW}/{listed['name']}.png", data))
            run.log_artifact(paths[-1], "labels")
    return paths


def page(root: str, video: Video, receipt: Receipt, min_agreement: float) -> bytes:
    """Return a PNG of one video: frames with masks, confidence, and two curves over time."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    frames = receipt["frames"]
    shown = [frames[i] for i in _spread(frames)]
    height, width = receipt["size"]
    row = 2.5 * height / width
    figure = Figure(figsize=(15, 2 * row + 5.2), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(2, 1, height_ratios=[2 * row + 1.2, 4])
    pictures, curves = parts
    axes: Any = pictures.subplots(2, len(shown), squeeze=False)
    heat = None
    for column, frame in enumerate(shown):
        heat = _frame(axes[0][column], axes[1][column], root, video, frame, receipt)
    if heat is not None:
        pictures.colorbar(heat, ax=axes[1], shrink=0.9, label="confidence", pad=0.01)
    _curves(curves.subplots(2, 1, sharex=True), frames, min_agreement)
    kept = sum(frame["kept"] for frame in frames)
    figure.suptitle(f"{receipt['video']}: {kept} of {len(frames)} frames are kept")
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=DPI)
    return target.getvalue()


def _spread(frames: Sequence[Frame]) -> list[int]:
    """Return the places of the frames that are drawn: spread over the video, with both kinds if there are both."""
    places = np.unique(np.linspace(0, len(frames) - 1, min(COLUMNS, len(frames))).round().astype(int)).tolist()
    for kept in (True, False):
        those = [i for i, frame in enumerate(frames) if frame["kept"] == kept]
        if those and not any(frames[i]["kept"] == kept for i in places) and len(places) > 2:
            nearest = min(range(1, len(places) - 1), key=lambda k: min(abs(places[k] - i) for i in those))
            places[nearest] = min(those, key=lambda i: abs(places[nearest] - i))
    return sorted(set(places))


def _frame(top: Any, bottom: Any, root: str, video: Video, frame: Frame, receipt: Receipt) -> Any:
    """Draw one frame with its mask, and its confidence below; returns the heat map."""
    size = (receipt["size"][0], receipt["size"][1])
    paths = [os.path.join(root, place, receipt["video"], f"{frame['name']}.png") for place in (MASKS, CONFIDENCE)]
    labels = read_label(paths[0], frame["mask_sha256"], size)
    confidence = read_label(paths[1], frame["confidence_sha256"], size)
    colour = KEPT if frame["kept"] else LEFT_OUT
    state = (
        ("given" if frame["given"] else "kept")
        if frame["kept"]
        else "held out"
        if frame["reason"] == "held out"
        else "left out"
    )
    top.imshow(overlay(video.frame(frame["index"]), labels))
    top.set_title(f"frame {frame['index']}: {state}", fontsize=10, color=colour)
    heat = bottom.imshow(confidence / 255, cmap="inferno", vmin=0, vmax=1)
    bottom.set_title(_folded(frame["reason"]) if state == "left out" else "", fontsize=8, color=colour)
    for axis in (top, bottom):
        axis.set_xticks([])
        axis.set_yticks([])
        for edge in axis.spines.values():
            edge.set_color(colour)
            edge.set_linewidth(2.5)
    return heat


def _folded(reason: str) -> str:
    head, _, rest = reason.partition(": ")
    return f"{head}:\n{rest}" if rest else head


def _curves(axes: Any, frames: Sequence[Frame], min_agreement: float) -> None:
    """Draw agreement and confidence of each object over time; frames that are left out are shaded."""
    colours = davis_palette() / 255
    ids = sorted({int(one) for frame in frames for one in (*frame["confidence"], *frame["agreement"])})
    for axis, name, label in zip(axes, ("agreement", "confidence"), ("agreement (IoU)", "confidence"), strict=True):
        for one in ids:
            points = [(frame["index"], frame[name][str(one)]) for frame in frames if str(one) in frame[name]]
            if points:
                axis.plot(
                    *zip(*points, strict=True), ".-", color=colours[one % 256], label=f"object {one}", linewidth=1.2
                )
        for frame in frames:
            if not frame["kept"]:
                axis.axvspan(frame["index"] - 0.5, frame["index"] + 0.5, color="0.85", linewidth=0)
        axis.set_ylim(-0.03, 1.05)
        axis.set_ylabel(label)
        axis.grid(alpha=0.3)
    axes[0].axhline(min_agreement, color="0.3", linestyle="--", linewidth=1)
    axes[0].set_title("dashed: least agreement; grey: frames that are left out", fontsize=9, loc="left")
    axes[1].set_xlabel("frame")
    axes[1].set_xlim(frames[0]["index"] - 0.5, frames[-1]["index"] + 0.5)
    if ids:
        axes[1].legend(loc="lower left", ncols=min(8, len(ids)), fontsize=8)
