"""Draw results: strips and sheets of frames with overlaid masks, and videos of them."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping

import cv2
import numpy as np

from vos.data.videos import Video
from vos.errors import InputError
from vos.media.images import overlay, read_mask

LABEL_PX = 22
GAP_PX = 3
CLOSE_UP_MARGIN = 0.06
"""Margin around the objects of `close_ups`, as a share of the longer side of their box."""
FILM_ENDINGS = (".mp4", ".avi")
"""Endings of the files that `save_overlay_video` may write."""


def strip(video: Video, rows: dict[str, str], span: range, columns: int = 6, width_px: int = 260) -> np.ndarray:
    """Return rows of masks over `columns` frames spread over `span`, (H, W, 3) uint8 RGB.

    rows  {title: folder of predicted masks, or "" for the ground truth}
    """
    indices = np.linspace(span.start, span.stop - 1, columns).round().astype(int)
    lines = []
    for title, masks in rows.items():
        cells = [_cell(video, int(i), masks, width_px, f"frame {i}" if not lines else "") for i in indices]
        lines.append(_titled(_joined(cells, axis=1), title))
    return _joined(lines, axis=0)


def animation(video: Video, rows: dict[str, str], span: range, width_px: int = 280, frame_ms: int = 80) -> bytes:
    """Return an endless GIF of the frames of `span`, with the rows side by side."""
    from PIL import Image

    pictures = []
    for index in span:
        cells = [_titled(_cell(video, index, masks, width_px, ""), title) for title, masks in rows.items()]
        pictures.append(Image.fromarray(_joined(cells, axis=1)))
    target = io.BytesIO()
    pictures[0].save(target, "GIF", save_all=True, append_images=pictures[1:], duration=frame_ms, loop=0)
    return target.getvalue()


def close_ups(frames: Mapping[int, np.ndarray], masks: Mapping[int, np.ndarray], width_px: int = 1600) -> np.ndarray:
    """Return the frames with their masks in one row, (H, W, 3) uint8 RGB, each cropped to the same box around all objects.

    frames    index -> (H, W, 3) uint8 RGB
    masks     index -> (H, W) uint8, for the same indices
    width_px  of the row
    """
    height, width = next(iter(frames.values())).shape[:2]
    left, top, box_width, box_height = cv2.boundingRect(np.maximum.reduce(list(masks.values())))
    margin = round(CLOSE_UP_MARGIN * max(box_width, box_height))
    rows = slice(max(0, top - margin), min(height, top + box_height + margin))
    columns = slice(max(0, left - margin), min(width, left + box_width + margin))
    cell_px = (width_px - GAP_PX * (len(frames) - 1)) // len(frames)
    cells = []
    for index, frame in frames.items():
        part, labels = frame[rows, columns], masks[index][rows, columns]
        size = cell_px, round(part.shape[0] * cell_px / part.shape[1])
        cells.append(_noted(_painted(part, labels, size), f"frame {index}"))
    return _joined(cells, axis=1)


def contact_sheet(
    videos: list[Video],
    titles: list[str],
    notes: list[dict[int, str]],
    spans: list[range],
    masks: str,
    columns: int = 6,
    width_px: int = 220,
) -> np.ndarray:
    """Return one row a video: predicted masks over frames spread over its span, true contours in white, (H, W, 3) uint8 RGB.

    titles, spans  of each video: the title of its row, and its segmented frames
    notes          of each video: {frame index: text on that frame}
    """
    rows = []
    for video, title, texts, span in zip(videos, titles, notes, spans, strict=True):
        indices = np.linspace(span.start, span.stop - 1, columns).round().astype(int).tolist()
        cells = [_cell(video, i, masks, width_px, f"frame {i}{texts.get(i, '')}", truth=True) for i in indices]
        rows.append(_titled(_joined(cells, axis=1), title))
    return _joined([_padded(row, max(row.shape[1] for row in rows)) for row in rows], axis=0)


def save_overlay_video(path: str, video: Video, masks: str, span: range, width_px: int = 480, fps: int = 10) -> str:
    """Write a video of the ground truth beside the prediction; returns its path, `path` plus an ending of FILM_ENDINGS.

    VP9 in MP4 is tried first: OpenCV's wheels can write it and browsers play it. The wheels have no H.264 encoder.
    """
    width, height = (_even(width_px), _even(round(video.size[0] * width_px / video.size[1])))
    size = (2 * width + GAP_PX + 1, height + LABEL_PX)
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    for codec, ending in (("vp09", ".mp4"), ("avc1", ".mp4"), ("mp4v", ".mp4"), ("MJPG", ".avi")):
        writer = cv2.VideoWriter(path + ending, cv2.VideoWriter.fourcc(*codec), fps, size)
        if writer.isOpened():
            break
    else:
        raise InputError(f"{path}: this OpenCV cannot write videos; install opencv-python-headless")
    for index in span:
        cells = [
            _titled(_cell(video, index, folder, width, "", height), title)
            for folder, title in (("", f"{video.name}, ground truth"), (masks, f"prediction, frame {index}"))
        ]
        writer.write(cv2.cvtColor(_padded(_joined(cells, axis=1), size[0]), cv2.COLOR_RGB2BGR))
    writer.release()
    return path + ending


def _cell(
    video: Video, index: int, masks: str, width_px: int, note: str, height_px: int = 0, truth: bool = False
) -> np.ndarray:
    """Return a frame with overlaid masks, those of the folder or the true ones; `truth` draws the true contours in white."""
    labels = (
        read_mask(os.path.join(masks, video.name, f"{video.frame_name(index)}.png")) if masks else video.mask(index)
    )
    frame = video.frame(index)
    height, width = frame.shape[:2]
    size = (width_px, height_px or round(height * width_px / width))
    frame = _painted(frame, labels, size)
    true_labels = video.mask(index) if truth else None
    if true_labels is not None:
        small = cv2.resize(true_labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
        for label in np.unique(small[small > 0]):
            lines, _ = cv2.findContours((small == label).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
            frame = cv2.drawContours(np.ascontiguousarray(frame), lines, -1, (255, 255, 255), 1)
    return _noted(frame, note) if note else frame


def _painted(frame: np.ndarray, labels: np.ndarray | None, size: tuple[int, int]) -> np.ndarray:
    """Return a frame at `size` (width, height) with its masks over it."""
    smaller = size[0] < frame.shape[1]
    frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if smaller else cv2.INTER_LINEAR)
    if labels is None:
        return frame
    return overlay(frame, cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT))


def _noted(frame: np.ndarray, note: str) -> np.ndarray:
    """Return the frame with a text in its lower left corner."""
    corner = 6, frame.shape[0] - 7
    cv2.putText(frame, note, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 3, cv2.LINE_AA)
    return cv2.putText(frame, note, corner, cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)


def _titled(picture: np.ndarray, title: str) -> np.ndarray:
    bar = np.full((LABEL_PX, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, title, (4, LABEL_PX - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (30, 30, 30), 1, cv2.LINE_AA)
    return np.concatenate([bar, picture])


def _padded(picture: np.ndarray, width: int) -> np.ndarray:
    return np.pad(picture, ((0, 0), (0, width - picture.shape[1]), (0, 0)), constant_values=255)


def _even(pixels: int) -> int:
    return pixels - pixels % 2


def _joined(pictures: list[np.ndarray], axis: int) -> np.ndarray:
    gap = list(pictures[0].shape)
    gap[axis] = GAP_PX
    spaced = [item for picture in pictures for item in (picture, np.full(gap, 255, np.uint8))]
    return np.concatenate(spaced[:-1], axis=axis)
