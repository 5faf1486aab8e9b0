"""A whole video at its own size: first masks in, labels of every later frame out, by the reference loop or by the engine.

Plain PyTorch and NumPy, so that it runs in a notebook and inside a model that MLflow loads, with no cluster.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

from vos.config import MemoryConfig
from vos.data.transforms import resize_frame, resize_labels, short_side_size, to_tensor
from vos.data.videos import Video
from vos.inference.engine import Engine
from vos.inference.propagate import iter_propagate
from vos.models.memory import MemoryPolicy


def memory_policy(config: MemoryConfig, infinite: bool) -> MemoryPolicy:
    """The policy of a configuration; `auto` takes what the network was trained for."""
    kind = config.kind if config.kind != "auto" else ("infinite" if infinite else "first_recent")
    top_k = config.top_k or None
    return MemoryPolicy(kind, every=config.every, top_k=top_k, include_last=config.include_last, gate=config.gate)


def segment_video(
    model: Any, video: Video, policy: Any, size_px: int = 0, max_frames: int = 0
) -> Iterator[tuple[int, np.ndarray]]:
    """(frame index, labels (H, W) uint8) of a video from its first masks on, at the original size.

    model  a network, whose memory is `policy`; an Engine, which has its own memory and size; None repeats the first masks
    """
    span = segmented_span(video, max_frames)
    start, stop = span.start, span.stop
    given = {i: first_mask(video, i) for i in sorted(set(video.first_seen.values())) if i < stop}
    if model is None:
        labels = given[start]
        for index in range(start, stop):
            labels = np.where(labels == 0, given.get(index, 0), labels).astype(np.uint8)
            yield index, labels
        return
    if isinstance(model, Engine):
        yield from _by_engine(model, video, range(start, stop), given)
        return
    size = network_size(video, size_px)
    labels = {i - start: torch.from_numpy(resize_labels(mask, size)).long() for i, mask in given.items()}
    frames = (network_frame(video, index, size) for index in range(start, stop))
    later = {i: mask for i, mask in labels.items() if i > 0}
    for offset, prob in enumerate(iter_propagate(model, frames, labels[0], policy, later)):
        index = start + offset
        yield index, full_size_labels(prob, video.size) if offset else given[index]


def _by_engine(
    engine: Engine, video: Video, span: range, given: dict[int, np.ndarray]
) -> Iterator[tuple[int, np.ndarray]]:
    engine.start(video.frame(span.start), given[span.start])
    yield span.start, given[span.start]
    for index in span[1:]:
        frame = video.frame(index)
        labels = engine.step(frame)
        known = engine.object_ids
        if index in given and not np.isin(given[index], (0, *known)).all():
            labels = engine.add_object(frame, given[index])
        yield index, labels


def segmented_span(video: Video, max_frames: int = 0) -> range:
    """The frames that are segmented: from the first mask on, at most so many (0 = all)."""
    start = min(video.first_seen.values())
    return range(start, min(video.num_frames, start + max_frames) if max_frames else video.num_frames)


def first_mask(video: Video, index: int) -> np.ndarray:
    """The mask of a frame, with only the objects that are first seen there."""
    mask = video.mask(index)
    assert mask is not None, "objects are first seen in an annotated frame"
    known = [i for i, seen in video.first_seen.items() if seen == index]
    return np.where(np.isin(mask, known), mask, 0).astype(np.uint8)


def network_size(video: Video, size_px: int) -> tuple[int, int]:
    """(height, width) at which the network sees a video; 0 leaves it as it is, and nothing is ever enlarged."""
    return short_side_size(video.size, size_px) if 0 < size_px < min(video.size) else video.size


def network_frame(video: Video, index: int, size: tuple[int, int]) -> torch.Tensor:
    """One frame (3, H, W), normalised, at the network's size."""
    return to_tensor(resize_frame(video.frame(index), size)[None])[0]


def full_size_labels(prob: Any, size: tuple[int, int]) -> np.ndarray:
    """Probabilities (K+1, h, w) -> labels (H, W): enlarged before the decision, so that contours stay smooth."""
    if tuple(prob.shape[1:]) != tuple(size):
        prob = F.interpolate(prob[None], size=size, mode="bilinear", align_corners=False)[0]
    return prob.argmax(0).to("cpu").numpy().astype(np.uint8)
