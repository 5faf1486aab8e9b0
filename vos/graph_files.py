"""Where the runtimes' graph files come from: a folder that `jobs.export` wrote, or made for a network when first needed and kept.

An exported folder has `graphs.json`: {"model", "precision", "size": [H, W] or null for any, "objects": number or null for any,
"files": {graph: file name}}.
"""

from __future__ import annotations

import hashlib
import inspect
import json
import os
from collections.abc import Sequence

import torch

import vos.export
import vos.graphs
from vos.errors import InputError
from vos.export import Shape, write_onnx
from vos.files import code_cache
from vos.graphs import ENGINE_GRAPHS, NEEDED, inference_copy
from vos.models import backbones, decoder, encoders, interface
from vos.models.interface import VOSModel

DESCRIPTION = "graphs.json"


class GraphFiles:
    """ONNX files of the engine's graphs, by frame size."""

    precision = "fp32"
    names: Sequence[str] = tuple(ENGINE_GRAPHS)

    def paths(self, size: tuple[int, int]) -> dict[str, str]:
        """graph -> path, for frames of a size. Raises InputError where there are none for it."""
        raise NotImplementedError


class MadeGraphs(GraphFiles):
    """Written into a cache folder ($MOBILEVOS_CACHE, default ~/.cache/mobilevos-ray), under a digest of all that decides their content."""

    def __init__(self, model: VOSModel) -> None:
        self._model = model

    def paths(self, size: tuple[int, int]) -> dict[str, str]:
        folder = code_cache(f"{self._digest()}-{size[0]}x{size[1]}")
        paths = {name: os.path.join(folder, f"{name}.onnx") for name in ENGINE_GRAPHS}
        missing = [name for name in ENGINE_GRAPHS if not os.path.exists(paths[name])]
        if missing:
            model = inference_copy(self._model).cpu()  # where its graphs are traced
            for name in missing:
                write_onnx(name, model, paths[name], Shape(size))
        return paths

    def _digest(self) -> str:
        digest = hashlib.sha256(f"{torch.__version__} {self._model.name} {self._model.preprocessing}".encode())
        for module in (vos.graphs, vos.export, type(self._model), backbones, decoder, encoders, interface):
            digest.update(inspect.getsource(module).encode())
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:20]


class ExportedGraphs(GraphFiles):
    """A folder of jobs.export. Raises InputError where it is none."""

    names = NEEDED

    def __init__(self, folder: str) -> None:
        path = os.path.join(folder, DESCRIPTION)
        try:
            with open(path, encoding="utf-8") as file:
                self.description = json.load(file)
            files = self.description["files"]
            self.precision = self.description["precision"]
            kind = self.description.get("format", "onnx")
            self._paths = {name: os.path.join(folder, os.path.basename(files[name])) for name in NEEDED}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"{path}: cannot be read ({type(error).__name__}); give a folder written by jobs.export --to onnx"
            ) from error
        if kind not in ("onnx", "openvino"):
            raise InputError(f"{folder}: the engine does not run {kind} graphs; give a folder of jobs.export --to onnx")
        self._folder = folder

    def paths(self, size: tuple[int, int]) -> dict[str, str]:
        made_for: Sequence[int] | None = self.description.get("size")
        if made_for is not None and tuple(made_for) != size:
            raise InputError(
                f"{self._folder}: exported for frames of {made_for[1]}x{made_for[0]}, these are {size[1]}x{size[0]}; "
                "export with that --size, or with free sides"
            )
        if made_for is None and (size[0] % 16 or size[1] % 16):
            raise InputError(
                f"{self._folder}: graphs of free size take sides that are multiples of 16, these are {size[1]}x{size[0]}; "
                "export with that --size"
            )
        return self._paths

    def check_objects(self, num_objects: int) -> None:
        """Raises InputError where the graphs are for another number of objects, be it fewer or more: tracing made theirs a constant."""
        made_for: int | None = self.description.get("objects")
        if made_for and num_objects != made_for:
            raise InputError(
                f"{self._folder}: exported for {made_for} object(s), the video has {num_objects}; "
                f"export with --objects {num_objects}, or without for any number"
            )


def is_exported(path: str) -> bool:
    return os.path.isfile(os.path.join(path, DESCRIPTION))
