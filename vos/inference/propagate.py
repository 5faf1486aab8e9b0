"""The reference loop: segment a video from its first masks and a memory, and return probabilities.

It is official STCN's evaluation loop with the memory policy as a parameter. A frame's value is encoded only when the
next frame arrives, so never for the last frame. Objects that appear later (YouTube-VOS) have a memory of their own,
which starts with the frame they appear in.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vos.errors import InputError
from vos.models.decoder import object_probability
from vos.models.interface import QueryFeatures, VOSModel
from vos.models.memory import Memory, MemoryPolicy, soft_aggregate

STRIDE = 16
VOID = 255
"""The usual index of unlabelled pixels: never an object."""


def propagate(model: VOSModel, frames: Tensor, first_labels: Tensor | np.ndarray, policy: MemoryPolicy) -> Tensor:
    """Segment a video from its first frame's masks (STCN's evaluation loop, Cheng et al. 2021).

    frames        (T, 3, H, W) float32, ImageNet-normalised; any H and W (padded to multiples of 16 inside)
    first_labels  (H, W) integer: 0 background, 1..K objects; an id below K without pixels stays at probability 0
    policy        which frames become memory frames
    returns       (K+1, T, H, W) float32 on the device of `frames`: probabilities, background first, summing to 1

    Raises InputError if shapes do not match, there is no frame or no object is given.
    """
    if frames.ndim != 4 or frames.shape[1] != 3 or frames.shape[0] == 0:
        raise InputError(f"frames have shape {tuple(frames.shape)}; give (T, 3, H, W) with T of 1 or more")
    prob = None
    for index, frame_prob in enumerate(iter_propagate(model, frames, first_labels, policy)):
        if prob is None:
            prob = frames.new_empty((frame_prob.shape[0], *frames.shape[:1], *frames.shape[2:]), dtype=torch.float32)
        prob[:, index] = frame_prob
    assert prob is not None
    return prob


def iter_propagate(
    model: VOSModel,
    frames: Iterable[Tensor],
    first_labels: Tensor | np.ndarray,
    policy: MemoryPolicy,
    later_labels: Mapping[int, Tensor | np.ndarray] | None = None,
    anchors: bool = False,
) -> Iterator[Tensor]:
    """Segment a stream of frames one at a time; only the memory frames are kept.

    frames        each (3, H, W), ImageNet-normalised, all of one size
    first_labels  (H, W) integer labels of frame 0
    later_labels  frame index -> (H, W) labels in which further objects appear; earlier ids in them are ignored
    anchors       earlier ids are not ignored: a given mask replaces the object's prediction and enters the memory. Objects
                  that the labels do not show keep their prediction
    yields        (K+1, H, W) float32 on the model's device, K the largest id of all given labels; an object's
                  probability is 0 until it appears

    Raises InputError if shapes do not match or no object is given (immediately, before the first frame is read).
    """
    labels = {0: torch.as_tensor(first_labels)}
    for index, given in (later_labels or {}).items():
        if index <= 0:
            raise InputError(f"later_labels has frame {index}: frame 0 belongs to first_labels; use 1 or more")
        labels[index] = torch.as_tensor(given)
    for index, given in labels.items():
        _check_labels(index, given, labels[0])
    num_objects = max(int(given.max()) for given in labels.values())
    if num_objects == 0:
        raise InputError("the given labels hold no object; label the objects of the first frame 1, 2, ...")
    return _steps(_Tracker(model, policy, num_objects, anchors), frames, labels)


def _check_labels(index: int, labels: Tensor, first: Tensor) -> None:
    if labels.ndim != 2 or labels.is_floating_point() or labels.is_complex():
        raise InputError(f"labels of frame {index} are {labels.dtype} {tuple(labels.shape)}; give integers (H, W)")
    if labels.shape != first.shape:
        raise InputError(
            f"labels of frame {index} are {tuple(labels.shape)}, those of frame 0 {tuple(first.shape)}; resize them"
        )
    if labels.numel() and (int(labels.min()) < 0 or int(labels.max()) >= VOID):
        raise InputError(f"labels of frame {index} are outside 0 to {VOID - 1} ({VOID} is void); set such pixels to 0")


@torch.no_grad()
def _steps(tracker: _Tracker, frames: Iterable[Tensor], labels: Mapping[int, Tensor]) -> Iterator[Tensor]:
    for index, frame in enumerate(frames):
        if frame.ndim != 3 or frame.shape[0] != 3 or frame.shape[1:] != labels[0].shape:
            size = tuple(labels[0].shape)
            raise InputError(
                f"frame {index} has shape {tuple(frame.shape)} and its labels {size}; give (3, {size[0]}, {size[1]})"
            )
        with _evaluating(tracker.model):
            prob = tracker.step(index, frame, labels.get(index))
        yield prob


@contextmanager
def _evaluating(model: VOSModel) -> Iterator[None]:
    """Switch to evaluation mode for one step only, so that a training loop can validate between two of its steps."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


@dataclass
class _Group:
    """Objects that appeared in the same frame, with their memory."""

    ids: list[int]
    memory: Memory


@dataclass
class _Segmented:
    """A segmented frame that is not yet in the memory. masks (1, O, Hp, Wp), objects in the order of their groups.

    labelled: some of its masks were given. trusted: the policy's gate lets it into the memory.
    """

    index: int
    frame: Tensor
    query: QueryFeatures
    masks: Tensor
    labelled: bool
    trusted: bool


class _Tracker:
    """The state of one video between two frames."""

    def __init__(self, model: VOSModel, policy: MemoryPolicy, num_objects: int, anchors: bool = False) -> None:
        self.model, self.policy, self.num_objects, self.anchors = model, policy, num_objects, anchors
        self.groups: list[_Group] = []
        self.previous: _Segmented | None = None

    def step(self, index: int, frame: Tensor, labels: Tensor | None) -> Tensor:
        """Segment a frame (3, H, W), with given labels (H, W) or None -> prob (K+1, H, W)."""
        parameter = next(self.model.parameters())
        height, width = frame.shape[1:]
        pads = padding(height, width)
        frame = F.pad(frame.to(parameter.device, parameter.dtype), pads).unsqueeze(0)
        self._remember_previous()
        query = self.model.encode_query(frame)
        prob = self._segment(query)
        labelled = labels is not None and self._appear(prob, F.pad(labels.to(prob.device), pads))
        if labelled:
            ids = self._ids()
            merged = soft_aggregate(prob[ids]).softmax(0)
            prob[0], prob[ids] = merged[0], merged[1:]
        seen = prob[:, pads[2] : pads[2] + height, pads[0] : pads[0] + width]
        trusted = labelled or self.policy.trusts(seen)
        self.previous = _Segmented(index, frame, query, prob[self._ids()].unsqueeze(0), labelled, trusted)
        return seen

    def _ids(self) -> list[int]:
        return [object_id for group in self.groups for object_id in group.ids]

    def _segment(self, query: QueryFeatures) -> Tensor:
        """Segment the known objects in one batch; prob (K+1, Hp, Wp)."""
        h, w = query.key.shape[-2:]
        prob = torch.zeros(self.num_objects + 1, h * STRIDE, w * STRIDE, device=query.key.device)
        if not self.groups:
            prob[0] = 1
            return prob
        readout = torch.cat([group.memory.read(query.key) for group in self.groups], 1)
        logits = self.model.decode(query, readout).logits
        known = soft_aggregate(object_probability(logits)).softmax(1)[0]
        prob[0], prob[self._ids()] = known[0], known[1:]
        return prob

    def _appear(self, prob: Tensor, labels: Tensor) -> bool:
        """Overwrite the prediction with the masks of new objects, with `anchors` of all; return False if there are none."""
        known = self._ids()
        shown = [int(i) for i in labels.unique() if i > 0]
        new = [i for i in shown if i not in known]
        given = shown if self.anchors else new
        if not given:
            return False
        for object_id in given:
            region = labels == object_id
            prob[object_id] = 0
            prob[:, region] = 0
            prob[object_id, region] = 1
        if new:
            self.groups.append(_Group(new, Memory(self.policy)))
        return True

    def _remember_previous(self) -> None:
        """Encode the previous frame's value, if the policy wants that frame and trusts its masks."""
        done, self.previous = self.previous, None
        if done is None or not self.groups or not done.trusted:
            return
        if not done.labelled and not any(group.memory.wants(done.index) for group in self.groups):
            return
        value = self.model.encode_value(done.frame, done.query.f16, done.masks)
        values = value.split([len(group.ids) for group in self.groups], 1)
        for group, group_value in zip(self.groups, values, strict=True):
            group.memory.add(done.index, done.query.key, group_value, labelled=done.labelled)


def padding(height: int, width: int) -> tuple[int, int, int, int]:
    """Return the left, right, top, bottom padding to a multiple of 16, the smaller half first (as in STCN)."""
    extra_h, extra_w = -height % STRIDE, -width % STRIDE
    return extra_w // 2, extra_w - extra_w // 2, extra_h // 2, extra_h - extra_h // 2
