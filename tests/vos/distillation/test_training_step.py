"""One training step, without Ray."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from vos.config import LossConfig, TrainConfig
from vos.distillation.clip_forward import ClipSegmenter
from vos.distillation.losses import Targets
from vos.distillation.objective import objective
from vos.distillation.training_step import TrainingStep
from vos.errors import InputError
from vos.models import build

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
    terms = TrainingStep(model(), CONFIG)(0, frames, labels, counts, targets, [0, 1])
    assert terms.keys() == wanted.keys() | {"lr", "grad_norm"}
    for name, value in wanted.items():
        assert terms[name] == pytest.approx(value.item(), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("kd_boundary", [False, True])
def test_clips_that_pass_one_at_a_time_give_the_step_of_the_whole_batch(kd_boundary: bool):
    frames, labels, counts, targets = batch()
    targets = targets._replace(boundary=(torch.rand(targets.boundary.shape) < 0.3).float())
    config = replace(CONFIG, loss=replace(CONFIG.loss, kd_boundary=kd_boundary))
    whole, parts = TrainingStep(model(), config), TrainingStep(model(), replace(config, micro_batch=1))
    for step in range(3):
        together, apart = (take(step, frames, labels, counts, targets, [0, 1]) for take in (whole, parts))
        assert apart == pytest.approx(together, rel=1e-5)


def test_fewer_columns_of_the_factor_are_another_target_and_all_of_them_the_same():
    frames, labels, counts, targets = batch()

    def first_loss(rank: int) -> float:
        take = TrainingStep(model(), replace(CONFIG, loss=replace(CONFIG.loss, rank=rank)))
        return take(0, frames, labels, counts, targets, [0, 1])["representation"]

    assert first_loss(RANK) == first_loss(0) != first_loss(1)


def test_steps_lower_the_loss_and_the_average_follows_the_weights():
    frames, labels, counts, targets = batch()
    take = TrainingStep(model(), replace(CONFIG, steps=30))
    before = {name: value.clone() for name, value in take.average.state_dict().items()}
    totals = [float(take(step, frames, labels, counts, targets, [0, 1])["total"]) for step in range(12)]
    assert totals[-1] < totals[0]
    assert any(not torch.equal(value, before[name]) for name, value in take.average.state_dict().items())


def test_a_restored_step_goes_on_as_the_one_that_was_saved():
    frames, labels, counts, targets = batch()
    first, second = TrainingStep(model(), CONFIG), TrainingStep(model(), CONFIG)
    for step in range(2):
        first(step, frames, labels, counts, targets, [0, 1])
    second.restore(load(save({name: value.contiguous() for name, value in first.state().items()})))
    for step in (2, 3):
        for take in (first, second):
            take(step, frames, labels, counts, targets, [0, 1])
    wanted, found = first.state(), second.state()
    assert wanted.keys() == found.keys()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())


def test_a_loss_that_is_not_finite_names_the_draw_and_leaves_the_weights():
    frames, labels, counts, targets = batch()
    take = TrainingStep(model(), CONFIG)
    before = {name: value.clone() for name, value in take.model.named_parameters()}
    with pytest.raises(InputError, match=r"step 4.*draws \[9\]"):
        frames[1] = float("nan")
        take(4, frames, labels, counts, targets, [7, 9])
    assert all(torch.equal(value, before[name]) for name, value in take.model.named_parameters())
