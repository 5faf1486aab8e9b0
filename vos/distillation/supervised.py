"""Supervised segmentation terms over logits whose channel 0 is background.

A batch may hold clips with fewer objects than channels. `valid` (B, K+1) marks the channels that exist. The others get
a large negative logit, so they have no probability and no gradient. Everything is computed in float32 (float64 stays)
in any autocast mode: half precision loses the small probabilities that the hardest pixels depend on.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from vos.errors import InputError

ABSENT_LOGIT = -1e9
"""Logit of a channel that does not exist: finite, so that 0 * (log p - log q) stays 0 and gradients stay numbers."""


def mask_absent_objects(logits: Tensor, valid: Tensor | None) -> Tensor:
    """Exclude padded channels from the softmax.

    logits   (B, K+1, ...) of any float dtype
    valid    (B, K+1) bool, False for a channel that pads the batch; None: every channel exists
    returns  logits in float32 (float64 stays), ABSENT_LOGIT where the channel does not exist or the logit is lower
    Raises InputError for mismatched shapes.
    """
    logits = as_float32(logits).clamp(min=ABSENT_LOGIT)
    if valid is None:
        return logits
    if valid.shape != logits.shape[:2]:
        raise InputError(
            f"valid is {tuple(valid.shape)} for logits {tuple(logits.shape)}; give (B, K+1) bool, background first"
        )
    absent = ~valid.bool().reshape(valid.shape + (1,) * (logits.ndim - 2))
    return logits.masked_fill(absent, ABSENT_LOGIT)


def bootstrapped_cross_entropy(logits: Tensor, labels: Tensor, keep: float, valid: Tensor | None = None) -> Tensor:
    """Return the cross-entropy over the hardest pixels of each image (STCN's training loss).

    logits   (B, K+1, H, W), channel 0 is background
    labels   (B, H, W) integers in 0..K, of channels that exist
    keep     share of each image's pixels with the largest loss that is averaged, in (0, 1]; 1 is plain cross-entropy
    valid    (B, K+1) bool | None, see mask_absent_objects
    returns  scalar, in nats
    Raises InputError for a keep outside (0, 1] and for mismatched shapes.
    """
    return _mean_of_hardest(_pixel_cross_entropy(logits, labels, valid), keep)


def poly_cross_entropy(
    logits: Tensor, labels: Tensor, epsilon: float = 1.0, keep: float = 1.0, valid: Tensor | None = None
) -> Tensor:
    """Return the poly-1 loss: cross-entropy + epsilon * (1 - probability of the true label).

    PolyLoss (ICLR 2022) raises the first polynomial coefficient of cross-entropy by epsilon; MobileVOS uses 1.
    epsilon = 0 is bootstrapped_cross_entropy. Arguments, errors and result as there.
    """
    cross_entropy = _pixel_cross_entropy(logits, labels, valid)
    return _mean_of_hardest(cross_entropy - epsilon * torch.expm1(-cross_entropy), keep)


def bootstrap_keep(step: float, start: float, end: float, final: float) -> float:
    """Return the share of pixels that cross-entropy keeps: 1 up to `start`, then linear to `final` at `end` and after.

    step, start and end have one unit: steps, or the share of training done. STCN: 20 000 to 70 000 steps, final 0.15.
    Raises InputError for end < start or a final share outside (0, 1].
    """
    if end < start or not 0 < final <= 1:
        raise InputError(
            f"bootstrap_keep: start={start} end={end} final={final}; use start <= end and a final share in (0, 1]"
        )
    if step <= start:
        return 1.0
    if step >= end:
        return final
    return final + (1.0 - final) * (end - step) / (end - start)


def dice_loss(prob: Tensor, labels: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the soft Dice loss: 1 - (2 |P∩Y| + 1) / (|P| + |Y| + 1) of each object, averaged.

    The mean is over each image's objects, then over images, so the mean over workers is that of the whole batch. Small
    objects weigh as much as large ones, unlike in cross-entropy. Background is left out. The + 1 gives a loss of 0 to an
    object that is neither predicted nor present.

    prob     (B, K+1, H, W) probabilities, channel 0 is background
    labels   (B, H, W) integers in 0..K
    valid    (B, K+1) bool | None, channels that exist
    returns  scalar in [0, 1]; 0 if there is no object
    Raises InputError for mismatched shapes.
    """
    overlap, size = _overlap_and_size(prob, labels)
    return _mean_over_objects(1 - (2 * overlap + 1) / (size + 1), valid)


def jaccard_loss(prob: Tensor, labels: Tensor, valid: Tensor | None = None) -> Tensor:
    """Return the soft Jaccard loss: 1 - (|P∩Y| + 1) / (|P∪Y| + 1) of each object; otherwise as dice_loss."""
    overlap, size = _overlap_and_size(prob, labels)
    return _mean_over_objects(1 - (overlap + 1) / (size - overlap + 1), valid)


def as_float32(values: Tensor) -> Tensor:
    """Convert to float32; float64 stays float64 (for gradient checks)."""
    return values if values.dtype == torch.float64 else values.float()


def _pixel_cross_entropy(logits: Tensor, labels: Tensor, valid: Tensor | None) -> Tensor:
    """Return the cross-entropy of every pixel, (B, H, W)."""
    _check_labels(logits, labels)
    return F.cross_entropy(mask_absent_objects(logits, valid), labels.long(), reduction="none")


def _mean_of_hardest(pixel_loss: Tensor, keep: float) -> Tensor:
    """Return the mean over the largest `keep` share (at least one pixel) of each image of (B, H, W)."""
    if not 0 < keep <= 1:
        raise InputError(f"keep={keep}: the share of pixels in the loss; use above 0 to 1")
    if keep == 1:
        return pixel_loss.mean()
    pixels = pixel_loss.flatten(1)
    count = max(1, round(keep * pixels.shape[1]))
    return pixels.topk(count, dim=1, sorted=False).values.mean()


def _overlap_and_size(prob: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return |P∩Y| and |P| + |Y| of every object, (B, K) pixels each."""
    _check_labels(prob, labels)
    prob = as_float32(prob)[:, 1:].flatten(2)
    objects = torch.arange(1, prob.shape[1] + 1, device=labels.device)
    true = labels.flatten(1)[:, None] == objects[None, :, None]
    return (prob * true).sum(2), prob.sum(2) + true.sum(2)


def _mean_over_objects(loss: Tensor, valid: Tensor | None) -> Tensor:
    """Return the mean of (B, K) over the objects that exist in an image, then over the images."""
    if valid is None:
        return loss.sum() / max(1, loss.numel())
    if valid.shape != (loss.shape[0], loss.shape[1] + 1):
        raise InputError(
            f"valid is {tuple(valid.shape)} for {loss.shape[0]} images of {loss.shape[1]} objects; give (B, K+1) bool"
        )
    exists = valid[:, 1:].bool()
    return (torch.where(exists, loss, 0.0).sum(1) / exists.sum(1).clamp(min=1)).mean()


def _check_labels(scores: Tensor, labels: Tensor) -> None:
    if scores.ndim != 4 or labels.shape != (scores.shape[0], *scores.shape[2:]) or labels.is_floating_point():
        raise InputError(
            f"labels are {labels.dtype} {tuple(labels.shape)} for scores {tuple(scores.shape)}; "
            "give integers (B, H, W) beside (B, K+1, H, W)"
        )
