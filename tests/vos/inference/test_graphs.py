"""The graphs of a step: a loop over them is the reference loop, and their parts are exact rewritings."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vos.data.transforms import to_tensor
from vos.inference.graphs import GRAPHS, Enlarge4, Step, aggregate, inference_copy, read_two_frames
from vos.inference.propagate import iter_propagate
from vos.models import VOSModel, build
from vos.models.encoders import FeatureFusionBlock
from vos.models.memory import MemoryPolicy, read_memory, soft_aggregate


@torch.no_grad()
def test_a_loop_over_the_step_graph_is_the_reference_loop(model: VOSModel):
    rng = np.random.default_rng(0)
    frames = np.repeat(np.repeat(rng.integers(0, 256, (5, 10, 13, 3), dtype=np.uint8), 8, 1), 8, 2)[:, :70, :100]
    labels = np.zeros((70, 100), np.uint8)
    labels[10:40, 10:40], labels[30:60, 50:90] = 1, 2
    policy = MemoryPolicy("first_recent", top_k=None)
    expected = list(iter_propagate(model, to_tensor(frames), torch.from_numpy(labels), policy))
    start, step = GRAPHS["start"](model), GRAPHS["step"](model)
    key, value = start(torch.from_numpy(frames[0]), torch.from_numpy(labels), torch.tensor([1, 2], dtype=torch.uint8))
    first = key.repeat(2, 1, 1, 1), value
    for index in range(1, 5):
        masks, prob, key, value = step(torch.from_numpy(frames[index]), *first, key, value)
        torch.testing.assert_close(prob, expected[index], atol=2e-5, rtol=0)
        assert (masks == prob.argmax(0)).all()


def test_the_fused_reading_is_that_of_the_memory():
    torch.manual_seed(0)
    first_key, recent_key, key = torch.randn(1, 16, 5, 6), torch.randn(1, 16, 5, 6), torch.randn(1, 16, 5, 6)
    first_value, recent_value = torch.randn(3, 8, 5, 6), torch.randn(3, 8, 5, 6)
    expected = read_memory(
        torch.stack((first_key, recent_key), 2), torch.stack((first_value, recent_value), 2).unsqueeze(0), key
    )
    got = read_two_frames(key, first_key.repeat(3, 1, 1, 1), first_value, recent_key, recent_value)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_objects_that_began_together_are_read_at_once_as_they_are_one_by_one():
    torch.manual_seed(0)
    first_key, recent_key, key = torch.randn(1, 16, 5, 6), torch.randn(1, 16, 5, 6), torch.randn(1, 16, 5, 6)
    first_value, recent_value = torch.randn(3, 8, 5, 6), torch.randn(3, 8, 5, 6)
    expected = read_two_frames(key, first_key.repeat(3, 1, 1, 1), first_value, recent_key, recent_value)
    got = read_two_frames(key, first_key, first_value, recent_key, recent_value, together=True)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_the_part_of_a_fusion_that_objects_share_is_that_of_each():
    torch.manual_seed(0)
    block = FeatureFusionBlock(24 + 16, 32)
    values, query = torch.randn(3, 24, 5, 6), torch.randn(1, 16, 5, 6)
    expected = block(values, query.repeat(3, 1, 1, 1))
    block.share_query(24)
    torch.testing.assert_close(block(values, query), expected, atol=1e-5, rtol=1e-5)


def test_the_first_memory_in_place_of_the_recent_one_changes_nothing():
    torch.manual_seed(0)
    memory_key, key, value = torch.randn(1, 16, 5, 6), torch.randn(1, 16, 5, 6), torch.randn(2, 8, 5, 6)
    twice = read_two_frames(key, memory_key.repeat(2, 1, 1, 1), value, memory_key, value)
    once = read_memory(memory_key.unsqueeze(2), value.unsqueeze(2).unsqueeze(0), key)
    torch.testing.assert_close(twice, once, atol=1e-5, rtol=0)


@pytest.mark.parametrize("objects", [1, 2, 4])
def test_normalised_odds_are_the_softmax_of_soft_aggregation(objects: int):
    prob = torch.rand(objects, 9, 7)
    prob[:, 0] = torch.tensor([0.0, 1.0, 0.5, 1e-9, 1 - 1e-9, 0.3, 0.9])
    torch.testing.assert_close(aggregate(prob), soft_aggregate(prob).softmax(0), atol=1e-5, rtol=0)


def test_enlarging_by_a_convolution_is_bilinear_interpolation():
    x = 10 * torch.randn(3, 7, 5)
    expected = F.interpolate(x[None], scale_factor=4, mode="bilinear", align_corners=False)[0]
    torch.testing.assert_close(Enlarge4()(x), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("name", "preprocessing"), [("mobilevos-mobilenetv2", "tensorflow"), ("stcn", "imagenet")])
@torch.no_grad()
def test_folding_batch_norm_leaves_the_network_the_same(name: str, preprocessing: str):
    torch.manual_seed(0)
    model = build(name, preprocessing).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            assert module.running_mean is not None and module.running_var is not None
            module.running_mean.normal_(0, 0.1)
            module.running_var.uniform_(0.5, 1.5)
    folded = inference_copy(model)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in folded.modules())
    frame = torch.randn(1, 3, 64, 96)
    for one, two in zip(model.encode_query(frame), folded.encode_query(frame), strict=True):
        torch.testing.assert_close(one, two, atol=1e-4 * float(one.abs().max()), rtol=0)


def test_exchanging_two_objects_exchanges_their_probabilities(model: VOSModel):
    torch.manual_seed(0)
    frame = torch.randint(0, 256, (64, 80, 3), dtype=torch.uint8)
    first_key, recent_key = torch.randn(1, 32, 4, 5).repeat(2, 1, 1, 1), torch.randn(1, 32, 4, 5)
    first, recent = torch.randn(2, 32, 4, 5), torch.randn(2, 32, 4, 5)
    with torch.no_grad():
        prob = Step(model)(frame, first_key, first, recent_key, recent)[1]
        swapped = Step(model)(frame, first_key, first.flip(0), recent_key, recent.flip(0))[1]
    torch.testing.assert_close(prob[[0, 2, 1]], swapped, atol=1e-5, rtol=0)
