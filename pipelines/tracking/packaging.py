"""Package a checkpoint folder as a model in MLflow's format, which loads where only torch and a few wheels are installed.

The loader is `vos/inference/served.py`. The Python files of `vos` are stored with the weights, so nothing is pickled, and neither Ray
nor this checkout is needed.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

import vos
from pipelines import storage
from vos.files.limits import check_limit
from vos.files.whole import inside, read_regular, write_atomic
from vos.models.checkpoint import DESCRIPTION, WEIGHTS

REQUIRED = ("torch", "numpy", "opencv-python-headless", "pillow", "safetensors")
"""The packages that `vos` imports to segment; listed here, because MLflow's own search for them takes 18 s."""


@contextmanager
def packaged(folder: str, serving: dict[str, Any], figures: dict[str, float]) -> Iterator[str]:
    """Make a temporary folder with the model in MLflow's format.

    folder   of the checkpoint, local or a URI
    serving  {"size_px", "memory"}, how to segment; where absent, the checkpoint's own memory at the video's size
    figures  measured results, stored in the model's metadata
    """
    import mlflow.pyfunc

    with tempfile.TemporaryDirectory() as work:
        data = os.path.join(work, "checkpoint")
        copy_checkpoint(folder, data)
        write_atomic(os.path.join(data, "serving.json"), json.dumps(serving).encode(), sync=False)
        code = os.path.join(work, "vos")
        shutil.copytree(os.path.dirname(vos.__file__), code, ignore=_only_python)
        model = os.path.join(work, "model")
        mlflow.pyfunc.save_model(
            model,
            loader_module="vos.inference.served",
            data_path=data,
            code_paths=[code],
            signature=_signature(),
            input_example=_example(),
            pip_requirements=[f"{name}=={_release(name)}" for name in REQUIRED],
            metadata={"reference_figures": figures} if figures else None,
        )
        yield model


def _only_python(folder: str, names: list[str]) -> list[str]:
    return [name for name in names if not name.endswith(".py") and not _is_package(os.path.join(folder, name))]


def _is_package(path: str) -> bool:
    return os.path.isfile(os.path.join(path, "__init__.py"))


def _release(name: str) -> str:
    """Return the installed release without its build (`+cpu`), which package indexes do not list."""
    return importlib.metadata.version(name).split("+")[0]


def _signature() -> Any:
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, Schema, TensorSpec

    uint8 = np.dtype(np.uint8)
    inputs: list[ColSpec | TensorSpec] = [
        TensorSpec(uint8, (-1, -1, -1, 3), "frames"),
        TensorSpec(uint8, (-1, -1), "mask"),
    ]
    return ModelSignature(inputs=Schema(inputs), outputs=Schema([TensorSpec(uint8, (-1, -1, -1))]))


def _example() -> dict[str, np.ndarray]:
    """Return two frames of a bright square that moves to the right, and its mask in the first one."""
    frames, mask = np.full((2, 32, 48, 3), 60, np.uint8), np.zeros((32, 48), np.uint8)
    frames[0, 8:20, 8:20] = frames[1, 8:20, 11:23] = 220
    mask[8:20, 8:20] = 1
    return {"frames": frames, "mask": mask}


def copy_checkpoint(path: str, folder: str) -> list[str]:
    """Copy only the checkpoint's files from a folder, local or a URI; returns their names, none where there is no checkpoint.

    Raises InputError for a file that is too large, and for a local file that is a link or not a regular file.
    """
    bounds = {WEIGHTS: "checkpoint_bytes", DESCRIPTION: "json_bytes"}
    names = [name for name in storage.list_names(path) if name in bounds]
    for name in names:
        if storage.is_uri(path):
            data = storage.read_bytes(storage.join(path, name))
            check_limit(bounds[name], len(data), storage.join(path, name))
        else:
            data = read_regular(inside(path, name, path), bounds[name], "copy the checkpoint again")
        write_atomic(os.path.join(folder, name), data, sync=False)
    return names
