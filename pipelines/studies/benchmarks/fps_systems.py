"""Run each system of the FPS benchmark in a separate process, so that its resident memory can be measured.

A process loads one system and answers requests over a pipe: play a number of frames, or (growing memory) time a frame at a given memory
size. It works only during a request, so systems can take turns on the same cores.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from multiprocessing import get_context
from traceback import format_exc
from typing import Any, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from pipelines.runtime.session import set_threads
from vos.config.command_line import input_error
from vos.data.transforms import to_tensor
from vos.errors import InputError
from vos.inference.engine import Engine
from vos.inference.graph_files import is_exported
from vos.inference.propagate import iter_propagate, padding
from vos.models import build, names
from vos.models.decoder import object_probability
from vos.models.memory import Memory, MemoryPolicy, soft_aggregate

GEMM_SIDE = 2048
LOOP = "loop"
"""The runtime of a network in the plain evaluation loop, as it was trained, without the engine."""


@dataclass(frozen=True)
class System:
    """One row of the benchmark: a network on a runtime.

    source  a name of `vos.models.names()` (random weights), a checkpoint, or a folder of exported graphs
    growing  an infinite memory: a frame every five, top 20, as STCN's evaluation
    size_px  shorter side at which the network works inside (0: that of the frames); frames and masks keep their size
    """

    label: str
    source: str
    runtime: str
    precision: str
    growing: bool = False
    size_px: int = 0


class Played(NamedTuple):
    """The result of a turn: seconds of each frame, seconds of each graph over the turn, resident and peak MiB after it."""

    frame_s: list[float]
    graph_s: dict[str, float]
    rss_mib: float
    peak_mib: float


class Worker:
    """The process of one system, which works only during a request.

    A request raises InputError for what a user can repair, and RuntimeError with the process's traceback for a fault in this project.
    """

    def __init__(self, system: System, frames_path: str, threads: int) -> None:
        self.system = system
        self._of = system, frames_path, threads
        self._process = ProcessPoolExecutor(1, get_context("spawn"))

    def ask(self, request: str, *arguments: Any) -> Any:
        try:
            return self._process.submit(_answer, *self._of, request, arguments).result()
        except BrokenProcessPool as error:
            raise InputError(
                f"{self.system.label}: its process ended, perhaps for lack of memory; free some and run it again"
            ) from error

    def close(self) -> None:
        self._process.shutdown(cancel_futures=True)


@contextmanager
def workers(systems: list[System], frames_path: str, threads: int) -> Iterator[list[Worker]]:
    with ExitStack() as stack:
        started = [Worker(system, frames_path, threads) for system in systems]
        for worker in started:
            stack.callback(worker.close)
        yield started


def _answer(system: System, frames_path: str, threads: int, request: str, arguments: tuple[Any, ...]) -> Any:
    try:
        return getattr(_player(system, frames_path, threads), request)(*arguments)
    except Exception as error:
        if cause := input_error(error):
            raise InputError(f"{system.label}: {cause}") from None
        raise RuntimeError(f"{system.label}: {request} failed in its process:\n{format_exc()}") from None


@cache
def _player(system: System, frames_path: str, threads: int) -> Any:
    """Return the system that this process plays; the first request loads it."""
    set_threads(threads)
    frames = np.load(frames_path, mmap_mode="r")
    if system.source == "gemm":
        return Gemm()
    if system.runtime == LOOP:
        return LoopPlayer(system, frames)
    return GrowingPlayer(system, frames) if system.growing else EnginePlayer(system, frames, threads)


def _load(source: str) -> Any:
    if source not in names():
        from pipelines.runtime.models import load_model  # imported here, since it would add to every system's memory

        return load_model(source)[0]
    torch.manual_seed(0)
    return build(source, "tensorflow" if "mobilenetv2" in source else "imagenet").eval()


class Gemm:
    """The machine's peak: float32 matrix products by PyTorch's library."""

    def gflops(self, repeats: int) -> list[float]:
        a, b = torch.randn(GEMM_SIDE, GEMM_SIDE), torch.randn(GEMM_SIDE, GEMM_SIDE)
        return [2 * GEMM_SIDE**3 / _seconds(torch.mm, a, b) / 1e9 for _ in range(repeats)]


class EnginePlayer:
    """A constant-memory system: the real-time engine."""

    def __init__(self, system: System, frames: np.ndarray, threads: int) -> None:
        self._frames = frames
        model = system.source if is_exported(system.source) else _load(system.source)
        self._engine = Engine(
            model, system.runtime, precision=system.precision, threads=threads, size_px=system.size_px
        )
        self._protocol, self._next = "", 0
        self._waiting: dict[str, tuple[Any, int]] = {}

    def about(self) -> dict[str, Any]:
        known = self._engine.description
        runs = {"runtime": self._engine.runtime, "precision": self._engine.precision}
        return {**runs, "params": known.get("parameters", 0), "model": known["model"]}

    def start(self, labels: np.ndarray) -> None:
        """Play a few frames for warm-up, compilation included. Each protocol starts with its first turn."""
        self._labels = labels
        self._engine.start(self._frames[0], labels)
        for index in range(1, 4):
            self._engine.step(self._frames[index % len(self._frames)])
        self._protocol = ""
        self._waiting.clear()

    def play(self, num_frames: int, protocol: str) -> Played:
        """Play the next frames of a protocol; the sequence is repeated after its end. Another protocol is suspended meanwhile."""
        if protocol != self._protocol:
            if self._protocol:
                self._waiting[self._protocol] = self._engine.suspend(), self._next
            video, self._next = self._waiting.pop(protocol, (None, 1))
            if video is None:
                self._engine.start(self._frames[0], self._labels)
            else:
                self._engine.resume(video)
            self._protocol = protocol
        before = dict(self._engine.graph_seconds)
        times: list[float] = []
        for _ in range(num_frames):
            frame = np.array(self._frames[self._next % len(self._frames)])  # stands for decoding, which is not timed
            times.append(_seconds(self._engine.step, frame))
            self._next += 1
        spent = {name: total - before.get(name, 0.0) for name, total in self._engine.graph_seconds.items()}
        return Played(times, spent, *_resident_mib())


class LoopPlayer:
    """`vos.inference.propagate` with first and recent memory in eager PyTorch, without folded layers."""

    def __init__(self, system: System, frames: np.ndarray) -> None:
        self._model, self._frames = _load(system.source), frames

    def about(self) -> dict[str, Any]:
        return _about(self._model, LOOP)

    def start(self, labels: np.ndarray) -> None:
        policy = MemoryPolicy("first_recent", top_k=None)
        self._masks = iter_propagate(self._model, self._endless(), torch.from_numpy(labels).long(), policy)
        for _ in range(4):
            next(self._masks)

    def play(self, num_frames: int, protocol: str) -> Played:
        times = [_seconds(lambda: next(self._masks).argmax(0)) for _ in range(num_frames)]
        return Played(times, {}, *_resident_mib())

    def _endless(self) -> Iterator[Any]:
        index = 0
        while True:
            yield to_tensor(np.array(self._frames[index % len(self._frames)])[None])[0]
            index += 1


class GrowingPlayer:
    """STCN as its evaluation runs it (a memory frame every five, top 20), timed at any size of its memory.

    The memory is filled with the first frame's keys and values plus noise, since a frame's time depends only on their number.
    """

    def __init__(self, system: System, frames: np.ndarray) -> None:
        self._model = _load(system.source).to(memory_format=torch.channels_last)
        self._frames = frames

    def about(self) -> dict[str, Any]:
        return _about(self._model, "eager")

    def start(self, labels: np.ndarray) -> None:
        with torch.inference_mode():
            self._pads = padding(*labels.shape)
            masks = np.stack([labels == one for one in range(1, labels.max() + 1)])
            self._masks = F.pad(torch.from_numpy(masks).float(), self._pads).unsqueeze(0)
            self._memory = Memory(MemoryPolicy("infinite", every=5, top_k=20))
            frame = self._frame(0)
            query = self._model.encode_query(frame)
            self._key, self._f16 = query.key, query.f16
            self._value = self._encode_value(frame)
            self._memory.add(0, self._key, self._value)
            self._query(self._frame(1))

    def at_memory(self, num_memory: int, repeats: int) -> dict[str, Any]:
        """Measure query frames at a memory of `num_memory` frames, a frame's value encoding, and resident MiB. The memory only grows."""
        with torch.inference_mode():
            while self._memory.num_frames < num_memory:
                key = self._key + 0.1 * torch.randn_like(self._key)
                self._memory.add(5 * self._memory.num_frames, key, self._value)
            frame = self._frame(1)
            query_s = [_seconds(self._query, frame) for _ in range(repeats)]
            value_s = _seconds(self._encode_value, frame)
        rss, peak = _resident_mib()
        return {"query_s": query_s, "value_s": value_s, "rss_mib": rss, "peak_mib": peak}

    def _frame(self, index: int) -> Any:
        return F.pad(to_tensor(np.array(self._frames[index : index + 1])), self._pads)

    def _query(self, frame: Any) -> Any:
        """Segment a frame as `vos.inference.propagate` does, from the encoder to the labels."""
        query = self._model.encode_query(frame)
        logits = self._model.decode(query, self._memory.read(query.key)).logits
        return soft_aggregate(object_probability(logits)).softmax(1)[0].argmax(0)

    def _encode_value(self, frame: Any) -> Any:
        return self._model.encode_value(frame, self._f16, self._masks)


def _about(model: Any, runtime: str) -> dict[str, Any]:
    parameters = sum(parameter.numel() for parameter in model.parameters())
    return {"runtime": runtime, "precision": "fp32", "params": parameters, "model": model.name}


def _seconds(call: Any, *arguments: Any) -> float:
    began = time.perf_counter()
    call(*arguments)
    return time.perf_counter() - began


def _resident_mib() -> tuple[float, float]:
    """Return resident and peak memory of this process, in MiB (Linux)."""
    values = {}
    with open("/proc/self/status", encoding="ascii") as file:
        for line in file:
            if line.startswith(("VmRSS", "VmHWM")):
                values[line[:5]] = int(line.split()[1]) / 1024
    return values.get("VmRSS", 0.0), values.get("VmHWM", 0.0)


def write_frames(frames: np.ndarray, folder: str) -> str:
    path = os.path.join(folder, "frames.npy")
    np.save(path, frames)
    return path
