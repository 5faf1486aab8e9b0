"""The memory: which frames it keeps, and that reading them is what the definition says, however it is chunked."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.vos.models.dense_memory import memory_affinity
from vos.config import MemoryConfig
from vos.errors import InputError
from vos.inference.whole_video import memory_policy
from vos.models.memory import Memory, MemoryPolicy, confidence, read_memory, soft_aggregate


def _memory(frames: int, batch: int = 2, objects: int = 3, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Key (B, 8, M, 5, 4), value (B, O, 6, M, 5, 4), query key (B, 8, 5, 4)."""
    generator = torch.Generator().manual_seed(seed)
    key = torch.randn(batch, 8, frames, 5, 4, generator=generator)
    value = torch.randn(batch, objects, 6, frames, 5, 4, generator=generator)
    return key, value, torch.randn(batch, 8, 5, 4, generator=generator)


def _naive_readout(key: Tensor, value: Tensor, query: Tensor, top_k: int | None) -> Tensor:
    """One query position at a time, by the formula, in float64."""
    key, value, query = key.double().flatten(2), value.double().flatten(3), query.double()
    B, Ck, h, w = query.shape
    out = torch.zeros(*value.shape[:3], h, w, dtype=torch.float64)
    for b in range(B):
        for y in range(h):
            for x in range(w):
                q = query[b, :, y, x]
                scores = torch.stack([(2 * m @ q - m @ m) / Ck**0.5 for m in key[b].T])
                if top_k is not None:
                    scores[scores < scores.sort(descending=True).values[min(top_k, len(scores)) - 1]] = -torch.inf
                out[b, :, :, y, x] = value[b] @ scores.softmax(0)
    return out


@pytest.mark.parametrize("top_k", [None, 1, 7, 60, 1000])
@pytest.mark.parametrize("chunk_scores", [1, 7 * 40, 10**9])
def test_the_readout_is_the_formula_whatever_the_chunks(top_k: int | None, chunk_scores: int):
    key, value, query = _memory(frames=3)
    readout = read_memory(key, value, query, top_k, chunk_scores)
    torch.testing.assert_close(readout.double(), _naive_readout(key, value, query, top_k), rtol=1e-4, atol=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 6), st.integers(1, 500), st.one_of(st.none(), st.integers(1, 130)), st.integers(0, 10**6))
def test_chunked_and_whole_readouts_agree(frames: int, chunk_scores: int, top_k: int | None, seed: int):
    key, value, query = _memory(frames, seed=seed)
    whole = read_memory(key, value, query, top_k)
    torch.testing.assert_close(read_memory(key, value, query, top_k, chunk_scores), whole, rtol=1e-4, atol=1e-5)


def test_scores_far_beyond_the_range_of_exp_survive_the_chunks():
    key, value, query = _memory(frames=3)
    key, query = key * 60, query * 60
    chunked = read_memory(key, value, query, None, chunk_scores=40)
    torch.testing.assert_close(chunked, read_memory(key, value, query))


@pytest.mark.parametrize("top_k", [None, 5])
def test_each_column_of_the_affinity_sums_to_one_and_reads_as_read_memory_does(top_k: int | None):
    key, value, query = _memory(frames=2)
    affinity = memory_affinity(key, query, top_k)
    torch.testing.assert_close(affinity.sum(1), torch.ones(2, 20))
    readout = (value.reshape(2, 18, 40) @ affinity).view(2, 3, 6, 5, 4)
    torch.testing.assert_close(readout, read_memory(key, value, query, top_k), rtol=1e-4, atol=1e-5)
    assert top_k is None or bool(((affinity > 0).sum(1) == top_k).all())


def test_repeating_a_memory_frame_leaves_the_readout_unchanged():
    key, value, query = _memory(frames=1)
    once = read_memory(key, value, query)
    twice = read_memory(key.repeat(1, 1, 2, 1, 1), value.repeat(1, 1, 1, 2, 1, 1), query)
    torch.testing.assert_close(once, twice)


def test_the_order_of_memory_frames_does_not_matter():
    key, value, query = _memory(frames=4)
    order = [2, 0, 3, 1]
    shuffled = read_memory(key[:, :, order], value[:, :, :, order], query, top_k=9)
    torch.testing.assert_close(shuffled, read_memory(key, value, query, top_k=9))


def test_a_far_memory_frame_is_not_read():
    key, value, query = _memory(frames=2)
    key[:, :, 1] += 100
    torch.testing.assert_close(read_memory(key, value, query), read_memory(key[:, :, :1], value[:, :, :, :1], query))


@pytest.mark.parametrize("chunk_scores", [100, 10**9])
@pytest.mark.parametrize("top_k", [None, 6])
def test_reading_is_differentiable_in_keys_values_and_queries(chunk_scores: int, top_k: int | None):
    key, value, query = (x.requires_grad_() for x in _memory(frames=3))
    read_memory(key, value, query, top_k, chunk_scores).square().sum().backward()
    expected_key, expected_value, expected_query = (x.detach().clone().requires_grad_() for x in (key, value, query))
    affinity = memory_affinity(expected_key, expected_query, top_k)
    (expected_value.reshape(2, 18, 60) @ affinity).square().sum().backward()
    for ours, expected in ((key, expected_key), (value, expected_value), (query, expected_query)):
        torch.testing.assert_close(ours.grad, expected.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("top_k", [None, 6])
def test_half_precision_keys_of_any_size_give_a_finite_readout_near_float32(dtype: torch.dtype, top_k: int | None):
    key, value, query = (x.to(dtype) for x in _memory(frames=3))
    key, query = key * 60, query * 60  # |m|^2 is beyond float16's 65504 here
    assert not torch.isfinite(key.pow(2).sum(1)).all() or dtype is torch.bfloat16
    readout = read_memory(key, value, query, top_k)
    assert readout.dtype is dtype
    expected = read_memory(key.float(), value.float(), query.float(), top_k)
    torch.testing.assert_close(readout.float(), expected, rtol=0.02, atol=0.03)


def test_autocast_changes_no_digit_of_the_affinity():
    key, _, query = _memory(frames=2)
    with torch.autocast("cpu", torch.bfloat16):
        inside = memory_affinity(key, query)
    assert torch.equal(inside, memory_affinity(key, query))


HELD = {"infinite": [0, 3, 6], "first_recent": [0, 8], "first": [0], "recent": [8]}


@pytest.mark.parametrize("kind", HELD)
@pytest.mark.parametrize("top_k", [None, 11])
def test_a_memory_reads_as_its_frames_stacked(kind: str, top_k: int | None):
    key, value, query = _memory(frames=9)
    memory = Memory(MemoryPolicy(kind, every=3, top_k=top_k))
    for t in range(9):
        memory.add(t, key[:, :, t], value[:, :, :, t])
    held = list(memory.frame_indices)
    assert held == HELD[kind]
    torch.testing.assert_close(memory.read(query), read_memory(key[:, :, held], value[:, :, :, held], query, top_k))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 60))
def test_first_recent_holds_the_first_and_the_latest_frame_for_any_length(length: int):
    memory, sizes = Memory(MemoryPolicy("first_recent")), set()
    key, value, _ = _memory(frames=1)
    for t in range(length):
        memory.add(t, key[:, :, 0], value[:, :, :, 0])
        sizes.add(sum(x.numel() for x in (memory._key, memory._value)))
    assert memory.frame_indices == ((0,) if length == 1 else (0, length - 1))
    assert len(sizes) == 1


@pytest.mark.parametrize("kind", ["first", "recent"])
def test_a_memory_of_one_frame_holds_one_for_any_length_also_when_masks_are_given_later(kind: str):
    memory = Memory(MemoryPolicy(kind))
    key, value, _ = _memory(frames=1)
    for t in range(12):
        memory.add(t, key[:, :, 0], value[:, :, :, 0], labelled=t in (0, 5))
        assert memory.frame_indices == ((0,) if kind == "first" else (t,))


def test_include_last_is_read_until_the_next_frame_comes():
    key, value, _ = _memory(frames=1)
    memory, seen = Memory(MemoryPolicy("infinite", every=3, include_last=True)), []
    for t in range(6):
        memory.add(t, key[:, :, 0], value[:, :, :, 0])
        seen.append(memory.frame_indices)
    assert seen == [(0,), (0, 1), (0, 2), (0, 3), (0, 3, 4), (0, 3, 5)]


def test_a_labelled_frame_stays_in_an_infinite_memory_and_is_counted_from():
    key, value, _ = _memory(frames=1)
    memory = Memory(MemoryPolicy("infinite", every=4))
    for t in range(10):
        memory.add(t, key[:, :, 0], value[:, :, :, 0], labelled=t in (0, 3))
    assert memory.frame_indices == (0, 3, 7)


def test_wants_says_what_add_will_keep():
    key, value, _ = _memory(frames=1)
    for policy in (
        MemoryPolicy("infinite", every=3),
        MemoryPolicy("infinite", include_last=True),
        MemoryPolicy("first_recent"),
        MemoryPolicy("first"),
        MemoryPolicy("recent"),
    ):
        memory = Memory(policy)
        for t in range(8):
            wanted = memory.wants(t)
            memory.add(t, key[:, :, 0], value[:, :, :, 0])
            assert wanted == (t in memory.frame_indices)


@pytest.mark.parametrize(
    "wrong",
    [
        {"kind": "finite"},
        {"kind": "infinite", "every": 0},
        {"kind": "infinite", "top_k": 0},
        {"kind": "first", "include_last": True},
        {"kind": "first_recent", "include_last": True},
        {"kind": "first_recent", "gate": 1.01},
        {"kind": "first_recent", "gate": float("nan")},
        {"kind": "infinite", "gate": 0.5},
        {"kind": "first", "gate": 0.5},
    ],
)
def test_an_impossible_policy_is_refused(wrong: dict):
    with pytest.raises(InputError, match="use "):
        MemoryPolicy(**wrong)


def test_aggregated_probabilities_sum_to_one_and_keep_the_objects_order():
    prob = torch.rand(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    merged = soft_aggregate(prob).softmax(1)
    torch.testing.assert_close(merged.sum(1), torch.ones(2, 4, 5))
    assert torch.equal(merged[:, 1:].argmax(1), prob.argmax(1))


def test_one_object_alone_keeps_its_probability_against_the_background():
    prob = torch.linspace(0.01, 0.99, 50).view(1, 5, 10)
    odds = (prob / (1 - prob)) ** 2  # both the object and its complement enter as odds
    torch.testing.assert_close(soft_aggregate(prob).softmax(0)[1:], odds / (1 + odds))


def test_certain_masks_stay_finite_in_half_precision():
    logits = soft_aggregate(torch.tensor([0.0, 1.0], dtype=torch.float16).view(2, 1, 1))
    assert torch.isfinite(logits).all()
    assert logits.dtype is torch.float32


def test_every_option_of_a_configuration_reaches_the_policy():
    config = MemoryConfig(kind="infinite", every=3, top_k=0, include_last=True)
    assert memory_policy(config, infinite=False) == MemoryPolicy("infinite", every=3, top_k=None, include_last=True)
    assert [memory_policy(MemoryConfig(), infinite=one).kind for one in (True, False)] == ["infinite", "first_recent"]
    assert memory_policy(MemoryConfig(gate=0.5), infinite=False) == MemoryPolicy("first_recent", gate=0.5)


def test_confidence_is_the_mean_probability_where_objects_win_and_0_where_none_does():
    prob = torch.tensor([[0.1, 0.3, 0.9], [0.8, 0.1, 0.05], [0.1, 0.6, 0.05]]).view(3, 1, 3)
    assert confidence(prob) == pytest.approx((0.8 + 0.6) / 2)
    assert confidence(prob[:, :, 2:]) == 0


def test_a_gate_of_0_trusts_every_frame_also_one_without_objects():
    empty = torch.tensor([1.0, 0.0]).view(2, 1, 1)
    assert MemoryPolicy("first_recent").trusts(empty)
    assert not MemoryPolicy("first_recent", gate=1e-6).trusts(empty)
