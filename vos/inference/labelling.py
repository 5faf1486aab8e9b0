"""Label a video with a teacher: follow the given masks forwards, check them backwards, and decide which frames to keep.

The teacher runs once forwards, at several scales and mirrored if asked, and the variants' probabilities are averaged frame by frame. The
check runs in intervals, so that its cost is that of one more pass: from the labels of frame t_k alone the teacher follows the objects
back to frame t_(k-1). Where the two directions disagree, the object was confused with another or lost on the way, which confidence alone
does not show. Nothing is kept of a video but the frames of one interval.

Not found: an object that the teacher loses without a doubt and never finds again. Its frames are kept if they show other objects.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vos.data.transforms import resize_frame, resize_labels, to_tensor
from vos.data.videos import FolderVideo, Video, object_ids
from vos.errors import InputError
from vos.inference.propagate import iter_propagate
from vos.inference.whole_video import first_mask, network_size
from vos.models.interface import VOSModel
from vos.models.memory import MemoryPolicy

CERTAIN = 255
"""Confidence is stored in 8 bits: 255 is a probability of 1."""


@dataclass(frozen=True)
class Following:
    """How the teacher follows a video.

    policy       the memory, as for `iter_propagate`
    size_px      shorter side of its input, in pixels (0 = the frames' own)
    scales       factors on that size, one variant each; the check uses the first one
    flip         each scale mirrored, too
    check_every  frames between two beginnings of the backward check
    """

    policy: MemoryPolicy
    size_px: int = 0
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    check_every: int = 10


@dataclass(frozen=True)
class Rules:
    """Which frames are kept. hold_out: every so many kept frames one is left out, to score by (0 = none)."""

    min_confidence: float
    min_agreement: float
    hold_out: int = 0


@dataclass(frozen=True, eq=False)
class LabelledFrame:
    """One frame, with the ids of the video.

    labels      (H, W) uint8
    confidence  (H, W) uint8, the largest probability of any class, 255 is certain
    shown       object -> mean probability over its pixels, for all objects in `labels`
    given       objects whose mask was given here
    begins      an interval of the backward check begins here
    agreement   object -> IoU of the two directions, at the teacher's size; none for objects that could not be checked
    """

    index: int
    labels: np.ndarray
    confidence: np.ndarray
    shown: Mapping[int, float]
    given: tuple[int, ...] = ()
    begins: bool = False
    agreement: Mapping[int, float] = field(default_factory=dict)


def with_given_masks(video: Video, every: bool) -> Video:
    """Return the video without the masks that labelling does not read.

    every  keep all given masks; else only the first one of each object
    """
    if every or not isinstance(video, FolderVideo):
        return video
    used = set(video.first_seen.values())
    return replace(video, mask_files=tuple(file if i in used else None for i, file in enumerate(video.mask_files)))


def label_video(model: VOSModel, video: Video, how: Following, every: bool = False) -> Iterator[LabelledFrame]:
    """Yield the labelled frames of a video, in order, from the first given mask on.

    every  also read the given masks after an object's first one: they replace the prediction and enter the memory
    Raises InputError if no given object is visible at the teacher's size, or a file is damaged.
    """
    way = _Way(model, video, how, every)
    interval: list[_Followed] = []
    for followed in way.forwards():
        interval.append(followed)
        if followed.frame.begins and len(interval) > 1:
            yield from _checked(way, interval)
            interval = [followed]
    yield from _checked(way, interval)


def judged(frames: Sequence[LabelledFrame], rules: Rules) -> list[str]:
    """Return for each frame why it is left out, "" if it is kept. Pixels are not looked at.

    An object whose two directions disagree where an interval begins is not trusted from there on, until a given mask shows it again.
    A frame is kept if every object that it shows is trusted, confident, and the same in both directions.
    """
    doubted: dict[int, int] = {}
    reasons, kept = [], 0
    for frame in frames:
        for one in frame.given:
            doubted.pop(one, None)
        reason = _doubt(frame, doubted, rules)
        if not reason and not frame.given:
            kept += 1
            if rules.hold_out and kept % rules.hold_out == 0:
                reason = HELD_OUT
        reasons.append(reason)
        if frame.begins:
            doubted |= {
                one: frame.index
                for one, found in frame.agreement.items()
                if found < rules.min_agreement and one not in doubted
            }
    return reasons


HELD_OUT = "held out"


def _doubt(frame: LabelledFrame, doubted: Mapping[int, int], rules: Rules) -> str:
    if not frame.shown:
        return "no object"
    for one, confidence in sorted(frame.shown.items()):
        if one in frame.given:
            continue
        if one in doubted:
            return f"object {one}: not the same backwards from frame {doubted[one]} on"
        if confidence < rules.min_confidence:
            return f"object {one}: confidence {confidence:.2f}"
    for one, found in sorted(frame.agreement.items()):
        # The beginning of an interval was checked by the interval before; its own figure speaks of the frames after it.
        if found < rules.min_agreement and not frame.begins:
            return f"object {one}: {found:.2f} in common with the way back"
    return ""


@dataclass(frozen=True, eq=False)
class _Followed:
    """A frame on the way forwards. small: (h, w) labels at the teacher's size, objects numbered 1 to K."""

    frame: LabelledFrame
    small: np.ndarray


class _Way:
    """A video with its given masks, at the teacher's size."""

    def __init__(self, model: VOSModel, video: Video, how: Following, every: bool) -> None:
        self.model, self.video, self.how, self.every = model, video, how, every
        self.ids = sorted(video.first_seen)
        self.start = min(video.first_seen.values())
        self.size = network_size(video, how.size_px)
        self._local = np.zeros(256, np.uint8)
        self._local[self.ids] = np.arange(1, len(self.ids) + 1)
        self.given = {index: self._mask(index) for index in self._given_frames()}
        if not any(resize_labels(mask, self.size).any() for mask in self.given.values()):
            raise InputError(
                f"{video.name}: no pixel of its objects is left at {self.size[1]}x{self.size[0]}; give a larger --size-px"
            )
        beginnings = range(self.start, video.num_frames, how.check_every)
        self.beginnings = {*beginnings, *self.given, video.num_frames - 1}

    def _given_frames(self) -> list[int]:
        first = set(self.video.first_seen.values())
        return sorted(first | {i for i in self.video.annotated if i >= self.start} if self.every else first)

    def _mask(self, index: int) -> np.ndarray:
        """Return the given mask of a frame, (H, W) uint8 with objects numbered 1 to K; those that begin later are left out."""
        if not self.every:
            return self._local[first_mask(self.video, index)]
        mask = self.video.mask(index)
        assert mask is not None, f"{self.video.name}: frame {index} is listed as annotated"
        began = [one for one, first in self.video.first_seen.items() if first <= index]
        return self._local[np.where(np.isin(mask, began), mask, 0).astype(np.uint8)]

    def forwards(self) -> Iterator[_Followed]:
        for index, prob in enumerate(self._averaged(), self.start):
            small = prob.argmax(0).to("cpu", torch.uint8).numpy()
            yield _Followed(self._full_size(index, prob), small)

    def _averaged(self) -> Iterator[Tensor]:
        """Yield the mean probabilities (K+1, h, w) of the variants, frame by frame; no variant is ahead of the others."""
        read, streams = _latest(self.video), []
        for scale in self.how.scales:
            size = (max(1, round(self.size[0] * scale)), max(1, round(self.size[1] * scale)))
            for mirrored in (False, True) if self.how.flip else (False,):
                stream = self._variant(read, size, mirrored)
                streams += [(mirrored, stream)] if stream is not None else []
        for probs in zip(*(stream for _, stream in streams), strict=True):
            parts = [
                self._at_size(prob.flip(-1) if mirrored else prob)
                for (mirrored, _), prob in zip(streams, probs, strict=True)
            ]
            yield torch.stack(parts).mean(0) if len(parts) > 1 else parts[0]

    def _variant(
        self, read: Callable[[int], np.ndarray], size: tuple[int, int], mirrored: bool
    ) -> Iterator[Tensor] | None:
        """Return the probabilities of one variant, at its size and mirrored as it is; None if no given object has a pixel there."""
        labels = {i - self.start: _turned(resize_labels(mask, size), mirrored) for i, mask in self.given.items()}
        if not any(mask.any() for mask in labels.values()):
            return None
        span = range(self.start, self.video.num_frames)
        frames = (_input(read(index), size, mirrored) for index in span)
        return iter_propagate(self.model, frames, labels.pop(0), self.how.policy, labels, anchors=self.every)

    def _at_size(self, prob: Tensor) -> Tensor:
        missing = len(self.ids) + 1 - len(prob)  # an object without a pixel at this scale
        prob = F.pad(prob, (0, 0, 0, 0, 0, missing)) if missing else prob
        if tuple(prob.shape[1:]) != self.size:
            prob = F.interpolate(prob[None], size=self.size, mode="bilinear", align_corners=False)[0]
        return prob

    def _full_size(self, index: int, prob: Tensor) -> LabelledFrame:
        if tuple(prob.shape[1:]) != tuple(self.video.size):
            prob = F.interpolate(prob[None], size=self.video.size, mode="bilinear", align_corners=False)[0]
        largest, classes = prob.max(0)
        labels, certainty = classes.to("cpu", torch.uint8).numpy(), largest.cpu().numpy()
        mask = self.given.get(index)
        if mask is not None:  # the given pixels themselves, which the teacher's size has blurred
            labels[np.isin(labels, object_ids(mask))] = 0
            labels[mask > 0] = mask[mask > 0]
            certainty[mask > 0] = 1
        if index == self.start:
            certainty[:] = 1
        shown = {self.ids[one - 1]: round(float(certainty[labels == one].mean()), 4) for one in object_ids(labels)}
        return LabelledFrame(
            index,
            np.array([0, *self.ids], np.uint8)[labels],
            np.rint(CERTAIN * certainty).astype(np.uint8),
            shown,
            tuple(self.ids[one - 1] for one in object_ids(mask)) if mask is not None else (),
            index in self.beginnings,
        )

    def backwards(self, interval: Sequence[_Followed]) -> Iterator[np.ndarray]:
        """Yield labels (h, w) of the interval's frames from the last to the first, with only the last one's labels given."""
        last = interval[-1]
        old = [self._local[one] for one in self.ids if self.video.first_seen[one] < last.frame.index]
        labels = np.where(np.isin(last.small, old), last.small, 0).astype(np.uint8)
        if not labels.any():
            return
        scale = self.how.scales[0]
        size = (max(1, round(self.size[0] * scale)), max(1, round(self.size[1] * scale)))
        frames = (_input(self.video.frame(one.frame.index), size, False) for one in reversed(interval))
        for prob in iter_propagate(self.model, frames, resize_labels(labels, size), self.how.policy):
            yield self._at_size(prob).argmax(0).to("cpu", torch.uint8).numpy()


def _checked(way: _Way, interval: Sequence[_Followed]) -> Iterator[LabelledFrame]:
    """Yield the frames of an interval but its last, which begins the next one, with their agreement; a lone last frame is yielded too."""
    if len(interval) == 1:
        yield interval[0].frame
        return
    found: dict[int, dict[int, float]] = {}
    checked: list[int] = []
    for one, back in zip(reversed(interval), way.backwards(interval), strict=False):
        checked = checked or object_ids(back)
        found[one.frame.index] = {way.ids[k - 1]: iou for k in checked if (iou := _iou(one.small == k, back == k)) >= 0}
    for one in interval[:-1]:
        yield replace(one.frame, agreement=found.get(one.frame.index, {}))


def _iou(a: np.ndarray, b: np.ndarray) -> float:
    """Return the IoU of two masks, -1 if both are empty."""
    union = np.count_nonzero(a | b)
    return round(float(np.count_nonzero(a & b) / union), 4) if union else -1.0


def _latest(video: Video) -> Callable[[int], np.ndarray]:
    """Return a function that reads a frame and keeps the one read last, which several variants ask for."""
    held: dict[int, np.ndarray] = {}

    def read(index: int) -> np.ndarray:
        if index not in held:
            held.clear()
            held[index] = video.frame(index)
        return held[index]

    return read


def _input(frame: np.ndarray, size: tuple[int, int], mirrored: bool) -> Tensor:
    return to_tensor(_turned(resize_frame(frame, size), mirrored)[None])[0]


def _turned(image: np.ndarray, mirrored: bool) -> np.ndarray:
    return np.ascontiguousarray(image[:, ::-1]) if mirrored else image
