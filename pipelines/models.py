"""Which network a configuration names: a checkpoint folder (local or URI), an official STCN file, or the built-in teacher."""

from __future__ import annotations

import hashlib
import os
import tempfile
from typing import Any

import torch
from torch import Tensor

from pipelines import storage
from vos.checkpoint import load_checkpoint
from vos.config import BUILTIN_TEACHER
from vos.errors import InputError
from vos.models.interface import VOSModel

BUILTIN_FOLDER = os.path.join(
    os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "vos", "models", "builtin_teacher"
)


def load_model(path: str) -> tuple[VOSModel, dict[str, Any]]:
    """The network at `path`, in eval mode, and what its checkpoint says of it (`role` is teacher or student).

    Raises InputError when the file is missing, damaged or of another architecture.
    """
    if path == BUILTIN_TEACHER:
        return load_checkpoint(BUILTIN_FOLDER)
    if not storage.is_uri(path):
        return load_checkpoint(path)
    with tempfile.TemporaryDirectory() as folder:
        names = [name for name in storage.list_names(path) if name.startswith("model.")]
        if not names:
            raise InputError(f"{path}: no checkpoint there; name the --out folder of a finished jobs.train")
        for name in names:
            with open(os.path.join(folder, name), "wb") as file:
                file.write(storage.read_bytes(storage.join(path, name)))
        return load_checkpoint(folder)


def is_infinite(info: dict[str, Any]) -> bool:
    """Whether the network was trained for a growing memory: teachers, and official STCN files."""
    return info.get("role", "teacher") == "teacher"


def weights_digest(model: VOSModel) -> str:
    """Digest of names and weights: two files with the same weights have the same digest."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(_bytes(value))
    return digest.hexdigest()[:32]


def _bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
