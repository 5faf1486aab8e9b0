"""Draw the content of a cache: one page per draw, which shows the targets that the student will learn from."""

from __future__ import annotations

import io
from typing import Any

import cv2
import numpy as np

from pipelines import storage, tracking
from pipelines.cache import schema
from pipelines.cache.build import CACHE
from pipelines.cache.manifest import RUN_AGAIN
from pipelines.cache.read import CachedClips
from pipelines.runtime.output_folder import check_folder
from vos.config import CacheConfig
from vos.data.clips import Clip
from vos.data.draw_records import ClipDraw
from vos.files.json_files import parse_json
from vos.media.images import overlay
from vos.media.palette import davis_palette

SHOW = "show"
"""Folder of the pictures."""

FEW = 64
"""Samples of the sparsest density that is marked."""
_LONG_NAME = 40
_MASKS = {False: "true masks", True: "followed objects"}
SPARSE, QUARTER, ALL = "#ff2d2d", "#ffb000", "#57c4ff"


def show_cache(config: CacheConfig) -> list[str]:
    """Draw `--show` draws, spread over the cache in --out, into OUT/show, and log them to MLflow; returns their paths.

    Raises InputError when the cache is absent or damaged, or its videos are absent.
    """
    source = CachedClips(config.out, config.data)
    numbers = np.unique(np.linspace(0, source.num_draws - 1, min(config.show, source.num_draws)).round().astype(int))
    folder = check_folder(config, CACHE)
    folder.check(f"{SHOW}/draw-{number:06d}.png" for number in numbers)
    from tqdm import tqdm

    digest = source.manifest["fingerprint"]
    paths = []
    with tracking.start_run("cache", f"show-{digest[:8]}", config, {"cache.fingerprint": digest}) as run:
        for number in tqdm(numbers, desc="drawing", unit="draw"):
            row, clip = source.row_and_clip(int(number))
            path = folder.write(f"{SHOW}/draw-{number:06d}.png", page(row, clip))
            paths.append(path)
            if not storage.is_uri(path):
                run.log_artifact(path, "draws")
    return paths


def page(row: dict[str, Any], clip: Clip) -> bytes:
    """Return a PNG of one draw: the clip with its true masks, and one row of three pictures per query frame.

    They show the teacher's masks, the sampled pixels on the boundary mask, and the correlations of the sampled pixels sorted by object.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    draw = ClipDraw.from_dict(parse_json(row["record"], "the record of a draw", RUN_AGAIN))
    queries, frames = len(row["boundary"]), len(clip.frames)
    figure = Figure(figsize=(12, 3.6 * (queries + 1)), layout="constrained")
    FigureCanvasAgg(figure)
    parts: Any = figure.subfigures(queries + 1, 1)
    top, *lines = parts
    times = frame_titles(draw)
    for t, (axis, frame, labels) in enumerate(zip(top.subplots(1, frames), clip.frames, clip.labels, strict=True)):
        _image(axis, overlay(frame, labels), f"{times[t]}, {_MASKS[bool(draw.layers)]}" + " (given)" * (t == 0))
    _legend(top, draw)
    for q, line in enumerate(lines):
        masks, cells, heat = line.subplots(1, 3)
        _image(masks, _teacher_view(row, q, clip.frames[q + 1]), f"{times[q + 1]}: the teacher's masks")
        _samples(cells, row, q, clip.frames[q + 1])
        _correlations(heat, row, q)
    figure.suptitle(title(draw), fontsize=11)
    target = io.BytesIO()
    figure.savefig(target, format="png", dpi=90)
    return target.getvalue()


def frame_titles(draw: ClipDraw) -> list[str]:
    """Return the name of each frame of a clip: its number in the video; the frames of stills are numbered from 1."""
    return [f"frame {t} of a still" if draw.layers else f"frame {index}" for t, index in enumerate(draw.frames, 1)]


def title(draw: ClipDraw) -> str:
    """Return the line above a draw: its data set, its video and frames, or how its stills were put together."""
    head = f"draw {draw.number}: " + (f"source {draw.source}, " if draw.source else "") + _short(draw.video)
    if len(draw.layers) > 1:
        return f"{head}, {len(draw.layers)} layers of stills, from back to front:"
    if draw.layers:
        return f"{head}, one still that moves and bends:"
    context = f", teacher's context {', '.join(map(str, draw.context))}" if draw.context else ""
    frames, ids = ", ".join(map(str, draw.frames)), ", ".join(map(str, draw.objects))
    return f"{head}, frames {frames}, object ids {ids}{context}"


def layer_names(draw: ClipDraw) -> list[tuple[int, str]]:
    """Return (label, name) of the parts of a clip of stills, from back to front; label 0 is background."""
    if not draw.layers:
        return []
    scene = f"image {_short(draw.video)}"
    named = [(label, f"{scene}, object {one}: followed") for label, one in enumerate(draw.objects, 1)]
    for layer in draw.layers[1:]:
        role = "followed" if layer.label else "background"
        named.append((layer.label, f"object {layer.object_id} of {_short(layer.image)}: {role}"))
    return named if draw.objects else [(0, f"{scene}: background"), *named]


def _legend(part: Any, draw: ClipDraw) -> None:
    """Name the layers of a clip of stills below its frames, followed objects in their colours."""
    from matplotlib.patches import Patch

    if named := layer_names(draw):
        colours = [tuple(davis_palette()[label] / 255) if label else "white" for label, _ in named]
        patches = [
            Patch(facecolor=one, edgecolor="grey", label=name) for one, (_, name) in zip(colours, named, strict=True)
        ]
        part.legend(handles=patches, loc="outside lower center", ncols=2, fontsize=9, frameon=False)


def _short(name: str) -> str:
    return name if len(name) <= _LONG_NAME else f"{name[:_LONG_NAME]}…"


def _image(axis: Any, picture: np.ndarray, title: str) -> None:
    axis.imshow(picture)
    axis.set_title(title, fontsize=10)
    axis.set_axis_off()


def _teacher_view(row: dict[str, Any], q: int, frame: np.ndarray) -> np.ndarray:
    logits = schema.logits_of(row)[q]
    if not logits.size:
        return frame
    height, width = frame.shape[:2]
    full = np.stack(
        [cv2.resize(one, (width, height), interpolation=cv2.INTER_LINEAR) for one in logits[: row["num_objects"]]]
    )
    labels = np.where(full.max(0) > 0, full.argmax(0) + 1, 0).astype(np.uint8)
    return overlay(frame, labels)


def _samples(axis: Any, row: dict[str, Any], q: int, frame: np.ndarray) -> None:
    grid = frame.shape[0] // schema.GRID_STRIDE
    boundary, index = schema.boundary_of(row, grid)[q], row["sample_index"][q].astype(int)
    small = cv2.resize(frame, (grid, grid), interpolation=cv2.INTER_AREA).astype(float) / 255 * 0.6
    small[boundary] = small[boundary] * 0.4 + 0.6
    axis.imshow(small)
    quarter = len(index) // 4
    few = min(FEW, quarter // 2)
    cell = (170 / grid) ** 2  # points², at the size of these axes
    for cells, colour, size in (
        (index[quarter:], ALL, 0.4),
        (index[few:quarter], QUARTER, 0.6),
        (index[:few], SPARSE, 0.9),
    ):
        axis.scatter(cells % grid, cells // grid, s=size * cell, c=colour, linewidths=0)
    share = boundary.reshape(-1)[index].mean()
    axis.set_title(
        f"light: boundary mask ({100 * share:.0f} % of samples)\nfirst {few} red, first {quarter} orange, all {len(index)} blue",
        fontsize=9,
    )
    axis.set_axis_off()


def _correlations(axis: Any, row: dict[str, Any], q: int) -> None:
    factor, labels = schema.factor_of(row)[q], row["sample_label"][q]
    order = np.argsort(labels, kind="stable")
    factor = factor[order]
    picture = axis.imshow(factor @ factor.T, vmin=-1, vmax=1, cmap="RdBu_r", interpolation="nearest")
    axis.figure.colorbar(picture, ax=axis, shrink=0.8)
    names = {0: "background"}
    edges = np.flatnonzero(np.diff(labels[order])) + 1
    for edge in edges:
        axis.axhline(edge - 0.5, color="black", linewidth=0.6)
        axis.axvline(edge - 0.5, color="black", linewidth=0.6)
    starts, stops = [0, *edges], [*edges, len(order)]
    places = [(a + b) / 2 for a, b in zip(starts, stops, strict=True)]
    axis.set_yticks(
        places, [names.get(int(labels[order[a]]), f"object {labels[order[a]]}") for a in starts], fontsize=8
    )
    axis.set_xticks([])
    axis.set_title(
        f"correlations C_t, {len(order)} samples by object\nstored with {100 * row['factor_error'][q]:.2f} % error",
        fontsize=9,
    )
