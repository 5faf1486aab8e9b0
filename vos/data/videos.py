"""A video as a record: its frames and masks are read on demand."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, Protocol

import cv2
import numpy as np

from vos.errors import InputError
from vos.media import images

VOID_INDEX = 255
MaskMeaning = Literal["foreground", "palette", "black_and_white_or_palette"]


class Video(Protocol):
    """One video: small, hashable, picklable; frames and masks are read on demand."""

    @property
    def name(self) -> str: ...
    @property
    def num_frames(self) -> int: ...
    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of every frame and mask, in pixels."""
        ...

    @property
    def annotated(self) -> tuple[int, ...]:
        """Frames that have a mask, ascending; the first mask holds every object that `first_seen` lists for that frame."""
        ...

    @property
    def first_seen(self) -> dict[int, int]:
        """Object id -> the frame whose mask gives the object."""
        ...

    def frame_name(self, index: int) -> str:
        """Return the name of a frame without folder and extension, such as "00000"; its mask has the same name."""
        ...

    def frame(self, index: int) -> np.ndarray:
        """Return a frame, (H, W, 3) uint8 RGB."""
        ...

    def mask(self, index: int) -> np.ndarray | None:
        """Return a mask, (H, W) uint8 object ids, 0 is background; None if the frame has no mask."""
        ...

    def signature(self) -> str:
        """Return the identity of the video, independent of its place: names and sizes, or the parameters of a synthetic video."""
        ...

    def files(self) -> tuple[str, ...]:
        """Return the paths of all its files; none for a synthetic video."""
        ...


@dataclass(frozen=True)
class FolderVideo:
    """A video of frame and mask files.

    `objects` are (id, first frame) pairs, or None to take the ids of the first mask.
    """

    name: str
    frame_folder: str
    frame_files: tuple[str, ...]
    mask_folder: str
    mask_files: tuple[str | None, ...]
    size: tuple[int, int]
    meaning: MaskMeaning = "palette"
    objects: tuple[tuple[int, int], ...] | None = None

    @property
    def num_frames(self) -> int:
        return len(self.frame_files)

    @property
    def annotated(self) -> tuple[int, ...]:
        return tuple(i for i, file in enumerate(self.mask_files) if file)

    @property
    def first_seen(self) -> dict[int, int]:
        return self._first_seen

    @cached_property
    def _first_seen(self) -> dict[int, int]:
        if self.objects is not None:
            return dict(self.objects)
        if self.meaning == "foreground":
            return {1: 0}
        first = self.annotated[0]
        objects = object_ids(self._labels(self._mask_path(first)))
        if not objects:
            raise InputError(f"{self._mask_path(first)}: the first mask shows no object; paint one, or drop the video")
        return dict.fromkeys(objects, first)

    def frame_name(self, index: int) -> str:
        return os.path.splitext(self.frame_files[index])[0]

    def check_file(self, path: str) -> None:
        """Raise InputError if a file of this video is incomplete or of another size. Header and end are read, nothing is decoded."""
        found = images.check_complete(path)
        if found != self.size:
            raise InputError(size_message(path, found, self.size, self.name))

    def frame(self, index: int) -> np.ndarray:
        path = os.path.join(self.frame_folder, self.frame_files[index])
        frame = images.read_frame(path)
        self._check_size(path, frame)
        return frame

    def mask(self, index: int) -> np.ndarray | None:
        if not self.mask_files[index]:
            return None
        path = self._mask_path(index)
        labels = self._labels(path)
        known = self.first_seen
        unknown = [i for i in object_ids(labels) if i not in known] if self.meaning != "foreground" else []
        if unknown:
            where = "meta.json" if self.objects is not None else f"the first mask {self._mask_path(self.annotated[0])}"
            ids = ", ".join(map(str, sorted(known)))
            raise InputError(
                f"{path}: palette index {unknown[0]}, but {where} has only objects {ids}; renumber it or add it there"
            )
        return labels

    def signature(self) -> str:
        masks = [file and os.path.getsize(os.path.join(self.mask_folder, file)) for file in self.mask_files]
        frames = [(file, os.path.getsize(os.path.join(self.frame_folder, file))) for file in self.frame_files]
        return json.dumps([self.name, self.size, self.meaning, self.objects, frames, masks])

    def files(self) -> tuple[str, ...]:
        return self._files

    @cached_property
    def _files(self) -> tuple[str, ...]:
        frames = [os.path.join(self.frame_folder, file) for file in self.frame_files]
        return (*frames, *(os.path.join(self.mask_folder, file) for file in self.mask_files if file))

    def _mask_path(self, index: int) -> str:
        return os.path.join(self.mask_folder, self.mask_files[index] or "")

    def _labels(self, path: str) -> np.ndarray:
        labels = images.read_mask(path)
        self._check_size(path, labels)
        if self.meaning == "foreground":
            return (labels > 0).astype(np.uint8)
        indices = object_ids(labels)
        if VOID_INDEX in indices:
            black_and_white = self.meaning == "black_and_white_or_palette" and indices == [VOID_INDEX]
            labels[labels == VOID_INDEX] = 1 if black_and_white else 0
        return labels

    def _check_size(self, path: str, pixels: np.ndarray) -> None:
        if pixels.shape[:2] != self.size:
            raise InputError(size_message(path, (pixels.shape[0], pixels.shape[1]), self.size, self.name))


def object_ids(labels: np.ndarray) -> list[int]:
    """Return the ids in a mask: the nonzero values of (H, W) uint8, ascending. A histogram is ten times as fast as np.unique."""
    counts = cv2.calcHist([labels], [0], None, [256], [0, 256])
    return [int(i) for i in np.flatnonzero(counts) if i]


def size_message(path: str, found: tuple[int, int], size: tuple[int, int], name: str) -> str:
    return (
        f"{path}: {found[1]}x{found[0]} pixels, but the first readable frame of {name} has {size[1]}x{size[0]}; "
        "frames and masks of a video must have one size, resize it (masks by the nearest pixel)"
    )
