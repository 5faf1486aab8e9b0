"""Forward pass of a clip, shared by the teacher that fills the cache and the student in training.

The first frame's masks are given. Each later frame reads a memory and is decoded; its *predicted* masks enter the memory of the next
frame (docs/method.md, clips in training). The query encoder runs once per frame, whatever the number of objects.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vos.config.cache import GRID_STRIDE
from vos.models.interface import VOSModel
from vos.models.memory import read_memory, soft_aggregate


class Context(NamedTuple):
    """K further frames that only a teacher sees, with the clip's own augmentation."""

    frames: Tensor
    """(B, K, 3, H, W) normalised"""
    labels: Tensor | None
    """(B, K, H, W) integer true masks for the memory, or None: the teacher's own predictions are used"""
    order: tuple[int, ...]
    """positions in (clip's frames, context frames), without the first, in viewing order"""


class ClipOutput(NamedTuple):
    """Outputs of a network for the Q query frames of B clips, with O objects (absent ones are zero)."""

    logits: Tensor
    """(B, Q, O+1, H, W), background first; softmax over dimension 2 gives probabilities"""
    object_logits: Tensor
    """(B, Q, O, h, w) on the grid of stride 4, before aggregation"""
    features: Tensor
    """(B, Q, O, Cd, h, w), the decoder's features just before the classifier"""


class ClipSegmenter(nn.Module):
    """Segment clips with `model`. It is a module, so that DDP sees the whole clip as one forward pass.

    infinite   the memory holds every earlier frame of the clip (teacher); otherwise the first and the most recent (student).
               In a clip of three frames both are equal.
    top_k      memory positions that each query position reads; None reads all, as in training
    """

    def __init__(self, model: VOSModel, infinite: bool = False, top_k: int | None = None) -> None:
        super().__init__()
        self.model = model
        self.infinite = infinite
        self.top_k = top_k

    def forward(
        self,
        frames: Tensor,
        first_labels: Tensor,
        num_objects: Tensor,
        max_objects: int,
        context: Context | None = None,
    ) -> ClipOutput:
        """Segment the query frames of a batch of clips.

        frames (B, T, 3, H, W) normalised, first_labels (B, H, W) integer, num_objects (B,); H and W multiples of 16.
        Context frames need an infinite memory and enter it in their order. Only the clip's own query frames are returned.
        """
        assert context is None or self.infinite, "a finite memory has no place for context frames"
        clip_frames = frames.shape[1]
        order = tuple(range(1, clip_frames)) if context is None else context.order
        if context is not None:
            frames = torch.cat([frames, context.frames], dim=1)
        B, T, _, H, W = frames.shape
        model = self.model
        ids = torch.arange(1, max_objects + 1, device=frames.device)
        present = (ids <= num_objects[:, None]).to(frames.dtype)[:, :, None, None]  # (B, O, 1, 1)

        def masks_of(labels: Tensor) -> Tensor:
            return (labels[:, None] == ids[:, None, None]).to(frames.dtype) * present

        encoded = model.encode_query(frames.flatten(0, 1))
        queries = [type(encoded)(*(part.unflatten(0, (B, T))[:, t] for part in encoded)) for t in range(T)]
        values = {0: model.encode_value(frames[:, 0], queries[0].f16, masks_of(first_labels))}

        outputs: dict[int, tuple[Tensor, Tensor, Tensor]] = {}
        for t in order:
            if context is not None and context.labels is not None and t >= clip_frames:
                true_masks = masks_of(context.labels[:, t - clip_frames])
                values[t] = model.encode_value(frames[:, t], queries[t].f16, true_masks)
                continue
            held = list(values) if self.infinite else sorted({0, t - 1})
            memory_key = torch.stack([queries[m].key for m in held], dim=2)
            memory_value = torch.stack([values[m] for m in held], dim=3)
            readout = read_memory(memory_key, memory_value, queries[t].key, top_k=self.top_k)
            decoded = model.decode(queries[t], readout)
            low = decoded.logits * present
            prob = torch.sigmoid(F.interpolate(low, size=(H, W), mode="bilinear", align_corners=False)) * present
            aggregated = soft_aggregate(prob)
            if t < clip_frames:
                outputs[t] = aggregated, low, decoded.features * present[..., None]
            if t != order[-1]:
                predicted = torch.softmax(aggregated, dim=1)[:, 1:] * present
                values[t] = model.encode_value(frames[:, t], queries[t].f16, predicted)
        logits, object_logits, features = zip(*(outputs[t] for t in range(1, clip_frames)), strict=True)
        return ClipOutput(torch.stack(logits, 1), torch.stack(object_logits, 1), torch.stack(features, 1))


def grid_labels(labels: Tensor) -> Tensor:
    """Sample labels (..., H, W) on the grid of stride 4: the label at each cell's centre, (..., H/4, W/4)."""
    return labels[..., GRID_STRIDE // 2 :: GRID_STRIDE, GRID_STRIDE // 2 :: GRID_STRIDE]


def sampled_features(features: Tensor, index: Tensor) -> Tensor:
    """Return the features of the sampled cells, one row per cell, with the objects' features side by side.

    features (B, Q, O, Cd, h, w), index (B, Q, N) cells y * w + x; returns (B, Q, N, O * Cd). The Gram matrix of the rows is the sum
    of the objects' Gram matrices, so it does not depend on the order of objects, and its shape does not depend on Cd.
    """
    B, Q, O, C, h, w = features.shape
    flat = features.reshape(B, Q, O * C, h * w)
    gathered = torch.gather(flat, 3, index.long()[:, :, None, :].expand(B, Q, O * C, index.shape[-1]))
    return gathered.transpose(2, 3)
