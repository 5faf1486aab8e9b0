"""Parameter groups, the learning-rate schedule and the averaged weights of a training."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from vos.config import OptimiserConfig


def parameter_groups(model: nn.Module, config: OptimiserConfig) -> list[dict[str, object]]:
    """Return AdamW parameter groups: trunks have scaled learning rates, biases and norms (vectors) no weight decay.

    STCN calls its trunks encoders. The order of groups is fixed, so that an optimiser's state can be loaded again.
    """
    scales = {
        "query_trunk.": config.query_trunk_scale,
        "key_encoder.": config.query_trunk_scale,
        "value_trunk.": config.value_trunk_scale,
        "value_encoder.": config.value_trunk_scale,
    }
    groups: dict[tuple[float, float], list[Tensor]] = {}
    for name, parameter in model.named_parameters():
        scale = next((scale for prefix, scale in scales.items() if name.startswith(prefix)), 1.0)
        if not parameter.requires_grad:
            continue
        decay = config.weight_decay if parameter.ndim > 1 else 0.0
        groups.setdefault((scale, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": config.lr * scale, "scale": scale, "weight_decay": decay}
        for (scale, decay), parameters in groups.items()
    ]


def learning_rate(step: int, steps: int, config: OptimiserConfig) -> float:
    """Return the learning rate of a step: linear warm-up, then decay to zero (polynomial, cosine) or a constant with one drop (step)."""
    warmup = min(config.warmup_steps, steps // 2)
    if step < warmup:
        return config.lr * (step + 1) / warmup
    done = (step - warmup) / (steps - warmup)
    if config.schedule == "cosine":
        return config.lr * (1 + math.cos(math.pi * done)) / 2
    if config.schedule == "step":
        return config.lr * (config.drop_to if step >= config.drop_at * steps else 1)
    return config.lr * (1 - done) ** config.power


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, decay: float, step: int) -> None:
    """Update the exponential moving average of the weights in place; the decay is smaller in the first steps."""
    decay = min(decay, (1 + step) / (10 + step))
    for kept, current in zip(average.state_dict().values(), model.state_dict().values(), strict=True):
        if kept.is_floating_point():
            kept.lerp_(current, 1 - decay)
        else:
            kept.copy_(current)
