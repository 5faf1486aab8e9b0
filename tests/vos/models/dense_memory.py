"""The affinity as one dense matrix: what memory reading, done in chunks, must be equal to."""

from __future__ import annotations

import torch
from torch import Tensor

from vos.models.memory import _scores


def memory_affinity(memory_key: Tensor, query_key: Tensor, top_k: int | None = None) -> Tensor:
    """How much each query position attends to each memory position, as one dense matrix.

    memory_key  (B, Ck, M, h, w)
    query_key   (B, Ck, h, w)
    top_k       keep the k strongest memory positions of each query position; None: all
    returns     (B, M*h*w, h*w) float32, each column sums to 1
    """
    scores = _scores(memory_key.flatten(2).transpose(1, 2), query_key)
    if top_k is not None and top_k < scores.shape[-1]:
        best, index = scores.topk(top_k, dim=-1)
        affinity = torch.zeros_like(scores).scatter(-1, index, best.softmax(-1))
    else:
        affinity = scores.softmax(-1)
    return affinity.transpose(1, 2)
