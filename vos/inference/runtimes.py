"""What runs the graphs of a step: PyTorch, torch.compile, ONNX Runtime or OpenVINO behind one small interface.

The engine passes tensors from graph to graph without looking into them; only frames, labels and probabilities are NumPy arrays to it. Every
runtime keeps to two rules: a graph's outputs stay valid until that graph runs again, and nothing is kept that grows with the video.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch

from vos.errors import InputError
from vos.files.compiled_code import keep_compiled_code_private
from vos.inference.graph_files import GraphFile, GraphFiles
from vos.inference.graphs import ENGINE_GRAPHS, inference_copy
from vos.models.interface import VOSModel

NAMES = ("auto", "eager", "compile", "onnxruntime", "openvino")
PRECISIONS = ("auto", "fp32", "bf16", "int8")


class Runtime(Protocol):
    """Runs graphs of `vos.inference.graphs` by name, on tensors by name."""

    name: str
    precision: str
    graphs: Sequence[str]
    """The names that it runs."""

    def prepare(self, size: tuple[int, int]) -> None:
        """Make ready for frames of a size (H, W). May take seconds the first time."""
        ...

    def run(self, graph: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
        """A graph's outputs by name; `tensors` has its inputs and possibly more."""
        ...

    def tensor(self, array: np.ndarray) -> Any:
        """An array as this runtime's tensor; may share its memory."""
        ...

    def array(self, tensor: Any) -> np.ndarray:
        """A tensor as an array; may share its memory."""
        ...


class TorchRuntime:
    """PyTorch, as it is (the reference) or through torch.compile."""

    precision = "fp32"

    def __init__(self, model: VOSModel, threads: int, compiled: bool) -> None:
        self.name = "compile" if compiled else "eager"
        torch.set_num_threads(threads)
        if compiled:
            keep_compiled_code_private()
        self.graphs: Sequence[str] = tuple(ENGINE_GRAPHS)
        self._device = next(model.parameters()).device
        model = inference_copy(model)
        # Moved, because graphs bring constants of their own beside the network's weights.
        modules = {name: graph(model).to(self._device) for name, graph in ENGINE_GRAPHS.items()}
        # Freezing folds the weights into the kernels' own layout (25 % on CPU).
        self._graphs: Mapping[str, Callable[..., Any]] = (
            {name: torch.compile(module, options={"freezing": True}) for name, module in modules.items()}
            if compiled
            else modules
        )

    def prepare(self, size: tuple[int, int]) -> None:
        pass

    @torch.no_grad()
    def run(self, graph: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
        results = self._graphs[graph](*[tensors[name] for name in ENGINE_GRAPHS[graph].inputs])
        return dict(
            zip(ENGINE_GRAPHS[graph].outputs, results if isinstance(results, tuple) else (results,), strict=True)
        )

    def tensor(self, array: np.ndarray) -> Any:
        return torch.from_numpy(np.ascontiguousarray(array)).to(self._device)

    def array(self, tensor: Any) -> np.ndarray:
        return tensor.cpu().numpy()


class OnnxRuntime:
    """ONNX Runtime on the CPU."""

    name = "onnxruntime"

    def __init__(self, files: GraphFiles, threads: int) -> None:
        self._files, self._threads = files, threads
        self.precision, self.graphs = files.precision, files.names
        self._sessions: dict[str, Any] = {}
        self._graphs: dict[str, GraphFile] = {}

    def prepare(self, size: tuple[int, int]) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self._threads
        options.log_severity_level = 4  # what fails is raised, and said once
        self._graphs = self._files.read(size)
        self._sessions = {}
        for name, file in self._graphs.items():
            with _naming(file, self._files.repair):
                session = onnxruntime.InferenceSession(file.data, options, providers=["CPUExecutionProvider"])
                _check_tensors(
                    name, *([{one.name} for one in side] for side in (session.get_inputs(), session.get_outputs()))
                )
            self._sessions[name] = session

    def run(self, graph: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
        with _naming(self._graphs[graph], self._files.repair):
            results = self._sessions[graph].run(None, {name: tensors[name] for name in ENGINE_GRAPHS[graph].inputs})
        return dict(zip(ENGINE_GRAPHS[graph].outputs, results, strict=True))

    def tensor(self, array: np.ndarray) -> Any:
        return np.ascontiguousarray(array)

    def array(self, tensor: Any) -> np.ndarray:
        return tensor


class OpenVINORuntime:
    """OpenVINO on the CPU. Graphs are compiled for the very shapes that they get: again when an object is added."""

    name = "openvino"

    def __init__(self, files: GraphFiles, threads: int, precision: str) -> None:
        import openvino

        self._files, self.precision, self.graphs = files, precision, files.names
        self._core = openvino.Core()
        # An int8 graph says itself what is int8; the rest of it may be bf16 where that is faster.
        rest = "bf16" if precision == "bf16" or (precision == "int8" and bf16_is_faster()) else "f32"
        self._settings = {
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": rest,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
        }
        self._graphs: dict[str, GraphFile] = {}
        self._requests: dict[str, tuple[int, Any, list[str]]] = {}

    def prepare(self, size: tuple[int, int]) -> None:
        self._graphs, self._requests = self._files.read(size), {}

    def run(self, graph: str, tensors: Mapping[str, Any]) -> dict[str, Any]:
        inputs = {name: tensors[name] for name in ENGINE_GRAPHS[graph].inputs}
        with _naming(self._graphs[graph], self._files.repair):
            request, names = self._request(graph, inputs)
            results = request.infer({name: inputs[name] for name in names}, share_inputs=True, share_outputs=True)
            return {name: results[index] for index, name in enumerate(ENGINE_GRAPHS[graph].outputs)}

    def _request(self, graph: str, inputs: Mapping[str, np.ndarray]) -> tuple[Any, list[str]]:
        """A request, and the inputs that it takes: those that the graph does not use are gone where it is read from bytes."""
        num_objects = max((len(inputs[name]) for name in ("masks", "first_value") if name in inputs), default=1)
        made_for, request, names = self._requests.get(graph, (0, None, []))
        if made_for != num_objects:
            file = self._graphs[graph]
            model = self._core.read_model(file.data, file.weights)
            _check_tensors(graph, *([one.get_names() for one in side] for side in (model.inputs, model.outputs)))
            given = set[str]().union(*(one.get_names() for one in model.inputs))
            names = [name for name in inputs if name in given]
            model.reshape({name: list(inputs[name].shape) for name in names})
            request = self._core.compile_model(model, "CPU", self._settings).create_infer_request()
            self._requests[graph] = num_objects, request, names
        return request, names

    def tensor(self, array: np.ndarray) -> Any:
        return np.ascontiguousarray(array)

    def array(self, tensor: Any) -> np.ndarray:
        return tensor


def ran_out_of_memory(error: Exception) -> bool:
    """Whether an allocation failed: PyTorch, OpenCV, ONNX Runtime and OpenVINO raise classes of their own."""
    text = str(error).lower()
    return isinstance(error, MemoryError) or any(words in text for words in _ALLOCATION_FAILED)


_ALLOCATION_FAILED = (
    "allocate memory",
    "out of memory",
    "insufficient memory",
    "not enough memory",
    "bad_alloc",
    "bad allocation",
)


@contextmanager
def _naming(file: GraphFile, repair: str) -> Iterator[None]:
    """What a runtime raises, of whatever class, as one line that names the graph's file."""
    try:
        yield
    except Exception as error:
        if isinstance(error, InputError) or ran_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())[:160] or type(error).__name__
        raise InputError(f"{file.path}: this graph cannot be run ({reason}); {repair}") from error


def _check_tensors(graph: str, inputs: list[set[str]], outputs: list[set[str]]) -> None:
    """Raise ValueError where a file's tensors, each with the names that it has, are not those of the graph that it stands for."""
    wanted = ENGINE_GRAPHS[graph]
    right = len(outputs) == len(wanted.outputs) and all(names & set(wanted.inputs) for names in inputs)
    if not right or not all(name in names for name, names in zip(wanted.outputs, outputs, strict=True)):
        raise ValueError(f"its tensors are not those of {graph}")


class Choice(NamedTuple):
    """A runtime and its precision, and why."""

    runtime: str
    precision: str
    reason: str


def bf16_is_faster() -> bool:
    """Whether this processor multiplies matrices of bf16 in tiles (AMX). AVX-512's bf16 instructions do no more a cycle than those of
    fp32: with them alone a frame took 1.5 times as long in bf16 (DECISIONS.md)."""
    return bool(torch.cpu.get_capabilities().get("amx_bf16", False))


def installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def choose(runtime: str, precision: str, exported_precision: str, on_gpu: bool) -> Choice:
    """What `auto` means on this machine.

    exported_precision  "fp32" or "int8": that of the files, where the model is a folder of exported graphs; "" for a network

    Raises InputError for names that are unknown, do not fit together, or are not installed.
    """
    if runtime not in NAMES:
        raise InputError(f'runtime "{runtime}" is unknown; use one of {", ".join(NAMES)}')
    if precision not in PRECISIONS:
        raise InputError(f'precision "{precision}" is unknown; use one of {", ".join(PRECISIONS)}')
    why = []
    if runtime == "auto":
        if on_gpu:
            runtime, reason = "compile", "the network is on a GPU"
        elif installed("openvino"):
            runtime, reason = "openvino", "the fastest on a CPU"
        elif installed("onnxruntime"):
            runtime, reason = "onnxruntime", "OpenVINO is not installed"
        else:
            runtime, reason = "eager", "neither OpenVINO nor ONNX Runtime is installed"
        why.append(f"{runtime}: {reason}")
    if runtime in ("openvino", "onnxruntime") and not installed(runtime):
        raise InputError(
            f'runtime "{runtime}": not installed; pip install {runtime}, or use another of {", ".join(NAMES)}'
        )
    possible = _possible_precisions(runtime, exported_precision)
    if precision == "auto":
        precision = possible[0]
        if len(possible) > 1 or exported_precision:
            reason = {
                "int8": "the exported graphs are int8",
                "bf16": "this processor multiplies matrices of bf16 (AMX)",
                "fp32": "bf16 is slower on a processor without AMX"
                if runtime == "openvino"
                else "the exported graphs are fp32",
            }
            why.append(f"{precision}: {reason[precision]}")
    elif precision not in possible:
        hint = "; int8 needs calibrated graphs: jobs.export --int8" if precision == "int8" else ""
        raise InputError(f'precision "{precision}" does not fit {runtime}: use {" or ".join(possible)}{hint}')
    return Choice(runtime, precision, ", ".join(why) or "as asked")


def _possible_precisions(runtime: str, exported_precision: str) -> Sequence[str]:
    """Best first."""
    if exported_precision == "int8":
        return ("int8",)
    if runtime != "openvino":
        return ("fp32",)
    return ("bf16", "fp32") if bf16_is_faster() else ("fp32", "bf16")


def available_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
