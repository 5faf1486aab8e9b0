"""Frame by frame, fast: a first frame with its objects' masks in, then labels of every further frame, at constant time and memory.

    engine = Engine(load("builtin-student"))
    engine.start(frame, labels)
    for frame in camera:
        labels = engine.step(frame)

The memory is the first and the most recent frame (MobileVOS); a gate keeps doubtful frames out of the latter. A frame's value is encoded
only when the next one comes, so the last one's never is; the query is encoded once for all objects. Nothing is kept of older frames.
"""

from __future__ import annotations

import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch

from vos.data.transforms import resize_frame, resize_labels, short_side_size, size_that_keeps
from vos.errors import InputError
from vos.inference.graph_files import ExportedGraphs, GraphFiles, MadeGraphs
from vos.inference.graphs import TOGETHER, aggregate, padded
from vos.inference.propagate import VOID, padding
from vos.inference.runtimes import (
    OnnxRuntime,
    OpenVINORuntime,
    Runtime,
    TorchRuntime,
    available_threads,
    choose,
    ran_out_of_memory,
)
from vos.inference.upsampling import UPSAMPLING, enlarge
from vos.models.interface import VOSModel
from vos.models.memory import MemoryPolicy


class VanishedObject(UserWarning):
    """An object is so small that no pixel of it is left at the size at which the network works."""


class Suspended(NamedTuple):
    """A video between two frames, taken out of its engine."""

    tensors: dict[str, np.ndarray]
    ids: tuple[int, ...]
    num_remembered: int
    frame_size: tuple[int, int]
    size: tuple[int, int]
    frame: np.ndarray
    guide: np.ndarray | None


class Engine:
    """Segments one video at a time.

    model       a network, or a folder of graphs that jobs.export wrote
    runtime     "eager" (PyTorch, the reference), "compile", "onnxruntime", "openvino", or "auto": the fastest that is installed
    precision   "fp32", "bf16" (OpenVINO) or "int8" (a folder of int8 graphs); "auto": bf16 where that is faster (AMX)
    size_px     shorter side at which the network works, in pixels; 0: as the frames are; None: what the network was trained for. Nothing
                is enlarged.
    threads     0: every core that this process may use. PyTorch's own count is set for the whole process.
    upsampling  from the working size to the frame's: "bilinear", or "edge" to follow the frame's edges
    gate        confidence (`vos.models.memory`) below which a frame does not become the recent memory, in [0, 1]; 0: every frame does. It
                is decided outside of the graphs, so every runtime and exported folder has it.

    `runtime`, `precision` and `reason` say what was chosen and why, `description` which network it is. Raises InputError for names that do
    not fit.
    """

    def __init__(
        self,
        model: VOSModel | str,
        runtime: str = "auto",
        *,
        precision: str = "auto",
        size_px: int | None = None,
        threads: int = 0,
        upsampling: str = "bilinear",
        gate: float = 0.0,
    ) -> None:
        self._policy = MemoryPolicy("first_recent", top_k=None, gate=gate)
        if upsampling not in UPSAMPLING:
            raise InputError(f'upsampling "{upsampling}" is unknown; use one of {", ".join(UPSAMPLING)}')
        threads = threads or available_threads()
        exported = ExportedGraphs(model) if isinstance(model, str) else None
        on_gpu = isinstance(model, VOSModel) and next(model.parameters()).is_cuda
        choice = choose(runtime, precision, exported.precision if exported else "", on_gpu)
        self.runtime, self.precision, self.reason = choice
        self.threads = threads
        self.description = exported.description if exported else _describe(model)
        self._exported = exported
        self._runtime = _make_runtime(model, exported, self.runtime, self.precision, threads)
        self._size_px, self._upsampling = working_px(model, size_px), upsampling
        self._prepared: tuple[int, int] | None = None
        self.graph_seconds: dict[str, float] = defaultdict(float)
        """Seconds spent in each graph since the engine was made; what a step takes beyond their sum is the engine's own."""
        self.reset()

    def reset(self) -> None:
        """Forget the video; `start` begins another."""
        self._tensors: dict[str, Any] = {}
        self._ids: list[int] = []
        self._num_remembered = 0
        self._frame_size = (0, 0)
        self._guide: np.ndarray | None = None
        self.vanished: dict[int, int] = {}
        """Objects of the masks given last that have no pixel at `working_size`, and the smallest `size_px` that keeps each; 0: only the
        frame's own size."""

    def suspend(self) -> Suspended:
        """Take the video at hand out of the engine, which may then start another; `resume` goes on with it. Raises InputError where there
        is none."""
        if not self._ids:
            raise InputError("suspend before start: there is no video to go on with later")
        # Copied: the next video overwrites what runtimes hand out.
        tensors = {name: np.array(self._runtime.array(tensor)) for name, tensor in self._tensors.items()}
        guide = None if self._guide is None else self._guide.copy()
        video = Suspended(
            tensors, tuple(self._ids), self._num_remembered, self._frame_size, self._size, self._frame, guide
        )
        self.reset()
        return video

    def resume(self, video: Suspended) -> None:
        """Go on with a video of this engine's, or of one with the same network, `size_px` and `upsampling`; what this one has at hand is
        forgotten. A video can be resumed once."""
        self._prepare(video.size)
        self._tensors = {name: self._runtime.tensor(array) for name, array in video.tensors.items()}
        self._ids, self._num_remembered = list(video.ids), video.num_remembered
        self._frame_size, self._size, self._frame, self._guide = video.frame_size, video.size, video.frame, video.guide

    def _prepare(self, size: tuple[int, int]) -> None:
        if self._prepared != size:
            self._runtime.prepare(size)
            self._prepared = size

    @property
    def object_ids(self) -> tuple[int, ...]:
        """The objects' ids in the order of `probabilities`, which has the background before them."""
        return tuple(self._ids)

    @property
    def working_size(self) -> tuple[int, int]:
        """(H, W) at which the network sees the frames of the video that was begun."""
        return self._size

    def start(self, frame: np.ndarray, labels: np.ndarray) -> None:
        """Begin a video.

        frame   (H, W, 3) uint8 RGB
        labels  (H, W) integers: 0 background, objects 1 to 254 with any gaps
        Raises InputError where shapes or types differ from that, no object is given, exported graphs are for another size or number of
        objects, or there is not enough memory. Warns (VanishedObject, `vanished`) of objects that are too small for `working_size`: they
        are not followed.
        """
        self.reset()
        self._check_frame(frame, None)
        objects = self._new_objects(labels, frame.shape[:2])
        self._frame_size = (frame.shape[0], frame.shape[1])
        self._size = size_inside(self._frame_size, self._size_px)
        with self._within_memory():
            self._prepare(self._size)
            self._frame = np.empty((*self._size, 3), np.uint8)
            self._encode_query(frame)
        self._give_masks(np.zeros((0, *padded(self._size)), np.float32), labels, objects)

    def step(self, frame: np.ndarray) -> np.ndarray:
        """Segment the next frame.

        frame    (H, W, 3) uint8 RGB of the size that `start` saw; it is not kept
        returns  (H, W) uint8: 0 background, else an object's id
        Raises InputError before `start`, for a frame of another size or type, or where there is not enough memory.
        """
        if not self._ids:
            raise InputError("step before start: give the first frame and its labels to start() first")
        self._check_frame(frame, self._frame_size)
        with self._within_memory():
            if self._trusted():
                self._remember()
            self._encode_query(frame)
            self._tensors |= self._run(TOGETHER if self._began_together() else "read_decode")
            return self._labels()

    def probabilities(self) -> np.ndarray:
        """(O + 1, H, W) float32 of the last frame, background first, summing to 1; objects in the order of `object_ids`."""
        if not self._ids:
            raise InputError("probabilities before start: nothing has been segmented")
        prob = self._runtime.array(self._tensors["prob"])
        return prob.copy() if self._size == self._frame_size else enlarge(prob, self._frame_size, self._guide)

    def add_object(self, frame: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Follow further objects from this frame on.

        frame    the frame that was last segmented, or the next one, which is segmented first
        labels   (H, W) integers; ids that are known already are not read from it
        returns  (H, W) uint8, the frame's labels with the new objects
        Raises InputError as `step` and `start` do.
        """
        if not self._ids:
            raise InputError("add_object before start: give the first frame and its labels to start() first")
        self._check_frame(frame, self._frame_size)
        objects = self._new_objects(labels, frame.shape[:2])
        if not np.array_equal(resize_frame(frame, self._size), self._frame):
            self.step(frame)
        self._give_masks(self._runtime.array(self._tensors["masks"]), labels, objects)
        return self._labels()

    def _check_frame(self, frame: np.ndarray, size: tuple[int, int] | None) -> None:
        if frame.dtype != np.uint8 or frame.ndim != 3 or frame.shape[2] != 3 or 0 in frame.shape:
            raise InputError(f"a frame is {frame.dtype} {frame.shape}; give RGB as uint8 (H, W, 3)")
        if size is not None and frame.shape[:2] != size:
            raise InputError(
                f"a frame is {frame.shape[1]}x{frame.shape[0]}, the first was {size[1]}x{size[0]}; resize it"
            )

    def _new_objects(self, labels: np.ndarray, size: tuple[int, ...]) -> list[int]:
        if labels.shape != size or labels.dtype.kind not in "ui":
            raise InputError(f"labels are {labels.dtype} {labels.shape}, the frame {size}; give integers of its size")
        ids = [int(one) for one in np.unique(labels)]
        if ids[0] < 0 or ids[-1] >= VOID:
            raise InputError(f"labels lie outside 0 to {VOID - 1} ({VOID} is void); map such pixels to 0")
        new = [one for one in ids if one and one not in self._ids]
        if not new:
            raise InputError("the labels hold no new object; paint objects as 1, 2, ... with ids not used so far")
        if self._exported is not None:
            self._exported.check_objects(len(self._ids) + len(new))
        return new

    def _encode_query(self, frame: np.ndarray) -> None:
        # Copied: the frame is looked at once more when the next one comes, and cameras reuse their buffers.
        np.copyto(self._frame, resize_frame(frame, self._size))
        self._tensors["frame"] = self._runtime.tensor(self._frame)
        self._guide = frame.copy() if self._size != self._frame_size and self._upsampling == "edge" else None
        self._tensors |= self._run("encode_query")

    def _began_together(self) -> bool:
        """Whether several objects share a first key, and the runtime has the graph that reads it once for all of them."""
        return self._num_remembered > 1 and "shared_first_key" in self._tensors and TOGETHER in self._runtime.graphs

    def _run(self, graph: str) -> dict[str, Any]:
        began = time.perf_counter()
        outputs = self._runtime.run(graph, self._tensors)
        self.graph_seconds[graph] += time.perf_counter() - began
        return outputs

    @contextmanager
    def _within_memory(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if isinstance(error, InputError) or not ran_out_of_memory(error):
                raise
            (height, width), smaller = self._size, max(16, min(self._size) // 2)
            raise InputError(
                f"not enough memory for frames at {width}x{height}; give a smaller size_px (--size-px {smaller})"
            ) from error

    def _give_masks(self, masks: np.ndarray, labels: np.ndarray, objects: list[int]) -> None:
        """Write given masks over what was predicted in the frame at hand, whose value is then their first memory."""
        small = resize_labels(labels.astype(np.uint8), self._size)
        left, right, top, bottom = padding(*self._size)
        small = np.pad(small, ((top, bottom), (left, right)))
        known = np.where(np.isin(small, objects), 0, masks) if len(masks) else masks
        new = np.stack([small == one for one in objects]).astype(np.float32)
        self._tell_vanished(labels, [one for one, mask in zip(objects, new, strict=True) if not mask.any()])
        merged = aggregate(torch.from_numpy(np.concatenate((known, new)).astype(np.float32))).numpy()
        self._ids += objects
        height, width = self._size
        prob = merged[:, top : top + height, left : left + width]
        self._tensors["masks"] = self._runtime.tensor(merged[1:])
        self._tensors["prob"] = self._runtime.tensor(prob)
        self._tensors["labels"] = self._runtime.tensor(prob.argmax(0).astype(np.uint8))

    def _tell_vanished(self, labels: np.ndarray, objects: list[int]) -> None:
        self.vanished = {one: size_that_keeps(labels, one, min(self._size)) for one in objects}
        for one, size_px in self.vanished.items():
            warnings.warn(vanished_line(one, size_px, self._size), VanishedObject, stacklevel=4)

    def _trusted(self) -> bool:
        """Whether the frame before is to be remembered: its masks were given, or the gate lets it through."""
        if self._num_remembered < len(self._ids) or not self._policy.gate:
            return True
        return self._policy.trusts(torch.from_numpy(self._runtime.array(self._tensors["prob"])))

    def _remember(self) -> None:
        """Encode the value of the frame before, and make it the recent memory; where objects began in it, their first one too."""
        tensors = self._tensors
        value = self._run("encode_value")["value"]
        key = np.array(self._runtime.array(tensors["key"]))  # the next query overwrites it
        if self._num_remembered < len(self._ids):
            num_new = len(self._ids) - self._num_remembered
            first_key, first_value = np.repeat(key, num_new, 0), self._runtime.array(value)[self._num_remembered :]
            if not self._num_remembered:
                tensors["shared_first_key"] = self._runtime.tensor(key)
            else:
                tensors.pop("shared_first_key", None)
                first_key = np.concatenate((self._runtime.array(tensors["first_key"]), first_key))
                first_value = np.concatenate((self._runtime.array(tensors["first_value"]), first_value))
            tensors["first_key"] = self._runtime.tensor(np.array(first_key))
            tensors["first_value"] = self._runtime.tensor(np.array(first_value))
            self._num_remembered = len(self._ids)
        tensors["recent_key"], tensors["recent_value"] = self._runtime.tensor(key), value

    def _labels(self) -> np.ndarray:
        """The last frame's labels at the frame's size, under the ids that the user gave."""
        same_size = self._size == self._frame_size
        labels = self._runtime.array(self._tensors["labels"]) if same_size else self.probabilities().argmax(0)
        return np.array([0, *self._ids], np.uint8)[labels]


def vanished_line(number: int, size_px: int, size: tuple[int, int]) -> str:
    """Tell a user that an object has no pixel at the working size (H, W), and which `size_px` keeps it."""
    keeps = f"--size-px {size_px}" if size_px else "--size-px 0, the size of the frames,"
    return f"object {number} is not followed: no pixel of it is left at {size[1]}x{size[0]}, where the network works; {keeps} keeps it"


def working_px(model: VOSModel | str, size_px: int | None) -> int:
    """Engine's `size_px` with what a network was trained for in place of None."""
    return size_px if size_px is not None else model.trained_size_px if isinstance(model, VOSModel) else 0


def size_inside(frame_size: tuple[int, int], size_px: int) -> tuple[int, int]:
    """(H, W) at which the network sees frames of a size."""
    return short_side_size(frame_size, size_px) if 0 < size_px < min(frame_size) else frame_size


def _describe(model: VOSModel | str) -> dict[str, Any]:
    assert isinstance(model, VOSModel)
    return {"model": model.name, "parameters": sum(parameter.numel() for parameter in model.parameters())}


def _make_runtime(
    model: VOSModel | str, exported: ExportedGraphs | None, runtime: str, precision: str, threads: int
) -> Runtime:
    if runtime in ("eager", "compile"):
        if isinstance(model, str):
            raise InputError(f'{model}: exported graphs do not run in PyTorch; use runtime "onnxruntime" or "openvino"')
        return TorchRuntime(model.eval(), threads, compiled=runtime == "compile")
    files: GraphFiles
    if exported is not None:
        if runtime == "onnxruntime" and exported.description.get("format") == "openvino":
            raise InputError(f'{model}: holds OpenVINO files; use runtime "openvino", or export them --to onnx')
        files = exported
    else:
        assert isinstance(model, VOSModel)
        files = MadeGraphs(model)
    return OnnxRuntime(files, threads) if runtime == "onnxruntime" else OpenVINORuntime(files, threads, precision)
