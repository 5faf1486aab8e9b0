"""What jobs.segment is given: the video, the masks of its objects, and names for its outputs, all looked at before any work."""

from __future__ import annotations

import os
import sys
from dataclasses import replace

from pipelines import storage
from pipelines.runtime.output_folder import OutputFile
from vos.config import SegmentConfig
from vos.config.segment import STANDARD_INPUT
from vos.errors import InputError, printable
from vos.files.names import check_name
from vos.files.written import Written
from vos.inference.sample_video import SAMPLE_MASK, SAMPLE_VIDEO
from vos.media.exif import UPRIGHT
from vos.media.frame_files import list_frames
from vos.media.images import orientation_in
from vos.media.object_masks import WITHOUT_BACKGROUND, ObjectMask, read_objects
from vos.media.video_files import FrameStream, open_folder, open_video, read_pipe

SEGMENT = "segment"


def completed(config: SegmentConfig) -> SegmentConfig:
    """`config` with the paths that it leaves open: those of the sample, and that of the overlay video.

    Raises InputError where no video is named.
    """
    if not (config.sample or config.video):
        raise InputError(
            "no video: name a file, a folder of frames, or -, as in python -m jobs.segment clip.mp4 …, or give --sample"
        )
    out = config.out or os.path.join(home(), "runs", "sample.mp4" if config.sample else "segment.mp4")
    if not config.sample:
        return replace(config, out=out)
    return replace(config, sample=False, video=SAMPLE_VIDEO, first_mask=SAMPLE_MASK, out=out)


def open_source(config: SegmentConfig) -> FrameStream:
    if os.path.isdir(config.video):
        masks = [config.first_mask, *_added(config).values()]
        for note in _folder_notes(config.video, masks):
            print(f"note     {printable(note)}", file=sys.stderr)
        return open_folder(config.video, config.fps, masks)
    if config.video != STANDARD_INPUT:
        return open_video(config.video, config.fps, skips_damage=config.damaged == "skip")
    if sys.stdin is None or sys.stdin.isatty():
        raise InputError("standard input is a terminal: pipe raw frames into it, as the examples of --help do")
    width, height = map(int, config.pipe_size.split("x"))
    return read_pipe(sys.stdin.buffer, (height, width), config.fps)


def _folder_notes(folder: str, masks: list[str]) -> list[str]:
    """Return what is not as a reader of the folder's list may think: pictures left out, frames turned."""
    found = list_frames(folder, masks)
    paths = [os.path.join(folder, file) for file in found.files]
    notes = [found.note(folder)]
    inside = [path for path in masks if path and any(_same(os.path.dirname(path), folder) for _ in found.files[:1])]
    if inside:
        notes.append(f"{', '.join(inside)}: in the folder of the frames, and not one of them")
    num_turned = sum(orientation_in(path) != UPRIGHT for path in paths)
    if num_turned:
        notes.append(f"{folder}: {num_turned} of {len(paths)} frames are turned as their EXIF orientation says")
    return [note for note in notes if note]


def read_masks(config: SegmentConfig) -> dict[int, ObjectMask]:
    """Frame index -> mask, in the order of the frames."""
    if not config.first_mask:
        raise InputError("--first-mask: name the PNG with the objects of the first frame")
    as_stored = config.mask_values == "stored"
    masks = {0: read_objects(config.first_mask, as_stored=as_stored)}
    known = set(masks[0].ids)
    for index, path in sorted(_added(config).items()):
        masks[index] = read_objects(path, known, as_stored)
        known |= set(masks[index].ids)
    return masks


def _added(config: SegmentConfig) -> dict[int, str]:
    added: dict[int, str] = {}
    for one in config.add:
        number, _, path = one.partition(":")
        if int(number) in added:
            raise InputError(f"--add {one}: a second mask for frame {number}; paint all its objects in one")
        added[int(number)] = os.path.join(home(), os.path.expanduser(path))
    return added


def check_masks(config: SegmentConfig, masks: dict[int, ObjectMask], source: FrameStream) -> None:
    paths = {0: config.first_mask, **_added(config)}
    for index, mask in masks.items():
        if mask.labels.shape != source.size:
            (mask_height, mask_width), (height, width) = mask.labels.shape, source.size
            advice = "resize the mask by the nearest pixel"
            if (mask_width, mask_height) == (height, width) and os.path.isdir(config.video):
                advice = "it fits the frames only on their side: turn it as their EXIF orientation turns them, or remove that tag from them"
            raise InputError(
                f"{paths[index]}: {mask_width}x{mask_height} pixels, {source.name} has {width}x{height}; {advice}"
            )
        if not index and mask.labels.all() and config.mask_values == "auto":
            raise InputError(f"{paths[index]}: {WITHOUT_BACKGROUND}")
        if source.stems is not None and index >= len(source.stems):
            raise InputError(
                f"--add {index}:{paths[index]}: {source.name} has {len(source.stems)} frames, counted from 0"
            )


def check_outputs(config: SegmentConfig) -> None:
    """What can be said before any work: that names fit, that folders can be written, and that nothing given would be overwritten."""
    folder = mask_folder(config)
    for path in (config.out, folder):
        if storage.is_uri(path):
            raise InputError(f"--out {path}: written to a local disk; choose a folder and copy it afterwards")
    if os.path.isdir(config.out):
        raise InputError(f"--out {config.out}: a folder has this name; choose another")
    for flag, path in (("--out", config.out), ("--masks", folder)):
        if path:
            check_name(os.path.basename(os.path.normpath(path)), f"{flag} {path}")
    for path in (os.path.dirname(config.out), folder):
        while path and not os.path.lexists(path):
            path = os.path.dirname(path)
        if path and not (os.path.isdir(path) and os.access(path, os.W_OK)):
            raise InputError(f"{path}: cannot be written or is no folder; choose another --out or --masks")
    given = [config.video, config.first_mask, *_added(config).values()]
    if any(os.path.exists(path) and _same(path, config.out) for path in given):
        raise InputError(f"--out {config.out}: would overwrite what is read; choose another")
    if folder and any(_same(folder, path if os.path.isdir(path) else os.path.dirname(path)) for path in given):
        raise InputError(f"--masks {folder}: holds what is read, which PNGs would overwrite; choose another folder")
    OutputFile(config.out, SEGMENT, config.overwrite).check()
    if folder:
        _check_mask_folder(folder, config)


def _check_mask_folder(folder: str, config: SegmentConfig) -> None:
    """Raise InputError where the folder of masks is neither new, nor empty, nor this job's, or where a PNG in it is not."""
    owned, name = mask_files(folder, config)
    names = storage.list_all(os.path.dirname(owned.path(f"{name}/-")))
    if names and not config.overwrite and not any(owned.knows(f"{name}/{one}") for one in names):
        listed = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        raise InputError(
            f"{folder}: holds files that this job did not write ({listed}); choose another --masks or give --overwrite"
        )
    owned.check(f"{name}/{one}" for one in names if one.endswith(".png"))


def mask_files(folder: str, config: SegmentConfig) -> tuple[Written, str]:
    """What writes the masks, and the name of their folder for it: the list of what is ours stands beside them, not among them."""
    return Written(os.path.dirname(folder) or ".", SEGMENT, overwrite=config.overwrite), os.path.basename(folder)


def mask_folder(config: SegmentConfig) -> str:
    return "" if config.no_masks else config.masks or f"{os.path.splitext(config.out)[0]}-masks"


def _same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def home() -> str:
    """The folder that relative paths mean."""
    return os.environ.get("MOBILEVOS_HOME") or os.getcwd()
