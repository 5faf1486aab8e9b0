"""Synthetic video: moving shapes with exact masks, a data set without a download.

Textured blobs, polygons, stars and ellipses move, turn, grow, deform, occlude each other, leave and come back. The
background is textured and moves, the light changes, and some painted shapes are not objects. Every frame is a pure
function of (seed, split, video number, frame number) and takes about a millisecond. Objects share some colours with
their background, so colour alone does not separate them. They move so far that copying the first mask fails.
The scene of a video (textures, paths) is kept in a small cache per process.
"""

from __future__ import annotations

import json
import re
import sys
import zlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache

import cv2
import numpy as np
from numpy.random import Generator

from vos.errors import InputError
from vos.files.limits import check_limit
from vos.files.written import Written, check_new_or_own
from vos.media import images

GENERATOR_VERSION = 1
Size = tuple[int, int]
DEFAULT_SIZE: Size = (160, 240)
_Harmonics = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]  # order, amplitude, phase, turns per frame
_REACH = 1.6  # A texture covers this many radii around its sprite's centre; contours stay within.


@dataclass(frozen=True)
class SyntheticVideo:
    """One synthetic video with the interface of `vos.data.videos.Video`; pickled, it is a few numbers."""

    split: str
    seed: int
    number: int
    num_frames: int
    size: Size

    @property
    def name(self) -> str:
        return f"{self.split}-{self.seed}-{self.number:05d}"

    @property
    def annotated(self) -> tuple[int, ...]:
        return tuple(range(self.num_frames))

    @property
    def first_seen(self) -> dict[int, int]:
        return {sprite.label: 0 for sprite in sorted(self._scene().sprites, key=lambda s: s.label) if sprite.label}

    def frame_name(self, index: int) -> str:
        return f"{index:05d}"

    def frame(self, index: int) -> np.ndarray:
        """Return a frame, (H, W, 3) uint8 RGB."""
        return _paint(self._scene(), range(self.num_frames)[index])

    def mask(self, index: int) -> np.ndarray:
        """Return a mask, (H, W) uint8 object ids, 0 is background."""
        return _labels(self._scene().sprites, self.size, range(self.num_frames)[index])

    def signature(self) -> str:
        return json.dumps({"generator": "synthetic", "version": GENERATOR_VERSION, **asdict(self)})

    def files(self) -> tuple[str, ...]:
        return ()

    def _scene(self) -> _Scene:
        return _make_scene(self.split, self.seed, self.number, self.size)


def synthetic_index(
    num_videos: int | None = None, num_frames: int = 30, size: Size = DEFAULT_SIZE, seed: int = 0, split: str = "train"
) -> list[SyntheticVideo]:
    """Return the first `num_videos` videos of a split; no video is in two splits.

    num_videos  default: 96 for training, 16 for any other split
    num_frames  frames of each video; a longer video begins with the frames of a shorter one
    size        (H, W) in pixels, at least 32 each
    Raises InputError for numbers that are too small, or above the limits.
    """
    if num_videos is None:
        num_videos = 96 if split == "train" else 16
    check_limit("synthetic_videos", num_videos, "--data.synthetic-videos")
    check_limit("synthetic_frames", num_frames, "--data.synthetic-frames")
    check_limit("image_pixels", size[0] * size[1], f"--data.synthetic-height-px {size[0]}")
    if min(size) < 32 or num_videos < 1 or num_frames < 1 or seed < 0:
        given = f"{num_videos} videos of {num_frames} frames of {size[1]}x{size[0]} pixels, seed {seed}"
        raise InputError(f"synthetic data: {given}; use 1 video, 1 frame, 32x32 pixels and seed 0 at least")
    return [SyntheticVideo(split, seed, number, num_frames, size) for number in range(num_videos)]


def write_davis(videos: Sequence[SyntheticVideo], root: str, split: str, overwrite: bool = False) -> str:
    """Write videos as a DAVIS-2017 tree under `root` and return the path of its split file, which is written last.

    Masks are lossless; frames are JPEG at quality 95, as the layout requires.
    Raises InputError if it would replace a file that this function did not write or that was changed since. With `overwrite` such
    files are replaced.
    """
    if not re.fullmatch(r"[A-Za-z0-9_-]+", split):
        raise InputError(f"--split {split!r}: use letters, digits, - and _")
    folder = Written(root, "synthetic", overwrite=overwrite)
    split_file = f"ImageSets/2017/{split}.txt"
    folder.check(name for name in (split_file, *(name for video in videos for name in _names(video))))
    for video in videos:
        for i in range(video.num_frames):
            frame, mask = _names(video)[2 * i : 2 * i + 2]
            folder.write(frame, images.frame_file(frame, video.frame(i)), sync=False)
            folder.write(mask, images.mask_png(video.mask(i)), sync=False)
    return folder.write(split_file, "".join(f"{video.name}\n" for video in videos).encode())


def _names(video: SyntheticVideo) -> list[str]:
    """List the file names of a video: frame and mask of index 0, then of index 1, and so on."""
    stems = (f"480p/{video.name}/{video.frame_name(index)}" for index in range(video.num_frames))
    return [name for stem in stems for name in (f"JPEGImages/{stem}.jpg", f"Annotations/{stem}.png")]


@dataclass(frozen=True, eq=False)
class _Wave:
    """offset + amplitude * sin(2 pi (frame / period_frames + phase)), per component."""

    offset: np.ndarray
    amplitude: np.ndarray
    period_frames: np.ndarray
    phase: np.ndarray

    def at(self, frame: int) -> np.ndarray:
        return self.offset + self.amplitude * np.sin(2 * np.pi * (frame / self.period_frames + self.phase))


@dataclass(frozen=True, eq=False)
class _Sprite:
    """One moving shape. Shapes with label 0 are painted like the others but belong to the background."""

    label: int
    radius_px: float
    angle: np.ndarray  # (N,) of the contour's corners
    reach: np.ndarray  # (N,) their distance from the centre, in radii
    harmonics: _Harmonics  # by which the contour deforms
    centre: _Wave  # x, y in pixels
    pose: _Wave  # log of the size, log of the stretch, rotation (radians)
    spin: float  # radians per frame
    texture: np.ndarray  # (S, S, 3) uint8

    def placed(self, frame: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return contour (N, 2) in pixels, the 2x2 matrix from radii to pixels, and the centre (2,)."""
        size, stretch, turn = self.pose.at(frame)
        matrix = (
            _rotation(turn + self.spin * frame)
            @ np.diag([np.exp(size + stretch), np.exp(size - stretch)])
            * self.radius_px
        )
        order, amplitude, phase, speed = self.harmonics
        waves = amplitude * np.cos(self.angle[:, None] * order + phase + 2 * np.pi * speed * frame)
        reach = np.clip(self.reach + waves.sum(axis=1), 0.35, _REACH - 0.1)
        corners = reach[:, None] * np.stack([np.cos(self.angle), np.sin(self.angle)], axis=1)
        centre = self.centre.at(frame)
        return corners @ matrix.T + centre, matrix, centre

    def cover(self, frame: int, size: Size) -> tuple[slice, slice, np.ndarray] | None:
        """Return the rows and columns it touches and its coverage there (uint8, soft at the edge); None if out of the frame."""
        contour, _, _ = self.placed(frame)
        left, top = np.maximum(np.floor(contour.min(axis=0)).astype(int) - 1, 0)
        right, bottom = np.minimum(np.ceil(contour.max(axis=0)).astype(int) + 2, (size[1], size[0]))
        if right <= left or bottom <= top:
            return None
        coverage = np.zeros((bottom - top, right - left), np.uint8)
        corners = np.rint(16 * (contour - (left, top))).astype(np.int32)
        cv2.fillPoly(coverage, [corners], (255,), lineType=cv2.LINE_AA, shift=4)
        return slice(top, bottom), slice(left, right), coverage

    def paint(self, canvas: np.ndarray, frame: int) -> None:
        if (covered := self.cover(frame, (canvas.shape[0], canvas.shape[1]))) is None:
            return
        (rows, columns, coverage), (_, matrix, centre) = covered, self.placed(frame)
        half = self.texture.shape[0] / 2
        inverse = np.linalg.inv(matrix) * (half / _REACH)
        start = inverse @ (np.array([columns.start, rows.start]) - centre) + half
        skin = _sample(self.texture, inverse, start, coverage.shape)
        weight = coverage[..., None].astype(np.uint16)
        canvas[rows, columns] = (skin * weight + canvas[rows, columns] * (255 - weight) + 127) // 255


@dataclass(frozen=True, eq=False)
class _Scene:
    size: Size
    background: np.ndarray  # uint8 RGB, larger than the frame
    camera: _Wave  # x, y shift in pixels, log of the zoom, rotation (radians)
    sprites: tuple[_Sprite, ...]  # from back to front
    light: np.ndarray  # uint8, larger than the frame; 128 leaves a pixel as it is
    lamp: _Wave  # x, y shift of the light in pixels, log of the brightness
    grain: np.ndarray  # uint8 noise, larger than the frame


def _rotation(turn: float) -> np.ndarray:
    return np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])


def _sample(image: np.ndarray, matrix: np.ndarray, start: np.ndarray, size: tuple[int, ...]) -> np.ndarray:
    affine = (*matrix[0], start[0], *matrix[1], start[1])
    return images.sample(image, images.affine_grid(affine, (size[0], size[1]), nearest=False))


def _labels(sprites: Sequence[_Sprite], size: Size, frame: int) -> np.ndarray:
    labels = np.zeros(size, np.uint8)
    for sprite in sprites:
        if covered := sprite.cover(frame, size):
            rows, columns, coverage = covered
            labels[rows, columns][coverage >= 128] = sprite.label
    return labels


def _paint(scene: _Scene, frame: int) -> np.ndarray:
    height, width = scene.size
    *shift, zoom, turn = scene.camera.at(frame)
    view = np.exp(-zoom) * _rotation(turn)
    start = np.array(scene.background.shape[1::-1]) / 2 + shift - view @ (width / 2, height / 2)
    canvas = _sample(scene.background, view, start, scene.size)
    for sprite in scene.sprites:
        sprite.paint(canvas, frame)
    lamp_x, lamp_y, brightness = scene.lamp.at(frame)
    top, left = (np.array(scene.light.shape) - scene.size) // 2 + np.rint((lamp_y, lamp_x)).astype(int)
    light = scene.light[top : top + height, left : left + width]
    canvas = cv2.multiply(canvas, cv2.merge([light] * 3), scale=float(np.exp(brightness)) / 128)
    # The grain is one tile, shifted from frame to frame by steps that share no factor with its margin.
    down, right = frame * 7 % 23, frame * 11 % 29
    return cv2.add(canvas, scene.grain[down : down + height, right : right + width])


@lru_cache(maxsize=128)
def _make_scene(split: str, seed: int, number: int, size: Size) -> _Scene:
    rng = np.random.default_rng([GENERATOR_VERSION, zlib.crc32(split.encode()), seed, number])
    (height, width), unit = size, min(size) / 160
    margin = round(40 * unit)
    shared = _colours(rng, 4)
    background = _background(rng, (height + 2 * margin, width + 2 * margin), shared, unit)
    camera = _wave(rng, np.array([0, 0, 0.05, 0]), np.array([26 * unit, 20 * unit, 0.06, 0.05]), (50, 120))
    num_objects = int(rng.choice([1, 2, 3], p=[0.25, 0.45, 0.3]))
    labels = [*range(1, num_objects + 1), *([0] if rng.random() < 0.35 else [])]
    leaver = 1 if rng.random() < 0.5 and num_objects > 1 else None
    taken, skins = shared, []
    for _ in labels:
        skin, own = _skin(rng, shared, taken, unit)
        skins.append(skin)
        taken = np.concatenate([taken, own])
    # Every object must be visible in the first frame: redraw shapes and paths until all are, smaller ones after 20 attempts.
    sprites: list[_Sprite] = []
    for attempt in range(40):
        shrink = 1.0 if attempt < 20 else 0.7
        order = rng.permutation(len(labels))
        sprites = [_sprite(rng, labels[i], skins[i], size, unit * shrink, labels[i] == leaver) for i in order]
        if rng.random() < 0.8 and leaver not in (sprites[0].label, sprites[-1].label):
            sprites = _crossing(sprites, int(rng.integers(8, 21)))
        if _all_seen(sprites, size):
            break
    light = _noise(rng, (height + 2 * margin, width + 2 * margin), 3).astype(np.uint16) * 80 // 255 + 92
    lamp = _wave(rng, np.zeros(3), np.array([margin - 2, margin - 2, 0.16]), (25, 60))
    grain = rng.integers(0, 9, (height + 32, width + 32, 3), dtype=np.uint8)
    return _Scene(size, background, camera, tuple(sprites), light.astype(np.uint8), lamp, grain)


def _crossing(sprites: list[_Sprite], frame: int) -> list[_Sprite]:
    """Return the sprites with the path of the front one moved so that it hides the rearmost in the given frame."""
    back, front = sprites[0].centre.at(frame), sprites[-1].centre
    centre = replace(front, offset=front.offset + back - front.at(frame))
    return [*sprites[:-1], replace(sprites[-1], centre=centre)]


def _all_seen(sprites: Sequence[_Sprite], size: Size) -> bool:
    """Return whether each object is mostly inside the first frame and mostly visible there."""
    seen = np.bincount(_labels(sprites, size, 0).ravel(), minlength=4)
    alone = [(s, np.count_nonzero(_labels([s], size, 0))) for s in sprites if s.label]
    return all(seen[s.label] >= 0.7 * area and area >= 1.1 * s.radius_px**2 for s, area in alone)


def _wave(rng: Generator, offset: np.ndarray, amplitude: np.ndarray, period_frames: tuple[float, float]) -> _Wave:
    count = len(offset)
    strength, period = rng.uniform(0.6, 1, count), rng.uniform(*period_frames, count)
    return _Wave(offset, amplitude * strength, period, rng.random(count))


def _sprite(rng: Generator, label: int, skin: np.ndarray, size: Size, unit: float, leaves: bool) -> _Sprite:
    height, width = size
    radius = rng.uniform(23, 36) * unit
    if leaves:
        # It swings across one edge of the frame: fully outside at one end, fully inside at the other, where it starts.
        side = rng.choice([-1, 1])
        offset = np.array([width / 2 + side * (width / 2 + 0.1 * radius), rng.uniform(0.3, 0.7) * height])
        amplitude = np.array([side * 2.1 * radius, rng.uniform(0.15, 0.25) * height])
        phase = rng.uniform((0.69, 0), (0.81, 1))
        centre = _Wave(offset, amplitude, rng.uniform((32, 40), (42, 80)), phase)
    else:
        middle = rng.uniform(0.4, 0.6, 2) * (width, height)
        centre = _wave(rng, middle, np.array([0.36 * width, 0.32 * height]), (70, 140))
    pose = _wave(rng, np.zeros(3), np.array([0.25, 0.18, 0.5]), (50, 100))
    return _Sprite(label, radius, *_contour(rng, 0.035), centre, pose, rng.uniform(-0.05, 0.05), skin)


def _contour(rng: Generator, speed: float) -> tuple[np.ndarray, np.ndarray, _Harmonics]:
    """Draw a contour: corner angles (N,), their reach in radii (N,), and harmonics that deform it, `speed` turns per frame."""
    kind = rng.choice(["blob", "ellipse", "polygon", "star"], p=[0.4, 0.2, 0.25, 0.15])
    strength = {"blob": 0.45, "ellipse": 0.1, "polygon": 0.12, "star": 0.12}[kind]
    corners = {"blob": 48, "ellipse": 48, "polygon": int(rng.integers(4, 8)), "star": 2 * int(rng.integers(5, 8))}[kind]
    angle = np.arange(corners) * (2 * np.pi / corners)
    reach = np.ones(corners)
    if kind == "ellipse":
        flat = rng.uniform(0.55, 0.8)
        reach = 1.1 * flat / np.hypot(flat * np.cos(angle), np.sin(angle))
    elif kind == "polygon":
        angle += rng.uniform(-0.2, 0.2, corners) * (2 * np.pi / corners)
        reach = rng.uniform(0.95, 1.3, corners)
    elif kind == "star":
        reach = np.where(np.arange(corners) % 2, 0.65, 1.3)
    order = np.array([2.0, 3.0, 4.0])
    amplitude = strength / order * rng.uniform(0.5, 1, 3)
    return angle, reach, (order, amplitude, rng.uniform(0, 2 * np.pi, 3), rng.uniform(-speed, speed, 3))


def _background(rng: Generator, size: Size, shared: np.ndarray, unit: float) -> np.ndarray:
    """Paint two textures in patches, with static shapes that look like objects."""
    canvas = _texture(rng, size, shared[:2], 1.5 * unit)
    patches = _noise(rng, size, 5) > 140
    canvas[patches] = _texture(rng, size, shared[1:3], unit)[patches]
    pose = _wave(rng, np.zeros(3), np.zeros(3), (1, 2))
    for _ in range(int(rng.integers(2, 6))):
        at = _wave(rng, rng.uniform((0, 0), (size[1], size[0])), np.zeros(2), (1, 2))
        skin, _ = _skin(rng, shared, shared, unit)
        thing = _Sprite(0, rng.uniform(8, 24) * unit, *_contour(rng, 0), at, pose, 0.0, skin)
        thing.paint(canvas, 0)
    return cv2.GaussianBlur(canvas, (3, 3), 0)


def _skin(rng: Generator, shared: np.ndarray, taken: np.ndarray, unit: float) -> tuple[np.ndarray, np.ndarray]:
    """Return the texture of a sprite, darker to one side, and its own two colours; it shares a third one with the background."""
    side = max(16, round(100 * unit))
    candidates = _colours(rng, 8)
    apart = np.abs(candidates[:, None].astype(int) - taken[None]).sum(axis=2).min(axis=1)
    own = candidates[np.argsort(-apart, kind="stable")[:2]]
    palette = np.stack([own[0], shared[rng.integers(len(shared))], own[1]])[rng.permutation(3)]
    skin = _texture(rng, (side, side), palette, unit)
    shade = np.linspace(150, 96, side).astype(np.uint8)
    return cv2.multiply(skin, np.broadcast_to(shade[:, None, None], skin.shape).copy(), scale=1 / 128), own


def _colours(rng: Generator, count: int) -> np.ndarray:
    """Draw random colours (count, 3) uint8 RGB, from muted to strong, neither black nor white."""
    hsv = np.stack([rng.integers(0, 180, count), rng.integers(40, 190, count), rng.integers(70, 235, count)], axis=1)
    return cv2.cvtColor(hsv.astype(np.uint8)[None], cv2.COLOR_HSV2RGB)[0]


def _noise(rng: Generator, size: Size, cells: int) -> np.ndarray:
    """Draw smooth noise (H, W) uint8 with about `cells` bumps along the shorter side."""
    rows, columns = (max(2, round(cells * side / min(size))) + 1 for side in size)
    coarse = rng.integers(0, 256, (rows, columns), dtype=np.uint8)
    return cv2.resize(coarse, (size[1], size[0]), interpolation=cv2.INTER_CUBIC)


def _texture(rng: Generator, size: Size, palette: np.ndarray, unit: float) -> np.ndarray:
    """Draw a procedural texture (H, W, 3) uint8: a pattern distorted by noise, coloured from the palette."""
    y, x = np.mgrid[: size[0], : size[1]].astype(np.int32)
    cells = max(3, round(min(size) / (rng.uniform(9, 22) * unit)))
    bend = _noise(rng, size, cells).astype(np.int32)
    step = max(4, round(rng.uniform(7, 16) * unit))
    kind = rng.choice(["cloud", "stripes", "checks", "dots", "camouflage"])
    if kind == "cloud":
        field = (2 * bend + _noise(rng, size, 3 * cells)) // 3
    elif kind == "stripes":
        slope_x, slope_y = (int(v) for v in rng.integers(-256 // step, 256 // step + 1, 2))
        wave = (slope_x * x + (slope_y or 256 // step) * y + bend // 2) & 255
        field = np.abs(2 * wave - 255)
    elif kind == "checks":
        field = 190 * ((x // step + y // step) & 1) + bend // 4
    elif kind == "dots":
        across = (x + (y // step & 1) * (step // 2)) % step - step // 2
        field = np.where(across**2 + (y % step - step // 2) ** 2 < (step * 3 // 8) ** 2, 255, bend // 3)
    else:
        field = bend // 64 * 85
    steps = np.linspace(0, 255, len(palette))
    table = np.stack([np.interp(np.arange(256), steps, channel) for channel in palette.T], axis=-1)
    return np.rint(table).astype(np.uint8)[np.clip(field, 0, 255)]


@dataclass(frozen=True, kw_only=True)
class WriteConfig:
    """Write synthetic videos as a data set in DAVIS-2017 layout."""

    out: str  # Folder to write to.
    videos: int = 8  # Number of videos.
    frames: int = 30  # Frames of each video.
    height_px: int = DEFAULT_SIZE[0]  # Height of a frame in pixels.
    width_px: int = DEFAULT_SIZE[1]  # Width of a frame in pixels.
    seed: int = 0  # Seed of the data set.
    split: str = "train"  # Name of the split: train and val share no video.
    overwrite: bool = False  # Replace files in the way that this program did not write.


def main() -> None:
    import tyro

    config = tyro.cli(WriteConfig)
    try:
        videos = synthetic_index(
            config.videos, config.frames, (config.height_px, config.width_px), config.seed, config.split
        )
        check_new_or_own(config.out, config.overwrite)
        path = write_davis(videos, config.out, config.split, config.overwrite)
        print(f"wrote {len(videos)} videos; they are listed in {path}")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
