"""The training objective: segmentation + logit distillation + representation, each term reported by name."""

from __future__ import annotations

import torch
from torch import Tensor

from vos.config import LossConfig
from vos.distillation.clip_forward import ClipOutput
from vos.distillation.losses import TERMS, Seen, Targets
from vos.distillation.supervised import bootstrap_keep, poly_cross_entropy


def objective(
    output: ClipOutput,
    labels: Tensor,
    num_objects: Tensor,
    targets: Targets | None,
    loss: LossConfig,
    step: int,
    steps: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the total loss of a batch and its terms.

    labels (B, T, H, W) integer, num_objects (B,). `step` of `steps` decides how many pixels cross-entropy uses: all in the first
    fifth, then linearly fewer until 70 % of the training (the shape of STCN's schedule). `targets` None: no distillation.
    """
    logits = output.logits.flatten(0, 1)
    query_labels = labels[:, 1:].flatten(0, 1).long()
    keep = bootstrap_keep(step, steps // 5, steps * 7 // 10, loss.hardest)
    valid = valid_channels(num_objects, logits.shape[1]).repeat_interleave(output.logits.shape[1], 0)
    seen = Seen(output, logits, query_labels, valid, targets, loss)
    terms = {"cross_entropy": poly_cross_entropy(logits, query_labels, loss.poly, keep, valid)}
    total = terms["cross_entropy"]
    for name, term in TERMS.items():
        weight = getattr(loss, name)
        if weight and (targets is not None or not term.of_teacher):
            terms[name] = term.value(seen)
            total = total + weight * term.scale(seen) * terms[name]
    terms["total"] = total
    return total, terms


def valid_channels(num_objects: Tensor, channels: int) -> Tensor:
    """Convert (B,) object counts to (B, channels) bool: background and the objects that a clip has."""
    return torch.arange(channels, device=num_objects.device) <= num_objects[:, None]
