"""Draw a clip from still images: one image that moves and warps, or objects of other images that move over it.

STM and STCN train on such clips before they see videos (affine transforms of one image). Here the image also bends smoothly, and in a
share of the clips (`--clip.compose`) objects cut out of other images move over it, each on a path of its own: they cover each other, leave
the picture and return, and an unlabelled copy may move beside the object that is followed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from vos.config import ClipConfig
from vos.data.crops import Spot, colours, objects_in, placed, spots_of
from vos.data.draw_records import BEND_POINTS, Affine, Augmentation, ClipDraw, Layer, Pose
from vos.data.still_clips import layer_cover
from vos.data.stills import Still, no_object
from vos.data.videos import Video
from vos.media import images

_ATTEMPTS = 4
_MOST_CUT_OUTS = 3
_LOOK_ALIKE, _EXIT, _BLURRED, _OWN_OBJECT = 0.3, 0.12, 0.25, 0.3  # shares of the composed clips or of their layers
_OBJECT_SIDE = 0.12, 0.6  # of the crop: the square root of the area of a cut-out's box
_MOST_ZOOM = 4.0
_STEP, _CAMERA_STEP = 0.3, 0.12  # of the crop: longest way of an object, of the camera, between two frames
_TURN_DEG, _CAMERA_TURN_DEG = 25.0, 12.0
_GROW, _SQUEEZE, _CAMERA_GROW = 0.15, 0.2, 0.08  # deviations of logarithms
_BEND, _CAMERA_BEND = 0.12, 0.05  # of the box or the crop: largest displacement of a control point
_LEAST_SHOWN, _LEAST_PX = 0.4, 24  # of a labelled object in the first frame

Motion = tuple[float, float, float, float, float]
"""x, y in crop pixels, turn in radians, logarithms of growth and of squeeze"""


class _CutOut(NamedTuple):
    """An object of an image, and its layer, which is not labelled yet."""

    still: Still
    spot: Spot
    layer: Layer


def draw_still(rng: Generator, number: int, still: Still, stills: Sequence[Video], clip: ClipConfig) -> ClipDraw:
    """Return a clip draw that begins with `still`.

    stills  of the same data set, from which objects are taken
    Raises InputError for an image without objects.
    """
    spots = spots_of(still, 0)
    if not spots:
        raise no_object(still)
    if rng.random() < clip.compose:
        for _ in range(_ATTEMPTS):
            if (draw := _composed(rng, number, still, stills, clip)) is not None:
                return draw
    placement = placed(rng, clip, still.size, spots)
    objects = objects_in(rng, clip, placement)
    return _draw(number, still, objects, (_scene(rng, still, placement.affine, clip),))


def _draw(number: int, still: Still, objects: tuple[int, ...], layers: tuple[Layer, ...]) -> ClipDraw:
    first = layers[0].poses[0].augmentation
    return ClipDraw(number, still.name, (0,) * len(layers[0].poses), objects, first, layers=layers)


def _scene(rng: Generator, still: Still, affine: Affine, clip: ClipConfig) -> Layer:
    """Return the layer of the whole image, seen by a moving camera."""
    side, middle = clip.crop_px, (clip.crop_px - 1) / 2
    steps = _walk(rng, clip.num_frames, _CAMERA_STEP * side, _CAMERA_TURN_DEG, _CAMERA_GROW, _CAMERA_GROW)
    ways = [_compose(affine, _inverse(_moved((middle, middle), *step))) for step in steps]
    box = (0, 0, side)
    return Layer(still.name, 0, 0, box, _poses(rng, clip, ways, box, _CAMERA_BEND, steps))


def _composed(rng: Generator, number: int, still: Still, stills: Sequence[Video], clip: ClipConfig) -> ClipDraw | None:
    """Return a clip of objects that move over an image; None if a labelled object would be hidden in the first frame."""
    affine, target, _ = placed(rng, clip, still.size, spots_of(still, 0))
    scene = _scene(rng, still, affine, clip)
    cut_outs = [_cut_out(rng, stills, clip) for _ in range(1 + int(rng.integers(_MOST_CUT_OUTS)))]
    follows_own = rng.random() < _OWN_OBJECT
    if rng.random() < _LOOK_ALIKE:
        like = _cut_out(rng, [still], clip, target) if follows_own else _copied(rng, cut_outs[0], clip)
        cut_outs.append(like)
    room = clip.max_objects - 1
    labelled = [not follows_own] + [bool(one) for one in rng.random(len(cut_outs) - 1) < 0.5]
    for place in range(1, len(cut_outs)):
        labelled[place] &= room > 0
        room -= labelled[place]
    objects = (target.object_id,) if follows_own else ()
    order = [int(one) for one in rng.permutation(len(cut_outs))]
    layers, label = [scene], len(objects)
    for place in order:
        label += labelled[place]
        layers.append(replace(cut_outs[place].layer, label=label if labelled[place] else 0))
    draw = _draw(number, still, objects, tuple(layers))
    used = [still, *(cut_outs[place].still for place in order)]
    return draw if _all_shown(draw, used, clip.crop_px) else None


def _cut_out(rng: Generator, stills: Sequence[Video], clip: ClipConfig, spot: Spot | None = None) -> _CutOut:
    """Return an object of one of the images, on a path of its own."""
    still = stills[int(rng.integers(len(stills)))]
    assert isinstance(still, Still), f"{still.name}: a data set of stills has no videos"
    spots = spots_of(still, 0)
    if not spots:
        raise no_object(still)
    spot = spot or spots[int(rng.integers(len(spots)))]
    return _moving(rng, still, spot, rng.uniform(0.1, 0.9, 2) * clip.crop_px, rng.uniform(*_OBJECT_SIDE), clip)


def _copied(rng: Generator, other: _CutOut, clip: ClipConfig) -> _CutOut:
    """Return the same object beside it, about as large, on another path."""
    x, y, side = other.layer.box
    way = rng.uniform(0, 2 * math.pi)
    centre = np.array([x, y]) + side / 2 + side * rng.uniform(0.6, 1.4) * np.array([math.cos(way), math.sin(way)])
    share = side / clip.crop_px * rng.uniform(0.8, 1.25)
    return _moving(rng, other.still, other.spot, centre, share, clip)


def _moving(rng: Generator, still: Still, spot: Spot, centre: np.ndarray, share: float, clip: ClipConfig) -> _CutOut:
    """Return an object that begins at `centre` and is about `share` of the crop large."""
    top, left, height, width = spot.box
    zoom = min(_MOST_ZOOM, share * clip.crop_px / math.sqrt(height * width))
    side = max(8, round(zoom * math.sqrt(height * width)))
    mirror = -1.0 if clip.flip and rng.random() < 0.5 else 1.0
    turn = math.radians(rng.uniform(-clip.rotate_deg, clip.rotate_deg))
    steps = _walk(rng, clip.num_frames, _STEP * clip.crop_px, _TURN_DEG, _GROW, _SQUEEZE)
    if clip.num_frames > 2 and rng.random() < _EXIT:  # it is outside in one of the frames in between, and returns
        away = 1 + int(rng.integers(clip.num_frames - 2))
        steps[away] = (steps[away][0] + 3.0 * clip.crop_px, *steps[away][1:])
    middle_x, middle_y = left + (width - 1) / 2, top + (height - 1) / 2
    ways = []
    for x, y, turned, grown, squeezed in steps:
        there = _moved((0.0, 0.0), centre[0] + x, centre[1] + y, turn + turned, grown, squeezed)
        # from the crop to pixels around the object's middle, at the size of the crop
        a, b, c, d, e, f = _inverse(there)
        across = mirror * a / zoom, mirror * b / zoom, mirror * c / zoom + middle_x
        ways.append((*across, d / zoom, e / zoom, f / zoom + middle_y))
    box = (round(float(centre[0]) - side / 2), round(float(centre[1]) - side / 2), side)
    layer = Layer(still.name, spot.object_id, 0, box, _poses(rng, clip, ways, box, _BEND, steps))
    return _CutOut(still, spot, layer)


def _walk(
    rng: Generator, num_frames: int, step_px: float, turn_deg: float, grow: float, squeeze: float
) -> list[Motion]:
    """Return a random walk that begins at rest: each frame's motion since the first frame."""
    way = np.zeros(5)
    reach = rng.uniform(0, 1) ** 2  # most paths are short
    heading = rng.uniform(0, 2 * math.pi)
    steps = [way]
    for _ in range(num_frames - 1):
        heading += rng.normal(0, 0.8)
        length = step_px * reach * rng.uniform(0.5, 1.0)
        turned = math.radians(turn_deg) * rng.uniform(-1, 1)
        change = (
            length * math.cos(heading),
            length * math.sin(heading),
            turned,
            rng.normal(0, grow),
            rng.normal(0, squeeze),
        )
        way = way + np.array(change)
        way[3:] = np.clip(way[3:], -0.8, 0.8)
        steps.append(way)
    return [tuple(float(one) for one in step) for step in steps]  # pyright: ignore[reportReturnType]  # five numbers


def _poses(
    rng: Generator,
    clip: ClipConfig,
    ways: Sequence[Affine],
    box: tuple[int, int, int],
    bend: float,
    steps: Sequence[Motion],
) -> tuple[Pose, ...]:
    """Return the poses of a layer: its ways with smooth warps, colours that change from frame to frame, and blur by motion."""
    gain, offset = colours(rng, clip.colour)
    is_blurred = rng.random() < _BLURRED
    bent = 16 * box[2] * bend * rng.uniform(0, 1)
    poses: list[Pose] = []
    for t, way in enumerate(ways):
        points = np.rint(rng.uniform(-bent, bent, 2 * BEND_POINTS**2)).astype(int) if t else None
        change, shift = colours(rng, clip.colour)
        augmentation = Augmentation(
            way,
            tuple(a * b for a, b in zip(gain, change, strict=True)),  # pyright: ignore[reportArgumentType]
            tuple(a * b + c for a, b, c in zip(offset, change, shift, strict=True)),  # pyright: ignore[reportArgumentType]
        )
        moved = [0.0, 0.0]
        if t:
            moved = np.clip([(a - b) / 4 for a, b in zip(steps[t][:2], steps[t - 1][:2], strict=True)], -12, 12)
        blur = (round(float(moved[0])), round(float(moved[1]))) if is_blurred else (0, 0)
        poses.append(Pose(augmentation, tuple(points.tolist()) if points is not None else (), blur))
    return tuple(poses)


def _all_shown(draw: ClipDraw, stills: Sequence[Still], crop_px: int) -> bool:
    """Return whether enough of each labelled object is in front of the others in the first frame.

    stills  of the draw's layers, in their order
    """
    size = (crop_px, crop_px)
    scene = draw.layers[0]
    grid = images.affine_grid(scene.poses[0].augmentation.affine, size, nearest=True)
    own = images.sample(stills[0].mask(0), grid)
    labels = np.zeros(size, np.uint8)
    alone = np.zeros(256, np.int64)
    for place, object_id in enumerate(draw.objects, 1):
        labels[own == object_id] = place
        alone[place] = (own == object_id).sum()
    for still, layer in zip(stills[1:], draw.layers[1:], strict=True):
        covered = layer_cover(still, layer, 0, crop_px) >= 128
        labels[covered] = layer.label
        alone[layer.label] = covered.sum()
    shown = np.bincount(labels.ravel(), minlength=256)
    return all(shown[one] >= max(_LEAST_PX, _LEAST_SHOWN * alone[one]) for one in range(1, draw.num_objects + 1))


def _moved(centre: tuple[float, float], x: float, y: float, turn: float, grown: float, squeezed: float) -> Affine:
    """Return the map that turns, grows and squeezes about `centre`, then moves by (x, y)."""
    wide, high = math.exp(grown + squeezed), math.exp(grown - squeezed)
    a, b, d, e = math.cos(turn) * wide, -math.sin(turn) * high, math.sin(turn) * wide, math.cos(turn) * high
    return (a, b, centre[0] + x - a * centre[0] - b * centre[1], d, e, centre[1] + y - d * centre[0] - e * centre[1])


def _inverse(affine: Affine) -> Affine:
    a, b, c, d, e, f = affine
    scale = 1 / (a * e - b * d)
    a, b, d, e = e * scale, -b * scale, -d * scale, a * scale
    return (a, b, -(a * c + b * f), d, e, -(d * c + e * f))


def _compose(outer: Affine, inner: Affine) -> Affine:
    """Return the map that applies `inner`, then `outer`."""
    a, b, c, d, e, f = outer
    g, h, i, j, k, m = inner
    return (a * g + b * j, a * h + b * k, a * i + b * m + c, d * g + e * j, d * h + e * k, d * i + e * m + f)
