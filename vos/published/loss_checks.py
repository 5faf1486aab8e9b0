"""Checks of the losses on random data: the paper's equations 1 to 3 and their properties, and the supervised terms.

Each loss is compared with a second, independent implementation in float64. See vos/published/checks.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vos.distillation.representation import logit_kl, representation_loss
from vos.distillation.supervised import bootstrapped_cross_entropy, dice_loss, poly_cross_entropy
from vos.published.bounds import Figure
from vos.published.checks import difference

SHARES = (0.0, 0.3, 0.95, 1.0)
"""Values of w: equation 3, a mixture, the paper's value, the teacher alone."""

Sample = tuple[Tensor, Tensor, Tensor]
"""Features of the student (N, ds) and of the teacher (N, dt), and labels (N,)."""


def representation_checks(seed: int) -> Iterator[Figure]:
    """Check equations 1 to 3 and their properties, in float64."""
    generator = torch.Generator().manual_seed(seed)
    draws = [(_sample(generator, 2 + draw % 60), (draw % 11) / 10) for draw in range(220)]
    lowest = float(np.min([float(_bits(*sample, w)) for sample, w in draws]))
    yield Figure("eq. 1: smallest |S| L_repr of 220 random draws", lowest, ">=", 0)

    z_s, z_t, labels = _sample(generator, 60)
    sign_s, sign_t = (torch.randint(0, 2, (60, 1), generator=generator) * 2 - 1 for _ in range(2))
    turn_s, turn_t = (torch.linalg.qr(_normal(generator, z.shape[1], z.shape[1]))[0] for z in (z_s, z_t))
    expected = [_bits(z_s, z_t, labels, w) for w in SHARES]
    signs = [_bits(sign_s * z_s, z_t, labels, w) for w in SHARES]
    yield difference("eq. 1: signs of student rows flipped, max |Δ|", signs, expected, 1e-12)
    both = _bits(sign_s * z_s, sign_t * z_t, labels, 1.0)
    yield difference("eq. 1: signs of teacher rows flipped too, w = 1, |Δ|", both, expected[-1], 1e-12)
    turned = [_bits(z_s @ turn_s, z_t @ turn_t, labels, w) for w in SHARES]
    yield difference("eq. 1: both feature spaces rotated, max |Δ|", turned, expected, 1e-12)

    contrastive = _bits(z_s, None, labels, 0.0)
    yield difference("eq. 3: w = 0 against naive SupCon, |Δ|", contrastive, _naive_supcon(z_s, labels), 1e-12)
    sample = _sample(generator, 300)
    pairs = [[_value_and_slope(form, sample, w) for w in SHARES] for form in (_bits, _explicit_bits)]
    for part, name in enumerate(("value", "gradient")):
        ours, explicit = ([result[part] for result in form] for form in pairs)
        yield difference(f"eq. 2: {name} from factors against explicit N x N, max |Δ|", ours, explicit, 1e-12)
    small = _sample(generator, 12, student=3, teacher=4)
    slopes = [_value_and_slope(_bits, small, w)[1] for w in SHARES]
    numerical = [_finite_differences(small, w) for w in SHARES]
    yield difference("eq. 1: gradient against finite differences, max |Δ|", slopes, numerical, 1e-7)

    single = (z_s.float(), z_t.float(), labels)
    outside = [torch.cat([x.flatten() for x in _value_and_slope(_bits, single, w)]) for w in SHARES]
    with torch.autocast("cpu", torch.bfloat16):
        inside = [torch.cat([x.flatten() for x in _value_and_slope(_bits, single, w)]) for w in SHARES]
    yield Figure("eq. 1: type inside bfloat16 autocast", str(inside[0].dtype).removeprefix("torch."), "=", "float32")
    yield difference("eq. 1: value and gradient inside autocast against outside, max |Δ|", inside, outside, 0.0)


def supervised_checks(seed: int) -> Iterator[Figure]:
    """Check the other terms against their textbook form, in float64."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = 4 * _normal(generator, 2, 2, 4, 9, 11)
    labels = torch.randint(0, 4, (2, 9, 11), generator=generator)
    p, q = (teacher / 2.5).softmax(1), (student / 2.5).softmax(1)
    textbook = 2.5**2 * (p * (p / q).log()).sum(1)
    yield difference(
        "KL: against τ² Σ p log(p/q), τ = 2.5, |Δ|", logit_kl(student, teacher, 2.5), textbook.mean(), 1e-12
    )
    boundary = torch.rand(2, 9, 11, generator=generator) < 0.3
    weighted = logit_kl(student, teacher, 2.5, boundary)
    expected = torch.stack([image[mask].mean() for image, mask in zip(textbook, boundary, strict=True)]).mean()
    yield difference("KL: on a boundary mask alone, |Δ|", weighted, expected, 1e-12)
    prob = student.softmax(1)
    true_prob = prob.gather(1, labels[:, None])[:, 0]
    hardest = (-true_prob.log()).flatten(1).sort(1, descending=True).values[:, : round(0.15 * 99)].mean()
    kept = bootstrapped_cross_entropy(student, labels, keep=0.15)
    yield difference("cross-entropy: hardest 15 % against a sort, |Δ|", kept, hardest, 1e-12)
    poly = (-true_prob.log() + 1 - true_prob).mean()
    yield difference("poly-1: against -log p + (1 - p), |Δ|", poly_cross_entropy(student, labels), poly, 1e-12)
    true = F.one_hot(labels, 4).permute(0, 3, 1, 2).double()
    dice = [
        1 - (2 * (prob[b, k] * true[b, k]).sum() + 1) / (prob[b, k].sum() + true[b, k].sum() + 1)
        for b in range(2)
        for k in range(1, 4)
    ]
    yield difference("Dice: against its definition, |Δ|", dice_loss(prob, labels), torch.stack(dice).mean(), 1e-12)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _sample(generator: torch.Generator, num_pixels: int, student: int = 8, teacher: int = 13) -> Sample:
    """Draw features of different widths and labels of three classes."""
    features = _normal(generator, num_pixels, student), _normal(generator, num_pixels, teacher)
    return *features, torch.randint(0, 3, (num_pixels,), generator=generator)


def _bits(z_student: Tensor, z_teacher: Tensor | None, labels: Tensor, w: float) -> Tensor:
    """Return N L_repr, the bracket of equation 1: of order 1, so that a bound of 1e-12 is equally strict for any N."""
    return representation_loss(z_student, z_teacher, labels, w) * len(labels)


def _explicit_bits(z_student: Tensor, z_teacher: Tensor, labels: Tensor, w: float) -> Tensor:
    """Return N L_repr directly from equations 1 and 2, with N x N matrices."""
    unit_s, unit_t = F.normalize(z_student, dim=1), F.normalize(z_teacher, dim=1)
    c_s, c_t = unit_s @ unit_s.T, unit_t @ unit_t.T
    c_ty = w * c_t + (1 - w) * (labels[:, None] == labels[None, :]).to(c_t)
    return c_s.square().sum().log2() - (c_s * c_ty).square().sum().log2()


def _naive_supcon(z: Tensor, labels: Tensor) -> Tensor:
    """Return equation 3, pair by pair: sim is the squared cosine."""
    same, total = 0.0, 0.0
    rows, classes = z.tolist(), labels.tolist()
    for a, class_a in zip(rows, classes, strict=True):
        for b, class_b in zip(rows, classes, strict=True):
            sim = _dot(a, b) ** 2 / (_dot(a, a) * _dot(b, b))
            total += sim
            same += sim if class_a == class_b else 0.0
    return torch.tensor(-math.log2(same / total), dtype=torch.float64)


def _dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def _value_and_slope(form: Callable[..., Tensor], sample: Sample, w: float) -> tuple[Tensor, Tensor]:
    z_student = sample[0].clone().requires_grad_()
    value = form(z_student, sample[1], sample[2], w)
    return value.detach(), torch.autograd.grad(value, z_student)[0]


def _finite_differences(sample: Sample, w: float, step: float = 1e-6) -> Tensor:
    """Return central differences of the loss with respect to each entry of the student's features."""
    z_student, z_teacher, labels = sample
    slope = torch.empty_like(z_student)
    for entry in np.ndindex(*z_student.shape):
        ends = []
        for change in (step, -step):
            moved = z_student.clone()
            moved[entry] += change
            ends.append(_bits(moved, z_teacher, labels, w))
        slope[entry] = (ends[0] - ends[1]) / (2 * step)
    return slope
