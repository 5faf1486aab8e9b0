"""The teacher's targets for one query frame (docs/method.md, what the cache stores)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vos.distillation.boundary import boundary_mask, nested_order
from vos.distillation.clip_forward import sampled_features
from vos.distillation.encoding import stored_as
from vos.distillation.representation import relative_correlation_error, truncated_factor

LOGIT_LIMIT = 16.2
"""Aggregation clips probabilities to 1e-7 and 1 - 1e-7, so logits beyond +-16.1 are all equivalent."""


def query_targets(
    labels: np.ndarray,
    object_logits: Tensor,
    features: Tensor,
    *,
    samples: int,
    radius_px: int,
    seed: Sequence[int],
    rank: int,
    factor_dtype: str,
    logits: str,
    sampling: str = "boundary",
) -> dict[str, Any]:
    """Return the cached targets of one query frame.

    labels (h, w) on the grid of stride 4, object_logits (O, h, w), features (O, Cd, h, w), where absent objects may be left out;
    `samples` at most h * w; factor_dtype int8, fp16 or fp32; logits none, int8 or fp16. sampling is boundary (boundary first) or uniform
    (all cells by the same random priorities; the boundary mask is stored in both cases).
    Returns sample_index (N,) in nested order, sample_label (N,), factor (r, N) of the teacher's correlations, factor_scale () for int8,
    factor_error () (relative Frobenius error of the rebuilt correlation matrix); logits (O, h, w), logit_scale (O,) for int8,
    logit_error () (the largest); boundary (bytes,).
    """
    boundary = boundary_mask(labels, radius_px)
    first = boundary if sampling == "boundary" else np.zeros_like(boundary)
    index = nested_order(first, seed)[:samples]
    rows = sampled_features(features[None, None], torch.from_numpy(index)[None, None])[0, 0]
    return {
        "sample_index": index,
        "sample_label": labels.reshape(-1)[index].astype(np.uint8),
        **_factor_targets(rows, rank, factor_dtype),
        **_logit_targets(object_logits.numpy().clip(-LOGIT_LIMIT, LOGIT_LIMIT), logits),
        "boundary": np.packbits(boundary.reshape(-1)),
    }


def _factor_targets(rows: Tensor, rank: int, dtype: str) -> dict[str, Any]:
    # Stored column by column: neighbouring values are then of similar size and compress better.
    factor = np.ascontiguousarray(truncated_factor(rows, rank).numpy().T)
    stored, scale, rebuilt = stored_as(factor, dtype, axes=(0, 1))
    error = relative_correlation_error(rows, torch.from_numpy(rebuilt.T)) if rows.any() else 0.0
    targets = {"factor": stored, "factor_error": np.float32(error)}
    return targets if scale is None else {**targets, "factor_scale": scale}


def _logit_targets(values: np.ndarray, dtype: str) -> dict[str, Any]:
    if dtype == "none":
        return {}
    stored, scale, rebuilt = stored_as(values, dtype, axes=(1, 2))
    targets = {"logits": stored, "logit_error": np.float32(np.abs(rebuilt - values).max())}
    return targets if scale is None else {**targets, "logit_scale": scale}
