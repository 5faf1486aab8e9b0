"""The distillation losses: the representation loss (MobileVOS, arXiv:2303.07815, equations 1 to 3) and the logit KL.

The representation loss compares correlation matrices C = Z Zᵀ of the N sampled pixels without storing N² entries:

- ‖C_s‖² is ‖Z_sᵀ Z_s‖², a d x d matrix, at any w. At w = 0 the second term is the same sum per class. Both are exact.
- For w > 0, ‖C_s ∘ C_ty‖² is summed over strips of rows; its d x d form would have d_s·d_t = 4096 columns, more than N.
  C_ty = w C_t + (1 - w) Y Yᵀ is the Gram matrix of [√w Z_t | √(1-w) Y], so the mixture adds only a few columns.
  C_s and C_ty are symmetric, so each strip starts at the diagonal.

The gradient is computed together with the value, strip by strip, and stored as N x d. Backward is then one
multiplication, whose precision autocast cannot lower; the loss is differentiable once. Measured at N = 1024, d = 64,
w = 0.95, one thread on a busy machine, forward + backward: 5.5 to 8 ms, and 14 to 25 ms for explicit N x N matrices
under autograd.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from vos.distillation.supervised import as_float32, mask_absent_objects
from vos.errors import InputError

STRIP_ROWS = 128
"""Rows of the correlation matrices per strip: at N = 1024 a strip is 512 KiB (fastest of 32 to 512)."""


def representation_loss(
    z_student: Tensor, z_teacher: Tensor | None, labels: Tensor, w: float, normalise_teacher: bool = True
) -> Tensor:
    """Return the paper's equation 1 with the target of equation 2.

    (1/N) (log2 ‖C_s‖² - log2 ‖C_s ∘ C_ty‖²) with C_ty = w C_t + (1 - w) Y Yᵀ.

    z_student  (N, ds) the student's features at the N sampled pixels of one frame; rows are L2-normalised here
    z_teacher  (N, dt) the teacher's features, rows are L2-normalised here; None only at w = 0, where it is not read
    labels     (N,) integers, the object ids of the pixels, of any values
    w          in [0, 1]: 1 is the teacher alone, 0 the labels alone (equation 3, supervised contrastive)
    normalise_teacher  False for a truncated_factor: its rows are shorter than 1, and its Gram matrix is the closest to
               C_t; normalising the rows again made the error 4 times larger (measured at rank 64)
    returns    scalar >= 0 (to rounding) in bits (log2), float32 (float64 for a float64 student) in any autocast mode

    A row of zeros correlates with nothing and gets no gradient. Value and gradient are 0 if every row is zero or C_s and
    C_ty have no common nonzero entry. N = 1 gives 0, and so does a single class at w = 0.
    Raises InputError for N = 0, mismatched shapes, labels that are not integers, w outside [0, 1], and no teacher at
    w > 0.
    """
    if z_student.ndim != 2 or labels.ndim != 1:
        raise InputError(
            f"representation_loss: z_student {tuple(z_student.shape)}, labels {tuple(labels.shape)}; "
            "give (N, d) and (N,) of one frame"
        )
    teacher = None if z_teacher is None else z_teacher[None]
    return representation_losses(z_student[None], teacher, labels[None], w, normalise_teacher)[0]


def representation_losses(
    z_student: Tensor, z_teacher: Tensor | None, labels: Tensor, w: float, normalise_teacher: bool = True
) -> Tensor:
    """Return representation_loss of B frames at once, each on its own.

    z_student (B, N, ds), z_teacher (B, N, dt) | None, labels (B, N); returns (B,). Otherwise as in representation_loss.
    """
    _check_features(z_student, z_teacher, labels, w)
    with torch.autocast(z_student.device.type, enabled=False):
        student = _unit_rows(z_student)
        own = _own_square(student)
        if z_teacher is None or w == 0:
            shared = _same_class_square(student, labels)
        else:
            teacher = z_teacher.to(student.dtype)
            teacher = _unit_rows(teacher) if normalise_teacher else teacher
            shared = _product_square(student, _target_factor(teacher, labels, w))
        # If `own` is 0, `shared` is 0 too. `<=` is False for NaN, so that broken features give NaN and not 0.
        nothing = shared <= torch.finfo(student.dtype).tiny
        bits = torch.log2(own.masked_fill(nothing, 1.0)) - torch.log2(shared.masked_fill(nothing, 1.0))
        return bits / student.shape[1]


def logit_kl(
    student_logits: Tensor,
    teacher_logits: Tensor,
    temperature: float,
    weight: Tensor | None = None,
    valid: Tensor | None = None,
) -> Tensor:
    """Return τ² KL(softmax(teacher / τ) ‖ softmax(student / τ)), averaged over pixels.

    The τ² keeps the gradient's scale independent of τ (Hinton et al., 2015).

    student_logits  (B, K+1, h, w), all objects and background (channel 0) in one softmax
    teacher_logits  (B, K+1, h, w), any float dtype; dequantised logits are fine
    temperature     τ > 0; a secondary source of the paper gives 0.1 with a boundary weight
    weight          (B, h, w) >= 0 | None, e.g. the boundary mask: Σ weight·KL / Σ weight of each image, then the mean over
                    images, so that the mean over workers is that of the whole batch. An image without weight counts as 0
    valid           (B, K+1) bool | None, channels that exist, see supervised.mask_absent_objects
    returns         scalar >= 0 (to rounding), in nats, float32 (float64 stays)
    Raises InputError for a temperature that is not positive and for mismatched shapes.
    """
    if not 0 < temperature < math.inf:
        raise InputError(f"logit_kl: temperature={temperature}; use a finite value above 0")
    if student_logits.ndim != 4 or student_logits.shape != teacher_logits.shape:
        raise InputError(
            f"logit_kl: student {tuple(student_logits.shape)}, teacher {tuple(teacher_logits.shape)}; "
            "give both as (B, K+1, h, w)"
        )
    student = F.log_softmax(mask_absent_objects(student_logits, valid) / temperature, dim=1)
    teacher = F.log_softmax(mask_absent_objects(teacher_logits, valid) / temperature, dim=1)
    divergence = F.kl_div(student, teacher.to(student.dtype), reduction="none", log_target=True).sum(1) * temperature**2
    if weight is None:
        return divergence.mean()
    if weight.shape != divergence.shape:
        raise InputError(
            f"logit_kl: weight {tuple(weight.shape)} for logits {tuple(student_logits.shape)}; give (B, h, w)"
        )
    weight = weight.to(divergence.dtype)
    total = weight.sum((1, 2))
    return ((weight * divergence).sum((1, 2)) / total.masked_fill(total == 0, 1.0)).mean()


def correlation(z: Tensor) -> Tensor:
    """Return C = Z Zᵀ of the L2-normalised rows: (..., N, d) -> (..., N, N), entries in [-1, 1] to rounding.

    For plots and checks; training never builds the N x N matrix.
    """
    unit = _unit_rows(z)
    with torch.autocast(z.device.type, enabled=False):
        return unit @ unit.mT


@torch.no_grad()
def truncated_factor(z: Tensor, rank: int) -> Tensor:
    """Return the best rank-r factor of the correlation matrix of z: U_r S_r from the SVD of its normalised rows.

    No other (N, r) matrix A brings A Aᵀ closer to C in the Frobenius norm (docs/method.md, what the cache stores). The
    basis is not stored, since only Gram matrices are compared. U_r S_r is Z times the leading eigenvectors of Zᵀ Z.

    z        (..., N, d) features, any float dtype
    rank     r >= 1; columns beyond min(N, d) are zero (to rounding), so that the shape does not depend on the teacher
    returns  (..., N, r) float32 (float64 stays), columns by decreasing singular value
    Raises InputError for a rank below 1.
    """
    if rank < 1:
        raise InputError(f"truncated_factor: rank={rank}; use 1 or more")
    unit = _unit_rows(z)
    with torch.autocast(z.device.type, enabled=False):
        # float64, because the Gram matrix squares the singular values; it is only d x d.
        double = unit.double()
        vectors = torch.linalg.eigh(double.mT @ double).eigenvectors.flip(-1)[..., :rank]
        factor = (double @ vectors).to(unit.dtype)
    return F.pad(factor, (0, rank - factor.shape[-1]))


@torch.no_grad()
def relative_correlation_error(z: Tensor, factor: Tensor) -> float:
    """Return ‖C - F Fᵀ‖ / ‖C‖ (Frobenius) for the correlation matrix C of z, without an N x N matrix.

    From ‖C - F Fᵀ‖² = ‖Zᵀ Z‖² - 2 ‖Zᵀ F‖² + ‖Fᵀ F‖² in float64; the subtraction limits the accuracy to about 1e-8. The
    rows of the factor are not normalised.

    z        (N, d) features, rows are L2-normalised here
    factor   (N, r) from truncated_factor, after any quantisation and its inverse
    Raises InputError for mismatched shapes, and if every row of z is zero.
    """
    if z.ndim != 2 or factor.ndim != 2 or z.shape[0] != factor.shape[0]:
        raise InputError(
            f"relative_correlation_error: z {tuple(z.shape)}, factor {tuple(factor.shape)}; give (N, d) and (N, r)"
        )
    unit, rebuilt = _unit_rows(z.double()), factor.double()
    reference = (unit.mT @ unit).square().sum().item()
    if reference == 0:
        raise InputError("relative_correlation_error: every row of z is zero; give features with a nonzero row")
    cross = (unit.mT @ rebuilt).square().sum().item()
    own = (rebuilt.mT @ rebuilt).square().sum().item()
    return math.sqrt(max(0.0, reference - 2 * cross + own) / reference)


class _KnownGradient(torch.autograd.Function):
    """A value (B,) with precomputed gradients (B, N, d) for the student's and the target's features."""

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        student: Tensor,
        student_gradient: Tensor | None,
        target: Tensor | None,
        target_gradient: Tensor | None,
    ) -> Tensor:
        ctx.save_for_backward(student_gradient, target_gradient)
        return value.clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_output: Tensor) -> tuple[None, Tensor | None, None, Tensor | None, None]:
        student, target = (None if g is None else grad_output[:, None, None] * g for g in ctx.saved_tensors)
        return None, student, None, target, None


def _own_square(student: Tensor) -> Tensor:
    """Return ‖C_s‖² of (B, N, d) as (B,)."""
    value, gradient = _gram_square(student.detach())
    return _KnownGradient.apply(value, student, gradient, None, None)


def _same_class_square(student: Tensor, labels: Tensor) -> Tensor:
    """Return ‖C_s ∘ Y Yᵀ‖² of (B, N, d) as (B,): the sum of ‖C‖² over classes, N d² operations for any number of classes."""
    features = student.detach()
    value, gradient = features.new_zeros(len(features)), torch.empty_like(features)
    for frame, frame_labels in enumerate(labels):
        order = frame_labels.argsort(stable=True)
        counts = torch.unique_consecutive(frame_labels[order], return_counts=True)[1]
        for rows in order.split(counts.tolist()):
            square, slope = _gram_square(features[frame, rows][None])
            value[frame] += square[0]
            gradient[frame, rows] = slope[0]
    return _KnownGradient.apply(value, student, gradient, None, None)


def _gram_square(z: Tensor) -> tuple[Tensor, Tensor]:
    """Return ‖Z Zᵀ‖² = ‖Zᵀ Z‖² and its gradient 4 Z Zᵀ Z, from the smaller matrix: (B, N, d) -> (B,), (B, N, d)."""
    if z.shape[1] < z.shape[2]:
        gram = z @ z.mT
        return gram.square().sum((1, 2)), 4 * (gram @ z)
    gram = z.mT @ z
    return gram.square().sum((1, 2)), 4 * (z @ gram)


def _product_square(student: Tensor, target: Tensor) -> Tensor:
    """Return ‖S Sᵀ ∘ T Tᵀ‖² of (B, N, ds) and (B, N, k) as (B,), strip by strip from the diagonal on."""
    s, t = student.detach(), target.detach()
    s_gradient, t_gradient = (torch.zeros_like(z) if z.requires_grad else None for z in (student, target))
    value = s.new_zeros(len(s))
    for start in range(0, s.shape[1], STRIP_ROWS):
        strip = slice(start, min(start + STRIP_ROWS, s.shape[1]))
        own = s[:, strip] @ s[:, start:].mT
        other = t[:, strip] @ t[:, start:].mT
        if t_gradient is not None:
            _add_strip(t_gradient, t, own.square() * other, strip)
        slope = other.square_().mul_(own)
        if s_gradient is not None:
            _add_strip(s_gradient, s, slope, strip)
        square = slope.mul_(own)
        # The block on the diagonal holds both (i, k) and (k, i); the rest of the strip holds only one of them.
        value += 2 * square.sum((1, 2)) - square[:, :, : strip.stop - start].sum((1, 2))
    return _KnownGradient.apply(value, student, s_gradient, target, t_gradient)


def _add_strip(gradient: Tensor, z: Tensor, slope: Tensor, strip: slice) -> None:
    """Add 4 slope z to the gradient, for a strip (B, rows, N - start) of a symmetric slope and its mirror below the diagonal."""
    width = strip.stop - strip.start
    gradient[:, strip] += 4 * (slope @ z[:, strip.start :])
    gradient[:, strip.stop :] += 4 * (slope[:, :, width:].mT @ z[:, strip])


def _target_factor(teacher: Tensor, labels: Tensor, w: float) -> Tensor:
    """Return a factor of C_ty: [√w Z_t | √(1-w) Y], (B, N, dt + number of classes)."""
    if w == 1:
        return teacher
    classes, index = labels.unique(return_inverse=True)
    one_hot = F.one_hot(index, len(classes)).to(teacher.dtype)
    return torch.cat([math.sqrt(w) * teacher, math.sqrt(1 - w) * one_hot], dim=2)


def _unit_rows(z: Tensor) -> Tensor:
    """Normalise rows to length 1 in float32 (float64 stays); a row of zeros stays zero."""
    return F.normalize(as_float32(z), dim=-1)


def _check_features(z_student: Tensor, z_teacher: Tensor | None, labels: Tensor, w: float) -> None:
    if z_student.ndim != 3 or labels.shape != z_student.shape[:2] or labels.is_floating_point():
        raise InputError(
            f"representation loss: labels {labels.dtype} {tuple(labels.shape)} for z_student {tuple(z_student.shape)}; "
            "give one integer per row of (N, d) or (B, N, d)"
        )
    if 0 in z_student.shape[1:]:
        raise InputError(
            f"representation loss: z_student {tuple(z_student.shape)} is empty; sample at least one pixel (N, d >= 1)"
        )
    if not 0 <= w <= 1:
        raise InputError(f"representation loss: w={w}; use 0 (labels alone) to 1 (teacher alone)")
    if z_teacher is None:
        if w > 0:
            raise InputError(f"representation loss: w={w} needs the teacher's features; give z_teacher or use w=0")
    elif z_teacher.ndim != 3 or z_teacher.shape[:2] != z_student.shape[:2]:
        raise InputError(
            f"representation loss: z_teacher {tuple(z_teacher.shape)}, z_student {tuple(z_student.shape)}; "
            "give the features of the same pixels"
        )
