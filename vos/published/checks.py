"""Checks against published facts: sizes, memory, sampling and the reference table (losses: vos/published/loss_checks.py).

Each function yields figures when they are measured and needs no file. A figure holds the measured value and its bound,
from which its outcome follows. Definitions are implemented a second time here, independently and in float64.
`python -m jobs.verify` prints the figures.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vos.distillation.boundary import boundary_mask, nested_order
from vos.distillation.targets import query_targets
from vos.inference.propagate import propagate
from vos.models import VOSModel, build
from vos.models.memory import Memory, MemoryPolicy, read_memory
from vos.published.bounds import Figure
from vos.published.figures import PUBLISHED, REPORTED

Values = Tensor | list[Tensor]

SIZES = {
    "mobilevos-mobilenetv2-noaspp": 1_894_312,
    "mobilevos-mobilenetv2": 2_455_912,
    "mobilevos-resnet18": 8_057_256,
}
"""Parameters of the students."""

ORDER_DIGEST = "c572798b2153bcaa"
"""First 16 digits of the SHA-256 of the sampling order of a fixed boundary; equal on every platform."""

NUM_PUBLISHED = 11
"""Methods in the paper's tables."""


def difference(name: str, ours: Values, expected: Values, bound: float) -> Figure:
    """Return the figure that two tensors, or lists of them, differ by at most `bound` anywhere."""
    return Figure(name, largest_difference(ours, expected), "<=", bound)


def largest_difference(ours: Values, expected: Values) -> float:
    """Return max |Δ| of two tensors, or over lists of them; infinite if the shapes differ, nan if a value is nan."""
    if isinstance(ours, Tensor) and isinstance(expected, Tensor):
        same_shape = ours.shape == expected.shape
        return float((ours.detach() - expected.detach()).abs().max()) if same_shape else math.inf
    return float(np.max([largest_difference(a, b) for a, b in zip(ours, expected, strict=True)]))


def size_checks() -> Iterator[Figure]:
    """Check the parameter counts of the published models."""
    yield Figure("STCN: parameters, in millions", f"{_num_parameters('stcn') / 1e6:.2f}", "=", "54.43")
    for name, size in SIZES.items():
        yield Figure(f"student {name}: parameters", _num_parameters(name), "=", size)


def memory_checks(seed: int) -> Iterator[Figure]:
    """Check which frames the two policies keep, and every way of computing a readout against the formula."""
    generator = torch.Generator().manual_seed(seed)
    model = _random_model(seed)
    frames, labels = F.interpolate(torch.randn(4, 3, 9, 12, generator=generator), scale_factor=8), _blocks(72, 96)
    first_labels = torch.from_numpy(labels)
    infinite, recent = (propagate(model, frames, first_labels, MemoryPolicy(k)) for k in ("infinite", "first_recent"))
    yield difference("memory: first_recent against infinite, T <= 2, max |Δ|", infinite[:, :2], recent[:, :2], 1e-6)
    name = "memory: the same two at T = 4, so that they can differ"
    yield Figure(name, largest_difference(infinite, recent), ">=", 1e-5)
    key, value, query = (torch.randn(shape, generator=generator) for shape in ((1, 8, 2, 3), (1, 2, 6, 2, 3), (8,)))
    memory, most = Memory(MemoryPolicy("first_recent")), 0
    for index in range(200):
        memory.add(index, key, value)
        most = max(most, memory.num_frames)
    yield Figure("memory: most frames first_recent holds in 200", most, "=", 2)
    key = torch.randn(2, 16, 5, 9, 8, generator=generator)
    value, query = (torch.randn(shape, generator=generator) for shape in ((2, 3, 12, 5, 9, 8), (2, 16, 9, 8)))
    for top_k in (None, 20):
        whole = read_memory(key, value, query, top_k)
        name = "all positions" if top_k is None else f"top {top_k}"
        formula = _readout_by_formula(key, value, query, top_k)
        yield difference(f"memory: readout of {name} against the formula, max |Δ|", whole, formula, 1e-4)
        chunked = [read_memory(key, value, query, top_k, chunk_scores=144 * rows) for rows in (1, 7, 100)]
        yield difference(f"memory: readout of {name}, chunked against whole, max |Δ|", chunked, [whole] * 3, 1e-5)
    for dtype in (torch.float16, torch.bfloat16):
        key_low, value_low, query_low = (60 * key).to(dtype), value.to(dtype), (60 * query).to(dtype)
        low = read_memory(key_low, value_low, query_low, 20)  # |m|² is beyond float16's 65504
        full = read_memory(key_low.float(), value_low.float(), query_low.float(), 20)
        name = str(dtype).removeprefix("torch.")
        yield difference(f"memory: readout in {name} against float32, max |Δ|", low.float(), full, 0.03)


def sampling_checks(seed: int) -> Iterator[Figure]:
    """Check the boundary mask against its definition, and the properties of the nested order."""
    rng = np.random.default_rng(seed)
    wrong = 0
    for _ in range(20):
        labels = rng.integers(0, 4, (6, 8)).repeat(rng.integers(1, 4), 0).repeat(rng.integers(1, 4), 1)
        for radius_px in (0, 1, 1.5, 2, 3, 7):
            wrong += int((boundary_mask(labels, radius_px) != _boundary_by_definition(labels, radius_px)).sum())
    yield Figure("boundary: pixels unlike the definition, 120 masks", wrong, "=", 0)

    labels = _blocks(48, 64)
    boundary = boundary_mask(labels, 2)
    order = nested_order(boundary, seed)
    misplaced = int((np.sort(order) != np.arange(order.size)).sum())
    misplaced += int((boundary.ravel()[order] != (np.arange(order.size) < boundary.sum())).sum())
    yield Figure("nested order: pixels missing or out of boundary-first order", misplaced, "=", 0)
    cells = _blocks(24, 32)
    features = torch.randn(2, 8, 24, 32, generator=torch.Generator().manual_seed(seed))
    kept = {"rank": 4, "factor_dtype": "fp32", "logits": "none"}
    samples = {
        density: query_targets(cells, features[:, 0], features, samples=density, radius_px=1, seed=(seed,), **kept)
        for density in (16, 100, 400, 768)
    }
    whole = samples[768]["sample_index"]
    figure = sum(int((one["sample_index"] != whole[:density]).sum()) for density, one in samples.items())
    yield Figure("nested order: pixels of 4 densities that are no prefix", figure, "=", 0)
    digest = hashlib.sha256(nested_order(boundary, (7, 1, 2)).astype("<i8").tobytes()).hexdigest()[:16]
    yield Figure("nested order: digest, the same on every platform", digest, "=", ORDER_DIGEST)


def reference_checks() -> Iterator[Figure]:
    """Check that the published table is complete and marked as reported."""
    yield Figure("reference: methods in the table", len({row.method for row in PUBLISHED}), "=", NUM_PUBLISHED)
    figure = sum(row.source != REPORTED or not (row.davis16 or row.a40) for row in PUBLISHED)
    yield Figure("reference: rows without figures or not marked reported", figure, "=", 0)


def _num_parameters(name: str) -> int:
    return sum(parameter.numel() for parameter in build(name).parameters())


def _random_model(seed: int) -> VOSModel:
    """Return a small random model whose classifier is scaled up, so that masks have edges and memory affects the result."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build("mobilevos-tiny").eval()
    with torch.no_grad():
        model.decoder.pred.weight.mul_(5)
    return model


def _blocks(height: int, width: int) -> np.ndarray:
    """Return (H, W) uint8 labels from integer arithmetic: background, two touching blocks, and a disk."""
    y, x = np.mgrid[:height, :width]
    labels = np.zeros((height, width), np.uint8)
    labels[(y < height // 2) & (x > width // 8) & (x < width // 2)] = 1
    labels[(y > height // 4) & (y < 3 * height // 4) & (x >= width // 2) & (x < 7 * width // 8)] = 2
    labels[(3 * height // 4 - y) ** 2 + (width // 4 - x) ** 2 <= (height // 6) ** 2] = 3
    return labels


def _readout_by_formula(key: Tensor, value: Tensor, query: Tensor, top_k: int | None) -> Tensor:
    """Return STCN's readout from minus the squared distance, in float64 over every pair of positions."""
    memory, query_rows = key.double().flatten(2), query.double().flatten(2)
    scores = -(memory[:, :, :, None] - query_rows[:, :, None]).square().sum(1) / math.sqrt(key.shape[1])
    if top_k is not None:
        scores[scores < scores.sort(1, descending=True).values[:, top_k - 1 : top_k]] = -math.inf
    readout = torch.einsum("bocm,bmq->bocq", value.double().flatten(3), scores.softmax(1))
    return readout.unflatten(3, query.shape[2:])


def _boundary_by_definition(labels: np.ndarray, radius_px: float) -> np.ndarray:
    """Return every pixel within the radius of one that has a 4-neighbour of another label, over all pairs of pixels."""
    H, W = labels.shape
    contour = [
        (y, x)
        for y in range(H)
        for x in range(W)
        for b, a in ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
        if 0 <= b < H and 0 <= a < W and labels[b, a] != labels[y, x]
    ]
    y, x = np.mgrid[:H, :W]
    near = np.zeros((H, W), bool)
    for b, a in set(contour):
        near |= (y - b) ** 2 + (x - a) ** 2 <= radius_px**2
    return near
