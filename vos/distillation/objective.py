"""The training objective: segmentation + logit distillation + representation, each term reported by name."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from vos.config import LossConfig
from vos.distillation.clip_forward import ClipOutput, sampled_features
from vos.distillation.representation import logit_kl, representation_losses
from vos.distillation.supervised import bootstrap_keep, dice_loss, jaccard_loss, mask_absent_objects, poly_cross_entropy
from vos.models.memory import soft_aggregate


class Targets(NamedTuple):
    """The cached words of the teacher for a batch, as `pipelines/cache/schema.py` documents them."""

    sample_index: Tensor
    """(B, Q, N) int64"""
    sample_label: Tensor
    """(B, Q, N) int64"""
    factor: Tensor
    """(B, Q, N, r) float32"""
    object_logits: Tensor
    """(B, Q, O, h, w) float32; no object (O = 0) in a cache without logits"""
    boundary: Tensor
    """(B, Q, h, w) float32, 1 on the boundary mask"""


def objective(
    output: ClipOutput,
    labels: Tensor,
    num_objects: Tensor,
    targets: Targets | None,
    loss: LossConfig,
    step: int,
    steps: int,
) -> tuple[Tensor, dict[str, Tensor]]:
    """Total loss of a batch and its terms.

    labels (B, T, H, W) integer, num_objects (B,); `step` of `steps` decides how many pixels cross-entropy keeps: all during the first
    fifth, then linearly fewer until 70 % of the training (the shape of STCN's schedule). `targets` None: no distillation.
    """
    logits = output.logits.flatten(0, 1)
    query_labels = labels[:, 1:].flatten(0, 1).long()
    keep = bootstrap_keep(step, steps // 5, steps * 7 // 10, loss.hardest)
    valid = valid_channels(num_objects, logits.shape[1]).repeat_interleave(output.logits.shape[1], 0)
    terms: dict[str, Tensor] = {"cross_entropy": poly_cross_entropy(logits, query_labels, loss.poly, keep, valid)}
    total = terms["cross_entropy"]
    prob = torch.softmax(mask_absent_objects(logits, valid), 1)
    if loss.dice:
        terms["dice"] = dice_loss(prob, query_labels, valid)
        total = total + loss.dice * terms["dice"]
    if loss.jaccard:
        terms["jaccard"] = jaccard_loss(prob, query_labels, valid)
        total = total + loss.jaccard * terms["jaccard"]
    if targets is not None and loss.kd:
        terms["kd"] = logit_kl(
            soft_aggregate(_probabilities(output.object_logits, valid)),
            soft_aggregate(_probabilities(targets.object_logits, valid)),
            loss.temperature,
            weight=targets.boundary.flatten(0, 1) if loss.kd_boundary else None,
            valid=valid,
        )
        total = total + loss.kd * terms["kd"]
    if targets is not None and loss.representation:
        count = max(2, round(loss.density * targets.sample_index.shape[-1]))
        z_student = sampled_features(output.features, targets.sample_index[..., :count]).flatten(0, 1)
        z_teacher = targets.factor[:, :, :count, : loss.rank or None].flatten(0, 1)
        sample_label = targets.sample_label[..., :count].flatten(0, 1)
        terms["representation"] = representation_losses(
            z_student,
            z_teacher,
            sample_label,
            loss.w,
            normalise_teacher=False,  # the factor's rows are unit rows, cut to its rank
        ).mean()
        # Equation 1 divides by |S|, which makes the term about 1e-3; the weight is on the bracket, so it does not depend on density.
        total = total + loss.representation * count * terms["representation"]
    terms["total"] = total
    return total, terms


def valid_channels(num_objects: Tensor, channels: int) -> Tensor:
    """(B,) counts -> (B, channels) bool: background and the objects that a clip really has."""
    return torch.arange(channels, device=num_objects.device) <= num_objects[:, None]


def _probabilities(object_logits: Tensor, valid: Tensor) -> Tensor:
    """(B, Q, O, h, w) logits -> (B * Q, O, h, w) probabilities, absent objects 0."""
    return torch.sigmoid(object_logits.flatten(0, 1).float()) * valid[:, 1:, None, None]
