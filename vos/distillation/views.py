"""Several views of a clip for a teacher: mirrored and at other scales. Their logits are averaged, which costs one forward pass a view.

Only logits can be averaged. The features at the sampled pixels are those of the clip as it is: features of a mirrored or scaled clip are
another representation, whose average means nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vos.distillation.clip_forward import ClipOutput, ClipSegmenter, Context

_LARGEST_LOGIT = 16.0
"""Logits of an average: float32 cannot tell probabilities closer to 1 apart."""


class View(NamedTuple):
    """scale  of both sides; flip  mirrored from left to right"""

    scale: float
    flip: bool


def views_of(scales: Sequence[float], flip: bool) -> list[View]:
    """Return the clip as it is, then its other views: every scale, with `flip` each of them mirrored too."""
    wanted = [View(scale, mirrored) for scale in (1.0, *scales) for mirrored in ((False, True) if flip else (False,))]
    return list(dict.fromkeys(wanted))


def segment_views(
    segmenter: ClipSegmenter,
    views: Sequence[View],
    frames: Tensor,
    first_labels: Tensor,
    num_objects: Tensor,
    max_objects: int,
    context: Context | None = None,
) -> tuple[Tensor, Tensor]:
    """Return the object logits (B, Q, O, h, w), averaged over the views, and the features of the first view (B, Q, O, Cd, h, w).

    Arguments as for `ClipSegmenter`. The mean is that of the objects' probabilities. Sides are rounded to multiples of 16.
    """
    outputs = [_segmented(segmenter, view, frames, first_labels, num_objects, max_objects, context) for view in views]
    first = outputs[0]
    if len(views) == 1:
        return first.object_logits, first.features
    present = torch.arange(1, max_objects + 1, device=frames.device) <= num_objects[:, None]
    total = torch.zeros_like(first.object_logits)
    for view, output in zip(views, outputs, strict=True):
        total += torch.sigmoid(_back(view, output.object_logits, first.object_logits.shape[-2:]))
    logits = torch.logit(total / len(views)).clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)
    return logits * present[:, None, :, None, None], first.features


def _segmented(
    segmenter: ClipSegmenter,
    view: View,
    frames: Tensor,
    first_labels: Tensor,
    num_objects: Tensor,
    max_objects: int,
    context: Context | None,
) -> ClipOutput:
    if context is not None:
        labels = None if context.labels is None else _seen(view, context.labels)
        context = Context(_seen(view, context.frames), labels, context.order)
    return segmenter(_seen(view, frames), _seen(view, first_labels), num_objects, max_objects, context)


def _seen(view: View, pixels: Tensor) -> Tensor:
    """Transform frames (..., 3, H, W) bilinearly, or labels (..., H, W) by the nearest pixel."""
    if view.scale != 1:
        height, width = (max(32, round(side * view.scale / 16) * 16) for side in pixels.shape[-2:])
        is_frame = pixels.is_floating_point()
        flat = pixels.reshape(-1, *pixels.shape[-3:]) if is_frame else pixels.reshape(-1, 1, *pixels.shape[-2:]).float()
        if is_frame:
            scaled = F.interpolate(flat, (height, width), mode="bilinear", align_corners=False, antialias=True)
        else:
            scaled = F.interpolate(flat, (height, width), mode="nearest-exact").to(pixels.dtype)
        pixels = scaled.reshape(*pixels.shape[:-2], height, width)
    return pixels.flip(-1) if view.flip else pixels


def _back(view: View, logits: Tensor, size: torch.Size) -> Tensor:
    """Return the logits of a view on the grid of the clip as it is."""
    if view.flip:
        logits = logits.flip(-1)
    if logits.shape[-2:] == size:
        return logits
    flat = F.interpolate(logits.flatten(0, 1), size, mode="bilinear", align_corners=False)
    return flat.reshape(*logits.shape[:-2], *size)
