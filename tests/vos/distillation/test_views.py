"""Averages over views of a clip."""

import pytest
import torch

from vos.distillation.clip_forward import ClipSegmenter, Context
from vos.distillation.views import View, segment_views, views_of
from vos.models import VOSModel


@pytest.fixture(scope="module")
def clip() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    generator = torch.Generator().manual_seed(0)
    frames = torch.randn(1, 3, 3, 64, 64, generator=generator)
    labels = torch.zeros(1, 64, 64, dtype=torch.uint8)
    labels[:, 10:40, 8:30], labels[:, 30:60, 36:60] = 1, 2
    return frames, labels, torch.tensor([2]), 2


@pytest.fixture(scope="module")
def segmenter(model: VOSModel) -> ClipSegmenter:
    return ClipSegmenter(model, infinite=True, top_k=20).eval()


def test_the_clip_as_it_is_comes_first_and_no_view_twice():
    assert views_of((), False) == [View(1.0, False)]
    assert views_of((1.0, 1.5), True) == [View(1.0, False), View(1.0, True), View(1.5, False), View(1.5, True)]


@torch.inference_mode()
def test_one_view_is_the_segmenter_itself(segmenter, clip):
    logits, features = segment_views(segmenter, views_of((), False), *clip)
    output = segmenter(*clip)
    assert torch.equal(logits, output.object_logits) and torch.equal(features, output.features)


@torch.inference_mode()
def test_mirrored_views_give_a_mirrored_clip_mirrored_logits(segmenter, clip):
    frames, labels, *rest = clip
    views = views_of((1.5,), True)
    logits, _ = segment_views(segmenter, views, *clip)
    mirrored, _ = segment_views(segmenter, views, frames.flip(-1), labels.flip(-1), *rest)
    torch.testing.assert_close(mirrored.flip(-1), logits, atol=2e-3, rtol=1e-3)


@torch.inference_mode()
def test_the_mean_lies_between_the_views_and_the_features_are_those_of_the_first(segmenter, clip):
    alone = [segment_views(segmenter, [view], *clip)[0] for view in views_of((), True)]
    alone[1] = alone[1].flip(-1)
    logits, features = segment_views(segmenter, views_of((), True), *clip)
    low, high = (extreme(torch.stack(alone), 0).values for extreme in (torch.min, torch.max))
    assert bool(((logits >= low - 1e-3) & (logits <= high + 1e-3)).all())
    assert torch.equal(features, segmenter(*clip).features)


@torch.inference_mode()
def test_context_frames_are_seen_in_every_view(segmenter, clip):
    frames, *_ = clip
    context = Context(frames[:, 1:].flip(1), None, (3, 1, 4, 2))
    views = views_of((0.5,), True)
    with_context, _ = segment_views(segmenter, views, *clip, context=context)
    without, _ = segment_views(segmenter, views, *clip)
    assert with_context.shape == without.shape and not torch.equal(with_context, without)
