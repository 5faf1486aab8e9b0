"""The processes of one training, talking through torch.distributed; a process alone is a world of one and talks to nobody."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vos.errors import InputError, NotFiniteError


class Ranks:
    """What a process knows of the others. Every method is called by all of them, in the same order."""

    def __init__(self, device: torch.device | None = None) -> None:
        joined = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if joined else (0, 1)
        self.device = device or torch.device("cpu")

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the ranks, element by element; a NaN of one rank is a NaN of all."""
        if self.size == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values / self.size

    def gather(self, value: Any) -> list[Any]:
        """One value (any JSON) of every rank, in their order."""
        if self.size == 1:
            return [value]
        values: list[Any] = [None] * self.size
        dist.all_gather_object(values, value)
        return values

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that ends with the same InputError on every rank when it raised one on any: nobody waits for a rank that left."""
        own: InputError | None = None
        try:
            yield
        except InputError as error:
            own = error
        if self.size > 1:
            flag = torch.tensor([float(own is not None)], device=self.device)
            dist.all_reduce(flag)
            if flag.item():
                problems = self.gather((type(own).__name__, str(own)) if own else None)
                kind, text = next(problem for problem in problems if problem)
                own = (NotFiniteError if kind == NotFiniteError.__name__ else InputError)(text)
        if own is not None:
            raise own

    def take_first(self, tensors: Iterable[Tensor]) -> None:
        """Give every rank what rank 0 has in these tensors."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)
