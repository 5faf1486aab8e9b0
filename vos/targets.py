"""What is kept of the teacher for one query frame (PAPER.md, section 6)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from vos.boundary import boundary_mask, nested_order
from vos.distillation import truncated_factor
from vos.segmentation import sampled_features


def query_targets(
    labels: np.ndarray, object_logits: Tensor, features: Tensor, *, samples: int, rank: int, radius_px: int, seed: int
) -> dict[str, np.ndarray]:
    """Sampled cells in nested order, their labels, the factor of the teacher's correlations there, its logits and the boundary mask.

    labels (h, w) on the grid of stride 4, object_logits (O, h, w), features (O, Cd, h, w); `samples` at most h * w.
    Returns sample_index (N,), sample_label (N,), factor (N, r) float16, logits (O, h, w) float16, boundary (ceil(h * w / 8),) uint8.
    """
    boundary = boundary_mask(labels, radius_px)
    index = nested_order(boundary, seed)[:samples]
    rows = sampled_features(features[None, None], torch.from_numpy(index)[None, None])[0, 0]
    factor = truncated_factor(rows, rank)
    if (
        factor.shape[1] < rank
    ):  # fewer features than the rank of the schema: further columns are zero and change no correlation
        factor = torch.nn.functional.pad(factor, (0, rank - factor.shape[1]))
    return {
        "sample_index": index,
        "sample_label": labels.reshape(-1)[index].astype(np.uint8),
        "factor": factor.numpy().astype(np.float16),
        "logits": object_logits.numpy().astype(np.float16),
        "boundary": np.packbits(boundary.reshape(-1)),
    }
