"""The record of a clip draw: plain numbers that determine frames, objects, crop and colours of a clip, and its JSON.

A record is stored in the teacher cache and comes back from there as untrusted JSON: `ClipDraw.from_dict` checks all of it.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, NotRequired, TypedDict

from vos.errors import InputError
from vos.files.json_files import checked

Affine = tuple[float, float, float, float, float, float]
Rgb = tuple[float, float, float]

BEND_POINTS = 4
"""Control points of a smooth warp along each side."""
_SMALLEST, _LARGEST = 1e-4, 1e6  # Bounds of the numbers of an augmentation: pixels, and pixels per pixel.
_MOST_LAYERS, _MOST_BEND, _MOST_BLUR_PX = 32, 2**20, 256  # Bounds of a clip made of stills.


@dataclass(frozen=True)
class Augmentation:
    """The explicit numbers of one augmentation, the same for every frame of the clip.

    affine         (a, b, c, d, e, f): crop pixel (x, y) shows source pixel (a*x + b*y + c, d*x + e*y + f); pixel
                   centres are whole numbers. It contains zoom, rotation, shear, crop position and mirroring
    gain, offset   (3,): a colour channel value v in 0..255 becomes gain * v + offset, rounded and clipped
    """

    affine: Affine
    gain: Rgb
    offset: Rgb

    @property
    def source_px(self) -> float:
        """Source pixels per crop pixel (above 1: the source is shrunk)."""
        a, b, _, d, e, _ = self.affine
        return math.sqrt(abs(a * e - b * d))


@dataclass(frozen=True)
class Paste:
    """An object of another video, pasted over every frame of the clip as a moving distractor or a further object.

    first, direction   its video is at frame `first` at the clip's first frame, then moves forwards (1) or backwards (-1) frame by
                       frame and reverses at its ends
    behind             the clip's own objects stay in front of it
    labelled           it is the last of the clip's objects; otherwise it is background
    """

    video: str
    first: int
    direction: int
    object_id: int
    augmentation: Augmentation
    behind: bool
    labelled: bool

    def frame(self, offset: int, num_frames: int) -> int:
        """Return the frame of the pasted video (it has `num_frames`) when the clip is `offset` frames from its first one."""
        place = (self.first + self.direction * offset) % max(1, 2 * num_frames - 2)
        return min(place, 2 * num_frames - 2 - place) if num_frames > 1 else 0


@dataclass(frozen=True)
class Pose:
    """Where one layer of a clip made of stills is in one frame.

    augmentation  from crop pixels to the layer's image, and its colours
    bend          2 x 16 displacements of a smooth warp in 1/16 crop pixel, x then y, row by row; () if the layer is not warped
    blur          (x, y) pixels that the layer moves while the frame is exposed
    """

    augmentation: Augmentation
    bend: tuple[int, ...] = ()
    blur: tuple[int, int] = (0, 0)


@dataclass(frozen=True)
class Layer:
    """An image, or an object cut out of one, in every frame of a clip made of stills. Later layers are in front of earlier ones.

    image      name of the still
    object_id  the object that is cut out; 0 is the whole image, always the first layer, whose own objects are the draw's `objects`
    label      the object's id in the clip, 0 if it is background
    box        (x, y, side) in crop pixels: the square on which the warp's control points lie
    poses      one for each frame
    """

    image: str
    object_id: int
    label: int
    box: tuple[int, int, int]
    poses: tuple[Pose, ...]


@dataclass(frozen=True)
class ClipDraw:
    """One clip draw: the first frame is given with the masks of `objects`, the others are query frames.

    frames    indices in the video, in the clip's order (ascending or descending)
    objects   ids in the video; in the clip they are 1, 2, ... in this order
    context   indices of further frames that only the teacher sees, in its order; see `with_context`
    paste     a pasted object of another video, or None
    source    name of the data set in a mixture, "" where there is only one
    layers    of a clip made of stills, whose `frames` are all 0; () for a clip of a video
    """

    number: int
    video: str
    frames: tuple[int, ...]
    objects: tuple[int, ...]
    augmentation: Augmentation
    context: tuple[int, ...] = ()
    paste: Paste | None = None
    source: str = ""
    layers: tuple[Layer, ...] = ()

    @property
    def num_objects(self) -> int:
        """Number of objects of the clip, including a labelled paste and labelled layers."""
        pasted = self.paste is not None and self.paste.labelled
        return len(self.objects) + pasted + sum(layer.label > 0 for layer in self.layers)

    @property
    def video_key(self) -> str:
        """Key of its video in `vos.data.mixtures.by_key`."""
        return self.key_of(self.video)

    def key_of(self, name: str) -> str:
        """Return the key of another video of the same source in `vos.data.mixtures.by_key`."""
        return f"{self.source}/{name}" if self.source else name

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, without those that only some draws have; `json` preserves floats exactly."""
        return {name: value for name, value in asdict(self).items() if value or name not in _OPTIONAL}

    @staticmethod
    def from_dict(values: Any, origin: str = "a draw's record") -> ClipDraw:
        """Invert `to_dict`, for untrusted JSON.

        Raises InputError, which begins with `origin`, for values of a wrong type, out of range, or not finite.
        """
        advice = "make it again"
        record = checked(values, _DrawRecord, origin, advice)
        augmentation = _augmentation_from(record["augmentation"])
        frames, objects, context = (tuple(record[name]) for name in ("frames", "objects", "context"))
        paste, given = None, record.get("paste")
        if given is not None:
            paste = Paste(
                given["video"],
                given["first"],
                given["direction"],
                given["object_id"],
                _augmentation_from(given["augmentation"]),
                given["behind"],
                given["labelled"],
            )
        source, layers = record.get("source", ""), tuple(map(_layer_from, record.get("layers", [])))
        draw = ClipDraw(
            record["number"], record["video"], frames, objects, augmentation, context, paste, source, layers
        )
        if problem := _impossible(draw):
            raise InputError(f"{origin}: {problem}; {advice}")
        return draw


class _AugmentationRecord(TypedDict):
    affine: Affine
    gain: Rgb
    offset: Rgb


class _PasteRecord(TypedDict):
    video: str
    first: int
    direction: Literal[1, -1]
    object_id: int
    augmentation: _AugmentationRecord
    behind: bool
    labelled: bool


class _PoseRecord(TypedDict):
    augmentation: _AugmentationRecord
    bend: list[int]
    blur: tuple[int, int]


class _LayerRecord(TypedDict):
    image: str
    object_id: int
    label: int
    box: tuple[int, int, int]
    poses: list[_PoseRecord]


class _DrawRecord(TypedDict):
    """The JSON of a draw."""

    number: int
    video: str
    frames: list[int]
    objects: list[int]
    augmentation: _AugmentationRecord
    context: list[int]
    paste: NotRequired[_PasteRecord | None]
    source: NotRequired[str]
    layers: NotRequired[list[_LayerRecord]]


_OPTIONAL = ("paste", "source", "layers")


def _augmentation_from(values: _AugmentationRecord) -> Augmentation:
    affine, gain, offset = (tuple(map(float, values[name])) for name in ("affine", "gain", "offset"))
    return Augmentation(affine, gain, offset)  # pyright: ignore[reportArgumentType]  # their lengths are checked


def _layer_from(values: _LayerRecord) -> Layer:
    poses = []
    for one in values["poses"]:
        across, down = one["blur"]
        poses.append(Pose(_augmentation_from(one["augmentation"]), tuple(one["bend"]), (across, down)))
    left, top, side = values["box"]
    return Layer(values["image"], values["object_id"], values["label"], (left, top, side), tuple(poses))


def _impossible(draw: ClipDraw) -> str:
    """Describe why no clip can have the values of a draw; "" if they are valid."""
    shown = (*draw.frames, *draw.context, *((draw.paste.first,) if draw.paste else ()))
    ids = (*draw.objects, *((draw.paste.object_id,) if draw.paste else ()))
    augmentations = (draw.augmentation, *((draw.paste.augmentation,) if draw.paste else ()))
    if not 0 <= draw.number < 2**62 or len(draw.frames) < 2 or not all(0 <= one < 2**31 for one in shown):
        return "its draw number or frame indices are out of range"
    if draw.layers:
        if problem := _impossible_layers(draw):
            return problem
        augmentations += tuple(pose.augmentation for layer in draw.layers for pose in layer.poses)
    if (
        not all(1 <= one <= 255 for one in ids)
        or not 1 - bool(draw.layers) <= len(set(draw.objects)) == len(draw.objects) <= 255
    ):
        return "its objects are not different numbers from 1 to 255"
    for one in augmentations:
        if max(map(abs, (*one.affine, *one.gain, *one.offset))) > _LARGEST or not _SMALLEST < one.source_px < _LARGEST:
            return "its crop or its colours are out of range"
    return ""


def _impossible_layers(draw: ClipDraw) -> str:
    """Describe why no clip can have these layers; "" if they are valid."""
    first, *others = draw.layers
    labels = [layer.label for layer in others if layer.label]
    after = len(draw.objects)
    poses = [pose for layer in draw.layers for pose in layer.poses]
    holds = {
        "its layers are not one image and objects over it": len(draw.layers) <= _MOST_LAYERS
        and (first.image, first.object_id, first.label) == (draw.video, 0, 0)
        and all(1 <= layer.object_id <= 255 for layer in others),
        "its labelled layers do not follow its objects": labels == list(range(after + 1, after + 1 + len(labels)))
        and 0 < after + len(labels) <= 255,
        "a layer has not one pose for each frame": all(len(layer.poses) == len(draw.frames) for layer in draw.layers),
        "it mixes stills and videos": not any(draw.frames) and not draw.context and draw.paste is None,
        "a warp or blur is out of range": all(
            len(pose.bend) in (0, 2 * BEND_POINTS**2)
            and all(abs(one) <= _MOST_BEND for one in pose.bend)
            and all(abs(one) <= _MOST_BLUR_PX for one in pose.blur)
            for pose in poses
        )
        and all(abs(one) <= _LARGEST for layer in draw.layers for one in layer.box)
        and all(layer.box[2] > 0 for layer in draw.layers),
    }
    return next((text for text, right in holds.items() if not right), "")
