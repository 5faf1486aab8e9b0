"""Pictures of results: a strip of frames with masks over them, and the same as an animation."""

from __future__ import annotations

import io
import os

import cv2
import numpy as np

from pipelines import storage
from vos.datasets import Video
from vos.images import overlay, read_mask

LABEL_PX = 22
GAP_PX = 3


def strip(video: Video, rows: dict[str, str], num_frames: int, columns: int = 6, width_px: int = 260) -> np.ndarray:
    """Rows of masks over `columns` frames spread over the first `num_frames` of a video: (H, W, 3) uint8 RGB.

    rows: title -> folder of predicted masks, or "" for the ground truth.
    """
    indices = np.linspace(0, num_frames - 1, columns).round().astype(int)
    lines = []
    for title, masks in rows.items():
        cells = [_cell(video, int(i), masks, width_px, f"frame {i}" if not lines else "") for i in indices]
        lines.append(_titled(_joined(cells, axis=1), title))
    return _joined(lines, axis=0)


def animation(video: Video, rows: dict[str, str], num_frames: int, width_px: int = 280, frame_ms: int = 80) -> bytes:
    """An endless GIF of the first `num_frames` of a video: the rows side by side, frame by frame."""
    from PIL import Image

    pictures = []
    for index in range(num_frames):
        cells = [_titled(_cell(video, index, masks, width_px, ""), title) for title, masks in rows.items()]
        pictures.append(Image.fromarray(_joined(cells, axis=1)))
    target = io.BytesIO()
    pictures[0].save(target, "GIF", save_all=True, append_images=pictures[1:], duration=frame_ms, loop=0)
    return target.getvalue()


def save_png(path: str, picture: np.ndarray) -> None:
    done, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
    assert done
    storage.write_bytes(path, data.tobytes())


def _cell(video: Video, index: int, masks: str, width_px: int, note: str) -> np.ndarray:
    labels = (
        read_mask(os.path.join(masks, video.name, f"{video.frame_name(index)}.png")) if masks else video.mask(index)
    )
    frame = video.frame(index)
    height, width = frame.shape[:2]
    size = (width_px, round(height * width_px / width))
    frame = cv2.resize(frame, size, interpolation=cv2.INTER_AREA if width_px < width else cv2.INTER_LINEAR)
    if labels is not None:
        frame = overlay(frame, cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT))
    if note:
        cv2.putText(frame, note, (6, size[1] - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(frame, note, (6, size[1] - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.42, (255, 255, 255), 1, cv2.LINE_AA)
    return frame


def _titled(picture: np.ndarray, title: str) -> np.ndarray:
    bar = np.full((LABEL_PX, picture.shape[1], 3), 255, np.uint8)
    cv2.putText(bar, title, (4, LABEL_PX - 7), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (30, 30, 30), 1, cv2.LINE_AA)
    return np.concatenate([bar, picture])


def _joined(pictures: list[np.ndarray], axis: int) -> np.ndarray:
    gap = list(pictures[0].shape)
    gap[axis] = GAP_PX
    spaced = [item for picture in pictures for item in (picture, np.full(gap, 255, np.uint8))]
    return np.concatenate(spaced[:-1], axis=axis)
