"""A video as a record: its frames and masks are read on demand."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, Protocol

import cv2
import numpy as np

from vos.errors import InputError
from vos.media import images
from vos.media.mask_values import shades_of

VOID_INDEX = 255
_WHITE = 128
"""The least value that counts as white in masks of black and white."""
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

    objects       (id, first frame) pairs, or None to take the ids of the first mask; in `black_and_white_or_palette`, those of
                  all masks
    orientations  EXIF orientations of the frames, in their order; () if all are upright
    notes         lines for the user about how the folder is read
    """

    name: str
    frame_folder: str
    frame_files: tuple[str, ...]
    mask_folder: str
    mask_files: tuple[str | None, ...]
    size: tuple[int, int]
    meaning: MaskMeaning = "palette"
    objects: tuple[tuple[int, int], ...] | None = None
    orientations: tuple[int, ...] = ()
    notes: tuple[str, ...] = field(default=(), compare=False)

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
        if self.meaning == "palette":
            first = self.annotated[0]
            seen = dict.fromkeys(object_ids(self._labels(self._mask_path(first))), first)
        else:
            seen = {}
            for index in self.annotated:
                for number in object_ids(self._labels(self._mask_path(index))):
                    seen.setdefault(number, index)
        if not seen:
            which = "the first mask shows" if self.meaning == "palette" else "the masks of this video show"
            raise InputError(f"{self._mask_path(self.annotated[0])}: {which} no object; paint one, or drop the video")
        return seen

    @cached_property
    def _least(self) -> int:
        """The least value of the object, if the masks are black and white or shades of one object; 0 if their values are ids."""
        for index in self.annotated:
            path = self._mask_path(index)
            labels = images.read_mask(path)
            values = object_ids(labels)
            if values:
                shades = shades_of(labels)
                if shades.problem:
                    raise InputError(
                        f"{path}: {shades.problem}; save one object as 0 and 255 only (threshold it), several as 1, 2, …"
                    )
                is_one = self.objects is None or len(self.objects) == 1
                return (shades.threshold or (_WHITE if values == [VOID_INDEX] else 0)) if is_one else 0
        return 0

    def frame_name(self, index: int) -> str:
        return os.path.splitext(self.frame_files[index])[0]

    def check_file(self, path: str) -> None:
        """Raise InputError if a file of this video is incomplete or of another size. Header and end are read, nothing is decoded."""
        self.check_size(path, images.check_complete(path))

    def check_size(self, path: str, found: tuple[int, int]) -> None:
        """Raise InputError if a file's (H, W) are not those of this video."""
        if found != self.size:
            is_turned = bool(self.orientations) and found == self.size[::-1]
            raise InputError(size_message(path, found, self.size, self.name, is_turned))

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
        if self.meaning == "black_and_white_or_palette" and self.objects is None:
            return labels  # each mask may show new objects
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
        turned = [self.orientations] if self.orientations else []
        return json.dumps([self.name, self.size, self.meaning, self.objects, frames, masks, *turned])

    def files(self) -> tuple[str, ...]:
        return self._files

    @cached_property
    def _files(self) -> tuple[str, ...]:
        frames = [os.path.join(self.frame_folder, file) for file in self.frame_files]
        return (*frames, *(os.path.join(self.mask_folder, file) for file in self.mask_files if file))

    def doubts(self) -> list[str]:
        """Return lines about how the masks are read that a user may not expect. Reads the first mask."""
        path, found = self._mask_path(self.annotated[0]), []
        labels = images.read_mask(path, found.append)
        if self._least and shades_of(labels).threshold:
            found.append(f"{path}: soft edges: in this video values from {self._least} on are the object")
        elif self._least and self.meaning == "palette":
            found.append(f"{path}: 0 and 255 only: in this video 255 is the object, not void")
        if labels.all():
            found.append(f"{path}: the first mask has no background (0)")
        if self.meaning == "black_and_white_or_palette":
            found += [
                f"{self._mask_path(first)}: object {number} begins here, after the first mask"
                for number, first in self.first_seen.items()
                if first != self.annotated[0]
            ]
        return found

    def _mask_path(self, index: int) -> str:
        return os.path.join(self.mask_folder, self.mask_files[index] or "")

    def _labels(self, path: str) -> np.ndarray:
        labels = images.read_mask(path)
        self._check_size(path, labels)
        if self._least and (self.meaning != "foreground" or labels.max() >= self._least):
            return self._thresholded(labels, path)
        if self.meaning == "foreground":
            return (labels > 0).astype(np.uint8)
        indices = object_ids(labels)
        if VOID_INDEX in indices:
            black_and_white = self.meaning == "black_and_white_or_palette" and indices == [VOID_INDEX]
            labels[labels == VOID_INDEX] = 1 if black_and_white else 0
        return labels

    def _thresholded(self, labels: np.ndarray, path: str) -> np.ndarray:
        """Return the labels of a mask of one object: its id where the value is at least `_least`."""
        number = self.objects[0][0] if self.objects else 1
        found = labels >= self._least
        if not found.any() and (values := object_ids(labels)) and len(values) < self._least // 8:
            raise InputError(
                f"{path}: shows {', '.join(map(str, values))}, but the first mask of {self.name} is black and white, with the object "
                f"from {self._least} on; save all masks of a video in one way"
            )
        return np.where(found, number, 0).astype(np.uint8)

    def _check_size(self, path: str, pixels: np.ndarray) -> None:
        self.check_size(path, (pixels.shape[0], pixels.shape[1]))


def object_ids(labels: np.ndarray) -> list[int]:
    """Return the ids in a mask: the nonzero values of (H, W) uint8, ascending. A histogram is ten times as fast as np.unique."""
    counts = cv2.calcHist([labels], [0], None, [256], [0, 256])
    return [int(i) for i in np.flatnonzero(counts) if i]


def size_message(path: str, found: tuple[int, int], size: tuple[int, int], name: str, is_turned: bool = False) -> str:
    """Return the error line for a file of another size. is_turned  it would fit the frames as they are stored."""
    advice = "frames and masks of a video must have one size, resize it (masks by the nearest pixel)"
    if is_turned:
        advice = "frames are turned as their EXIF orientation says: turn this file too, or remove the orientation from the frames"
    return f"{path}: {found[1]}x{found[0]} pixels, but the first readable frame of {name} has {size[1]}x{size[0]}; {advice}"
