"""Every fault of a video that a full reading can tell, all at once, by the functions that a training reads with.

An index looks at headers only (`vos.data.datasets`), so a training meets the rest in mid-run: pixels that do not decode,
objects that the first mask lacks, videos without a clip. What passes here, every clip draw of it loads. Not found: a
JPEG whose pixels were changed so that it still decodes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from vos.config import ClipConfig
from vos.data.datasets import FolderVideo, Video, object_ids
from vos.data.draws import check_drawable, draw_clip
from vos.errors import InputError
from vos.media import images
from vos.media.frame_files import entries

VERSION = 1
"""Of what is looked for. A check of another version is none: raise it when more is found."""


@dataclass(frozen=True)
class Findings:
    """What reading a video found, as lines that begin with a file or the video.

    faults    what stops a job when it is reached
    warnings  what is allowed and may not be meant
    """

    faults: tuple[str, ...]
    warnings: tuple[str, ...]


def check_video(video: Video, for_clips: bool) -> Findings:
    """Read every frame and mask of a video once.

    for_clips   it is to be trained on; otherwise it is to be segmented from its first masks
    """
    faults: dict[str, None] = {}  # in order, each once

    def passes(read: Callable[..., object], *arguments: object) -> bool:
        try:
            read(*arguments)
        except InputError as fault:
            faults[str(fault)] = None
            return False
        return True

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


def _check_file(video: Video, path: str) -> None:
    if isinstance(video, FolderVideo):
        video.check_file(path)


def _shown_ids(video: Video, paths: list[str], passes: Callable[..., bool]) -> dict[int, set[int]]:
    """Frame -> objects that its mask shows, of all masks without a fault."""
    try:
        known = bool(video.annotated) and video.first_seen is not None
    except InputError:  # told below, as the fault of the first mask
        known = False
    shown: dict[int, set[int]] = {}

    def read(index: int, path: str) -> None:
        _check_file(video, path)
        if not known and index != video.annotated[0]:
            images.read_mask(
                path
            )  # its pixels; which objects it may show is not known before the first mask is repaired
            return
        labels = video.mask(index)
        assert labels is not None, f"{video.name}: frame {index} is listed as annotated"
        shown[index] = set(object_ids(np.ascontiguousarray(labels)))

    for index, path in zip(video.annotated, paths, strict=True):
        passes(read, index, path)
    return shown


def _check_first_masks(video: Video, shown: dict[int, set[int]]) -> None:
    """Raise InputError where nothing can be followed from the first frame with objects on."""
    if not video.first_seen:
        raise InputError(f"{video.name}: meta.json lists no object of this video; add one, or drop the video")
    start = min(video.first_seen.values())
    if not any(first == start and one in shown.get(start, ()) for one, first in video.first_seen.items()):
        raise InputError(f"{video.name}: the mask of frame {video.frame_name(start)} shows no object; paint one there")


def _doubts(video: Video, shown: dict[int, set[int]], for_clips: bool) -> list[str]:
    """Warnings about what the masks of a video without faults show."""
    name, doubts = video.name, []
    ever = set().union(*shown.values())
    for one, first in sorted(video.first_seen.items()):
        place = f"frame {video.frame_name(first)}, where it is said to appear first"
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
    return [str(InputError(f"{path}{more}: no frame of this name; not read"))]
