"""The training objective: its terms, their weights, and what each of them may depend on."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from vos.config import LossConfig
from vos.distillation.clip_forward import ClipOutput
from vos.distillation.losses import Targets
from vos.distillation.objective import objective
from vos.models.memory import soft_aggregate

B, Q, O, C, H, N, RANK = 2, 2, 2, 6, 32, 40, 8
h = H // 4
STEPS = 100
COUNTS = [2, 1]
LOSS = LossConfig(kd=0.7, temperature=2.0, representation=0.3, w=0.6, dice=0.4, density=0.5, hardest=0.2)


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def present() -> Tensor:
    """(B, 1, O, 1, 1), 1 where the clip has the object."""
    return (torch.arange(1, O + 1) <= torch.tensor(COUNTS)[:, None]).float()[:, None, :, None, None]


def student() -> ClipOutput:
    object_logits = 2 * torch.randn(B, Q, O, h, h) * present()
    prob = torch.sigmoid(torch.nn.functional.interpolate(object_logits.flatten(0, 1), scale_factor=4.0)) * (
        present().expand(B, Q, O, 1, 1).flatten(0, 1)
    )
    features = torch.randn(B, Q, O, C, h, h) * present()[..., None]
    return ClipOutput(soft_aggregate(prob).unflatten(0, (B, Q)), object_logits, features)


def truth() -> Tensor:
    labels = torch.randint(0, O + 1, (B, Q + 1, H, H))
    return torch.minimum(labels, torch.tensor(COUNTS)[:, None, None, None])


def teacher() -> Targets:
    index = torch.stack([torch.randperm(h * h)[:N] for _ in range(B * Q)]).view(B, Q, N)
    factor = torch.nn.functional.normalize(torch.randn(B, Q, N, RANK), dim=-1)
    logits, boundary = 3 * torch.randn(B, Q, O, h, h) * present(), (torch.rand(B, Q, h, h) < 0.3).float()
    return Targets(index, torch.randint(0, 2, (B, Q, N)), factor, logits, boundary)


def terms_of(
    output: ClipOutput, labels: Tensor, targets: Targets | None, loss: LossConfig = LOSS, step: int = 0
) -> dict[str, Tensor]:
    total, terms = objective(output, labels, torch.tensor(COUNTS), targets, loss, step, STEPS)
    assert total is terms["total"]
    return terms


def assert_equal_terms(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], msg=lambda text, name=name: f"{name}: {text}")


def test_the_total_is_the_weighted_sum_of_the_terms():
    terms = terms_of(student(), truth(), teacher())
    count = LOSS.density * N  # the weight is on the bracket of equation 1, which divides by |S|
    wanted = (
        terms["cross_entropy"]
        + LOSS.dice * terms["dice"]
        + LOSS.kd * terms["kd"]
        + LOSS.representation * count * terms["representation"]
    )
    torch.testing.assert_close(terms["total"], wanted)


@pytest.mark.parametrize(
    ("switched_off", "term"),
    [({"kd": 0.0}, "kd"), ({"representation": 0.0}, "representation"), ({"dice": 0.0}, "dice")],
)
def test_a_weight_of_zero_takes_its_term_out_and_leaves_the_others(switched_off: dict[str, Any], term: str):
    output, labels, targets = student(), truth(), teacher()
    every, fewer = (terms_of(output, labels, targets, loss) for loss in (LOSS, replace(LOSS, **switched_off)))
    assert fewer.keys() == every.keys() - {term}
    for name in fewer.keys() - {"total"}:
        torch.testing.assert_close(fewer[name], every[name])


def test_without_weights_of_distillation_the_targets_make_no_difference():
    output, labels = student(), truth()
    plain = replace(LOSS, kd=0.0, representation=0.0)
    assert_equal_terms(terms_of(output, labels, teacher(), plain), terms_of(output, labels, None))


def test_the_kd_term_and_its_gradient_vanish_at_the_students_own_logits():
    output = student()
    logits = output.object_logits.requires_grad_()
    targets = teacher()._replace(object_logits=logits.detach().clone())
    kd = terms_of(output, truth(), targets)["kd"]
    (gradient,) = torch.autograd.grad(kd, logits)
    assert kd.abs() < 1e-6 and gradient.abs().max() < 1e-6
    assert terms_of(output, truth(), teacher())["kd"] > 1e-2


def test_the_representation_term_reads_only_the_prefix_that_the_density_names():
    output, labels, targets = student(), truth(), teacher()
    count = round(LOSS.density * N)
    index, label, factor, logits, _ = (part.clone() for part in targets)
    index[..., count:], label[..., count:], factor[:, :, count:] = 0, 7, 9.0
    changed = Targets(index, label, factor, logits, targets.boundary)
    assert_equal_terms(terms_of(output, labels, changed), terms_of(output, labels, targets))
    dense = replace(LOSS, density=1.0)
    difference = terms_of(output, labels, changed, dense)["total"] - terms_of(output, labels, targets, dense)["total"]
    assert difference.abs() > 1e-4


def test_the_smallest_density_still_compares_two_pixels():
    terms = terms_of(student(), truth(), teacher(), replace(LOSS, density=1e-6))
    assert torch.isfinite(terms["representation"])


@pytest.mark.parametrize(("w", "reads_factor", "reads_labels"), [(0.0, False, True), (1.0, True, False)])
def test_w_decides_between_the_teachers_correlations_and_the_labels(w: float, reads_factor: bool, reads_labels: bool):
    output, labels, targets = student(), truth(), teacher()

    def value(targets: Targets) -> Tensor:
        return terms_of(output, labels, targets, replace(LOSS, w=w))["representation"]

    other_factor = targets._replace(factor=targets.factor.roll(1, dims=2))
    other_labels = targets._replace(sample_label=1 - targets.sample_label.roll(1, dims=2))
    assert bool((value(other_factor) - value(targets)).abs() > 1e-6) is reads_factor
    assert bool((value(other_labels) - value(targets)).abs() > 1e-6) is reads_labels


def test_the_teachers_logits_of_an_absent_object_change_nothing():
    output, labels, targets = student(), truth(), teacher()
    noise = 50 * torch.randn(B, Q, O, h, h) * (1 - present())
    assert noise.any()
    changed = targets._replace(object_logits=targets.object_logits + noise)
    assert_equal_terms(terms_of(output, labels, changed), terms_of(output, labels, targets))


def test_the_students_logits_of_an_absent_object_change_nothing_and_get_no_gradient():
    output, labels, targets = student(), truth(), teacher()
    object_logits = (output.object_logits + 5 * (1 - present())).requires_grad_()
    terms = terms_of(output._replace(object_logits=object_logits), labels, targets)
    assert_equal_terms(terms, terms_of(output, labels, targets))
    (gradient,) = torch.autograd.grad(terms["total"], object_logits)
    assert gradient.any() and not (gradient * (1 - present())).any()


def test_room_for_an_absent_object_changes_no_term_however_soft_the_logits():
    """At a high temperature even a logit of -16 takes a share, unless absent objects are left out of the softmax."""
    output, labels, targets = student(), truth(), teacher()
    only = slice(1, 2)  # the clip of one object
    soft = replace(LOSS, temperature=20.0)
    padded = ClipOutput(*(part[only] for part in output)), Targets(*(part[only] for part in targets))
    tight = (
        ClipOutput(padded[0].logits[:, :, :2], padded[0].object_logits[:, :, :1], padded[0].features[:, :, :1]),
        padded[1]._replace(object_logits=padded[1].object_logits[:, :, :1]),
    )
    terms = [
        objective(clip, labels[only], torch.tensor([1]), goal, soft, 0, STEPS)[1] for clip, goal in (padded, tight)
    ]
    assert_equal_terms(*terms)


def test_the_loss_of_a_batch_is_the_mean_of_its_clips_losses():
    """So that the mean over workers is the loss of the whole batch, however many workers share it."""
    output, labels, targets = student(), truth(), teacher()
    step = STEPS // 2
    whole = objective(output, labels, torch.tensor(COUNTS), targets, LOSS, step, STEPS)[1]
    parts = []
    for b in range(B):
        one = slice(b, b + 1)
        clip, target = ClipOutput(*(part[one] for part in output)), Targets(*(part[one] for part in targets))
        parts.append(objective(clip, labels[one], torch.tensor(COUNTS[one]), target, LOSS, step, STEPS)[1])
    assert_equal_terms(whole, {name: torch.stack([part[name] for part in parts]).mean() for name in whole})


def test_the_first_frame_is_given_and_enters_no_term():
    output, labels, targets = student(), truth(), teacher()
    other = labels.clone()
    other[:, 0] = 0
    assert_equal_terms(terms_of(output, other, targets), terms_of(output, labels, targets))


def test_cross_entropy_narrows_to_the_hardest_pixels_as_training_goes_on():
    output, labels = student(), truth()
    values = [float(terms_of(output, labels, None, step=step)["cross_entropy"]) for step in range(0, STEPS, 5)]
    assert values[0] == values[STEPS // 5 // 5]  # all pixels during the first fifth
    assert values == sorted(values) and values[-1] > values[0]
    assert values[-1] == values[STEPS * 7 // 10 // 5]  # and no change after 70 %


@pytest.mark.parametrize("size", [0.0, 1e4])
def test_extreme_logits_give_a_finite_loss_and_gradient(size: float):
    object_logits = (size * torch.randn(B, Q, O, h, h).sign() * present()).requires_grad_()
    targets = teacher()._replace(object_logits=-object_logits.detach())
    output = student()._replace(object_logits=object_logits)
    terms = terms_of(output, truth(), targets)
    (gradient,) = torch.autograd.grad(terms["total"], object_logits)
    assert torch.isfinite(terms["total"]) and torch.isfinite(gradient).all()


def test_the_divergence_on_the_boundary_does_not_see_the_other_cells():
    output, labels, targets = student(), truth(), teacher()
    on_boundary = replace(LOSS, kd_boundary=True)
    elsewhere = targets.object_logits + 5 * (1 - targets.boundary)[:, :, None] * present()
    changed = targets._replace(object_logits=elsewhere)
    torch.testing.assert_close(
        terms_of(output, labels, changed, on_boundary)["kd"], terms_of(output, labels, targets, on_boundary)["kd"]
    )
    assert not torch.isclose(terms_of(output, labels, changed)["kd"], terms_of(output, labels, targets)["kd"])


def test_poly_and_jaccard_enter_with_their_weights():
    output, labels = student(), truth()
    plain, both = terms_of(output, labels, None), terms_of(output, labels, None, replace(LOSS, poly=1.0, jaccard=0.3))
    assert both["cross_entropy"] > plain["cross_entropy"]
    expected = plain["total"] + both["cross_entropy"] - plain["cross_entropy"] + 0.3 * both["jaccard"]
    torch.testing.assert_close(both["total"], expected)
