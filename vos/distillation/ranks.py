"""Communication between the processes of one training through torch.distributed; a single process needs none.

They exchange only tensors and JSON. torch's own object collectives unpickle a peer's message, which can execute code.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from vos.errors import InputError, NotFiniteError
from vos.files.json_files import checked, parse_json

MESSAGE_BYTES = 64 * 2**20
"""Longest message accepted from a peer."""


class Ranks:
    """The process group as one process sees it. All processes must call every method, in the same order."""

    def __init__(self, device: torch.device | None = None, wants_to_stop: Callable[[], bool] = lambda: False) -> None:
        """wants_to_stop: whether this process was asked to end the training; `together` tells all of them."""
        self._wants_to_stop, self.stopped = wants_to_stop, False
        joined = dist.is_available() and dist.is_initialized()
        self.rank, self.size = (dist.get_rank(), dist.get_world_size()) if joined else (0, 1)
        self.device = device or torch.device("cpu")

    def mean(self, values: Tensor) -> Tensor:
        """Return the element-wise mean over the ranks; a NaN on one rank is a NaN on all."""
        if self.size == 1:
            return values
        values = values.clone()
        dist.all_reduce(values)
        return values / self.size

    def gather(self, value: Any) -> list[Any]:
        """Return one JSON value from every rank, in rank order. Raises InputError for a peer's message in another format."""
        if self.size == 1:
            return [value]
        own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(self.device)
        lengths = [int(length) for length in self._gathered(torch.tensor([len(own)], device=self.device))]
        for rank, length in enumerate(lengths):
            if not 0 < length <= MESSAGE_BYTES:
                raise InputError(_misbehaves(f"{rank} declares a message of {length} bytes"))
        padded = own.new_zeros(max(lengths))
        padded[: len(own)] = own
        texts = [part[:length] for part, length in zip(self._gathered(padded), lengths, strict=True)]
        return [
            parse_json(text.cpu().numpy().tobytes(), f"rank {rank}", _misbehaves("sends no JSON"), finite=False)
            for rank, text in enumerate(texts)
        ]

    def _gathered(self, own: Tensor) -> list[Tensor]:
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own)
        return parts

    @contextmanager
    def together(self) -> Iterator[None]:
        """Run a block and raise the same InputError on every rank if any rank raised one, so that no rank waits for another.

        Afterwards `stopped` is the same on every rank: whether one of them was asked to end the training.
        """
        own: InputError | None = None
        try:
            yield
        except InputError as error:
            own = error
        self.stopped = self._wants_to_stop()
        if self.size > 1:
            flags = torch.tensor([float(own is not None), float(self.stopped)], device=self.device)
            dist.all_reduce(flags)
            self.stopped = bool(flags[1].item())
            if flags[0].item():
                gathered = self.gather([type(own).__name__, str(own)] if own else [])
                problems = checked(gathered, list[list[str]], "a worker", _misbehaves("sends no error"))
                kind, text = next((one for one in problems if len(one) == 2), ("", _misbehaves("reports no error")))
                own = (NotFiniteError if kind == NotFiniteError.__name__ else InputError)(text)
        if own is not None:
            raise own

    def take_first(self, tensors: Iterable[Tensor]) -> None:
        """Copy these tensors from rank 0 to every rank."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, 0)


def _misbehaves(how: str) -> str:
    return f"worker {how}: another program may be using the training's port; run the same command again to resume"
