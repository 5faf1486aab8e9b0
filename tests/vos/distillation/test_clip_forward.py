"""A clip through a network: which frames are remembered, what padded objects may not do, and what is sampled."""

import pytest
import torch
from torch import Tensor

from vos.distillation.clip_forward import GRID_STRIDE, ClipOutput, ClipSegmenter, Context, grid_labels, sampled_features
from vos.distillation.representation import correlation
from vos.models import VOSModel, build

SIDE = 32


@pytest.fixture(scope="module")
def model() -> VOSModel:
    torch.manual_seed(0)
    return build("mobilevos-tiny").eval()


def clips(num_clips: int, num_frames: int, num_objects: int) -> tuple[Tensor, Tensor]:
    """Frames (B, T, 3, H, W) and first labels (B, H, W) with `num_objects` stripes."""
    random = torch.Generator().manual_seed(1)
    frames = torch.randn(num_clips, num_frames, 3, SIDE, SIDE, generator=random)
    stripes = torch.arange(SIDE) * (num_objects + 1) // SIDE
    return frames, torch.stack([stripes.roll(7 * b).expand(SIDE, SIDE).T for b in range(num_clips)])


@torch.no_grad()
def segment(
    model: VOSModel,
    frames: Tensor,
    labels: Tensor,
    counts: list[int],
    max_objects: int,
    infinite: bool = False,
    top_k: int | None = None,
) -> ClipOutput:
    return ClipSegmenter(model, infinite, top_k)(frames, labels, torch.tensor(counts), max_objects)


def assert_same(one: ClipOutput, other: ClipOutput) -> None:
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


def test_both_memories_are_the_same_in_a_clip_of_three_frames(model: VOSModel):
    frames, labels = clips(1, 3, 2)
    assert_same(segment(model, frames, labels, [2], 2), segment(model, frames, labels, [2], 2, infinite=True))


def test_both_memories_differ_from_the_fourth_frame_on_and_not_before(model: VOSModel):
    frames, labels = clips(1, 4, 2)
    recent, infinite = (segment(model, frames, labels, [2], 2, kind).logits for kind in (False, True))
    torch.testing.assert_close(recent[:, :2], infinite[:, :2])
    assert (recent[:, 2] - infinite[:, 2]).abs().max() > 1e-4


def test_reading_as_many_positions_as_there_are_is_reading_all(model: VOSModel):
    frames, labels = clips(1, 3, 1)
    positions = 2 * (SIDE // 16) ** 2
    assert_same(
        segment(model, frames, labels, [1], 1, top_k=positions), segment(model, frames, labels, [1], 1, top_k=None)
    )
    few = segment(model, frames, labels, [1], 1, top_k=1).logits
    assert (few - segment(model, frames, labels, [1], 1).logits).abs().max() > 1e-4


def test_padding_for_a_third_object_changes_nothing_for_the_two_that_exist(model: VOSModel):
    frames, labels = clips(1, 4, 2)
    two, three = (segment(model, frames, labels, [2], most) for most in (2, 3))
    torch.testing.assert_close(three.logits[:, :, :3], two.logits, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(three.features[:, :, :2], two.features, rtol=1e-4, atol=1e-4)
    assert not three.object_logits[:, :, 2].any() and not three.features[:, :, 2].any()
    assert torch.softmax(three.logits, 2)[:, :, 3].max() < 1e-4


def test_labels_above_the_number_of_objects_are_background(model: VOSModel):
    frames, labels = clips(1, 3, 2)
    assert_same(segment(model, frames, labels, [1], 2), segment(model, frames, labels.where(labels < 2, 0), [1], 2))


def test_a_batch_of_two_clips_is_two_batches_of_one(model: VOSModel):
    frames, labels = clips(2, 4, 2)
    together = segment(model, frames, labels, [2, 1], 2)
    alone = [segment(model, frames[b : b + 1], labels[b : b + 1], [2 - b], 2) for b in range(2)]
    assert_same(together, ClipOutput(*(torch.cat(parts) for parts in zip(*alone, strict=True))))


def test_swapping_two_objects_swaps_their_channels_and_nothing_else(model: VOSModel):
    frames, labels = clips(1, 4, 2)
    swapped = torch.tensor([0, 2, 1])[labels]
    one, other = (segment(model, frames, given, [2], 2) for given in (labels, swapped))
    torch.testing.assert_close(one.logits, other.logits[:, :, [0, 2, 1]], rtol=1e-4, atol=1e-4)


def test_a_frame_depends_on_no_later_frame(model: VOSModel):
    frames, labels = clips(1, 4, 2)
    later = frames.clone()
    later[:, 3] += 1
    one, other = (segment(model, given, labels, [2], 2).logits for given in (frames, later))
    torch.testing.assert_close(one[:, :2], other[:, :2])
    assert (one[:, 2] - other[:, 2]).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["mobilevos-tiny", "teacher-small"])
def test_gradients_reach_every_parameter_in_a_clip_of_three_frames(name: str):
    torch.manual_seed(0)
    segmenter = ClipSegmenter(build(name).train())
    frames, labels = clips(2, 3, 2)
    output = segmenter(frames, labels, torch.tensor([2, 1]), 2)
    torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.repeat_interleave(2, 0)).backward()
    without = [n for n, p in segmenter.named_parameters() if p.grad is None or not p.grad.any()]
    assert without == []
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in segmenter.parameters())


def test_what_was_predicted_for_a_frame_is_what_the_next_one_remembers(model: VOSModel):
    """The last frame's logits have a gradient with respect to a bias that only shifts what frame 1 predicts."""
    frames, labels = clips(1, 3, 1)
    output = ClipSegmenter(model)(frames, labels, torch.tensor([1]), 1)
    shift = torch.zeros(1, requires_grad=True)
    decode, calls = model.decode, []

    def shifted(query, readout):  # the first query frame alone is shifted
        calls.append(None)
        decoded = decode(query, readout)
        return decoded._replace(logits=decoded.logits + shift) if len(calls) == 1 else decoded

    model.decode = shifted
    try:
        again = ClipSegmenter(model)(frames, labels, torch.tensor([1]), 1)
    finally:
        del model.decode
    torch.testing.assert_close(again.logits, output.logits)
    (gradient,) = torch.autograd.grad(again.object_logits[:, 1].sum(), shift)
    assert gradient.abs() > 0


def test_the_grid_takes_the_label_at_each_cells_centre():
    cells = torch.randint(0, 4, (2, 3, 5, 6))
    labels = cells.repeat_interleave(GRID_STRIDE, 2).repeat_interleave(GRID_STRIDE, 3)
    assert torch.equal(grid_labels(labels), cells)
    for shift in (-1, 1):  # a border moved by one pixel stays on its side of the centres
        assert torch.equal(grid_labels(labels.roll(shift, 3))[..., 1:-1], cells[..., 1:-1])


def test_the_grid_of_labels_is_the_grid_of_the_networks_logits(model: VOSModel):
    frames, labels = clips(1, 2, 1)
    output = segment(model, frames, labels, [1], 1)
    assert grid_labels(labels).shape == output.object_logits[:, 0, 0].shape == output.features[:, 0, 0, 0].shape


def test_sampled_features_are_those_of_the_named_cells_objects_side_by_side():
    B, Q, O, C, h, w = 2, 2, 3, 4, 5, 6
    features, index = torch.randn(B, Q, O, C, h, w), torch.stack([torch.randperm(h * w)[:7] for _ in range(4)])
    index = index.view(B, Q, 7).to(torch.uint8)
    sampled = sampled_features(features, index)
    for b, q, n in ((0, 0, 0), (0, 1, 3), (1, 0, 6), (1, 1, 2)):
        y, x = divmod(int(index[b, q, n]), w)
        torch.testing.assert_close(sampled[b, q, n], features[b, q, :, :, y, x].flatten())


def test_the_correlation_of_sampled_features_depends_on_neither_order_nor_absence_of_objects():
    features, index = torch.randn(1, 1, 3, 4, 5, 6), torch.arange(0, 30, 2)[None, None]
    wanted = correlation(sampled_features(features, index))
    absent = torch.zeros(1, 1, 2, 4, 5, 6)
    torch.testing.assert_close(correlation(sampled_features(features[:, :, [2, 0, 1]], index)), wanted)
    torch.testing.assert_close(correlation(sampled_features(torch.cat((features, absent), 2), index)), wanted)


# Context frames.


@torch.no_grad()
def with_context(model: VOSModel, frames: Tensor, labels: Tensor, context: Context | None) -> ClipOutput:
    return ClipSegmenter(model, infinite=True)(frames, labels, torch.tensor([2]), 2, context)


def test_a_longer_clip_is_a_shorter_one_whose_context_is_the_rest(model: VOSModel):
    """Frames 0, 2, 4 with 1 and 3 as context are the clip 0 to 4, of which only two frames are returned."""
    frames, labels = clips(1, 5, 2)
    whole = with_context(model, frames, labels, None)
    context = Context(frames[:, [1, 3]], None, (3, 1, 4, 2))
    part = with_context(model, frames[:, [0, 2, 4]], labels, context)
    assert part.logits.shape[1] == 2
    assert_same(part, ClipOutput(*(value[:, [1, 3]] for value in whole)))


def test_true_masks_of_context_frames_are_remembered_instead_of_the_predicted_ones(model: VOSModel):
    frames, labels = clips(1, 4, 2)
    clip, shown = frames[:, :3], frames[:, 3:]
    truth = [labels[:, None], labels[:, None].flip(-2)]
    told = [with_context(model, clip, labels, Context(shown, one, (3, 1, 2))) for one in truth]
    own = with_context(model, clip, labels, Context(shown, None, (3, 1, 2)))
    alone = with_context(model, clip, labels, None)
    answers = [*told, own, alone]
    for i, one in enumerate(answers):
        assert all(not torch.equal(one.logits, other.logits) for other in answers[i + 1 :])


def test_context_after_the_last_query_frame_changes_nothing(model: VOSModel):
    frames, labels = clips(1, 4, 2)
    late = Context(frames[:, 3:], None, (1, 2, 3))
    assert_same(with_context(model, frames[:, :3], labels, late), with_context(model, frames[:, :3], labels, None))


def test_a_finite_memory_takes_no_context(model: VOSModel):
    frames, labels = clips(1, 3, 1)
    with pytest.raises(AssertionError, match="no place for context"):
        ClipSegmenter(model)(frames, labels, torch.tensor([1]), 1, Context(frames[:, 1:2], None, (3, 1, 2)))
