"""Equations 1-3 of the representation loss as properties, the logit KL, and the teacher's factor."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vos.distillation import representation as distillation
from vos.distillation.representation import (
    correlation,
    logit_kl,
    relative_correlation_error,
    representation_loss,
    representation_losses,
    truncated_factor,
)
from vos.errors import InputError

SHARES = (0.0, 0.3, 0.95, 1.0)


def make_sample(
    num_pixels: int = 50, student: int = 8, teacher: int = 13, seed: int = 0, classes: int = 3
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    z_student = torch.randn(num_pixels, student, generator=generator, dtype=torch.float64)
    z_teacher = torch.randn(num_pixels, teacher, generator=generator, dtype=torch.float64)
    return z_student, z_teacher, torch.randint(0, classes, (num_pixels,), generator=generator) * 40 - 7


def gradient(loss: torch.Tensor, leaf: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(loss, leaf, retain_graph=True)[0]


def explicit_loss(z_student: torch.Tensor, z_teacher: torch.Tensor, labels: torch.Tensor, w: float) -> torch.Tensor:
    """Equations 1 and 2 word for word, with N x N matrices."""
    unit_s, unit_t = F.normalize(z_student, dim=1), F.normalize(z_teacher, dim=1)
    c_s, c_t = unit_s @ unit_s.T, unit_t @ unit_t.T
    c_ty = w * c_t + (1 - w) * (labels[:, None] == labels[None, :]).to(c_t)
    return (torch.log2((c_s**2).sum()) - torch.log2(((c_s * c_ty) ** 2).sum())) / len(labels)


@settings(max_examples=60, deadline=None)
@given(
    num_pixels=st.sampled_from([1, 2, 5, 40, 127, 128, 129, 300]),
    student=st.integers(1, 20),
    teacher=st.integers(1, 20),
    classes=st.integers(1, 6),
    w=st.floats(0, 1),
    seed=st.integers(0, 999),
)
def test_the_loss_from_factors_is_equation_1_with_explicit_matrices(num_pixels, student, teacher, classes, w, seed):
    sample = make_sample(num_pixels, student, teacher, seed, classes)
    z_student, z_teacher = (z.requires_grad_() for z in sample[:2])
    loss, expected = (form(z_student, z_teacher, sample[2], w) for form in (representation_loss, explicit_loss))
    torch.testing.assert_close(loss, expected)
    for leaf in (z_student, z_teacher) if w > 0 else (z_student,):
        torch.testing.assert_close(gradient(loss, leaf), gradient(expected, leaf))


@settings(max_examples=40, deadline=None)
@given(w=st.floats(0, 1), seed=st.integers(0, 999), num_pixels=st.integers(1, 60))
def test_the_loss_is_never_negative(w, seed, num_pixels):
    assert representation_loss(*make_sample(num_pixels, seed=seed), w).item() >= -1e-12


@pytest.mark.parametrize("w", SHARES)
def test_flipping_the_sign_of_student_rows_changes_nothing(w):
    z_student, z_teacher, labels = make_sample()
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(25)[:, None]
    loss = representation_loss(z_student, z_teacher, labels, w)
    torch.testing.assert_close(representation_loss(z_student * signs, z_teacher, labels, w), loss)


def test_flipping_the_sign_of_teacher_rows_changes_nothing_at_w_1_alone():
    z_student, z_teacher, labels = make_sample()
    flipped = z_teacher.clone()
    flipped[::2] *= -1
    losses = {w: representation_loss(z_student, z_teacher, labels, w) for w in (1.0, 0.6)}
    torch.testing.assert_close(representation_loss(z_student, flipped, labels, 1.0), losses[1.0])
    assert not torch.allclose(representation_loss(z_student, flipped, labels, 0.6), losses[0.6], rtol=1e-3)


@pytest.mark.parametrize("w", SHARES)
def test_rotating_or_scaling_the_feature_spaces_changes_nothing(w):
    z_student, z_teacher, labels = make_sample()
    turn_s = torch.linalg.qr(torch.randn(8, 8, dtype=torch.float64))[0]
    turn_t = torch.linalg.qr(torch.randn(13, 13, dtype=torch.float64))[0]
    loss = representation_loss(z_student, z_teacher, labels, w)
    torch.testing.assert_close(representation_loss(7 * z_student @ turn_s, z_teacher @ turn_t / 3, labels, w), loss)


def test_only_the_teachers_correlations_matter_and_not_its_width():
    z_student, z_teacher, labels = make_sample()
    wider = torch.cat([z_teacher, torch.zeros(50, 30, dtype=torch.float64)], 1)
    factor = truncated_factor(z_teacher, rank=13)
    loss = representation_loss(z_student, z_teacher, labels, 0.7)
    torch.testing.assert_close(representation_loss(z_student, wider, labels, 0.7), loss)
    torch.testing.assert_close(representation_loss(z_student, factor, labels, 0.7), loss)


@pytest.mark.parametrize("w", (0.3, 1.0))
def test_a_stored_factor_is_taken_as_it_is_and_stays_close_to_the_whole_teacher(w):
    z_student, z_teacher, labels = make_sample(num_pixels=200, teacher=40)
    z_teacher = z_teacher / torch.arange(1, 41, dtype=torch.float64)
    factor = truncated_factor(z_teacher, rank=6)
    unit = F.normalize(z_student, dim=1)
    target = w * factor @ factor.T + (1 - w) * (labels[:, None] == labels[None, :])
    expected = (correlation(z_student).norm().log2() - (unit @ unit.T * target).norm().log2()) * 2 / 200
    kept = representation_loss(z_student, factor, labels, w, normalise_teacher=False)
    torch.testing.assert_close(kept, expected)
    kept_error = (correlation(z_teacher) - factor @ factor.T).norm()
    assert kept_error < (correlation(z_teacher) - correlation(factor)).norm()


def test_at_w_0_the_loss_is_the_supervised_contrastive_form():
    z_student, _, labels = make_sample()
    similarity = F.cosine_similarity(z_student[:, None], z_student[None], dim=2) ** 2
    pairs = [(i, k) for i in range(50) for k in range(50)]
    same_class = sum(similarity[i, k] for i, k in pairs if labels[i] == labels[k])
    expected = -torch.log2(torch.as_tensor(same_class / similarity.sum())) / 50
    torch.testing.assert_close(representation_loss(z_student, None, labels, 0.0), expected)


def test_the_target_is_continuous_in_w_where_the_way_of_computing_changes():
    sample = make_sample()
    for w, near in ((0.0, 1e-9), (1.0, 1 - 1e-9)):
        torch.testing.assert_close(
            representation_loss(*sample, w), representation_loss(*sample, near), rtol=1e-6, atol=0
        )


def test_renaming_classes_and_reordering_pixels_change_nothing():
    z_student, z_teacher, labels = make_sample()
    order = torch.randperm(50, generator=torch.Generator().manual_seed(2))
    for w in SHARES:
        loss = representation_loss(z_student, z_teacher, labels, w)
        shuffled = representation_loss(z_student[order], z_teacher[order], (5 - labels[order]).int(), w)
        torch.testing.assert_close(shuffled, loss)


@pytest.mark.parametrize("w", SHARES)
def test_a_batch_is_its_frames_one_by_one(w):
    frames = [make_sample(seed=seed, classes=seed + 1) for seed in range(3)]
    z_student, z_teacher, labels = (torch.stack(part) for part in zip(*frames, strict=True))
    batch = z_student.clone().requires_grad_()
    losses = representation_losses(batch, z_teacher, labels, w)
    torch.testing.assert_close(losses, torch.stack([representation_loss(*frame, w) for frame in frames]))
    slope = gradient(losses[1], batch)
    assert slope[[0, 2]].abs().max() == 0 and slope[1].abs().max() > 0


@pytest.mark.parametrize("w", SHARES)
def test_gradients_agree_with_finite_differences(w, monkeypatch):
    monkeypatch.setattr(distillation, "STRIP_ROWS", 4)
    z_student, z_teacher, labels = make_sample(num_pixels=11, student=3, teacher=4)
    inputs = (z_student.requires_grad_(), z_teacher.requires_grad_(w > 0))
    assert torch.autograd.gradcheck(lambda s, t: 100 * representation_loss(s, t, labels, w), inputs)


@pytest.mark.parametrize("w", SHARES)
def test_autocast_lowers_neither_the_loss_nor_its_gradient(w):
    z_student, z_teacher, labels = (x.float() if x.is_floating_point() else x for x in make_sample(12, 4, 4))
    results = []
    for enabled in (False, True):
        z = z_student.clone().requires_grad_()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            loss = representation_loss(z, z_teacher, labels, w)
            slope = gradient(loss, z)
        results.append((loss.detach(), slope))
        assert loss.dtype == torch.float32 and slope.dtype == torch.float32
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))


def test_half_precision_features_are_lifted_before_they_are_normalised():
    z_student, z_teacher, labels = make_sample()
    small = (z_student * 1e-4).half()
    loss = representation_loss(small, z_teacher.half(), labels, 0.95)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, representation_loss(small.float(), z_teacher.half().float(), labels, 0.95))


def test_no_matrix_of_n_by_n_entries_is_made():
    sizes: list[int] = []

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            sizes.extend(x.numel() for x in tree_leaves(result) if isinstance(x, torch.Tensor))
            return result

    z_student, z_teacher, labels = make_sample(num_pixels=1500, student=8, teacher=8)
    z_student.requires_grad_()
    for w in SHARES:
        with Largest():
            representation_loss(z_student, z_teacher, labels, w).backward()
    assert max(sizes) <= distillation.STRIP_ROWS * 1500


@pytest.mark.parametrize("w", SHARES)
@pytest.mark.parametrize("case", ["one pixel", "all rows zero", "one row zero", "teacher all zero"])
def test_degenerate_features_give_a_finite_value_and_gradient(case, w):
    z_student, z_teacher, labels = make_sample(1 if case == "one pixel" else 20)
    if case.endswith("rows zero"):
        z_student.zero_()
    if case == "one row zero":
        z_student[3] = 0
    if case == "teacher all zero":
        z_teacher.zero_()
    z_student.requires_grad_()
    loss = representation_loss(z_student, z_teacher, labels, w)
    slope = gradient(loss, z_student)
    assert math.isfinite(loss.item()) and loss.item() >= -1e-12
    assert torch.isfinite(slope).all()
    if case in ("one pixel", "all rows zero"):
        assert loss.item() == pytest.approx(0, abs=1e-12)
    if case == "one row zero":
        assert slope[3].abs().max() == 0


def test_one_class_alone_gives_zero_at_w_0():
    z_student, _, _ = make_sample()
    z_student.requires_grad_()
    loss = representation_loss(z_student, None, torch.full((50,), 6), 0.0)
    assert loss.item() == 0 and gradient(loss, z_student).abs().max() < 1e-15


def test_broken_features_show_in_the_loss():
    z_student, z_teacher, labels = make_sample()
    z_student[4, 2] = float("nan")
    assert all(math.isnan(representation_loss(z_student, z_teacher, labels, w).item()) for w in SHARES)


def test_features_that_cannot_be_compared_are_refused_in_one_line():
    z_student, z_teacher, labels = make_sample()
    calls = (
        lambda: representation_loss(z_student, None, labels, 0.5),
        lambda: representation_loss(z_student, z_teacher, labels, 1.5),
        lambda: representation_loss(z_student, z_teacher, labels, float("nan")),
        lambda: representation_loss(z_student[:0], z_teacher[:0], labels[:0], 0.5),
        lambda: representation_loss(z_student, z_teacher[:9], labels, 0.5),
        lambda: representation_loss(z_student, z_teacher, labels[:9], 0.5),
        lambda: representation_loss(z_student, z_teacher, labels.double(), 0.5),
        lambda: representation_loss(z_student[None], z_teacher[None], labels[None], 0.5),
    )
    for call in calls:
        with pytest.raises(InputError, match="represent") as error:
            call()
        assert "\n" not in str(error.value)


def make_logits() -> tuple[torch.Tensor, torch.Tensor]:
    student, teacher = 4 * torch.randn(2, 2, 3, 5, 6, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return student, teacher


@pytest.mark.parametrize("temperature", [0.1, 1.0, 4.0])
def test_the_divergence_is_zero_at_equality_and_positive_elsewhere(temperature):
    student, teacher = make_logits()
    assert logit_kl(teacher + 3.0, teacher, temperature).item() == pytest.approx(0, abs=1e-12)
    assert logit_kl(student, teacher, temperature).item() > 0.01


def test_the_divergence_is_the_textbook_sum_over_objects_and_background():
    student, teacher = make_logits()
    p, q = (teacher / 2.5).softmax(1), (student / 2.5).softmax(1)
    expected = 2.5**2 * (p * (p / q).log()).sum(1)
    torch.testing.assert_close(logit_kl(student, teacher, 2.5), expected.mean())
    weight = torch.rand(2, 5, 6, dtype=torch.float64)
    torch.testing.assert_close(
        logit_kl(student, teacher, 2.5, weight), ((weight * expected).sum((1, 2)) / weight.sum((1, 2))).mean()
    )


def test_the_gradient_keeps_its_scale_when_the_temperature_grows():
    student, teacher = make_logits()
    norms = []
    for temperature in (100.0, 200.0):
        leaf = student.clone().requires_grad_()
        norms.append(gradient(logit_kl(leaf, teacher, temperature), leaf).norm().item())
    assert norms[0] == pytest.approx(norms[1], rel=0.05)


def test_a_step_against_the_gradient_moves_the_student_towards_the_teacher():
    student, teacher = make_logits()
    student.requires_grad_()
    before = logit_kl(student, teacher, 1.0)
    slope = gradient(before, student)
    difference = student.softmax(1) - teacher.softmax(1)
    torch.testing.assert_close(slope, (difference / 60).detach())
    assert logit_kl(student - 10 * slope, teacher, 1.0) < before


def test_pixels_of_weight_zero_do_not_count_and_no_weight_at_all_gives_zero():
    student, teacher = make_logits()
    boundary = torch.zeros(2, 5, 6, dtype=torch.bool)
    boundary[:, 2] = True
    torch.testing.assert_close(
        logit_kl(student, teacher, 1.0, boundary), logit_kl(student[:, :, 2:3], teacher[:, :, 2:3], 1.0)
    )
    student.requires_grad_()
    nothing = logit_kl(student, teacher, 1.0, torch.zeros(2, 5, 6))
    assert nothing.item() == 0 and gradient(nothing, student).abs().max() == 0


def test_objects_that_pad_the_batch_do_not_enter_the_divergence():
    student, teacher = make_logits()
    valid = torch.tensor([[True, True, False]]).expand(2, 3)
    student[:, 2], teacher[:, 2] = 40.0, -math.inf
    student.requires_grad_()
    loss = logit_kl(student, teacher, 0.1, valid=valid)
    torch.testing.assert_close(loss, logit_kl(student[:, :2], teacher[:, :2], 0.1))
    slope = gradient(loss, student)
    assert torch.isfinite(slope).all() and slope[:, 2].abs().max() == 0


def test_quantised_teacher_logits_stay_a_distribution_close_to_the_exact_one():
    student, teacher = make_logits()
    scale = teacher.abs().max() / 127
    quantised = (teacher / scale).round().to(torch.int8)
    approximate = logit_kl(student, quantised * scale, 1.0)
    assert approximate.item() == pytest.approx(logit_kl(student, teacher, 1.0).item(), rel=0.02)
    assert logit_kl((quantised * scale), (quantised * scale).half(), 1.0).item() >= -1e-9


def test_a_temperature_or_shape_without_meaning_is_refused():
    student, teacher = make_logits()
    for call in (
        lambda: logit_kl(student, teacher, 0.0),
        lambda: logit_kl(student, teacher[:, :2], 1.0),
        lambda: logit_kl(student, teacher, 1.0, torch.ones(2, 1, 5, 6)),
        lambda: logit_kl(student, teacher, 1.0, valid=torch.ones(2, 2, dtype=torch.bool)),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert "\n" not in str(error.value)


@settings(max_examples=30, deadline=None)
@given(num_pixels=st.integers(1, 40), width=st.integers(1, 12), rank=st.integers(1, 16), seed=st.integers(0, 99))
def test_the_truncated_factor_is_as_close_as_any_matrix_of_its_rank_can_be(num_pixels, width, rank, seed):
    z, _, _ = make_sample(num_pixels, student=width, seed=seed)
    factor = truncated_factor(z, rank)
    assert factor.shape == (num_pixels, rank)
    # Eckart and Young: what remains is the eigenvalues that were left out.
    eigenvalues = torch.linalg.eigvalsh(correlation(z)).flip(0)
    best = eigenvalues[rank:].norm() / eigenvalues.norm()
    explicit = (correlation(z) - factor @ factor.T).norm() / correlation(z).norm()
    assert explicit.item() == pytest.approx(best.item(), abs=1e-7)
    assert relative_correlation_error(z, factor) == pytest.approx(explicit.item(), abs=1e-7)


def test_a_smaller_factor_is_the_first_columns_of_a_larger_one():
    z, _, _ = make_sample()
    torch.testing.assert_close(truncated_factor(z, 3), truncated_factor(z, 8)[:, :3])


def test_the_error_of_a_rounded_factor_is_seen():
    z, _, _ = make_sample(num_pixels=200)
    factor = truncated_factor(z.float(), 8)
    assert relative_correlation_error(z, factor) < 1e-6
    assert 1e-6 < relative_correlation_error(z, factor.half()) < 1e-3


def test_correlations_have_a_unit_diagonal_and_stay_within_one():
    z, _, _ = make_sample()
    matrix = correlation(z)
    torch.testing.assert_close(matrix.diagonal(), torch.ones(50, dtype=torch.float64))
    assert matrix.abs().max() <= 1 + 1e-12


def test_factors_without_meaning_are_refused():
    z, _, _ = make_sample()
    for call in (
        lambda: truncated_factor(z, 0),
        lambda: relative_correlation_error(z, z[:9]),
        lambda: relative_correlation_error(0 * z, z),
    ):
        with pytest.raises(InputError) as error:
            call()
        assert "\n" not in str(error.value)
