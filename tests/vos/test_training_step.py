"""One training step, without Ray."""

import copy
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from vos.config import LossConfig, TrainConfig
from vos.errors import InputError
from vos.models import build
from vos.objective import Targets, objective
from vos.segmentation import ClipSegmenter
from vos.training_step import TrainingStep

B, T, O, SIDE, N, RANK = 2, 3, 3, 32, 20, 4
CONFIG = TrainConfig(steps=10, batch=B, loss=LossConfig(representation=0.1, kd=1.0))


def batch() -> tuple[Tensor, Tensor, Tensor, Targets]:
    """Two clips, of one and of two objects, where a clip may have three."""
    random = torch.Generator().manual_seed(0)
    frames = torch.randn(B, T, 3, SIDE, SIDE, generator=random)
    labels = torch.zeros(B, T, SIDE, SIDE, dtype=torch.uint8)
    labels[:, :, 4:14, 4:20] = 1
    labels[1, :, 18:28, 6:26] = 2
    h = SIDE // 4
    logits = torch.randn(B, T - 1, O, h, h, generator=random)
    counts = torch.tensor([1, 2])
    logits *= (torch.arange(O) < counts[:, None])[:, None, :, None, None]
    targets = Targets(
        torch.stack([torch.randperm(h * h, generator=random)[:N] for _ in range(B * (T - 1))]).view(B, T - 1, N),
        torch.randint(0, 2, (B, T - 1, N), generator=random),
        torch.nn.functional.normalize(torch.randn(B, T - 1, N, RANK, generator=random), dim=-1),
        logits,
        torch.ones(B, T - 1, h, h),
    )
    return frames, labels, counts, targets


def model():
    torch.manual_seed(0)
    return build("mobilevos-tiny").train()


def test_leaving_out_objects_that_no_clip_has_changes_no_term():
    frames, labels, counts, targets = batch()
    whole = model()
    output = ClipSegmenter(whole)(frames, labels[:, 0], counts, O)
    _, wanted = objective(output, labels, counts, targets, CONFIG.loss, 0, CONFIG.steps)
    terms, _ = TrainingStep(model(), CONFIG)(0, frames, labels, counts, targets, [0, 1])
    assert terms.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(terms[name], value, rtol=1e-5, atol=1e-6)


def test_steps_lower_the_loss_and_the_average_follows_the_weights():
    frames, labels, counts, targets = batch()
    take = TrainingStep(model(), replace(CONFIG, steps=30))
    before = {name: value.clone() for name, value in take.average.state_dict().items()}
    totals = [float(take(step, frames, labels, counts, targets, [0, 1])[0]["total"]) for step in range(12)]
    assert totals[-1] < totals[0]
    assert any(not torch.equal(value, before[name]) for name, value in take.average.state_dict().items())


def test_a_restored_step_goes_on_as_the_one_that_was_saved():
    frames, labels, counts, targets = batch()
    first, second = TrainingStep(model(), CONFIG), TrainingStep(model(), CONFIG)
    for step in range(2):
        first(step, frames, labels, counts, targets, [0, 1])
    second.restore(copy.deepcopy(first.state()))  # as a file does: nothing is shared
    for take in (first, second):
        take(2, frames, labels, counts, targets, [0, 1])
    for one, other in zip(first.average.state_dict().values(), second.average.state_dict().values(), strict=True):
        assert torch.equal(one, other)


def test_a_loss_that_is_not_finite_names_its_draws_and_leaves_the_weights():
    frames, labels, counts, targets = batch()
    take = TrainingStep(model(), CONFIG)
    before = {name: value.clone() for name, value in take.model.named_parameters()}
    with pytest.raises(InputError, match=r"step 4.*draws \[7, 9\]"):
        take(4, frames * float("nan"), labels, counts, targets, [7, 9])
    assert all(torch.equal(value, before[name]) for name, value in take.model.named_parameters())
