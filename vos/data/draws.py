"""The clip draw: a record of plain numbers that determines frames, objects, crop and colours of a clip.

All randomness of the data path is here. A draw is a pure function of (data set, clip configuration, seed, draw number).
Everything after it is a function of the draw, on any worker and in any order. Each pass over the data set is a
permutation of its videos, so every video is drawn equally often.

Drawing reads the mask of the first frame, since the crop must show an object there. Only a point deep inside each
object is needed; these points are cached per process.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.random import Generator

from vos.config import ClipConfig
from vos.data.crops import Spot, colours, crop_around, objects_in, placed, spots_of
from vos.data.draw_records import Augmentation, ClipDraw, Paste
from vos.data.mixtures import Mixture
from vos.data.still_draws import draw_still
from vos.data.stills import Still
from vos.data.videos import Video
from vos.errors import InputError
from vos.media import images

_ORDER_STREAM, _DRAW_STREAM = 0, 1
_ATTEMPTS = 8  # First frames to try at random before searching for a frame that shows an object.
_MOST_HIDDEN = 0.5  # Largest share of an object that a pasted one may cover in the first frame, or be covered itself.
_MAX_REACH_PX = 32_766  # Largest extent of a frame and its reflected border that OpenCV can sample.


def video_of_draw(num_videos: int, seed: int, number: int) -> int:
    """Return the position in the index of the video of draw `number`."""
    pass_number, position = divmod(number, num_videos)
    return int(np.random.default_rng([_ORDER_STREAM, seed, pass_number]).permutation(num_videos)[position])


def draw_clip(videos: Sequence[Video], clip: ClipConfig, seed: int, number: int) -> ClipDraw:
    """Return draw `number` (0, 1, ...) of the endless list of clips that (videos, clip, seed) defines.

    videos  of one data set, or a mixture of several
    Raises InputError if the video cannot have clips (`check_drawable`), or no mask of it shows an object.
    """
    if seed < 0:
        raise InputError(f"--seed {seed}: use 0 or more")
    if not videos:
        raise InputError("no video to draw clips from; check --data.root and the split")
    rng = np.random.default_rng([_DRAW_STREAM, seed, number])
    if isinstance(videos, Mixture):
        source, place = videos.place(seed, number)
        return replace(_draw(rng, source.videos, clip, seed, place, number), source=source.name)
    return _draw(rng, videos, clip, seed, number, number)


def _draw(rng: Generator, videos: Sequence[Video], clip: ClipConfig, seed: int, place: int, number: int) -> ClipDraw:
    """Return draw `number`, which is draw `place` among those of `videos`."""
    video = videos[video_of_draw(len(videos), seed, place)]
    check_drawable(video)
    if isinstance(video, Still):
        return draw_still(rng, number, video, videos, clip)
    clip = replace(clip, max_skip_frames=clip.max_skip_of(number), skip_curriculum=())
    frames, spots = _first_frame_with_object(rng, video, clip)
    placement = placed(rng, clip, video.size, spots)
    objects = objects_in(rng, clip, placement)
    gain, offset = colours(rng, clip.colour)
    draw = ClipDraw(number, video.name, frames, objects, Augmentation(placement.affine, gain, offset))
    return _with_paste(rng, draw, video, videos, clip) if clip.paste and rng.random() < clip.paste else draw


def check_drawable(video: Video) -> None:
    """Raise InputError if no clip can be drawn from a video: it has fewer than two masks, or its frames are too large."""
    if len(video.annotated) < 2 and not isinstance(video, Still):
        raise InputError(
            f"{video.name}: {len(video.annotated)} frame with a mask; a clip for training needs 2 at least, add masks"
        )
    height, width = video.size
    if height + width > _MAX_REACH_PX:
        raise InputError(
            f"{video.name}: {width}x{height} pixels; width and height of a clip for training add up to {_MAX_REACH_PX:,} at most, "
            "resize the video (masks by the nearest pixel)"
        )


def _with_paste(rng: Generator, draw: ClipDraw, video: Video, videos: Sequence[Video], clip: ClipConfig) -> ClipDraw:
    """Return the draw with a pasted object of another video; unchanged if an object would be hidden in the first frame."""
    others = [other for other in videos if other is not video]
    if not others:
        return draw
    other = others[int(rng.integers(len(others)))]
    check_drawable(other)
    first = other.annotated[int(rng.integers(len(other.annotated)))]
    spots = spots_of(other, first)
    if not spots:
        return draw
    spot = spots[int(rng.integers(len(spots)))]
    zoom = rng.uniform(clip.scale_min, clip.scale_max) * clip.crop_px / min(other.size)
    affine = crop_around(rng, clip, other.size, spot, zoom)
    gain, offset = colours(rng, clip.colour)
    direction, behind, labelled = (bool(one) for one in rng.random(3) < 0.5)
    paste = Paste(
        other.name,
        first,
        1 if direction else -1,
        spot.object_id,
        Augmentation(affine, gain, offset),
        behind,
        labelled and len(draw.objects) < clip.max_objects,
    )
    own = _shown(video, draw.frames[0], draw.augmentation, clip.crop_px)
    over = _shown(other, first, paste.augmentation, clip.crop_px) == spot.object_id
    if paste.behind:
        hidden = (over & np.isin(own, draw.objects)).sum() > _MOST_HIDDEN * over.sum()
    else:
        hidden = any((over & (own == one)).sum() > _MOST_HIDDEN * (own == one).sum() for one in draw.objects)
    hidden = hidden or (paste.labelled and not over.any())  # too small to be visible: it would have no first mask
    return draw if hidden else replace(draw, paste=paste)


def _shown(video: Video, index: int, augmentation: Augmentation, crop_px: int) -> np.ndarray:
    """Return the labels of a frame in the crop, (crop, crop) uint8 with the video's own ids."""
    labels = video.mask(index)
    assert labels is not None, f"{video.name}: frame {index} is listed as annotated"
    return images.sample(labels, images.affine_grid(augmentation.affine, (crop_px, crop_px), nearest=True))


def with_context(draw: ClipDraw, video: Video, clip: ClipConfig, count: int, annotated_only: bool) -> ClipDraw:
    """Return the draw with up to `count` context frames, fewer if the video has no more; there is no randomness.

    They are spread evenly from one largest gap before the clip's first frame to its last frame. The clip's own frames are left out.
    annotated_only   take only frames with true masks
    """
    direction = 1 if draw.frames[-1] >= draw.frames[0] else -1
    begin = draw.frames[0] - direction * clip.max_skip_of(draw.number)
    usable = set(video.annotated if annotated_only else range(video.num_frames)) - set(draw.frames)
    passed = [i for i in range(begin, draw.frames[-1] + direction, direction) if i in usable]
    count = min(count, len(passed))
    spread = [passed[(2 * k + 1) * len(passed) // (2 * count)] for k in range(count)]
    return replace(draw, context=tuple(sorted(spread, key=lambda index: _way(draw, index))))


def viewing_order(draw: ClipDraw) -> tuple[int, ...]:
    """Return the teacher's order of (*frames, *context), as positions there, without the first frame.

    From the first frame back to the earliest context frame, then through the rest in the clip's direction.
    """
    shown = (*draw.frames, *draw.context)
    return tuple(sorted(range(1, len(shown)), key=lambda position: _way(draw, shown[position])))


def _way(draw: ClipDraw, index: int) -> tuple[bool, int]:
    ahead = (index - draw.frames[0]) * (1 if draw.frames[-1] >= draw.frames[0] else -1)
    return ahead >= 0, abs(ahead)


def _first_frame_with_object(
    rng: Generator, video: Video, clip: ClipConfig
) -> tuple[tuple[int, ...], tuple[Spot, ...]]:
    for _ in range(_ATTEMPTS):
        frames = _frames(rng, video.annotated, clip)
        if spots := spots_of(video, frames[0]):
            return frames, spots
    # Objects are rare in this video: begin at a frame that shows one.
    for first in sorted(set(video.first_seen.values())) + list(video.annotated):
        if first in video.annotated and (spots := spots_of(video, first)):
            later = [i for i in video.annotated if i >= first]
            ahead = later if len(later) > 1 else [i for i in reversed(video.annotated) if i <= first]
            return _walk(rng, ahead, 0, clip), spots
    raise InputError(f"{video.name}: no mask of this video shows an object; drop it from the split")


def _frames(rng: Generator, annotated: Sequence[int], clip: ClipConfig) -> tuple[int, ...]:
    start = int(rng.integers(max(1, len(annotated) - clip.num_frames + 1)))
    frames = _walk(rng, annotated, start, clip)
    return frames[::-1] if rng.random() < 0.5 else frames


def _walk(rng: Generator, annotated: Sequence[int], start: int, clip: ClipConfig) -> tuple[int, ...]:
    """Return frames from `annotated[start]` on, each at most `max_skip_frames` after the previous one, with room for the rest.

    If sparse masks are farther apart than that, the next one is taken. A short video repeats its last frame.
    """
    position, frames = start, [annotated[start]]
    for still_to_come in range(clip.num_frames - 2, -1, -1):
        last_allowed = max(position + 1, len(annotated) - 1 - still_to_come)
        reachable = [
            i
            for i in range(position + 1, min(last_allowed, len(annotated) - 1) + 1)
            if abs(annotated[i] - annotated[position]) <= clip.max_skip_frames
        ]
        if reachable:
            position = reachable[int(rng.integers(len(reachable)))]
        elif position + 1 < len(annotated):
            position += 1
        frames.append(annotated[position])
    return tuple(frames)
