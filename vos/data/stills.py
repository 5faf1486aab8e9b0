"""Still images with object masks, as a data set: clips are drawn from them by warping and composing (`vos.data.still_draws`).

    stills   ROOT/JPEGImages/NAME.jpg (or ROOT/images) and ROOT/Annotations/NAME.png (or ROOT/masks); SPLIT.txt or list.txt names the
             images, without either all images that have a mask are taken

A mask is a palette PNG: 0 is background, 1 to 254 are objects, 255 is void.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vos.data.videos import VOID_INDEX, Video, object_ids, size_message
from vos.errors import InputError
from vos.files.names import read_names
from vos.media import images
from vos.media.frame_files import entries

VERSION = 1
"""Version of the clips that are drawn from stills; it is part of their fingerprint."""
_IMAGES, _MASKS, _LISTS = ("JPEGImages", "images"), ("Annotations", "masks"), ("list.txt",)
_ENDINGS = (".jpg", ".jpeg", ".png")


@dataclass(frozen=True)
class Still:
    """One image with object masks; a `vos.data.videos.Video` of one frame."""

    name: str
    image_file: str
    mask_file: str
    size: tuple[int, int]

    @property
    def num_frames(self) -> int:
        return 1

    @property
    def annotated(self) -> tuple[int, ...]:
        return (0,)

    @property
    def first_seen(self) -> dict[int, int]:
        return dict.fromkeys(self._objects, 0)

    @cached_property
    def _objects(self) -> tuple[int, ...]:
        return tuple(object_ids(self.mask(0)))

    def frame_name(self, index: int) -> str:
        return "00000"

    def frame(self, index: int) -> np.ndarray:
        pixels = images.read_frame(self.image_file)
        self._check_size(self.image_file, pixels)
        return pixels

    def mask(self, index: int) -> np.ndarray:
        labels = images.read_mask(self.mask_file)
        self._check_size(self.mask_file, labels)
        labels[labels == VOID_INDEX] = 0
        return labels

    def signature(self) -> str:
        sizes = [os.path.getsize(path) for path in self.files()]
        return json.dumps(["still", VERSION, self.name, self.size, sizes])

    def files(self) -> tuple[str, ...]:
        return self.image_file, self.mask_file

    def _check_size(self, path: str, pixels: np.ndarray) -> None:
        if pixels.shape[:2] != self.size:
            raise InputError(size_message(path, (pixels.shape[0], pixels.shape[1]), self.size, self.name))


def index_stills(root: str, split: str, tell: Callable[[InputError], None]) -> Iterator[Video]:
    """Yield the images of a folder that have a mask; header and end of every file are checked.

    Raises InputError for a folder without images, or without any image that has a mask.
    """
    pictures, masks = _folder(root, _IMAGES), _folder(root, _MASKS)
    files = {os.path.splitext(file)[0]: file for file in entries(pictures) if file.lower().endswith(_ENDINGS)}
    known = {os.path.splitext(file)[0]: file for file in entries(masks) if file.lower().endswith(".png")}
    listed = next((path for name in (f"{split}.txt", *_LISTS) if os.path.isfile(path := os.path.join(root, name))), "")
    listed = split if os.path.isabs(split) else listed
    names = read_names(listed, "write one image name per line") if listed else sorted(files.keys() & known.keys())
    if not names:
        raise InputError(f"{listed or root}: no image with a mask; put NAME.jpg in {pictures} and NAME.png in {masks}")
    for name in sorted(names):
        try:
            yield _still(name, pictures, masks, files, known)
        except InputError as fault:
            tell(fault)


def _still(name: str, pictures: str, masks: str, files: dict[str, str], known: dict[str, str]) -> Still:
    for folder, there, what in ((pictures, files, "image"), (masks, known, "mask")):
        if name not in there:
            raise InputError(
                f"{os.path.join(folder, name)}: this {what} is missing; add it or drop the name from the list"
            )
    image_file, mask_file = os.path.join(pictures, files[name]), os.path.join(masks, known[name])
    size = images.check_complete(image_file)
    found = images.check_complete(mask_file)
    if found != size:
        raise InputError(size_message(mask_file, found, size, name))
    return Still(name, image_file, mask_file, size)


def _folder(root: str, names: tuple[str, ...]) -> str:
    found = [path for name in names if os.path.isdir(path := os.path.join(root, name))]
    if not found:
        raise InputError(
            f"{os.path.join(root, names[0])}: no such folder; stills are in {names[0]}/NAME with one mask each"
        )
    return found[0]
