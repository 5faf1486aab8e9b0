"""Load the network that a configuration names: a checkpoint folder (local or URI), an official STCN file, or a built-in model."""

from __future__ import annotations

import hashlib
import os
import tempfile
from typing import Any

import torch
from torch import Tensor

from pipelines import storage, tracking
from pipelines.tracking.packaging import copy_checkpoint
from vos.config import AS_TRAINED
from vos.errors import InputError
from vos.inference.engine import Engine
from vos.inference.graph_files import is_exported
from vos.inference.head_start import HeadStart
from vos.models.builtin import BUILTIN
from vos.models.checkpoint import DIGEST, load_checkpoint
from vos.models.interface import VOSModel


def load_model(path: str) -> tuple[VOSModel, dict[str, Any]]:
    """Return the network at `path`, in eval mode, and its checkpoint's description (`role` is teacher or student).

    Raises InputError when the file is missing, damaged or of another architecture.
    """
    if path in BUILTIN:
        return load_checkpoint(BUILTIN[path])
    if not storage.is_uri(path):
        return load_checkpoint(path)
    with tempfile.TemporaryDirectory() as folder:
        if not copy_checkpoint(path, folder):
            raise InputError(f"{path}: no checkpoint there; name the --out folder of a finished jobs.train")
        return load_checkpoint(folder)


def load_engine(
    path: str,
    runtime: str,
    precision: str = "auto",
    size_px: int = 0,
    threads: int = 0,
    upsampling: str = "bilinear",
    gate: float = 0.0,
) -> Engine:
    """Return the real-time engine of a checkpoint (as `load_model` takes it) or of a folder of exported graphs.

    The arguments are Engine's; `size_px` may also be AS_TRAINED, the size in the checkpoint's model.json.
    """
    model, info, size_px = _network(path, size_px)
    engine = Engine(
        model, runtime, precision=precision, size_px=size_px, threads=threads, upsampling=upsampling, gate=gate
    )
    engine.description |= {name: info[name] for name in (DIGEST, "size_px") if name in info}
    return engine


def working_size_px(size_px: int, info: dict[str, Any]) -> int:
    """Return `size_px`, with AS_TRAINED replaced by the size in the checkpoint's description.

    A description without a size means 0, the frames' own size.
    """
    return int(info.get("size_px", 0)) if size_px == AS_TRAINED else size_px


def load_head_start(
    path: str,
    frame_size: tuple[int, int],
    runtime: str,
    precision: str,
    size_px: int,
    threads: int,
    upsampling: str,
    gate: float = 0.0,
) -> HeadStart:
    """Return an engine that starts before its graphs exist, for a video with frames (H, W); other arguments as for `load_engine`."""
    model, _, size_px = _network(path, size_px)
    return HeadStart(
        model,
        frame_size,
        runtime,
        precision=precision,
        size_px=size_px,
        threads=threads,
        upsampling=upsampling,
        gate=gate,
    )


def _network(path: str, size_px: int) -> tuple[VOSModel | str, dict[str, Any], int]:
    """Return what Engine takes for a path, the description in its checkpoint, and the size that `size_px` stands for."""
    model, info = (path, {}) if is_exported(path) else load_model(path)
    return model, info, working_size_px(size_px, info)


def find_model(name: str, folder: str) -> str:
    """Return the path that `load_engine` takes for a user's name: a path, a registered model, or the id of an MLflow run.

    folder  where a registered version is copied to
    Raises InputError where the name is none of these.
    """
    path = os.path.join(os.environ.get("MOBILEVOS_HOME", ""), os.path.expanduser(name))
    if name in BUILTIN or storage.is_uri(name):
        return name
    if name and os.path.exists(path):
        return path
    reference = name if tracking.is_reference(name) else tracking.reference_of(name)
    if not reference:
        raise InputError(
            f"--model {name}: no such file or folder; give a folder of jobs.train or jobs.export, a .safetensors or .pth file, "
            "models:/NAME@champion, champion, the id of an MLflow run, builtin-student, builtin-davis or builtin"
        )
    return tracking.resolve(reference, folder, "--model")[0]


def weights_digest(model: VOSModel) -> str:
    """Return a digest of names and weights; two files with the same weights have the same digest."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(_bytes(value))
    return digest.hexdigest()[:32]


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
