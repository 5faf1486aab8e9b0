"""The graphs of `vos.inference.graphs` as files that other runtimes load.

A graph takes any number of objects (ExecuTorch: any up to the number it was made for). Its frame size is fixed, which lets runtimes plan
their memory, or free (`size` None): then the sides have to be multiples of 16, since tracing cannot follow a padding that depends on them.
"""

from __future__ import annotations

import copy
import logging
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim

from vos.errors import InputError
from vos.files.whole import write_atomic
from vos.inference.graphs import ENGINE_GRAPHS, GRAPHS, Graph
from vos.models.interface import VOSModel

MAX_OBJECTS = 254
TRACED_SIZE = (96, 112)
"""The frame size by which a graph of free size is traced; nothing of it stays in the graph."""
_PER_OBJECT = ("first_key", "first_value", "recent_value", "masks", "objects")
_FRAME = ("frame", "labels")
_STRIDES = {"frame": 1, "labels": 1, "masks": 1, "f4": 4, "f8": 8}
"""Of a graph's tensors; 16 for all others."""


def graph_type(name: str) -> type[Graph]:
    return GRAPHS[name] if name in GRAPHS else ENGINE_GRAPHS[name]


def tensor_names(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of a graph's inputs and outputs."""
    return graph_type(name).inputs, graph_type(name).outputs


def example_tensors(model: VOSModel, size: tuple[int, int], num_objects: int = 2) -> dict[str, Tensor]:
    """A tensor for every input of every graph, of the shapes that this model makes of frames of a size."""
    frame = torch.zeros(*size, 3, dtype=torch.uint8)
    labels = torch.zeros(size, dtype=torch.uint8)
    objects = torch.arange(1, num_objects + 1, dtype=torch.uint8)
    tensors = {"frame": frame, "labels": labels, "objects": objects}
    with torch.no_grad():
        tensors |= run_graph("encode_query", model, tensors)
        key, value = GRAPHS["start"](model)(frame, labels, objects)
        tensors |= {"first_key": key.repeat(num_objects, 1, 1, 1), "first_value": value, "shared_first_key": key}
        tensors |= {"recent_key": key, "recent_value": value.clone()}
        tensors |= run_graph("read_decode", model, tensors)
    return tensors


def run_graph(name: str, model: VOSModel, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A graph's outputs by name, in PyTorch."""
    inputs, outputs = tensor_names(name)
    results = graph_type(name)(model)(*[tensors[one] for one in inputs])
    return dict(zip(outputs, results if isinstance(results, tuple) else (results,), strict=True))


class Shape(NamedTuple):
    """What a graph is made for: frames (H, W) or None for free sides; a number of objects, or fewer too if `or_fewer`, or None for any."""

    size: tuple[int, int] | None
    num_objects: int | None = None
    or_fewer: bool = False


def write_onnx(name: str, model: VOSModel, path: str, shape: Shape) -> None:
    """One graph as an ONNX file, weights inside, written whole. Raises InputError where it cannot be written."""
    inputs, outputs = tensor_names(name)
    with _quiet():
        exported = torch.onnx.export(
            graph_type(name)(model),
            **_traced_by(name, model, shape),
            dynamo=True,
            verbose=False,
            opset_version=18,
            input_names=list(inputs),
            output_names=list(outputs),
        )
    assert exported is not None
    write_atomic(path, exported.model_proto.SerializeToString())


def write_openvino(name: str, model: VOSModel, path: str, shape: Shape) -> None:
    """One graph as OpenVINO's .xml with its .bin beside it."""
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, f"{name}.onnx")
        write_onnx(name, model, source, shape)
        openvino_from_onnx(source, path)


def openvino_from_onnx(source: str, path: str) -> None:
    """An ONNX file as OpenVINO's .xml and .bin, the .xml last. Weights keep their precision."""
    openvino = required("openvino")
    with tempfile.TemporaryDirectory() as folder:
        temporary = os.path.join(folder, os.path.basename(path))
        openvino.save_model(openvino.Core().read_model(source), temporary, compress_to_fp16=False)
        for ending in (".bin", ".xml"):
            with open(os.path.splitext(temporary)[0] + ending, "rb") as file:
                write_atomic(os.path.splitext(path)[0] + ending, file.read())


def write_program(name: str, model: VOSModel, path: str, shape: Shape) -> None:
    """One graph as torch.export's .pt2."""
    with tempfile.TemporaryDirectory() as folder, _quiet():
        temporary = os.path.join(folder, "graph.pt2")
        torch.export.save(_exported(name, model, shape), temporary)
        with open(temporary, "rb") as file:
            write_atomic(path, file.read())


def write_executorch(name: str, model: VOSModel, path: str, shape: Shape) -> None:
    """One graph as ExecuTorch's .pte, convolutions lowered to XNNPACK: of fixed size, its memory planned for 1 to `num_objects` objects."""
    partitioner = required("executorch.backends.xnnpack.partition.xnnpack_partitioner").XnnpackPartitioner
    exir = required("executorch.exir")
    if shape.size is None or shape.num_objects is None:
        raise InputError("--to executorch: ExecuTorch plans its memory ahead; give --size WIDTHxHEIGHT and --objects")
    with _quiet():
        plain = copy.deepcopy(model).to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        program = _exported(name, plain, shape._replace(or_fewer=True))
        lowered = exir.to_edge_transform_and_lower(program, partitioner=[partitioner()])
        write_atomic(path, lowered.to_executorch().buffer)


WRITERS: dict[str, tuple[str, Callable[[str, VOSModel, str, Shape], None]]] = {
    "onnx": (".onnx", write_onnx),
    "openvino": (".xml", write_openvino),
    "torch-export": (".pt2", write_program),
    "executorch": (".pte", write_executorch),
}
"""Format -> ending of its files, and how a graph is written."""


def load_graph(name: str, path: str) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    """An exported graph in its own runtime: arrays by name in, arrays by name out."""
    inputs, outputs = tensor_names(name)
    ending = os.path.splitext(path)[1]
    if ending == ".onnx":
        session = required("onnxruntime").InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda arrays: _named(outputs, session.run(None, {one: arrays[one] for one in inputs}))
    if ending == ".xml":
        return _openvino_graph(path, inputs, outputs)

    def tensors(arrays: Mapping[str, np.ndarray]) -> list[Tensor]:
        return [torch.from_numpy(np.ascontiguousarray(arrays[one])) for one in inputs]

    if ending == ".pt2":
        module = torch.export.load(path).module()
        return lambda arrays: _named(outputs, _arrays(module(*tensors(arrays))))
    method = required("executorch.runtime").Runtime.get().load_program(path).load_method("forward")
    return lambda arrays: _named(outputs, _arrays(method.execute(tensors(arrays))))


def _openvino_graph(
    path: str, inputs: tuple[str, ...], outputs: tuple[str, ...]
) -> Callable[[Mapping[str, np.ndarray]], dict[str, np.ndarray]]:
    core = required("openvino").Core()
    compiled: dict[tuple[tuple[int, ...], ...], Any] = {}

    def run(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        # For the very shapes: the CPU plugin of 2026.4 fails where the number of objects changes under one compiled graph.
        shapes = tuple(arrays[one].shape for one in inputs)
        if shapes not in compiled:
            model = core.read_model(path)
            model.reshape({one: list(shape) for one, shape in zip(inputs, shapes, strict=True)})
            compiled[shapes] = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        return _named(outputs, list(compiled[shapes]({one: arrays[one] for one in inputs}).values()))

    return run


def required(package: str) -> Any:
    """Import an optional package. Raises InputError with the line that installs it."""
    import importlib

    try:
        return importlib.import_module(package)
    except ImportError:
        name = package.split(".")[0]
        raise InputError(f"{name}: not installed; pip install {name}") from None


def _named(outputs: tuple[str, ...], results: list[np.ndarray]) -> dict[str, np.ndarray]:
    return {name: np.array(result) for name, result in zip(outputs, results, strict=True)}


def _arrays(results: Any) -> list[np.ndarray]:
    return [one.detach().numpy() for one in (results if isinstance(results, list | tuple) else (results,))]


def _exported(name: str, model: VOSModel, shape: Shape) -> torch.export.ExportedProgram:
    return torch.export.export(graph_type(name)(model), **_traced_by(name, model, shape))


def _traced_by(name: str, model: VOSModel, shape: Shape) -> dict[str, Any]:
    """What torch's exporters trace a graph with: examples, and which dimensions are free."""
    # Only shapes are needed; to compute the tensors takes most of the time for large frames (at 4K, minutes).
    with FakeTensorMode(allow_non_fake_inputs=True):
        examples = example_tensors(model, shape.size or TRACED_SIZE, shape.num_objects or 2)
    inputs = {one: examples[one] for one in tensor_names(name)[0]}
    zeros = (torch.empty_strided(one.shape, one.stride(), dtype=one.dtype).zero_() for one in inputs.values())
    free = (_free_dimensions(name, one.ndim, shape) for name, one in inputs.items())
    return {"args": tuple(zeros), "dynamic_shapes": tuple(free)}


def _free_dimensions(name: str, ndim: int, shape: Shape) -> dict[int, Any] | None:
    free: dict[int, Any] = {}
    most = shape.num_objects or MAX_OBJECTS
    if name in _PER_OBJECT and most > 1 and (shape.num_objects is None or shape.or_fewer):
        free[0] = Dim("O", min=1, max=most)
    if shape.size is None and name != "objects":
        cells = 16 // _STRIDES.get(name, 16)
        height_axis = 0 if name in _FRAME else ndim - 2
        free |= {height_axis: cells * Dim("h", min=2, max=256), height_axis + 1: cells * Dim("w", min=2, max=256)}
    return free or None


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporters tell of every operator of packages that are not installed."""
    previous = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(previous)
