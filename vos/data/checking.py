"""Full check of a video or a still image: it lists all faults at once, using the functions that training reads with.

An index checks headers only (`vos.data.datasets`). Other faults would stop a training in mid-run: pixels that do not
decode, objects that the first mask lacks, videos without a clip. Every clip draw of a video that passes here can be
loaded. Not found: a JPEG whose pixels were changed but still decode.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vos.config import ClipConfig
from vos.data.draws import check_drawable, draw_clip
from vos.data.stills import Still, no_object
from vos.data.videos import FolderVideo, Video, object_ids
from vos.errors import InputError
from vos.media import images
from vos.media.frame_files import entries

VERSION = 2
"""Version of the check; increase it when the check finds more. Records of other versions are ignored."""


@dataclass(frozen=True)
class Findings:
    """The result of reading a video, as lines that begin with a file or the video.

    faults    these stop a job when it reaches them
    warnings  these are allowed but may be mistakes
    """

    faults: tuple[str, ...]
    warnings: tuple[str, ...]


def check_video(video: Video, for_clips: bool) -> Findings:
    """Read every frame and mask of a video once.

    for_clips   the video is for training; otherwise it is segmented from its first masks
    """
    faults: dict[str, None] = {}  # in order, each once

    def passes(read: Callable[..., object], *arguments: object) -> bool:
        try:
            read(*arguments)
        except InputError as fault:
            faults[str(fault)] = None
            return False
        return True

    if isinstance(video, Still):
        readable = passes(video.frame, 0) & passes(_check_still, video)
        if readable and for_clips:
            passes(draw_clip, [video], ClipConfig(), 0, 0)
        return Findings(tuple(faults), ())
    paths = list(video.files()) or [""] * (video.num_frames + len(video.annotated))
    for index, path in enumerate(paths[: video.num_frames]):
        if passes(_check_file, video, path):
            passes(video.frame, index)
    shown = _shown_ids(video, paths[video.num_frames :], passes)
    if for_clips:
        passes(check_drawable, video)
        if not faults:
            passes(draw_clip, [video], ClipConfig(), 0, 0)
    elif not faults:
        passes(_check_first_masks, video, shown)
    warnings = [] if faults else _doubts(video, shown, for_clips)
    return Findings(tuple(faults), tuple(warnings + _stray_masks(video)))


def _check_still(still: Still) -> None:
    if not object_ids(still.mask(0)):
        raise no_object(still)


def _check_file(video: Video, path: str) -> None:
    if isinstance(video, FolderVideo):
        video.check_file(path)


def _shown_ids(video: Video, paths: list[str], passes: Callable[..., bool]) -> dict[int, set[int]]:
    """Return frame -> objects in its mask, for all masks without a fault."""
    try:
        known = bool(video.annotated) and video.first_seen is not None
    except InputError:  # reported below, as the fault of the first mask
        known = False
    shown: dict[int, set[int]] = {}

    def read(index: int, path: str) -> None:
        _check_file(video, path)
        if not known and index != video.annotated[0]:
            images.read_mask(path)  # pixels only; the allowed objects are unknown until the first mask is fixed
            return
        labels = video.mask(index)
        assert labels is not None, f"{video.name}: frame {index} is listed as annotated"
        shown[index] = set(object_ids(np.ascontiguousarray(labels)))

    for index, path in zip(video.annotated, paths, strict=True):
        passes(read, index, path)
    return shown


def _check_first_masks(video: Video, shown: dict[int, set[int]]) -> None:
    """Raise InputError if there is no object to segment from the first frame with objects."""
    if not video.first_seen:
        raise InputError(f"{video.name}: meta.json lists no object of this video; add one, or drop the video")
    start = min(video.first_seen.values())
    if not any(first == start and one in shown.get(start, ()) for one, first in video.first_seen.items()):
        raise InputError(f"{video.name}: the mask of frame {video.frame_name(start)} shows no object; paint one there")


def _doubts(video: Video, shown: dict[int, set[int]], for_clips: bool) -> list[str]:
    """List warnings about the masks of a video without faults."""
    name, doubts = video.name, video.doubts() if isinstance(video, FolderVideo) and video.annotated else []
    ever = set().union(*shown.values())
    for one, first in sorted(video.first_seen.items()):
        place = f"frame {video.frame_name(first)}, listed as its first frame"
        if one not in ever:
            doubts.append(f"{name}: object {one} is in no mask")
        elif one not in shown.get(first, ()):
            doubts.append(f"{name}: object {one} is not in the mask of {place}")
    num_frames = ClipConfig().num_frames
    if for_clips and len(video.annotated) < num_frames:
        doubts.append(
            f"{name}: {len(video.annotated)} frames with masks; clips of {num_frames} frames repeat the last of them"
        )
    return doubts


def _stray_masks(video: Video) -> list[str]:
    if not isinstance(video, FolderVideo):
        return []
    known = {file for file in video.mask_files if file}
    stray = [file for file in entries(video.mask_folder) if file.lower().endswith(".png") and file not in known]
    if not stray:
        return []
    more = f" and {len(stray) - 1} more masks" if len(stray) > 1 else ""
    path = os.path.join(video.mask_folder, stray[0])
    return [str(InputError(f"{path}{more}: no frame has this name; not read"))]
