"""Check a row of the cache before its numbers index memory: a shard's digest proves that it is complete, not who made it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.cache import schema
from vos.data.clips import Clip
from vos.data.draw_records import Augmentation, ClipDraw
from vos.data.videos import Video
from vos.errors import InputError
from vos.files.json_files import parse_json

FARTHEST_PX = 32_000
"""Largest coordinate of a crop: OpenCV samples images at 16-bit coordinates."""
ADVICE = "run jobs.cache again with the same flags to repair it"


def check_row(row: dict[str, Any], shapes: schema.Shapes, origin: str) -> ClipDraw:
    """Return the draw of a row after checking all its values. Raises InputError that begins with `origin`, the shard and the row."""
    for name in schema.PLAIN:
        if row.get(name) is None:
            raise InputError(f"{origin}: its {name} is missing; {ADVICE}")
    draw = ClipDraw.from_dict(parse_json(row["record"], f"{origin}: its record", ADVICE), f"{origin}: its record")
    index = row.get("sample_index")
    holds = {
        "its record belongs to another draw": draw.number == row["draw"] and draw.num_objects == row["num_objects"],
        "its number of frames or objects is not the cache's": len(draw.frames) == shapes.queries + 1
        and draw.num_objects <= shapes.objects,
        "its crop lies outside all frames": all(
            _farthest(one, shapes.grid * schema.GRID_STRIDE) < FARTHEST_PX for one in _augmentations(draw)
        ),
    }
    if index is not None:  # either all of the teacher's columns are read, or none
        holds |= {
            "a sampled cell is outside the grid": int(index.max(initial=0)) < shapes.grid**2,
            "a label is no object of the clip": int(row["sample_label"].max(initial=0)) <= draw.num_objects,
            "a factor or its scale is not finite": _are_finite(row, "factor"),
            "a logit or its scale is not finite": _are_finite(row, "logits", "logit_scale"),
        }
    if (problem := next((text for text, right in holds.items() if not right), "")) or (problem := _pictures(row, draw)):
        raise InputError(f"{origin}: {problem}; {ADVICE}")
    return draw


def check_videos(draw: ClipDraw, videos: Mapping[str, Video], origin: str) -> None:
    """Raise InputError where a video that a draw names is absent, or shorter or smaller than the draw requires."""
    parts = [(draw.video, (*draw.frames, *draw.context), draw.augmentation)]
    if draw.paste is not None:
        parts.append((draw.paste.video, (draw.paste.first,), draw.paste.augmentation))
    parts += [(draw.layers[0].image, (0,), pose.augmentation) for pose in draw.layers[0].poses] if draw.layers else []
    for layer in draw.layers[1:]:  # an object may be reduced to less than its image's shorter side allows
        if draw.key_of(layer.image) not in videos:
            raise InputError(f"{origin}: its draw of {layer.image} does not fit these videos; {ADVICE}")
    for name, frames, augmentation in parts:
        video = videos.get(draw.key_of(name))
        if video is None or max(frames) >= video.num_frames or augmentation.source_px > min(video.size):
            raise InputError(f"{origin}: its draw of {name} does not fit these videos; {ADVICE}")


def check_clip(clip: Clip, draw: ClipDraw, shapes: schema.Shapes, origin: str) -> None:
    """Raise InputError where a stored clip does not have the cache's size, or has labels that the draw does not have."""
    side = shapes.grid * schema.GRID_STRIDE
    wanted = (len(draw.frames), side, side)
    if clip.frames.shape != (*wanted, 3) or clip.labels.shape != wanted or int(clip.labels.max()) > draw.num_objects:
        raise InputError(f"{origin}: its stored frames are not a clip of {side} x {side} pixels of this draw; {ADVICE}")


def _augmentations(draw: ClipDraw) -> list[Augmentation]:
    """Return the augmentations whose whole crop is sampled. A cut-out is sampled after it was reduced, so it may lie far away."""
    scene = [pose.augmentation for pose in draw.layers[0].poses] if draw.layers else []
    return [draw.augmentation, *([draw.paste.augmentation] if draw.paste else []), *scene]


def _farthest(augmentation: Augmentation, crop_px: int) -> float:
    """Return the largest coordinate that a crop shows, in pixels of its source."""
    a, b, c, d, e, f = map(abs, augmentation.affine)
    return max((a + b) * crop_px + c, (d + e) * crop_px + f)


def _are_finite(row: dict[str, Any], name: str, scale: str = "factor_scale") -> bool:
    """Return whether a column's values are finite; for integers the scale decides."""
    found = row.get(scale, row.get(name))
    return found is None or bool(np.isfinite(found).all())


def _pictures(row: dict[str, Any], draw: ClipDraw) -> str:
    for name in schema.PICTURES:
        files = row.get(name)
        if name in row and (not files or len(files) != len(draw.frames) or not all(files)):
            return f"its {name} are not one file for each frame"
    return ""
