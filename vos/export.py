"""The graphs of `vos.graphs` as files that other runtimes load.

A graph takes any number of objects. Its frame size is fixed, which lets runtimes plan their memory, or free (`size` None): then the sides
have to be multiples of 16 (tracing cannot follow a padding that depends on them).
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.export import Dim

from vos.files import write_atomic
from vos.graphs import GRAPHS
from vos.models.interface import VOSModel

MAX_OBJECTS = 254
TRACED_SIZE = (96, 112)
"""The frame size by which a graph of free size is traced; nothing of it stays in the graph."""
_PER_OBJECT = ("first_key", "first_value", "recent_value", "masks", "objects")
_FRAME = ("frame", "labels")
_STRIDES = {"frame": 1, "labels": 1, "masks": 1, "f4": 4, "f8": 8}
"""Of a graph's tensors; 16 for all others."""


def tensor_names(name: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Names of a graph's inputs and outputs."""
    return GRAPHS[name].inputs, GRAPHS[name].outputs


def example_tensors(model: VOSModel, size: tuple[int, int], num_objects: int = 2) -> dict[str, Tensor]:
    """A tensor for every input of every graph, of the shapes that this model makes of frames of a size."""
    frame = torch.zeros(*size, 3, dtype=torch.uint8)
    labels = torch.zeros(size, dtype=torch.uint8)
    objects = torch.arange(1, num_objects + 1, dtype=torch.uint8)
    tensors = {"frame": frame, "labels": labels, "objects": objects}
    with torch.no_grad():
        tensors |= run_graph("encode_query", model, tensors)
        key, value = GRAPHS["start"](model)(frame, labels, objects)
        tensors |= {"first_key": key.repeat(num_objects, 1, 1, 1), "first_value": value}
        tensors |= {"recent_key": key, "recent_value": value.clone()}
        tensors |= run_graph("read_decode", model, tensors)
    return tensors


def run_graph(name: str, model: VOSModel, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """A graph's outputs by name, in PyTorch."""
    inputs, outputs = tensor_names(name)
    results = GRAPHS[name](model)(*[tensors[one] for one in inputs])
    return dict(zip(outputs, results if isinstance(results, tuple) else (results,), strict=True))


def traced_arguments(name: str, model: VOSModel, size: tuple[int, int] | None) -> dict[str, Any]:
    """What torch's exporters trace a graph with: examples, and which dimensions are free."""
    examples = example_tensors(model, size or TRACED_SIZE)
    inputs = tensor_names(name)[0]
    shapes = tuple(_free_dimensions(one, examples[one].ndim, size is None) for one in inputs)
    return {"args": tuple(examples[one].clone() for one in inputs), "dynamic_shapes": shapes}


def write_onnx(name: str, model: VOSModel, path: str, size: tuple[int, int] | None) -> None:
    """One graph as an ONNX file, weights inside, written whole. Raises InputError where it cannot be written."""
    inputs, outputs = tensor_names(name)
    with _quiet():
        exported = torch.onnx.export(
            GRAPHS[name](model),
            **traced_arguments(name, model, size),
            dynamo=True,
            verbose=False,
            opset_version=18,
            input_names=list(inputs),
            output_names=list(outputs),
        )
    assert exported is not None
    write_atomic(path, exported.model_proto.SerializeToString())


def _free_dimensions(name: str, ndim: int, free_size: bool) -> dict[int, Any] | None:
    free: dict[int, Any] = {}
    if name in _PER_OBJECT:
        free[0] = Dim("O", min=1, max=MAX_OBJECTS)
    if free_size and name != "objects":
        cells = 16 // _STRIDES.get(name, 16)
        height_axis = 0 if name in _FRAME else ndim - 2
        free |= {height_axis: cells * Dim("h", min=2, max=256), height_axis + 1: cells * Dim("w", min=2, max=256)}
    return free or None


@contextmanager
def _quiet() -> Iterator[None]:
    """torch's exporter tells of every operator of packages that are not installed."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
