"""One step of training: update weights and their running average from a batch of clips. No Ray, no files."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from vos.config import TrainConfig
from vos.distillation.clip_forward import ClipSegmenter
from vos.distillation.losses import Targets
from vos.distillation.objective import objective
from vos.distillation.ranks import Ranks
from vos.distillation.schedule import learning_rate, parameter_groups, update_average
from vos.errors import NotFiniteError
from vos.files.compiled_code import keep_compiled_code_private
from vos.models.interface import VOSModel


class TrainingStep:
    """The network, its average, its optimiser, and the training step.

    ranks  the process group; each worker takes an equal part of the batch
    wrap   wraps the clip's whole forward pass in DDP if there are several workers
    """

    def __init__(
        self,
        model: VOSModel,
        config: TrainConfig,
        ranks: Ranks | None = None,
        wrap: Callable[[nn.Module], nn.Module] = lambda module: module,
    ) -> None:
        self.config, self.model, self.ranks = config, model, ranks or Ranks()
        model.to(memory_format=torch.channels_last)  # pyright: ignore[reportCallIssue]  # torch's stub lacks it
        self.average = copy.deepcopy(model).eval().requires_grad_(False)
        self.optimiser = torch.optim.AdamW(parameter_groups(model, config.optimiser))
        self._alone = ClipSegmenter(model, infinite=config.role == "teacher")
        if config.compile:
            keep_compiled_code_private()
            self._alone.compile()
        self._segmenter = wrap(self._alone)

    def __call__(
        self, step: int, frames: Tensor, labels: Tensor, num_objects: Tensor, targets: Targets | None, draws: list[int]
    ) -> dict[str, float]:
        """Do step number `step` (from 0); return the loss terms of the whole batch, learning rate and gradient norm.

        frames (B, T, 3, H, W) normalised, labels (B, T, H, W), num_objects (B,): this rank's part of the batch. Gradients are
        accumulated over passes of `config.micro_batch` clips. If loss or gradient is not finite, NotFiniteError is raised on every
        rank, naming the draws, and the weights do not change.
        """
        config = self.config
        rate = learning_rate(step, config.steps, config.optimiser)
        for group in self.optimiser.param_groups:
            group["lr"] = rate * group["scale"]
        self.optimiser.zero_grad(set_to_none=True)
        batch = (frames, labels, num_objects, targets)
        size = config.micro_batch or len(draws)
        parts = [slice(start, min(start + size, len(draws))) for start in range(0, len(draws), size)]
        sums: dict[str, Tensor] = {}
        for part in parts:
            last = part is parts[-1]
            with contextlib.nullcontext() if last else self._unsynchronised():
                terms = self._terms(self._segmenter, step, part, *batch)
                share = (part.stop - part.start) / len(draws)
                for name, value in terms.items():
                    sums[name] = sums.get(name, 0) + share * value.detach().float()
                if last:  # before its backward pass, in which the ranks synchronise
                    means = dict(zip(sums, self.ranks.mean(torch.stack(list(sums.values()))).tolist(), strict=True))
                    if not abs(means["total"]) < float("inf"):
                        with self.ranks.together():
                            self._blame(step, sums["total"], batch, draws)
                (share * terms["total"]).backward()
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), config.optimiser.clip_norm).item()
        if not abs(norm) < float("inf"):
            everyone = sorted(draw for part in self.ranks.gather(draws) for draw in part)
            raise NotFiniteError(
                f"step {step}: the gradient's norm is {norm} on draws {everyone}; lower --optimiser.lr or check these clips"
            )
        self.optimiser.step()
        update_average(self.average, self.model, config.optimiser.ema, step)
        return {"total": means.pop("total"), **means, "lr": rate, "grad_norm": norm}

    def _terms(
        self,
        segmenter: nn.Module,
        step: int,
        part: slice,
        frames: Tensor,
        labels: Tensor,
        num_objects: Tensor,
        targets: Targets | None,
    ) -> dict[str, Tensor]:
        """Return the loss terms of some of the clips, including `total`."""
        config = self.config
        frames, labels, num_objects = frames[part], labels[part], num_objects[part]
        # Leave out objects that no clip of the part has: they would take as much time as others without changing the result.
        present = int(num_objects.max())
        if targets is not None:
            targets = Targets(*(value[part] for value in targets))
            targets = targets._replace(object_logits=targets.object_logits[:, :, :present])
        with torch.autocast(frames.device.type, dtype=torch.bfloat16, enabled=frames.device.type == "cuda"):
            output = segmenter(frames, labels[:, 0], num_objects, present)
        return objective(output, labels, num_objects, targets, config.loss, step, config.steps)[1]

    def _unsynchronised(self) -> contextlib.AbstractContextManager[None]:
        """Return a context in which gradients stay on their rank, for all parts but the last."""
        wait = getattr(self._segmenter, "no_sync", None)
        return wait() if wait is not None else contextlib.nullcontext()

    @torch.no_grad()
    def _blame(self, step: int, own: Tensor, batch: tuple[Any, ...], draws: list[int]) -> None:
        """If this rank's loss is not finite, raise NotFiniteError naming the clips whose own loss is not finite."""
        if own.isfinite():
            return
        alone = [self._terms(self._alone, step, slice(i, i + 1), *batch)["total"] for i in range(len(draws))]
        failing = [draw for draw, loss in zip(draws, alone, strict=True) if not loss.isfinite()] or draws
        raise NotFiniteError(
            f"step {step}: the loss is {own.item()} on draws {failing}; lower --optimiser.lr or check these clips"
        )

    def state(self) -> dict[str, Tensor]:
        """Return the state needed to resume, as named tensors; counters and random states are not included."""
        tensors = {f"model.{name}": value for name, value in self.model.state_dict().items()}
        tensors |= {f"average.{name}": value for name, value in self.average.state_dict().items()}
        for index, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{index}.{name}": value for name, value in moments.items()}
        return tensors

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Restore `state` from tensors of any memory layout."""
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimiser": {}}
        for name, value in tensors.items():
            owner, rest = name.split(".", 1)
            groups[owner][rest] = value
        self.model.load_state_dict(groups["model"])
        self.average.load_state_dict(groups["average"])
        parameters = [parameter for group in self.optimiser.param_groups for parameter in group["params"]]
        moments: dict[int, dict[str, Tensor]] = {}
        for name, value in groups["optimiser"].items():
            index, kind = name.split(".")
            like = parameters[int(index)]
            # In the parameter's own layout: another layout uses other kernels, whose last bits differ.
            moments.setdefault(int(index), {})[kind] = torch.empty_like(like).copy_(value) if value.ndim else value
        groups_now = self.optimiser.state_dict()["param_groups"]  # the step determines their learning rates
        self.optimiser.load_state_dict({"state": moments, "param_groups": groups_now})
