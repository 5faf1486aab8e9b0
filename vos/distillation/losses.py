"""The terms of the training loss besides cross-entropy, in the table TERMS at the end of the file.

To add one: a pure function in `supervised.py`, `representation.py` or here, a row of TERMS, and a weight with the row's name in
`LossConfig` (`vos/config/train.py`). A term is on if its weight is not 0.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from vos.config import LossConfig
from vos.distillation.clip_forward import ClipOutput, sampled_features
from vos.distillation.representation import logit_kl, representation_losses
from vos.distillation.supervised import dice_loss, jaccard_loss, mask_absent_objects
from vos.models.memory import soft_aggregate


class Targets(NamedTuple):
    """The teacher's cached targets for a batch; `pipelines/cache/schema.py` documents them."""

    sample_index: Tensor
    """(B, Q, N) int64"""
    sample_label: Tensor
    """(B, Q, N) int64"""
    factor: Tensor
    """(B, Q, N, r) float32"""
    object_logits: Tensor
    """(B, Q, O, h, w) float32; O = 0 if the cache has no logits"""
    boundary: Tensor
    """(B, Q, h, w) float32, 1 on the boundary mask"""


class Seen:
    """Inputs of the loss terms for one batch: B clips of Q query frames.

    output   the student's output, with `features` and `object_logits`
    logits   (B * Q, K+1, H, W), channel 0 is background
    labels   (B * Q, H, W) int64
    valid    (B * Q, K+1) bool, the channels that exist
    targets  the teacher's targets, None without distillation
    """

    def __init__(
        self,
        output: ClipOutput,
        logits: Tensor,
        labels: Tensor,
        valid: Tensor,
        targets: Targets | None,
        config: LossConfig,
    ) -> None:
        self.output, self.logits, self.labels, self.valid = output, logits, labels, valid
        self.config, self._targets = config, targets

    @cached_property
    def prob(self) -> Tensor:
        """(B * Q, K+1, H, W) probabilities."""
        return torch.softmax(mask_absent_objects(self.logits, self.valid), 1)

    @property
    def targets(self) -> Targets:
        assert self._targets is not None, "terms with of_teacher are computed only with targets"
        return self._targets

    @property
    def num_samples(self) -> int:
        """Number of sampled pixels in the representation loss: a prefix of the nested order."""
        return max(2, round(self.config.density * self.targets.sample_index.shape[-1]))


class Term(NamedTuple):
    """One term: its value as it is logged, a factor besides its weight, and whether it needs the teacher."""

    value: Callable[[Seen], Tensor]
    scale: Callable[[Seen], int] = lambda seen: 1
    of_teacher: bool = False


def _dice(seen: Seen) -> Tensor:
    return dice_loss(seen.prob, seen.labels, seen.valid)


def _jaccard(seen: Seen) -> Tensor:
    return jaccard_loss(seen.prob, seen.labels, seen.valid)


def _kd(seen: Seen) -> Tensor:
    return logit_kl(
        soft_aggregate(_probabilities(seen.output.object_logits, seen.valid)),
        soft_aggregate(_probabilities(seen.targets.object_logits, seen.valid)),
        seen.config.temperature,
        weight=seen.targets.boundary.flatten(0, 1) if seen.config.kd_boundary else None,
        valid=seen.valid,
    )


def _representation(seen: Seen) -> Tensor:
    targets, count = seen.targets, seen.num_samples
    z_student = sampled_features(seen.output.features, targets.sample_index[..., :count]).flatten(0, 1)
    z_teacher = targets.factor[:, :, :count, : seen.config.rank or None].flatten(0, 1)
    sample_label = targets.sample_label[..., :count].flatten(0, 1)
    # The factor's rows come from unit rows and are not normalised again after the truncation.
    return representation_losses(z_student, z_teacher, sample_label, seen.config.w, normalise_teacher=False).mean()


def _probabilities(object_logits: Tensor, valid: Tensor) -> Tensor:
    """Convert (B, Q, O, h, w) logits to (B * Q, O, h, w) probabilities; absent objects get 0."""
    return torch.sigmoid(object_logits.flatten(0, 1).float()) * valid[:, 1:, None, None]


TERMS: dict[str, Term] = {
    "dice": Term(_dice),
    "jaccard": Term(_jaccard),
    "kd": Term(_kd, of_teacher=True),
    # The paper's equation 1 divides by N, so the term is about 1e-3. The weight is on N times the loss, independent of the density.
    "representation": Term(_representation, lambda seen: seen.num_samples, of_teacher=True),
}
"""Terms by the names of their weights in LossConfig, in the order of summation."""
