"""The clip draw: a record of plain numbers that determines frames, objects, crop and colours of a clip.

All randomness of the data path is here. A draw is a pure function of (data set, clip configuration, seed, draw number).
Everything after it is a function of the draw, on any worker and in any order. Each pass over the data set is a
permutation of its videos, so every video is drawn equally often.

Drawing reads the mask of the first frame, since the crop must show an object there. Only a point deep inside each
object is needed; these points are cached per process.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from typing import Any, Literal, NotRequired, TypedDict

import cv2
import numpy as np
from numpy.random import Generator

from vos.config import ClipConfig
from vos.data.videos import Video
from vos.errors import InputError
from vos.files.json_files import checked
from vos.media import images

Affine = tuple[float, float, float, float, float, float]
Rgb = tuple[float, float, float]

_ORDER_STREAM, _DRAW_STREAM = 0, 1
_ATTEMPTS = 8  # First frames to try at random before searching for a frame that shows an object.
_MOST_HIDDEN = 0.5  # Largest share of an object that a pasted one may cover in the first frame, or be covered itself.
_SMALLEST, _LARGEST = 1e-4, 1e6  # Bounds of the numbers of an augmentation: pixels, and pixels per pixel.
_MAX_REACH_PX = 32_766  # Largest extent of a frame and its reflected border that OpenCV can sample.
_OFF_CENTRE = (
    0.35  # Largest distance of the chosen object from the crop's centre, as a share of its side, in x and in y.
)


@dataclass(frozen=True)
class Augmentation:
    """The explicit numbers of one augmentation, the same for every frame of the clip.

    affine         (a, b, c, d, e, f): crop pixel (x, y) shows source pixel (a*x + b*y + c, d*x + e*y + f); pixel
                   centres are whole numbers. It contains zoom, rotation, shear, crop position and mirroring
    gain, offset   (3,): a colour channel value v in 0..255 becomes gain * v + offset, rounded and clipped
    """

    affine: Affine
    gain: Rgb
    offset: Rgb

    @property
    def source_px(self) -> float:
        """Source pixels per crop pixel (above 1: the source is shrunk)."""
        a, b, _, d, e, _ = self.affine
        return math.sqrt(abs(a * e - b * d))


@dataclass(frozen=True)
class Paste:
    """An object of another video, pasted over every frame of the clip as a moving distractor or a further object.

    first, direction   its video is at frame `first` at the clip's first frame, then moves forwards (1) or backwards (-1) frame by
                       frame and reverses at its ends
    behind             the clip's own objects stay in front of it
    labelled           it is the last of the clip's objects; otherwise it is background
    """

    video: str
    first: int
    direction: int
    object_id: int
    augmentation: Augmentation
    behind: bool
    labelled: bool

    def frame(self, offset: int, num_frames: int) -> int:
        """Return the frame of the pasted video (it has `num_frames`) when the clip is `offset` frames from its first one."""
        place = (self.first + self.direction * offset) % max(1, 2 * num_frames - 2)
        return min(place, 2 * num_frames - 2 - place) if num_frames > 1 else 0


@dataclass(frozen=True)
class ClipDraw:
    """One clip draw: the first frame is given with the masks of `objects`, the others are query frames.

    frames    indices in the video, in the clip's order (ascending or descending)
    objects   ids in the video; in the clip they are 1, 2, ... in this order
    context   indices of further frames that only the teacher sees, in its order; see `with_context`
    paste     a pasted object of another video, or None
    """

    number: int
    video: str
    frames: tuple[int, ...]
    objects: tuple[int, ...]
    augmentation: Augmentation
    context: tuple[int, ...] = ()
    paste: Paste | None = None

    @property
    def num_objects(self) -> int:
        """Number of objects of the clip, including a labelled paste."""
        return len(self.objects) + (self.paste is not None and self.paste.labelled)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values; `json` preserves floats exactly."""
        values = asdict(self)
        return values if self.paste else {name: value for name, value in values.items() if name != "paste"}

    @staticmethod
    def from_dict(values: Any, origin: str = "a draw's record") -> ClipDraw:
        """Invert `to_dict`, for untrusted JSON.

        Raises InputError, which begins with `origin`, for values of a wrong type, out of range, or not finite.
        """
        advice = "make it again"
        record = checked(values, _DrawRecord, origin, advice)
        augmentation = _augmentation_from(record["augmentation"])
        frames, objects, context = (tuple(record[name]) for name in ("frames", "objects", "context"))
        paste, given = None, record.get("paste")
        if given is not None:
            paste = Paste(
                given["video"],
                given["first"],
                given["direction"],
                given["object_id"],
                _augmentation_from(given["augmentation"]),
                given["behind"],
                given["labelled"],
            )
        draw = ClipDraw(record["number"], record["video"], frames, objects, augmentation, context, paste)
        if problem := _impossible(draw):
            raise InputError(f"{origin}: {problem}; {advice}")
        return draw


class _AugmentationRecord(TypedDict):
    affine: Affine
    gain: Rgb
    offset: Rgb


class _PasteRecord(TypedDict):
    video: str
    first: int
    direction: Literal[1, -1]
    object_id: int
    augmentation: _AugmentationRecord
    behind: bool
    labelled: bool


class _DrawRecord(TypedDict):
    """The JSON of a draw."""

    number: int
    video: str
    frames: list[int]
    objects: list[int]
    augmentation: _AugmentationRecord
    context: list[int]
    paste: NotRequired[_PasteRecord | None]


def _augmentation_from(values: _AugmentationRecord) -> Augmentation:
    affine, gain, offset = (tuple(map(float, values[name])) for name in ("affine", "gain", "offset"))
    return Augmentation(affine, gain, offset)  # pyright: ignore[reportArgumentType]  # their lengths are checked


def _impossible(draw: ClipDraw) -> str:
    """Describe why no clip can have the values of a draw; "" if they are valid."""
    shown = (*draw.frames, *draw.context, *((draw.paste.first,) if draw.paste else ()))
    ids = (*draw.objects, *((draw.paste.object_id,) if draw.paste else ()))
    augmentations = (draw.augmentation, *((draw.paste.augmentation,) if draw.paste else ()))
    if not 0 <= draw.number < 2**62 or len(draw.frames) < 2 or not all(0 <= one < 2**31 for one in shown):
        return "its draw number or frame indices are out of range"
    if not all(1 <= one <= 255 for one in ids) or not 1 <= len(set(draw.objects)) == len(draw.objects) <= 255:
        return "its objects are not different numbers from 1 to 255"
    for one in augmentations:
        if max(map(abs, (*one.affine, *one.gain, *one.offset))) > _LARGEST or not _SMALLEST < one.source_px < _LARGEST:
            return "its crop or its colours are out of range"
    return ""


def video_of_draw(num_videos: int, seed: int, number: int) -> int:
    """Return the position in the index of the video of draw `number`."""
    pass_number, position = divmod(number, num_videos)
    return int(np.random.default_rng([_ORDER_STREAM, seed, pass_number]).permutation(num_videos)[position])


def draw_clip(videos: Sequence[Video], clip: ClipConfig, seed: int, number: int) -> ClipDraw:
    """Return draw `number` (0, 1, ...) of the endless list of clips that (videos, clip, seed) defines.

    Raises InputError if the video cannot have clips (`check_drawable`), or no mask of it shows an object.
    """
    if seed < 0:
        raise InputError(f"--seed {seed}: use 0 or more")
    if not videos:
        raise InputError("no video to draw clips from; check --data.root and the split")
    video = videos[video_of_draw(len(videos), seed, number)]
    check_drawable(video)
    rng = np.random.default_rng([_DRAW_STREAM, seed, number])
    clip = replace(clip, max_skip_frames=clip.max_skip_of(number), skip_curriculum=())
    frames, spots = _first_frame_with_object(rng, video, clip)
    zoom = rng.uniform(clip.scale_min, clip.scale_max) * clip.crop_px / min(video.size)
    # An object thinner than a crop pixel can vanish under nearest sampling: take one only if there is no other.
    large = [spot for spot in spots if spot.depth_px * zoom >= 1.0] or [max(spots, key=lambda spot: spot.depth_px)]
    target = large[int(rng.integers(len(large)))]
    affine = _crop(rng, clip, video.size, target, zoom)
    others = [spot for spot in large if spot is not target and _is_inside(affine, spot, clip.crop_px)]
    chosen = [target, *(others[i] for i in rng.permutation(len(others))[: clip.max_objects - 1])]
    gain, offset = _colours(rng, clip.colour)
    objects = tuple(sorted(spot.object_id for spot in chosen))
    draw = ClipDraw(number, video.name, frames, objects, Augmentation(affine, gain, offset))
    return _with_paste(rng, draw, video, videos, clip) if clip.paste and rng.random() < clip.paste else draw


def check_drawable(video: Video) -> None:
    """Raise InputError if no clip can be drawn from a video: it has fewer than two masks, or its frames are too large."""
    if len(video.annotated) < 2:
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
    spots = _spots(other, first)
    if not spots:
        return draw
    spot = spots[int(rng.integers(len(spots)))]
    zoom = rng.uniform(clip.scale_min, clip.scale_max) * clip.crop_px / min(other.size)
    affine = _crop(rng, clip, other.size, spot, zoom)
    gain, offset = _colours(rng, clip.colour)
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


@dataclass(frozen=True)
class _Spot:
    """The point of an object that is farthest from its edge."""

    object_id: int
    x: int
    y: int
    depth_px: int


def _first_frame_with_object(
    rng: Generator, video: Video, clip: ClipConfig
) -> tuple[tuple[int, ...], tuple[_Spot, ...]]:
    for _ in range(_ATTEMPTS):
        frames = _frames(rng, video.annotated, clip)
        if spots := _spots(video, frames[0]):
            return frames, spots
    # Objects are rare in this video: begin at a frame that shows one.
    for first in sorted(set(video.first_seen.values())) + list(video.annotated):
        if first in video.annotated and (spots := _spots(video, first)):
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


@lru_cache(maxsize=1 << 16)
def _spots(video: Video, index: int) -> tuple[_Spot, ...]:
    labels = video.mask(index)
    assert labels is not None, f"{video.name}: frame {index} is listed as annotated"
    spots = []
    for object_id in np.flatnonzero(np.bincount(labels.ravel())):
        if object_id == 0:
            continue
        rows, columns = (np.flatnonzero((labels == object_id).any(axis=axis)) for axis in (1, 0))
        box = labels[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] == object_id
        # L1 distance, with a border of background: whole numbers, so every machine finds the same point.
        depth = cv2.distanceTransform(np.pad(box, 1).astype(np.uint8), cv2.DIST_L1, 3, dstType=cv2.CV_8U)[1:-1, 1:-1]
        y, x = np.unravel_index(int(depth.argmax()), depth.shape)
        spots.append(_Spot(int(object_id), int(columns[0] + x), int(rows[0] + y), int(depth.max())))
    return tuple(spots)


def _crop(rng: Generator, clip: ClipConfig, size: tuple[int, int], target: _Spot, zoom: float) -> Affine:
    """Return the map from crop to source pixels that shows the target in the middle part of the crop."""
    turn = math.radians(rng.uniform(-clip.rotate_deg, clip.rotate_deg))
    shear = math.tan(math.radians(rng.uniform(-clip.shear_deg, clip.shear_deg)))
    mirror = -1.0 if rng.random() < 0.5 and clip.flip else 1.0
    at_x, at_y = rng.uniform(-_OFF_CENTRE, _OFF_CENTRE, 2) * clip.crop_px
    cosine, sine = math.cos(turn) / zoom, math.sin(turn) / zoom
    # source = rotation @ shear @ mirror @ (crop - middle) / zoom + centre
    a, b = cosine * mirror, cosine * shear - sine
    d, e = sine * mirror, sine * shear + cosine
    half = clip.crop_px / 2
    centre_x, centre_y = target.x - (a * at_x + b * at_y), target.y - (d * at_x + e * at_y)
    # Keep the crop within the frame if it fits; centre it if it is larger.
    kept_x = _clamp(centre_x, (abs(a) + abs(b)) * half, size[1])
    kept_y = _clamp(centre_y, (abs(d) + abs(e)) * half, size[0])
    middle = (clip.crop_px - 1) / 2
    for x, y in ((kept_x, kept_y), (centre_x, centre_y)):
        affine = (a, b, x - (a + b) * middle, d, e, y - (d + e) * middle)
        if _is_inside(affine, target, clip.crop_px):
            return affine
    raise AssertionError("the unclamped crop holds its target")


def _clamp(centre: float, extent: float, side: int) -> float:
    """Move an interval of half-length `extent` into the pixels 0..side-1, or to their middle if it is longer."""
    if 2 * extent >= side:
        return (side - 1) / 2
    return min(max(centre, extent - 0.5), side - 0.5 - extent)


def _is_inside(affine: Sequence[float], spot: _Spot, crop_px: int) -> bool:
    a, b, c, d, e, f = affine
    determinant = a * e - b * d
    x = (e * (spot.x - c) - b * (spot.y - f)) / determinant
    y = (a * (spot.y - f) - d * (spot.x - c)) / determinant
    margin = 0.02 * crop_px
    return margin <= x <= crop_px - 1 - margin and margin <= y <= crop_px - 1 - margin


def _colours(rng: Generator, strength: float) -> tuple[Rgb, Rgb]:
    """Draw gain and offset per channel from contrast about mid-grey, brightness (in units of 128) and a gain per channel.

    Contrast and brightness are within +- strength, the channel gains within half of it.
    """
    contrast, brightness = 1 + rng.uniform(-strength, strength, 2)
    gain = contrast * (1 + rng.uniform(-strength, strength, 3) / 2)
    offset = float(128 * (1 - contrast) + 128 * (brightness - 1))
    return (float(gain[0]), float(gain[1]), float(gain[2])), (offset, offset, offset)
