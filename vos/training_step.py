"""One step of training: a batch of clips in, better weights and their running average out. No Ray, no files."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vos.config import TrainConfig
from vos.errors import InputError
from vos.models.interface import VOSModel
from vos.objective import Targets, objective
from vos.schedule import learning_rate, parameter_groups, update_average
from vos.segmentation import ClipSegmenter


class TrainingStep:
    """The network, its average, its optimiser, and what a step does with them.

    wrap   puts the clip's whole forward pass into DDP where there are several workers
    """

    def __init__(
        self, model: VOSModel, config: TrainConfig, wrap: Callable[[nn.Module], nn.Module] = lambda module: module
    ) -> None:
        self.config, self.model = config, model
        self.average = copy.deepcopy(model)
        self.optimiser = torch.optim.AdamW(parameter_groups(model, config.optimiser))
        self._segmenter = wrap(ClipSegmenter(model, infinite=config.role == "teacher"))

    def __call__(
        self, step: int, frames: Tensor, labels: Tensor, num_objects: Tensor, targets: Targets | None, draws: list[int]
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Take step number `step` (from 0); returns the loss terms, and learning rate and gradient norm.

        frames (B, T, 3, H, W) normalised, labels (B, T, H, W), num_objects (B,). Raises InputError naming `draws` for a loss
        that is not finite.
        """
        config = self.config
        rate = learning_rate(step, config.steps, config.optimiser)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        # An object that no clip of the batch has costs as much as one that is there, and changes nothing.
        present = int(num_objects.max())
        if targets is not None:
            targets = targets._replace(object_logits=targets.object_logits[:, :, :present])
        with torch.autocast(frames.device.type, dtype=torch.bfloat16, enabled=frames.device.type == "cuda"):
            output = self._segmenter(frames, labels[:, 0], num_objects, present)
        loss, terms = objective(output, labels, num_objects, targets, config.loss, step, config.steps)
        if not torch.isfinite(loss):
            raise InputError(
                f"step {step}: the loss is {loss.item()} on draws {draws}; lower --optimiser.lr or look at these clips"
            )
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.optimiser.clip_norm)
        self.optimiser.step()
        update_average(self.average, self.model, config.optimiser.ema, step)
        return terms, {"train/lr": rate, "train/grad_norm": norm.item()}

    def state(self) -> dict[str, Any]:
        """Everything but the number of steps that a later process needs to go on."""
        return {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimiser.load_state_dict(state["optimiser"])
