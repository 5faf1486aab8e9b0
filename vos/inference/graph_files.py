"""Where the runtimes' graphs come from: a folder that `jobs.export` wrote, or made for a network when first needed and kept.

An exported folder has `graphs.json`, sealed: {"model", "precision", "size": [H, W] or null for any, "objects": number or null for any,
"files": {graph: file name}, "sha256": {file name: digest}}. In the cache each graph has its digest beside it. Runtimes get the very bytes
whose digest was compared, never a path: a path could lead to another file by then, and an ONNX file to others beside it.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import escape, glob
from importlib import metadata
from typing import Any, Literal, NamedTuple, NotRequired, TypedDict

from vos.errors import InputError
from vos.files.seals import unsealed
from vos.files.whole import code_cache, inside, read_regular, write_atomic
from vos.inference.export import Shape, write_onnx
from vos.inference.graphs import ENGINE_GRAPHS, NEEDED, inference_copy
from vos.models.interface import VOSModel

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
"""The folder of `vos`."""
GRAPHS_FILE = "graphs.json"
SEALED_BY = "export"
_AGAIN = "export it again: python -m jobs.export"

SOURCES = (
    "models/*.py",
    "data/transforms.py",
    "inference/export.py",
    "inference/graph_files.py",
    "inference/graphs.py",
    "inference/propagate.py",
)
"""What graphs are made from, below PACKAGE. A test holds that what these import is among them too."""
EXPORTERS = ("torch", "onnx", "onnx-ir", "onnxscript")
"""Packages whose releases write different graphs."""


class GraphFile(NamedTuple):
    """One graph as the bytes of its file."""

    path: str
    """For errors."""
    data: bytes
    """ONNX, or OpenVINO's .xml."""
    weights: bytes = b""
    """OpenVINO's .bin."""


class GraphFiles:
    """The engine's graphs, by frame size."""

    precision = "fp32"
    names: Sequence[str] = tuple(ENGINE_GRAPHS)
    repair = "delete this file: it is made again"

    def read(self, size: tuple[int, int]) -> dict[str, GraphFile]:
        """graph -> its file, for frames of a size. Raises InputError where there are none for it, or one is damaged."""
        raise NotImplementedError


class About(TypedDict):
    """What `graphs.json` says at least."""

    model: str
    parameters: int
    precision: Literal["fp32", "int8"]
    format: Literal["onnx", "openvino", "torch-export", "executorch"]
    size: NotRequired[tuple[int, int] | None]
    objects: NotRequired[int | None]
    files: dict[str, str]
    sha256: dict[str, str]


class MadeGraphs(GraphFiles):
    """Written into a cache folder ($MOBILEVOS_CACHE, default ~/.cache/mobilevos-ray), under a digest of all that decides their content.

    One that is truncated or was changed is made again.
    """

    def __init__(self, model: VOSModel) -> None:
        self._model = model

    def missing(self, size: tuple[int, int]) -> list[str]:
        """The graphs that `read` would have to make, or to make again where they look unfinished. Raises InputError as `read` does."""
        folder = self._folder(size)
        paths = {name: _path(folder, name) for name in ENGINE_GRAPHS}
        return [
            name for name, path in paths.items() if not (os.path.isfile(path) and os.path.isfile(_digest_path(path)))
        ]

    def read(self, size: tuple[int, int]) -> dict[str, GraphFile]:
        folder = self._folder(size)
        paths = {name: _path(folder, name) for name in ENGINE_GRAPHS}
        found = {name: kept_graph(path) for name, path in paths.items()}
        if None in found.values():
            with _only_maker(folder):  # another process may have made them while this one waited
                _remove_unfinished(folder)
                model = inference_copy(self._model).cpu()  # where its graphs are traced
                found = {name: kept_graph(path) or _make(name, model, path, size) for name, path in paths.items()}
        return {name: GraphFile(paths[name], data) for name, data in found.items() if data is not None}

    def _folder(self, size: tuple[int, int]) -> str:
        return code_cache(f"{self._digest()}-{size[0]}x{size[1]}")

    def _digest(self) -> str:
        digest = hashlib.sha256(f"{sources_digest(PACKAGE)} {exporters()} ".encode())
        digest.update(f"{self._model.name} {self._model.preprocessing}".encode())
        for name, tensor in sorted(self._model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()[:20]


def sources_digest(package: str) -> str:
    """A digest of what graphs are made from, names and bytes, in a folder of `vos`."""
    digest = hashlib.sha256()
    for path in (path for pattern in SOURCES for path in sorted(glob(os.path.join(escape(package), pattern)))):
        with open(path, "rb") as file:
            data = file.read()
        digest.update(f"{os.path.relpath(path, package)} {len(data)} ".encode())
        digest.update(data)
    return digest.hexdigest()


def exporters() -> str:
    """Names and releases of the packages that write graphs."""
    return " ".join(f"{one} {_release(one)}" for one in EXPORTERS)


def _release(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:  # where nothing is exported, graphs made elsewhere can still be played
        return "absent"


class ExportedGraphs(GraphFiles):
    """A folder of jobs.export. Raises InputError where it is none."""

    names = NEEDED
    repair = _AGAIN

    def __init__(self, folder: str) -> None:
        path = os.path.join(folder, GRAPHS_FILE)
        about = unsealed(read_regular(path, "json_bytes", _AGAIN), About, path, SEALED_BY, None, _AGAIN)
        self.description: dict[str, Any] = dict(about)
        if about["format"] not in ("onnx", "openvino"):
            raise InputError(
                f"{folder}: the engine does not run {about['format']} graphs; give a folder of jobs.export --to onnx"
            )
        lacking = sorted(set(NEEDED) - about["files"].keys())
        sides, objects = about.get("size") or (16, 16), about.get("objects")
        if lacking or not all(0 < side <= 2**16 for side in sides) or not (objects is None or 0 < objects < 256):
            raise InputError(f"{path}: names no {lacking[0] if lacking else 'possible size'}; {_AGAIN}")
        self.precision = about["precision"]
        self._folder, self._about = folder, about
        self._files = {name: self._read(about["files"][name]) for name in NEEDED}

    def read(self, size: tuple[int, int]) -> dict[str, GraphFile]:
        made_for = self._about.get("size")
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
        return self._files

    def _read(self, name: str) -> GraphFile:
        path, data = self._checked(name)
        if self._about["format"] == "openvino":
            return GraphFile(path, data, self._checked(f"{os.path.splitext(name)[0]}.bin")[1])
        _refuse_other_files(data, path)
        return GraphFile(path, data)

    def _checked(self, name: str) -> tuple[str, bytes]:
        """Path and bytes of a file of the folder, which are those that were exported."""
        about = os.path.join(self._folder, GRAPHS_FILE)
        path = inside(self._folder, name, about)
        data = read_regular(path, "graph_bytes", _AGAIN)
        found, expected = hashlib.sha256(data).hexdigest(), self._about["sha256"].get(name, "none")
        if found != expected:
            raise InputError(
                f"{path}: is not the file that {GRAPHS_FILE} describes (sha256 {found[:12]}, expected {expected[:12]}); {_AGAIN}"
            )
        return path, data

    def check_objects(self, num_objects: int) -> None:
        """Raises InputError where the graphs are for another number of objects, be it fewer or more: tracing made theirs a constant."""
        made_for = self._about.get("objects")
        if made_for and num_objects != made_for:
            raise InputError(
                f"{self._folder}: exported for {made_for} object(s), the video has {num_objects}; "
                f"export with --objects {num_objects}, or without for any number"
            )


def is_exported(path: str) -> bool:
    return os.path.isfile(os.path.join(path, GRAPHS_FILE))


def kept_graph(path: str) -> bytes | None:
    """The bytes of a graph in the cache, None where it is absent or is not the one whose digest lies beside it."""
    try:
        data = read_regular(path, "graph_bytes")
        return data if read_regular(_digest_path(path), "json_bytes") == _digest_line(data, path) else None
    except InputError:
        return None


def _make(name: str, model: VOSModel, path: str, size: tuple[int, int]) -> bytes:
    """Write a graph into the cache, and its digest after it; returns its bytes."""
    if os.path.lexists(path):
        print(f"note: {path}: damaged or unfinished, made again", file=sys.stderr)
    write_onnx(name, model, path, Shape(size))
    data = read_regular(path, "graph_bytes")
    write_atomic(_digest_path(path), _digest_line(data, path))
    return data


def _path(folder: str, name: str) -> str:
    return os.path.join(folder, f"{name}.onnx")


def _digest_path(path: str) -> str:
    """Where the digest of a graph of the cache lies. It is written after the graph: with it, the graph is finished."""
    return f"{path}.sha256"


def _remove_unfinished(folder: str) -> None:
    """What a maker that was killed left under temporary names; the caller is the only maker."""
    for path in glob(os.path.join(escape(folder), "*.tmp")):
        os.remove(path)


def _digest_line(data: bytes, path: str) -> bytes:
    return f"{hashlib.sha256(data).hexdigest()}  {os.path.basename(path)}\n".encode()


@contextmanager
def _only_maker(folder: str) -> Iterator[None]:
    """One process at a time makes the graphs of a folder: else the digest of one could lie beside the file of another."""
    try:
        file = open(os.path.join(folder, ".lock"), "a", encoding="utf-8")  # noqa: SIM115
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"{folder}: graphs cannot be kept here ({reason}); set MOBILEVOS_CACHE to another folder"
        ) from None
    with file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _refuse_other_files(data: bytes, path: str) -> None:
    """Raise InputError for ONNX whose tensors lie in other files: jobs.export writes none such, and the path could be any."""
    import onnx

    try:
        model = onnx.ModelProto.FromString(data)
    except Exception as error:  # protobuf's own, of a class that differs between its releases
        raise InputError(f"{path}: is no ONNX file ({type(error).__name__}); {_AGAIN}") from None
    if any(tensor.external_data or tensor.data_location for tensor in _tensors(model)):
        raise InputError(f"{path}: has tensors in other files, which is never loaded; {_AGAIN}")


def _tensors(message: Any) -> Iterator[Any]:
    """Every TensorProto within a protobuf message, however deep."""
    if message.DESCRIPTOR.name == "TensorProto":
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for one in [value] if hasattr(value, "ListFields") else value:
                yield from _tensors(one)
