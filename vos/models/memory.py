"""The memory: which frames to keep, and how a query frame reads them.

The score of a memory position m for a query position q is (2 m.q - |m|^2) / sqrt(Ck): minus the squared distance, up
to a term constant in m (STCN, eq. 4). A softmax over memory positions, or over the top k of them, weighs the values.
Scores and softmax are float32 whatever the precision around them. Memory is read in chunks of positions, so the whole
affinity matrix of a long video is never built; the cost is a merge per chunk.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from vos.errors import InputError

KINDS = ("infinite", "first_recent", "first", "recent")

CHUNK_SCORES = 2**24
"""Most affinity scores in memory at once (64 MiB in float32): longer memories are read in chunks."""


@dataclass(frozen=True)
class MemoryPolicy:
    """Which frames become memory frames, and how many positions each query reads.

    kind          "infinite": the first frame and every `every`-th after it (STCN);
                  "first_recent": the first and the most recent frame only (MobileVOS), so cost per frame is constant;
                  "first", "recent": only one of these two, to measure what each contributes
    every         frames between two memory frames ("infinite" only)
    top_k         memory positions each query position reads; None: all of them
    include_last  also read the most recent frame ("infinite" only)
    gate          a segmented frame replaces the recent memory only if its `confidence` is at least this, in [0, 1]; 0: every
                  frame does ("first_recent" and "recent" only). A frame with given masks always does.

    Raises InputError for an unknown kind, every or top_k below 1, include_last or a gate with another kind, or a gate
    outside [0, 1].
    """

    kind: str
    every: int = 5
    top_k: int | None = 20
    include_last: bool = False
    gate: float = 0.0

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise InputError(f'memory kind "{self.kind}" is unknown; use one of {", ".join(KINDS)}')
        if self.every < 1:
            raise InputError(f"memory every={self.every}: use 1 (each frame) or more")
        if self.top_k is not None and self.top_k < 1:
            raise InputError(f"memory top_k={self.top_k}: use 1 or more, or None to read every position")
        if self.include_last and self.kind != "infinite":
            raise InputError(f"memory include_last with {self.kind}: use infinite, or leave include_last out")
        if not 0 <= self.gate <= 1:
            raise InputError(f"memory gate={self.gate}: use 0 (remember every frame) to 1")
        if self.gate and self.kind not in ("first_recent", "recent"):
            raise InputError(
                f"memory gate={self.gate} with {self.kind}: use first_recent or recent, or leave the gate out"
            )

    def trusts(self, prob: Tensor) -> bool:
        """Return whether a segmented frame, prob (K+1, H, W), is confident enough to become the recent memory."""
        return self.gate == 0 or confidence(prob) >= self.gate


def confidence(prob: Tensor) -> float:
    """Return the mean probability of the pixels that objects win, at the label that wins there; 0 where no object wins any.

    prob  (K+1, H, W), background first
    """
    best, labels = prob.max(0)
    won = best[labels > 0]
    return float(won.mean()) if won.numel() else 0.0


def soft_aggregate(prob: Tensor) -> Tensor:
    """Merge independent object probabilities into logits of one softmax (STM, eq. 6).

    prob     (..., O, H, W) in [0, 1]
    returns  (..., O+1, H, W) float32 logits, background first; its probability is the product of 1 - prob over objects
    """
    prob = prob.float()  # half precision cannot represent 1 - 1e-7
    background = (1 - prob).prod(-3, keepdim=True)
    prob = torch.cat((background, prob), -3).clamp(1e-7, 1 - 1e-7)
    return torch.log(prob / (1 - prob))


def read_memory(
    memory_key: Tensor,
    memory_value: Tensor,
    query_key: Tensor,
    top_k: int | None = None,
    chunk_scores: int = CHUNK_SCORES,
) -> Tensor:
    """Average the memory values that each query position attends to.

    memory_key    (B, Ck, M, h, w)
    memory_value  (B, O, Cv, M, h, w)
    query_key     (B, Ck, h, w)
    top_k         read only the k strongest positions; None: all
    chunk_scores  most affinity scores in memory at once; the result does not depend on it
    returns       (B, O, Cv, h, w), the readout, in the value's precision; differentiable in all three
    """
    B, O, Cv, M, h, w = memory_value.shape
    key_rows = memory_key.flatten(2).transpose(1, 2)
    value_rows = memory_value.reshape(B, O * Cv, M * h * w).transpose(1, 2)
    return _read_rows(key_rows, value_rows, query_key, top_k, chunk_scores).unflatten(1, (O, Cv))


class Memory:
    """The memory frames of one video, for inference (not differentiable).

    Frames are stored as rows (one per position) in one buffer each for key and value. The recent frame is in the slot
    after the permanent ones, and the next frame overwrites it. `first_recent` therefore holds at most two frames.
    """

    def __init__(self, policy: MemoryPolicy) -> None:
        self.policy = policy
        self.frame_indices: tuple[int, ...] = ()
        self._num_permanent = 0
        self._key = torch.empty(0)
        self._value = torch.empty(0)
        self._value_shape: tuple[int, ...] = ()

    @property
    def num_frames(self) -> int:
        """Number of memory frames that a query reads now."""
        return len(self.frame_indices)

    def wants(self, frame_index: int) -> bool:
        """Return whether `add` would keep this frame; if not, its value need not be encoded."""
        if self.policy.kind in ("first_recent", "recent") or self.policy.include_last:
            return True
        return self._is_permanent(frame_index)

    def add(self, frame_index: int, key: Tensor, value: Tensor, labelled: bool = False) -> None:
        """Add a frame to the memory; it is ignored if the policy does not want it.

        key       (B, Ck, h, w)
        value     (B, O, Cv, h, w)
        labelled  its masks were given, not predicted: an infinite memory keeps such a frame regardless of `every`
        """
        permanent = self._is_permanent(frame_index) or (labelled and self.policy.kind == "infinite")
        if not permanent and not self.wants(frame_index):
            return
        positions = key.shape[-2] * key.shape[-1]
        self._value_shape = tuple(value.shape[1:3])
        self._key = _put(self._key, self._num_permanent, positions, key.flatten(2).transpose(1, 2).float())
        rows = value.flatten(3).permute(0, 3, 1, 2).flatten(2)
        self._value = _put(self._value, self._num_permanent, positions, rows)
        self.frame_indices = (*self.frame_indices[: self._num_permanent], frame_index)
        self._num_permanent += permanent

    def read(self, query_key: Tensor) -> Tensor:
        """Read the memory: query_key (B, Ck, h, w) -> readout (B, O, Cv, h, w)."""
        assert self.frame_indices, "read before add: a memory starts with the first frame"
        num_rows = self.num_frames * query_key.shape[-2] * query_key.shape[-1]
        readout = _read_rows(
            self._key[:, :num_rows], self._value[:, :num_rows], query_key, self.policy.top_k, CHUNK_SCORES
        )
        return readout.unflatten(1, self._value_shape)

    def _is_permanent(self, frame_index: int) -> bool:
        if self.policy.kind == "recent":
            return False
        if self._num_permanent == 0:
            return True
        newest = self.frame_indices[self._num_permanent - 1]
        return self.policy.kind == "infinite" and frame_index - newest >= self.policy.every


def _put(buffer: Tensor, slot: int, positions: int, rows: Tensor) -> Tensor:
    """Write one frame's rows (B, positions, C) into a slot; the buffer doubles when it is full."""
    num_slots = buffer.shape[1] // positions if buffer.ndim == 3 else 0
    if slot >= num_slots:
        larger = rows.new_empty(rows.shape[0], max(2, 2 * num_slots) * positions, rows.shape[2])
        if num_slots:
            larger[:, : buffer.shape[1]] = buffer
        buffer = larger
    buffer[:, slot * positions : (slot + 1) * positions] = rows
    return buffer


def _scores(key_rows: Tensor, query_key: Tensor) -> Tensor:
    """key_rows (B, N, Ck), query_key (B, Ck, h, w) -> (B, h*w, N) float32, also inside autocast."""
    with torch.autocast(query_key.device.type, enabled=False):
        key_rows, query_rows = key_rows.float(), query_key.flatten(2).transpose(1, 2).float()
        scale = key_rows.shape[-1] ** -0.5
        offset = key_rows.pow(2).sum(-1).unsqueeze(1) * -scale
        # One fused product and sum: scaling the full matrix afterwards would take two more passes over it.
        return torch.baddbmm(offset, query_rows * (2 * scale), key_rows.transpose(1, 2))


def _read_rows(key_rows: Tensor, value_rows: Tensor, query_key: Tensor, top_k: int | None, chunk_scores: int) -> Tensor:
    """key_rows (B, N, Ck), value_rows (B, N, D), query_key (B, Ck, h, w) -> (B, D, h, w)."""
    B, _, h, w = query_key.shape
    chunk = max(1, chunk_scores // (B * h * w))
    num_rows = key_rows.shape[1]
    if top_k is not None and top_k < num_rows:
        readout = _read_top_k(key_rows, value_rows, query_key, top_k, chunk)
    elif chunk >= num_rows:
        readout = _weigh(_scores(key_rows, query_key).softmax(-1), value_rows)
    else:
        readout = _read_streaming(key_rows, value_rows, query_key, chunk)
    return readout.to(value_rows.dtype).transpose(1, 2).unflatten(2, (h, w))


def _weigh(weights: Tensor, value_rows: Tensor) -> Tensor:
    """weights (B, Q, N) float32, value_rows (B, N, D) -> (B, Q, D), multiplied in the value's precision."""
    with torch.autocast(value_rows.device.type, enabled=False):
        return weights.to(value_rows.dtype) @ value_rows


def _chunks(num_rows: int, chunk: int) -> Iterator[slice]:
    return (slice(start, min(start + chunk, num_rows)) for start in range(0, num_rows, chunk))


def _read_streaming(key_rows: Tensor, value_rows: Tensor, query_key: Tensor, chunk: int) -> Tensor:
    """Compute the softmax readout over all rows chunk by chunk; earlier sums are rescaled when a larger score occurs."""
    total = readout = peak = None
    for rows in _chunks(key_rows.shape[1], chunk):
        scores = _scores(key_rows[:, rows], query_key)
        highest = scores.detach().amax(-1, keepdim=True)  # the softmax does not depend on the shift: no gradient
        if total is None or readout is None or peak is None:
            peak = highest
            weights = torch.exp(scores - peak)
            total, readout = weights.sum(-1, keepdim=True), _weigh(weights, value_rows[:, rows]).float()
            continue
        new_peak = torch.maximum(peak, highest)
        weights, rescale = torch.exp(scores - new_peak), torch.exp(peak - new_peak)
        total = total * rescale + weights.sum(-1, keepdim=True)
        readout = readout * rescale + _weigh(weights, value_rows[:, rows]).float()
        peak = new_peak
    assert total is not None and readout is not None
    return readout / total


def _read_top_k(key_rows: Tensor, value_rows: Tensor, query_key: Tensor, top_k: int, chunk: int) -> Tensor:
    """Read the top k rows: merge the k best of each chunk with the k best so far; only their values are read."""
    best = index = None
    for rows in _chunks(key_rows.shape[1], chunk):
        scores = _scores(key_rows[:, rows], query_key)
        chunk_best, chunk_index = scores.topk(min(top_k, scores.shape[-1]), dim=-1)
        chunk_index = chunk_index + rows.start
        if best is None or index is None:
            best, index = chunk_best, chunk_index
            continue
        both, both_index = torch.cat((best, chunk_best), -1), torch.cat((index, chunk_index), -1)
        best, winners = both.topk(min(top_k, both.shape[-1]), dim=-1)
        index = both_index.gather(-1, winners)
    assert best is not None and index is not None
    weights = best.softmax(-1).to(value_rows.dtype)
    read = [
        F.embedding_bag(index[b], value_rows[b], per_sample_weights=weights[b], mode="sum") for b in range(len(index))
    ]
    return torch.stack(read)
