"""COCO instance annotations, as stills: the masks of an image are painted from its segmentations when they are asked for.

    coco   ROOT/annotations/instances_SPLIT*.json, ROOT/annotations.json, ROOT/instances.json or ROOT/_annotations.coco.json;
           images in the folder of the split in the file's name (train2017), ROOT/images or ROOT

Segmentations are polygons, or run lengths as a list or as COCO's text. Each annotation is one object, numbered in the order of their ids.
Crowds and objects below 16 pixels are left out, and of more than 254 the largest are kept. Where objects overlap, the smaller one is in
front: what lies on a table is on top of it. Polygons are rounded to 1/16 pixel and filled in integers, so every machine paints the same
masks. Cost: the whole JSON is parsed for every index, and the areas of polygons are those of their corners.
"""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, NotRequired, TypedDict

import cv2
import numpy as np

from vos.data.links import check_folder_inside, check_inside
from vos.data.stills import Still
from vos.data.videos import size_message
from vos.errors import InputError
from vos.files.json_files import checked, read_json_file
from vos.files.limits import check_limit
from vos.files.names import check_name
from vos.media import images
from vos.media.frame_files import entries

MOST_OBJECTS, LEAST_PX = 254, 16
"""Objects of an image, and pixels of an object."""
SHIFT = 4
"""Fractional bits of the corners of polygons."""
PLACES = ("annotations.json", "instances.json", "_annotations.coco.json")
_ADVICE = "use COCO's instance JSON (images, annotations with a segmentation)"
_FEW = 3


class Shape(NamedTuple):
    """One object of an image.

    object_id  1 to 254
    runs       lengths of background, object, background, … down the columns, int32; b"" for polygons
    polygons   corners x, y in 1/16 pixel, int32, one item a polygon
    """

    object_id: int
    runs: bytes
    polygons: tuple[bytes, ...]


@dataclass(frozen=True)
class Shapes:
    """The objects of an image from back to front, a `vos.data.stills.Painter`."""

    shapes: tuple[Shape, ...]

    def paint(self, size: tuple[int, int]) -> np.ndarray:
        labels = np.zeros(size, np.uint8)
        for shape in self.shapes:
            if shape.runs:
                labels[inside_runs(np.frombuffer(shape.runs, np.int32), size)] = shape.object_id
            else:
                corners = [np.frombuffer(one, np.int32).reshape(-1, 1, 2) for one in shape.polygons]
                # One polygon at a time: together, fillPoly would leave out where two of them overlap.
                for one in corners:
                    cv2.fillPoly(labels, [one], shape.object_id, cv2.LINE_8, SHIFT)
        return labels

    def signature(self) -> str:
        return hashlib.blake2b(repr(self.shapes).encode(), digest_size=16).hexdigest()


class _Image(TypedDict):
    id: int
    file_name: str
    height: int
    width: int


class _Annotation(TypedDict):
    id: int
    image_id: int
    segmentation: NotRequired[Any]
    iscrowd: NotRequired[int | bool]


class _Instances(TypedDict):
    images: list[_Image]
    annotations: list[_Annotation]


class _Runs(TypedDict):
    size: tuple[int, int]
    counts: list[int] | str


def index_coco(root: str, split: str, tell: Callable[[InputError], None]) -> Iterator[Still]:
    """Yield the images of a COCO data set that have objects; header and end of every image are checked.

    Raises InputError for a folder without annotations, a damaged JSON, and one that lists no object.
    """
    path = annotation_file(root, split)
    check_inside(root, path)
    found = checked(read_json_file(path, _ADVICE), dict[str, Any], path, _ADVICE)
    instances = checked(found, _Instances, path, _ADVICE)
    objects: dict[int, list[_Annotation]] = defaultdict(list)
    for one in instances["annotations"]:
        if not one.get("iscrowd"):
            objects[one["image_id"]].append(one)
    known = {one["id"] for one in instances["images"]}
    if stray := next((one for ids in objects.values() for one in ids if one["image_id"] not in known), None):
        tell(
            InputError(
                f"{path}: annotation {stray['id']} is of image {stray['image_id']}, which 'images' lacks; {_ADVICE}"
            )
        )
    listed = [one for one in instances["images"] if one["id"] in objects]
    if not listed:
        raise InputError(f"{path}: lists no object of any image; {_ADVICE}")
    rest, every = len(instances["images"]) - len(listed), len(instances["images"])
    notes = (f"{path}: {rest:,} of {every:,} images have no object and are left out",) if rest else ()
    folder = _image_folder(root, path, listed[0]["file_name"])
    check_folder_inside(root, folder)
    names: set[str] = set()
    for image in sorted(listed, key=lambda one: one["file_name"]):
        try:
            still = _still(path, folder, image, objects[image["id"]])
            if still.name in names:
                raise InputError(f"{path}: two images have the name {still.name}; rename one of them")
        except InputError as fault:
            tell(fault)
        else:
            names.add(still.name)
            yield replace(still, notes=(*notes, *still.notes))
            notes = ()


def annotation_file(root: str, split: str) -> str:
    """Return the path of the JSON of a split. Raises InputError if there is none, or several."""
    folder = os.path.join(root, "annotations")
    every = [file for file in entries(folder) if file.startswith("instances_") and file.endswith(".json")]
    fitting = [file for file in every if file.startswith(f"instances_{split}")] or every
    if len(fitting) == 1:
        return os.path.join(folder, fitting[0])
    if fitting:
        few = ", ".join(fitting[:_FEW])
        raise InputError(
            f"{folder}: {len(fitting)} files fit the split '{split}' ({few}); keep one, or name it: coco@SPLIT=PATH"
        )
    found = next((path for name in PLACES if os.path.isfile(path := os.path.join(root, name))), "")
    if not found:
        raise InputError(
            f"{os.path.join(folder, f'instances_{split}.json')}: no such file, nor {', '.join(PLACES)} in {root}; {_ADVICE}"
        )
    return found


def _image_folder(root: str, path: str, first: str) -> str:
    """Return the folder of the images: the one that holds the first of them."""
    split = os.path.splitext(os.path.basename(path))[0].removeprefix("instances_")
    folders = [os.path.join(root, *one) for one in ((split,), ("images", split), ("images",), ())]
    found = next((folder for folder in folders if os.path.isfile(os.path.join(folder, first))), "")
    if not found:
        raise InputError(
            f"{path}: its image {first[:80]} is not in {', '.join(folders)}; put the images into one of them"
        )
    return found


def _still(path: str, folder: str, image: _Image, annotations: list[_Annotation]) -> Still:
    """Return the still of one image of the JSON; its file is checked."""
    parts = image["file_name"].split("/")
    for part in parts:
        check_name(part, path)
    name = check_name(os.path.splitext("-".join(parts))[0], path)
    size = image["height"], image["width"]
    if min(size) < 1:
        raise InputError(f"{path}: image {image['id']} has {size[1]}x{size[0]} pixels; {_ADVICE}")
    check_limit("image_pixels", size[0] * size[1], f"{path}: image {image['id']}")
    file = os.path.join(folder, *parts)
    found = images.check_complete(file)
    if found != size:
        raise InputError(size_message(path, size, found, name))
    objects = [(one["id"], *_read_shape(one, size, path)) for one in annotations]
    large = [one for one in objects if one[1] >= LEAST_PX]
    if not large:
        raise InputError(f"{path}: image {file} has no object of {LEAST_PX} pixels or more; drop it from the list")
    kept = sorted(large, key=lambda one: (-one[1], one[0]))[:MOST_OBJECTS]
    notes = (f"{file}: {len(large)} objects; the {MOST_OBJECTS} largest are kept",) if len(large) > MOST_OBJECTS else ()
    number = {one: place for place, one in enumerate(sorted(one[0] for one in kept), 1)}
    if len(number) < len(kept):
        raise InputError(f"{path}: two annotations of image {image['id']} have one id; {_ADVICE}")
    shapes = Shapes(tuple(Shape(number[one], runs, polygons) for one, _, runs, polygons in kept))
    return Still(name, file, path, size, shapes, notes)


def _read_shape(annotation: _Annotation, size: tuple[int, int], path: str) -> tuple[float, bytes, tuple[bytes, ...]]:
    """Return area, runs and polygons of an annotation. Raises InputError if it has no segmentation of this image."""
    origin, given = f"{path}: annotation {annotation['id']}", annotation.get("segmentation")
    if isinstance(given, dict):
        found = checked(given, _Runs, origin, _ADVICE)
        if tuple(found["size"]) != size:
            raise InputError(
                f"{origin}: its mask has {found['size'][1]}x{found['size'][0]} pixels, the image {size[1]}x{size[0]}; {_ADVICE}"
            )
        counts = found["counts"]
        runs = decode_runs(counts, origin) if isinstance(counts, str) else np.array(counts, np.int64)
        if (runs < 0).any() or (runs > size[0] * size[1]).any() or runs.sum() != size[0] * size[1]:
            raise InputError(
                f"{origin}: its run lengths do not sum to the {size[1]}x{size[0]} pixels of the image; {_ADVICE}"
            )
        return float(runs[1::2].sum()), runs.astype(np.int32).tobytes(), ()
    area, polygons = 0.0, []
    for one in given if isinstance(given, list) else checked(given, list[Any], origin, _ADVICE):
        try:
            corners = np.array(one)
        except ValueError:  # lists of different lengths
            corners = np.empty(0)
        if corners.ndim != 1 or corners.size < 6 or corners.size % 2 or corners.dtype.kind not in "iuf":
            raise InputError(f"{origin}: a polygon is a list of 3 or more corners x, y; {_ADVICE}")
        # Pixel centres are whole numbers here and lie at .5 in COCO.
        corners = np.minimum(np.maximum(corners.reshape(-1, 2) - 0.5, 0), (size[1] - 1, size[0] - 1))
        x, y = corners.T
        area += abs(float(x[:-1] @ y[1:] - x[1:] @ y[:-1] + x[-1] * y[0] - x[0] * y[-1])) / 2
        polygons.append(np.rint(corners * (1 << SHIFT)).astype(np.int32).tobytes())
    return area, b"", tuple(polygons)


def decode_runs(text: str, origin: str) -> np.ndarray:
    """Return the run lengths in COCO's text, (N,) int64.

    A character holds five bits and, in the sixth, whether its number goes on; the last bit of a number is its sign. From the fourth
    number on, each is the difference to the one before the last. Raises InputError for other text.
    """
    codes = np.frombuffer(text.encode("utf-8", "replace"), np.uint8).astype(np.int64) - 48
    ends = np.flatnonzero((codes & 32) == 0)
    starts = np.concatenate(([0], ends[:-1] + 1)) if len(ends) else ends
    whole = len(ends) and ends[-1] == len(codes) - 1 and (ends - starts).max() < 8
    if not whole or codes.min() < 0 or codes.max() > 63:
        raise InputError(f"{origin}: its run lengths are no text of COCO's; {_ADVICE}")
    place = np.arange(len(codes)) - np.repeat(starts, ends - starts + 1)
    numbers = np.add.reduceat((codes & 31) << (5 * place), starts)
    negative = (codes[ends] & 16) > 0
    numbers -= negative * (np.int64(1) << (5 * (ends - starts + 1)))
    numbers[1::2] = np.cumsum(numbers[1::2])
    numbers[2::2] = np.cumsum(numbers[2::2])
    return numbers


def inside_runs(runs: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return (H, W) bool from run lengths down the columns that sum to H * W."""
    flags = np.arange(len(runs)) % 2 == 1
    return np.repeat(flags, runs).reshape(size[1], size[0]).T
