"""Which network a configuration names: a checkpoint folder (local or URI), an official STCN file, or what comes with the project."""

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
    """The network at `path`, in eval mode, and what its checkpoint says of it (`role` is teacher or student).

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
    path: str, runtime: str, precision: str = "auto", size_px: int = 0, threads: int = 0, upsampling: str = "bilinear"
) -> Engine:
    """The real-time engine of a checkpoint (as `load_model` takes it) or of a folder of exported graphs; arguments as Engine's, and
    AS_TRAINED for the `size_px` of its model.json."""
    model, info, size_px = _network(path, size_px)
    engine = Engine(model, runtime, precision=precision, size_px=size_px, threads=threads, upsampling=upsampling)
    engine.description |= {name: info[name] for name in (DIGEST, "size_px") if name in info}
    return engine


def working_size_px(size_px: int, info: dict[str, Any]) -> int:
    """A size as a flag gives it, with AS_TRAINED replaced by what a checkpoint's description says, 0 (frames as they are) where it
    says nothing."""
    return int(info.get("size_px", 0)) if size_px == AS_TRAINED else size_px


def load_head_start(
    path: str, frame_size: tuple[int, int], runtime: str, precision: str, size_px: int, threads: int, upsampling: str
) -> HeadStart:
    """An engine that need not wait for its graphs, for a video with frames (H, W); the other arguments as `load_engine`'s."""
    model, _, size_px = _network(path, size_px)
    return HeadStart(
        model, frame_size, runtime, precision=precision, size_px=size_px, threads=threads, upsampling=upsampling
    )


def _network(path: str, size_px: int) -> tuple[VOSModel | str, dict[str, Any], int]:
    """What Engine takes for a path, what its checkpoint says of it, and the size that `size_px` means."""
    model, info = (path, {}) if is_exported(path) else load_model(path)
    return model, info, working_size_px(size_px, info)


def find_model(name: str, folder: str) -> str:
    """What `load_engine` takes for a name that a user may give: a path, a name of the registry, or the id of an MLflow run.

    folder  where a registered version is copied to
    Raises InputError where it is none of them.
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
    """Digest of names and weights: two files with the same weights have the same digest."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(_bytes(value))
    return digest.hexdigest()[:32]


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
