"""Reading a clip: the frames and masks of a clip draw, with its crop and colour augmentation applied.

Everything here is integer arithmetic on bytes (positions in 1/32 pixel, colours by table). A draw therefore gives the
same bytes for teacher and student, on every worker, in any order. Frames and labels are reflected at their borders.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import cv2
import numpy as np

from vos.data.draw_records import Augmentation, ClipDraw
from vos.data.still_clips import render
from vos.data.videos import Video
from vos.errors import InputError
from vos.media import images


@dataclass(frozen=True, eq=False)
class Clip:
    """frames (T, crop, crop, 3) uint8 RGB; labels (T, crop, crop) uint8 in 0..O, in the order of the draw's objects."""

    frames: np.ndarray
    labels: np.ndarray


def read_clip(video: Video, draw: ClipDraw, crop_px: int, pasted: Video | None = None) -> Clip:
    """Read the clip of a draw, bit-exactly.

    crop_px  the value that the draw was made with
    pasted   the video of `draw.paste`
    Raises InputError if a frame has no mask or a file is damaged.
    """
    assert video.name == draw.video, f"draw {draw.number} is of {draw.video}, not of {video.name}"
    return _taken(video, draw, draw.frames, crop_px, pasted, need_masks=True)


def replay(videos: Mapping[str, Video], draw: ClipDraw, crop_px: int) -> Clip:
    """Read the clip of a draw from videos given by `vos.data.mixtures.by_key`, bit-exactly.

    Raises InputError as `read_clip` does.
    """
    if draw.layers:
        return Clip(*render(videos, draw, crop_px))
    return read_clip(videos[draw.video_key], draw, crop_px, pasted_video(videos, draw))


def pasted_video(videos: Mapping[str, Video], draw: ClipDraw) -> Video | None:
    """Return the video of a draw's pasted object, None without one."""
    return videos[draw.key_of(draw.paste.video)] if draw.paste else None


def _paste_over(
    frames: np.ndarray, labels: np.ndarray, draw: ClipDraw, indices: tuple[int, ...], pasted: Video | None, crop_px: int
) -> None:
    """Paste the object of `draw.paste` over these frames and labels, in place. A frame is unchanged if its mask is missing."""
    paste = draw.paste
    assert paste is not None and pasted is not None and pasted.name == paste.video, f"draw {draw.number} has a paste"
    crop = Cropper(paste.augmentation, crop_px)
    for t, index in enumerate(indices):
        there = paste.frame(index - draw.frames[0], pasted.num_frames)
        mask = pasted.mask(there)
        if mask is None:
            continue
        covers = crop.labels(mask, (paste.object_id,)) > 0
        if paste.behind:
            covers &= labels[t] == 0
        frames[t][covers] = crop.frame(pasted.frame(there))[covers]
        labels[t][covers] = draw.num_objects if paste.labelled else 0


def read_context(video: Video, draw: ClipDraw, crop_px: int, masks: bool, pasted: Video | None = None) -> Clip:
    """Read the context frames of a draw with the clip's own augmentation; labels are zeros unless `masks`.

    Raises InputError as `read_clip` does, but for a missing mask only with `masks`.
    """
    clip = _taken(video, draw, draw.context, crop_px, pasted, need_masks=masks)
    return clip if masks else Clip(clip.frames, np.zeros_like(clip.labels))


def _taken(
    video: Video, draw: ClipDraw, indices: tuple[int, ...], crop_px: int, pasted: Video | None, need_masks: bool
) -> Clip:
    """Read these frames of the draw's video, augmented. Masks are read if `need_masks`, or if the draw has a paste."""
    crop = Cropper(draw.augmentation, crop_px)
    frames = np.empty((len(indices), crop_px, crop_px, 3), np.uint8)
    labels = np.zeros((len(indices), crop_px, crop_px), np.uint8)
    for t, index in enumerate(indices):
        mask = video.mask(index) if need_masks or draw.paste is not None else None
        if mask is None and need_masks:
            name = video.frame_name(index)
            raise InputError(f"{video.name}: frame {name} has no mask; draw the clips again from these files")
        frames[t] = crop.frame(video.frame(index))
        if mask is not None:
            labels[t] = crop.labels(mask, draw.objects)
    if draw.paste is not None:
        _paste_over(frames, labels, draw, indices, pasted, crop_px)
    return Clip(frames, labels)


def checksum(clip: Clip) -> int:
    """Return the CRC-32 of the frames' bytes, then the labels'; a replayed clip is compared with it."""
    return zlib.crc32(clip.labels.tobytes(), zlib.crc32(clip.frames.tobytes()))


def encode_clip(clip: Clip) -> tuple[list[bytes], list[bytes]]:
    """Encode frames as JPEG (quality 95, full colour resolution) and labels as PNG, T files each.

    JPEG is lossy: the teacher must be given the decoded frames.
    """
    settings = [cv2.IMWRITE_JPEG_QUALITY, 95, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    frames = [_encoded(".jpg", cv2.cvtColor(frame, cv2.COLOR_RGB2BGR), settings) for frame in clip.frames]
    return frames, [_encoded(".png", labels, []) for labels in clip.labels]


def decode_clip(frames: list[bytes], labels: list[bytes], origin: str = "a stored clip") -> Clip:
    """Invert `encode_clip`. Raises InputError, naming `origin`, for files that are damaged or differ in size or number."""
    pictures = [images.decode(data, f"{origin}, frame {i}", cv2.IMREAD_COLOR_RGB) for i, data in enumerate(frames)]
    masks = [images.decode(data, f"{origin}, mask {i}", cv2.IMREAD_GRAYSCALE) for i, data in enumerate(labels)]
    sizes = {one.shape[:2] for one in (*pictures, *masks)}
    if len(sizes) != 1 or len(pictures) != len(masks):
        raise InputError(f"{origin}: its frames and masks are not all of one size and number; build the cache again")
    return Clip(np.stack(pictures), np.stack(masks))


def _encoded(kind: str, image: np.ndarray, settings: list[int]) -> bytes:
    done, data = cv2.imencode(kind, image, settings)
    assert done
    return data.tobytes()


class Cropper:
    """An augmentation prepared for the frames of a video: sampling grids and colour tables."""

    def __init__(self, augmentation: Augmentation, crop_px: int) -> None:
        size = (crop_px, crop_px)
        self._label_grid = images.affine_grid(augmentation.affine, size, nearest=True)
        self._times = max(1, int(augmentation.source_px))
        reduced = images.averaged_affine(augmentation.affine, self._times)
        self._frame_grid = images.affine_grid(reduced, size, nearest=False)
        self._colours = images.colour_table(augmentation.gain, augmentation.offset)

    def frame(self, frame: np.ndarray) -> np.ndarray:
        """Augment a frame: (H, W, 3) uint8 -> (crop, crop, 3) uint8."""
        return cv2.LUT(images.sample(images.averaged(frame, self._times), self._frame_grid), self._colours)

    def labels(self, labels: np.ndarray, objects: tuple[int, ...]) -> np.ndarray:
        """Crop labels: (H, W) uint8 ids -> (crop, crop) uint8; objects[k] becomes k + 1, other objects background."""
        table = np.zeros(256, np.uint8)
        table[list(objects)] = np.arange(1, len(objects) + 1)
        return cv2.LUT(images.sample(labels, self._label_grid), table)
