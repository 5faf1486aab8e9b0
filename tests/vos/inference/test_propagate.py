"""Propagation through a video: STCN's official numbers, a naive transcription of its loop, what a stream promises."""

import copy
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.vos.models.dense_memory import memory_affinity
from vos.errors import InputError
from vos.inference.propagate import iter_propagate, propagate
from vos.models import VOSModel, build
from vos.models.decoder import object_probability
from vos.models.memory import Memory, MemoryPolicy, confidence, soft_aggregate

INFINITE, FIRST_RECENT = MemoryPolicy("infinite"), MemoryPolicy("first_recent")


def _video(num_frames: int, size: tuple[int, int], num_objects: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """frames (T, 3, H, W) of coarse noise, labels (H, W) with a square per object."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(num_frames, 3, size[0] // 8 + 1, size[1] // 8 + 1, generator=generator)
    labels = torch.zeros(size, dtype=torch.uint8)
    for i in range(num_objects):
        top, left = size[0] * i // (num_objects + 1), size[1] * i // (num_objects + 1)
        labels[top : top + size[0] // 3, left : left + size[1] // 3] = i + 1
    return F.interpolate(coarse, scale_factor=8)[..., : size[0], : size[1]], labels


def _masks(labels: Tensor, num_objects: int) -> Tensor:
    return torch.stack([labels == i + 1 for i in range(num_objects)]).float()


def _confidence(merged: Tensor) -> float:
    won = merged[1:].amax(0)[merged.argmax(0) != 0].tolist()
    return sum(won) / len(won) if won else 0.0


@torch.no_grad()
def _naive_propagate(model: VOSModel, frames: Tensor, labels: Tensor, policy: MemoryPolicy) -> Tensor:
    """STCN's evaluation loop written down plainly: lists of frames, one dense affinity, values encoded at once."""
    T, _, H, W = frames.shape
    pad_h, pad_w = -H % 16, -W % 16
    pads = (pad_w // 2, pad_w - pad_w // 2, pad_h // 2, pad_h - pad_h // 2)
    frames, masks = F.pad(frames, pads), F.pad(_masks(labels, int(labels.max())), pads)
    out, held = [], []
    for t in range(T):
        query = model.encode_query(frames[t : t + 1])
        prob = masks
        if t > 0:
            if policy.kind == "first_recent":
                read = [held[0], *[x for x in held[1:] if _confidence(out[x[0]]) >= policy.gate][-1:]]
            else:
                read = [x for x in held if x[0] % policy.every == 0 or (policy.include_last and x[0] == t - 1)]
            key, value = torch.stack([x[1] for x in read], 2), torch.stack([x[2] for x in read], 3)
            affinity = memory_affinity(key, query.key, policy.top_k)
            readout = value.flatten(1, 2).flatten(2) @ affinity
            decoded = model.decode(query, readout.view(*value.shape[:3], *query.key.shape[-2:]))
            prob = object_probability(decoded.logits)[0]
        merged = soft_aggregate(prob).softmax(0)
        out.append(merged)
        held.append((t, query.key, model.encode_value(frames[t : t + 1], query.f16, merged[None, 1:])))
    return torch.stack(out, 1)[..., pads[2] : pads[2] + H, pads[0] : pads[0] + W]


def test_stcn_reproduces_the_official_probabilities_and_features(shared: Path):
    recipe = _load_recipe(shared)
    golden = np.load(shared / "golden/stcn/case_a.npz")
    num_objects, height, width, num_frames, every, top_k, include_last, seed = (int(x) for x in golden["args"])
    shapes = json.loads((shared / "golden/stcn/case_a.keys.json").read_text())
    stcn = build("stcn").eval()
    stcn.load_state_dict({k: torch.from_numpy(np.asarray(recipe.tensor(k, tuple(s)))) for k, s in shapes.items()})
    frames = torch.from_numpy(recipe.frames(num_frames, height, width, seed))
    with torch.no_grad():
        query = stcn.encode_query(frames[1:2])
    torch.testing.assert_close(query.key, torch.from_numpy(golden["key"]), rtol=0, atol=1e-4)
    torch.testing.assert_close(query.f16_thin, torch.from_numpy(golden["f16_thin"]), rtol=0, atol=1e-4)
    policy = MemoryPolicy("infinite", every=every, top_k=top_k, include_last=bool(include_last))
    prob = propagate(stcn, frames, torch.from_numpy(recipe.first_mask(num_objects, height, width)), policy)
    torch.testing.assert_close(prob, torch.from_numpy(golden["prob"]), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("num_objects", "size", "num_frames", "policy"),
    [
        (1, (64, 80), 1, INFINITE),
        (1, (61, 75), 7, MemoryPolicy("infinite", every=2, top_k=9)),
        (2, (64, 50), 8, MemoryPolicy("infinite", every=3, top_k=5, include_last=True)),
        (3, (50, 64), 6, MemoryPolicy("infinite", every=1, top_k=None)),
        (5, (79, 81), 5, MemoryPolicy("infinite", every=2, top_k=10_000, include_last=True)),
        (2, (65, 66), 6, FIRST_RECENT),
        (1, (48, 48), 4, MemoryPolicy("first_recent", top_k=None)),
    ],
)
def test_propagation_is_the_plain_loop(
    model: VOSModel, num_objects: int, size: tuple[int, int], num_frames: int, policy: MemoryPolicy
):
    frames, labels = _video(num_frames, size, num_objects)
    prob = propagate(model, frames, labels, policy)
    assert prob.shape == (num_objects + 1, num_frames, *size)
    torch.testing.assert_close(prob, _naive_propagate(model, frames, labels, policy), rtol=1e-3, atol=1e-5)


@pytest.fixture
def unsure(model: VOSModel) -> VOSModel:
    """The same model with objects that win some pixels of every frame, at probabilities near a half."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        assert model.decoder.pred.bias is not None
        model.decoder.pred.bias.add_(2)
    return model


def test_a_gate_keeps_the_recent_frame_before_a_doubtful_one(unsure: VOSModel):
    frames, labels = _video(8, (64, 80), 1)
    policy = MemoryPolicy("first_recent", gate=0.55)
    prob = propagate(unsure, frames, labels, policy)
    passed = [confidence(prob[:, t]) >= policy.gate for t in range(1, 7)]
    assert any(passed) and not all(passed)
    torch.testing.assert_close(prob, _naive_propagate(unsure, frames, labels, policy), rtol=1e-3, atol=1e-5)
    assert not torch.allclose(prob, propagate(unsure, frames, labels, FIRST_RECENT), atol=1e-4)


def test_a_gate_that_no_frame_passes_leaves_the_first_memory(unsure: VOSModel):
    frames, labels = _video(6, (64, 80), 2)
    closed, first = (MemoryPolicy("first_recent", gate=1), MemoryPolicy("first"))
    assert torch.equal(propagate(unsure, frames, labels, closed), propagate(unsure, frames, labels, first))


def test_a_gate_that_every_frame_passes_changes_no_bit(unsure: VOSModel):
    frames, labels = _video(6, (64, 80), 2)
    opened = MemoryPolicy("first_recent", gate=1e-9)
    assert torch.equal(propagate(unsure, frames, labels, opened), propagate(unsure, frames, labels, FIRST_RECENT))


def test_a_doubtful_frame_with_given_masks_is_remembered(unsure: VOSModel):
    """An object that appears begins its memory there, and the objects before it have that frame as their recent one."""
    frames, labels = _video(6, (64, 80), 1)
    later = torch.zeros_like(labels)
    later[40:60, 50:70] = 2
    closed = MemoryPolicy("first_recent", gate=1)
    memories: list[Memory] = []

    class Watched(Memory):
        def __init__(self, policy: MemoryPolicy) -> None:
            super().__init__(policy)
            memories.append(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vos.inference.propagate.Memory", Watched)
        list(iter_propagate(unsure, frames, labels, closed, {3: later}))
    assert [memory.frame_indices for memory in memories] == [(0, 3), (3,)]


def test_both_policies_agree_on_two_frames_and_differ_on_four(model: VOSModel):
    frames, labels = _video(4, (64, 64), 2)
    infinite, first_recent = (propagate(model, frames, labels, p) for p in (INFINITE, FIRST_RECENT))
    torch.testing.assert_close(infinite[:, :2], first_recent[:, :2])
    assert not torch.allclose(infinite[:, 2:], first_recent[:, 2:], atol=1e-4)


def test_probabilities_sum_to_one_and_the_first_frame_is_the_given_mask(model: VOSModel):
    frames, labels = _video(3, (52, 70), 3)
    prob = propagate(model, frames, labels, FIRST_RECENT)
    torch.testing.assert_close(prob.sum(0), torch.ones(3, 52, 70))
    assert torch.equal(prob[:, 0].argmax(0), labels.long())


def test_frames_to_come_do_not_change_a_frame(model: VOSModel):
    frames, labels = _video(6, (64, 64), 2)
    for policy in (MemoryPolicy("infinite", every=2), FIRST_RECENT):
        whole = propagate(model, frames, labels, policy)
        torch.testing.assert_close(propagate(model, frames[:4], labels, policy), whole[:, :4])


def test_the_query_encoder_runs_once_a_frame_and_the_last_value_is_never_encoded(
    model: VOSModel, monkeypatch: pytest.MonkeyPatch
):
    calls = {"encode_query": 0, "encode_value": 0}
    for name in calls:
        original = getattr(model, name)

        def counted(*args: Tensor, _name: str = name, _original=original):
            calls[_name] += 1
            return _original(*args)

        monkeypatch.setattr(model, name, counted)
    frames, labels = _video(7, (48, 48), 4)
    propagate(model, frames, labels, MemoryPolicy("infinite", every=3))
    assert calls == {"encode_query": 7, "encode_value": 2}  # frames 0 and 3; 6 is the last
    propagate(model, frames, labels, FIRST_RECENT)
    assert calls == {"encode_query": 14, "encode_value": 2 + 6}


def test_a_stream_is_read_one_frame_at_a_time(model: VOSModel):
    frames, labels = _video(4, (48, 48), 1)
    read = []

    def stream() -> Iterator[Tensor]:
        for t, frame in enumerate(frames):
            read.append(t)
            yield frame

    for t, _ in enumerate(iter_propagate(model, stream(), labels, FIRST_RECENT)):
        assert read == list(range(t + 1))


def test_an_object_appears_where_later_labels_put_it_and_is_followed_from_there(model: VOSModel):
    frames, _ = _video(6, (48, 64), 0)
    first, later = torch.zeros(48, 64, dtype=torch.uint8), torch.zeros(48, 64, dtype=torch.uint8)
    first[5:25, 5:25], later[10:40, 30:60] = 1, 2
    prob = torch.stack(list(iter_propagate(model, frames, first, INFINITE, {3: later})), 1)
    assert prob.shape[0] == 3
    assert not prob[2, :3].any()
    assert bool((prob[:, 3].argmax(0)[later == 2] == 2).all())
    assert bool((prob[2, 4:].amax((1, 2)) > 0).all())
    torch.testing.assert_close(prob.sum(0), torch.ones(6, 48, 64))
    alone = propagate(model, frames[:3], first, INFINITE)
    torch.testing.assert_close(prob[:2, :3], alone)


@pytest.mark.parametrize("policy", [INFINITE, FIRST_RECENT])
def test_an_object_that_appears_reads_only_frames_from_its_first_on(model: VOSModel, policy: MemoryPolicy):
    """With nothing known before, a video whose object appears in frame 3 is the video that starts there."""
    frames, labels = _video(6, (48, 64), 1)
    nothing = torch.zeros_like(labels)
    late = torch.stack(list(iter_propagate(model, frames, nothing, policy, {3: labels})), 1)
    torch.testing.assert_close(late[:, 3:], propagate(model, frames[3:], labels, policy))
    assert bool((late[0, :3] == 1).all())


def test_a_frame_with_given_masks_stays_in_every_memory(model: VOSModel, monkeypatch: pytest.MonkeyPatch):
    memories: list[Memory] = []

    class Watched(Memory):
        def __init__(self, policy: MemoryPolicy) -> None:
            super().__init__(policy)
            memories.append(self)

    monkeypatch.setattr("vos.inference.propagate.Memory", Watched)
    frames, labels = _video(8, (48, 48), 2)
    first, later = labels * (labels == 1), labels * (labels == 2)
    list(iter_propagate(model, frames, first, MemoryPolicy("infinite", every=3), {1: later}))
    assert [memory.frame_indices for memory in memories] == [(0, 1, 4), (1, 4)]


def test_known_ids_in_later_labels_are_left_alone(model: VOSModel):
    frames, labels = _video(4, (48, 48), 2)
    again = torch.stack(list(iter_propagate(model, frames, labels, INFINITE, {2: labels.flip(0)})), 1)
    torch.testing.assert_close(again, propagate(model, frames, labels, INFINITE))


def test_an_id_without_pixels_keeps_probability_zero(model: VOSModel):
    frames, labels = _video(3, (48, 48), 2)
    gap = labels.clone()
    gap[labels == 2] = 3
    prob = propagate(model, frames, gap, FIRST_RECENT)
    assert not prob[2].any()
    torch.testing.assert_close(prob[[0, 1, 3]], propagate(model, frames, labels, FIRST_RECENT))


def test_training_mode_is_given_back_and_does_not_change_the_result(model: VOSModel):
    torch.manual_seed(0)
    student = build("mobilevos-mobilenetv2-noaspp")
    frames, labels = _video(3, (48, 48), 1)
    expected = propagate(student.eval(), frames, labels, FIRST_RECENT)
    student.train()
    torch.testing.assert_close(propagate(student, frames, labels, FIRST_RECENT), expected)
    assert student.training
    assert not propagate(student, frames, labels, FIRST_RECENT).requires_grad


def test_labels_may_come_as_numpy_of_any_integer_type(model: VOSModel):
    frames, labels = _video(2, (48, 48), 2)
    expected = propagate(model, frames, labels, INFINITE)
    for dtype in (np.int64, np.int32, np.uint8):
        torch.testing.assert_close(propagate(model, frames, labels.numpy().astype(dtype), INFINITE), expected)


@pytest.mark.parametrize(
    ("mistake", "says"),
    [
        ({"frames": torch.zeros(0, 3, 32, 32)}, "T of 1 or more"),
        ({"frames": torch.zeros(2, 4, 32, 32)}, "(T, 3, H, W)"),
        ({"frames": torch.zeros(2, 3, 32, 48)}, "(3, 32, 32)"),
        ({"labels": torch.zeros(32, 32, dtype=torch.long)}, "no object"),
        ({"labels": torch.ones(32, 32)}, "integers"),
        ({"labels": torch.full((32, 32), 255, dtype=torch.uint8)}, "void"),
        ({"labels": torch.full((32, 32), -1)}, "outside"),
    ],
)
def test_a_wrong_input_is_answered_in_one_line(model: VOSModel, mistake: dict[str, Tensor], says: str):
    given = {"frames": torch.zeros(2, 3, 32, 32), "labels": torch.ones(32, 32, dtype=torch.long), **mistake}
    with pytest.raises(InputError) as error:
        propagate(model, given["frames"], given["labels"], FIRST_RECENT)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_later_labels_are_checked_before_the_first_frame(model: VOSModel):
    frames, labels = _video(2, (48, 48), 1)
    for wrong in ({0: labels}, {1: labels[:40]}):
        with pytest.raises(InputError, match="frame"):
            iter_propagate(model, frames, labels, FIRST_RECENT, wrong)


def _load_recipe(shared: Path):
    spec = importlib.util.spec_from_file_location("recipe", shared / "golden/recipe.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
