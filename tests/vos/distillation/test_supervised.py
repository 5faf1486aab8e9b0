"""Properties of the supervised terms."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from vos.distillation.supervised import (
    bootstrap_keep,
    bootstrapped_cross_entropy,
    dice_loss,
    jaccard_loss,
    mask_absent_objects,
    poly_cross_entropy,
)
from vos.errors import InputError


def make_batch(seed: int = 0, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(2, 4, 9, 11, generator=generator, dtype=dtype)
    return logits, torch.randint(0, 4, (2, 9, 11), generator=generator)


def test_keeping_every_pixel_is_plain_cross_entropy():
    logits, labels = make_batch()
    torch.testing.assert_close(bootstrapped_cross_entropy(logits, labels, keep=1.0), F.cross_entropy(logits, labels))


@settings(max_examples=30, deadline=None)
@given(keep=st.floats(0.001, 1.0), seed=st.integers(0, 99))
def test_the_kept_pixels_are_the_hardest_share_of_each_image(keep, seed):
    logits, labels = make_batch(seed)
    losses = F.cross_entropy(logits, labels, reduction="none").flatten(1).sort(dim=1, descending=True).values
    expected = losses[:, : max(1, round(keep * losses.shape[1]))].mean()
    torch.testing.assert_close(bootstrapped_cross_entropy(logits, labels, keep), expected)


def test_only_kept_pixels_receive_a_gradient():
    logits, labels = make_batch()
    logits.requires_grad_()
    (slope,) = torch.autograd.grad(bootstrapped_cross_entropy(logits, labels, keep=0.25), logits)
    touched = (slope.abs().sum(1) > 0).flatten(1).sum(1)
    assert touched.tolist() == [round(0.25 * 99)] * 2


@settings(max_examples=50, deadline=None)
@given(step=st.integers(0, 400), start=st.integers(0, 100), length=st.integers(0, 200), final=st.floats(0.01, 1.0))
def test_the_kept_share_never_rises_and_runs_from_one_to_the_final_share(step, start, length, final):
    shares = [bootstrap_keep(s, start, start + length, final) for s in (start, step, step + 1, start + length + 1)]
    assert shares[0] == 1.0 and shares[3] == final
    assert 1.0 >= shares[1] >= shares[2] >= final
    assert bootstrap_keep(start + length / 2, start, start + length, final) == pytest.approx(
        (1 + final) / 2 if length else 1.0
    )


def test_poly_loss_adds_epsilon_times_the_missing_probability():
    logits, labels = make_batch()
    true_prob = logits.softmax(1).gather(1, labels[:, None])[:, 0]
    expected = F.cross_entropy(logits, labels) + 2.5 * (1 - true_prob).mean()
    torch.testing.assert_close(poly_cross_entropy(logits, labels, epsilon=2.5), expected)
    torch.testing.assert_close(
        poly_cross_entropy(logits, labels, epsilon=0.0, keep=0.3), bootstrapped_cross_entropy(logits, labels, 0.3)
    )


@pytest.mark.parametrize(
    "loss", [lambda p, y: dice_loss(p.softmax(1), y), lambda p, y: jaccard_loss(p.softmax(1), y), poly_cross_entropy]
)
def test_gradients_agree_with_finite_differences(loss):
    logits, labels = make_batch(dtype=torch.float64)
    logits, labels = logits[:, :, :3, :4].requires_grad_(), labels[:, :3, :4]
    assert torch.autograd.gradcheck(lambda x: loss(x, labels), (logits,))


def test_overlap_losses_are_zero_for_the_true_masks_and_near_one_for_disjoint_ones():
    labels = torch.zeros(1, 40, 40, dtype=torch.long)
    labels[:, :20] = 1
    true = F.one_hot(labels, 2).permute(0, 3, 1, 2).float()
    for loss in (dice_loss, jaccard_loss):
        assert loss(true, labels).item() == 0.0
        assert loss(true.flip(1), labels).item() > 0.99


def test_jaccard_loss_of_hard_masks_is_one_minus_the_region_iou_up_to_one_pixel():
    true, pred = torch.rand(1, 64, 64) < 0.5, torch.rand(1, 64, 64, generator=torch.Generator().manual_seed(1)) < 0.5
    prob = F.one_hot(pred.long(), 2).permute(0, 3, 1, 2).float()
    iou = (true & pred).sum() / (true | pred).sum()
    assert jaccard_loss(prob, true.long()).item() == pytest.approx(1 - iou.item(), abs=1 / (true | pred).sum().item())


def test_padded_objects_change_no_loss_and_get_no_gradient():
    logits, labels = make_batch()
    labels = labels.clamp(max=2)
    padded = torch.cat([logits[:, :3], torch.full_like(logits[:, :1], 50.0)], 1).requires_grad_()
    valid = torch.tensor([[True, True, True, False]]).expand(2, 4)
    three = logits[:, :3]
    for loss in (
        lambda x, v: bootstrapped_cross_entropy(x, labels, 0.4, v),
        lambda x, v: poly_cross_entropy(x, labels, valid=v),
    ):
        torch.testing.assert_close(loss(padded, valid), loss(three, None))
    for loss in (dice_loss, jaccard_loss):
        whole = mask_absent_objects(padded, valid).softmax(1)
        torch.testing.assert_close(loss(whole, labels, valid), loss(three.softmax(1), labels))
        assert (whole[:, 3] == 0).all()
    total = bootstrapped_cross_entropy(padded, labels, 0.4, valid) + dice_loss(
        mask_absent_objects(padded, valid).softmax(1), labels, valid
    )
    (slope,) = torch.autograd.grad(total, padded)
    assert torch.isfinite(slope).all() and (slope[:, 3] == 0).all() and slope[:, :3].abs().sum() > 0


def test_images_without_any_object_have_zero_overlap_loss():
    prob, labels = torch.rand(2, 3, 4, 4).softmax(1), torch.zeros(2, 4, 4, dtype=torch.long)
    nobody = torch.tensor([[True, False, False]]).expand(2, 3)
    for loss in (dice_loss, jaccard_loss):
        assert loss(prob, labels, nobody).item() == 0.0
        assert loss(prob[:, :1], labels).item() == 0.0


def test_half_precision_logits_are_computed_in_float32():
    logits, labels = make_batch()
    half = logits.half() * 8
    expected = F.cross_entropy(half.float(), labels)
    assert bootstrapped_cross_entropy(half, labels, 1.0).dtype == torch.float32
    torch.testing.assert_close(bootstrapped_cross_entropy(half, labels, 1.0), expected)
    assert poly_cross_entropy(half, labels).dtype == torch.float32


@pytest.mark.parametrize("keep", [0.0, -0.1, 1.1, float("nan")])
def test_a_share_outside_zero_to_one_is_refused(keep):
    logits, labels = make_batch()
    with pytest.raises(InputError, match="keep"):
        bootstrapped_cross_entropy(logits, labels, keep)


def test_shapes_that_do_not_belong_together_are_refused_in_one_line():
    logits, labels = make_batch()
    calls = (
        lambda: bootstrapped_cross_entropy(logits, labels[:, :5], 1.0),
        lambda: poly_cross_entropy(logits, labels.float()),
        lambda: dice_loss(logits, labels[0]),
        lambda: dice_loss(logits, labels, torch.ones(2, 3, dtype=torch.bool)),
        lambda: mask_absent_objects(logits, torch.ones(1, 4, dtype=torch.bool)),
    )
    for call in calls:
        with pytest.raises(InputError, match="give") as error:
            call()
        assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="start <= end"):
        bootstrap_keep(0, 10, 5, 0.5)
