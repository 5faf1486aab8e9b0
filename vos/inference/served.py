"""A checkpoint as an MLflow `pyfunc` model: it segments frames from a first mask.

MLflow calls `_load_pyfunc` with the logged folder (a checkpoint and `serving.json`). No pickle is used, and MLflow is not imported here.

    model = mlflow.pyfunc.load_model("models:/mobilevos-tiny@champion")
    masks = model.predict({"frames": frames, "mask": mask})

    frames   (T, H, W, 3) uint8 RGB
    mask     (H, W) uint8, objects 1 to K of the first frame, 0 is background
    masks    (T, H, W) uint8; the first is `mask`

Over HTTP (`mlflow models serve`) the input is JSON: {"inputs": {"frames": [...], "mask": [...]}}.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any, NotRequired, TypedDict

import numpy as np

from vos.config import MemoryConfig
from vos.config.as_json import from_dict
from vos.errors import InputError
from vos.files.json_files import checked, read_json_file
from vos.inference.whole_video import memory_policy, segment_video
from vos.models.checkpoint import is_infinite, load_checkpoint
from vos.models.interface import VOSModel

SETTINGS = "serving.json"


@dataclass(frozen=True)
class ArrayVideo:
    """A video in memory with the mask of its first frame."""

    frames: np.ndarray
    """(T, H, W, 3) uint8 RGB"""
    labels: np.ndarray
    """(H, W) uint8"""
    name: str = "array"

    @property
    def num_frames(self) -> int:
        return len(self.frames)

    @property
    def size(self) -> tuple[int, int]:
        return self.frames.shape[1], self.frames.shape[2]

    @property
    def annotated(self) -> tuple[int, ...]:
        return (0,)

    @property
    def first_seen(self) -> dict[int, int]:
        return {int(label): 0 for label in np.unique(self.labels) if label}

    def frame_name(self, index: int) -> str:
        return f"{index:05d}"

    def frame(self, index: int) -> np.ndarray:
        return self.frames[index]

    def mask(self, index: int) -> np.ndarray | None:
        return None if index else self.labels

    def signature(self) -> str:
        return f"{self.name} {self.frames.shape}"

    def files(self) -> tuple[str, ...]:
        return ()


class _Settings(TypedDict):
    """The fields of serving.json, all optional."""

    size_px: NotRequired[int]
    memory: NotRequired[dict[str, Any]]


class VideoSegmenter:
    """The object that `mlflow.pyfunc.load_model` wraps."""

    def __init__(self, model: VOSModel, memory: MemoryConfig, infinite: bool, size_px: int) -> None:
        self._model, self._size_px = model, size_px
        self._policy = memory_policy(memory, infinite)

    def predict(self, model_input: dict[str, np.ndarray]) -> np.ndarray:
        """Return (T, H, W) uint8 masks. Raises InputError for arrays of wrong shapes or a mask without objects."""
        frames, mask = (np.asarray(model_input[name]).astype(np.uint8) for name in ("frames", "mask"))
        if frames.ndim != 4 or frames.shape[3] != 3 or mask.shape != frames.shape[1:3] or not len(frames):
            raise InputError(
                f"frames {frames.shape}, mask {mask.shape}: give frames (T, H, W, 3) and the first frame's mask (H, W)"
            )
        if not mask.any():
            raise InputError("mask: shows no object; paint the first frame's objects as 1, 2, ...")
        video = ArrayVideo(frames, mask)
        return np.stack([labels for _, labels in segment_video(self._model, video, self._policy, self._size_px)])


def _load_pyfunc(folder: str) -> VideoSegmenter:
    """Load the model for MLflow; `folder` holds a checkpoint and serving.json {"size_px", "memory"}."""
    model, info = load_checkpoint(folder)
    path, again = os.path.join(folder, SETTINGS), "register the model again"
    settings = checked(read_json_file(path, again), _Settings, path, again)
    size_px = settings.get("size_px", info.get("size_px", 0))
    if not 0 <= size_px <= 2**16:
        raise InputError(f"{path}: 'size_px' holds {size_px}, which is not a size; {again}")
    memory = from_dict(MemoryConfig, settings.get("memory", {}), MemoryConfig(), f"{path}: memory")
    return VideoSegmenter(model, memory, is_infinite(info), size_px)
