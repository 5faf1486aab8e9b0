"""Still images with object masks, as a data set: clips are drawn from them by warping and composing (`vos.data.still_draws`).

    stills   ROOT/JPEGImages/NAME.jpg (or ROOT/images) and ROOT/Annotations/NAME.png (or ROOT/masks); SPLIT.txt or list.txt names the
             images, without either all images that have a mask are taken

A mask is a palette PNG: 0 is background, 1 to 254 are objects, 255 is void. All masks are decoded when they are first indexed, so that an
image without objects is named before long work, and again only when a file has changed.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

import numpy as np

from vos.data.contents import RACY_S, state_of
from vos.data.links import check_folder_inside
from vos.data.videos import VOID_INDEX, Video, object_ids, size_message
from vos.errors import InputError
from vos.files.names import read_names
from vos.files.whole import code_cache, write_atomic
from vos.media import images
from vos.media.frame_files import entries

VERSION = 1
"""Version of the clips that are drawn from stills; it is part of their fingerprint."""
_IMAGES, _MASKS, _LISTS = ("JPEGImages", "images"), ("Annotations", "masks"), ("list.txt",)
_ENDINGS = (".jpg", ".jpeg", ".png")


class Painter(Protocol):
    """Masks that are painted, not read from a file of their own."""

    def paint(self, size: tuple[int, int]) -> np.ndarray:
        """Return the objects of an image, (H, W) uint8 ids of 1 to 254; 0 is background."""
        ...

    def signature(self) -> str:
        """Return the identity of the objects."""
        ...


@dataclass(frozen=True)
class Still:
    """One image with object masks; a `vos.data.videos.Video` of one frame.

    mask_file  its mask, or the file that lists the objects of all images, if there is a painter
    painter    paints the mask, or None to read it
    notes      lines for the user about how it is read
    """

    name: str
    image_file: str
    mask_file: str
    size: tuple[int, int]
    painter: Painter | None = None
    notes: tuple[str, ...] = field(default=(), compare=False)

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
        if self.painter is not None:
            return self.painter.paint(self.size)
        labels = images.read_mask(self.mask_file)
        self._check_size(self.mask_file, labels)
        labels[labels == VOID_INDEX] = 0
        return labels

    def signature(self) -> str:
        sizes = [os.path.getsize(path) for path in self.files()]
        painted = [self.painter.signature()] if self.painter is not None else []
        return json.dumps(["still", VERSION, self.name, self.size, sizes, *painted])

    def files(self) -> tuple[str, ...]:
        return (self.image_file,) if self.painter is not None else (self.image_file, self.mask_file)

    def _check_size(self, path: str, pixels: np.ndarray) -> None:
        if pixels.shape[:2] != self.size:
            raise InputError(size_message(path, (pixels.shape[0], pixels.shape[1]), self.size, self.name))


def index_stills(root: str, split: str, tell: Callable[[InputError], None]) -> Iterator[Video]:
    """Yield the images of a folder that have a mask; header and end of every image are checked, and every mask is decoded.

    Raises InputError for a folder without images, or without any image that has a mask.
    """
    pictures, masks = _folder(root, _IMAGES), _folder(root, _MASKS)
    for folder in (pictures, masks):
        check_folder_inside(root, folder)
    files = {os.path.splitext(file)[0]: file for file in entries(pictures) if file.lower().endswith(_ENDINGS)}
    known = {os.path.splitext(file)[0]: file for file in entries(masks) if file.lower().endswith(".png")}
    listed = next((path for name in (f"{split}.txt", *_LISTS) if os.path.isfile(path := os.path.join(root, name))), "")
    listed = split if os.path.isabs(split) else listed
    names = read_names(listed, "write one image name per line") if listed else sorted(files.keys() & known.keys())
    if not names:
        raise InputError(f"{listed or root}: no image with a mask; put NAME.jpg in {pictures} and NAME.png in {masks}")
    found: list[Still] = []
    for name in sorted(set(names)):
        try:
            found.append(_still(name, pictures, masks, files, known))
        except InputError as fault:
            tell(fault)
    for still, fault in zip(found, _faults(found), strict=True):
        if fault is None:
            yield still
        else:
            tell(fault)


def _faults(stills: list[Still]) -> Iterator[InputError | None]:
    """Yield the fault of each mask. A mark in the user's cache folder says that files of these sizes and times had none."""
    began, state, newest = time.time(), hashlib.blake2b(f"{VERSION}".encode(), digest_size=16), 0.0
    for still in stills:
        stat = os.stat(still.mask_file)
        newest = max(newest, stat.st_mtime, stat.st_ctime)
        state.update(state_of(still).encode())
    mark = os.path.join(code_cache("stills"), state.hexdigest())
    if os.path.exists(mark):
        yield from (None for _ in stills)
        return
    faultless = True
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        for fault in pool.map(_fault, stills):
            faultless &= fault is None
            yield fault
    if faultless and newest < began - RACY_S:
        write_atomic(mark, b"", sync=False)


def _fault(still: Still) -> InputError | None:
    try:
        if not still.first_seen:
            return no_object(still)
    except InputError as fault:
        return fault
    return None


def no_object(still: Still) -> InputError:
    """Return the error line of an image without objects."""
    return InputError(f"{still.mask_file}: the mask of {still.name} shows no object; paint one, or drop the image")


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
