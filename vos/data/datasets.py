"""Data sets: DAVIS, YouTube-VOS, a folder of frames with first masks, or synthetic video.

An index is a list of small picklable records; frames and masks are read on demand. Every file is checked once when the
index is made (header and last bytes, no decoding: about 10^4 files per second), so a bad file is named before long work
starts. Some faults, such as an unknown object index, need decoding: they are found when that mask is read.
`vos.data.checking` reads all of them.

    davis2016    ROOT/JPEGImages/480p/V/*.jpg, ROOT/Annotations/480p/V/*.png, ROOT/ImageSets/2016/SPLIT.txt;
                 any nonzero index is object 1
    davis2017    the same with ImageSets/2017; the objects are the indices of the first mask
    youtubevos   ROOT[/train|/valid]/{JPEGImages/V/*.jpg, Annotations/V/*.png, meta.json};
                 objects may appear later, and masks may be sparse
    folder       ROOT/frames/V/*.jpg and ROOT/masks/V/*.png, of which one mask is needed: each object is followed from
                 the first mask that shows it; or one video: ROOT/*.jpg (or ROOT/frames/*.jpg) and ROOT/masks/*.png.
                 ROOT/SPLIT.txt lists the videos of a split; without any split file every split holds all videos
    labels       the output of jobs.label: the frames of another data set with a teacher's masks (`vos.data.labels`)
    stills, coco images with masks, from which clips are made (`vos.data.stills`, `vos.data.coco`)

A mask has the name of its frame. Frames are ordered by the numbers in their names (2 before 10). Index 255 is DAVIS's
"void" and read as background. If the first mask of a video that shows anything has only 255, or soft edges
(`vos.media.mask_values`), its masks are black and white, and the video has one object.

Names are compared as people see them: é is one letter, however a system writes it. Hidden files and those that operating
systems add are ignored.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any, TypedDict

from vos.data.coco import index_coco
from vos.data.labels import CONFIDENCE, LIST, index_labels
from vos.data.links import check_inside, links_in, outside_fault
from vos.data.stills import Still, index_stills
from vos.data.synthetic import synthetic_index
from vos.data.videos import FolderVideo, MaskMeaning, Video
from vos.errors import InputError
from vos.files.json_files import checked, read_json_file
from vos.files.names import check_name, read_names
from vos.media import images
from vos.media.exif import UPRIGHT
from vos.media.frame_files import (
    FRAME_ENDINGS,
    entries,
    image_files,
    in_folder,
    list_frames,
    no_frames,
    same_text,
)

Tell = Callable[[InputError], None]
"""Called with each fault. If it raises, indexing stops at the first fault; if it returns, all faults are reported."""

STILL_KINDS = ("stills", "coco")
"""Kinds of still images."""
ONLY_FOR_TRAINING = ("stills", "coco", "labels")
"""Kinds whose masks are no ground truth of whole videos: they have a split train only."""

_MOST_NOTES, _MOST_LOOKED_AT = 5, 50


def raise_fault(fault: InputError) -> None:
    raise fault


def load_index(root: str, kind: str = "auto", split: str = "train", tell: Tell = raise_fault) -> list[Video]:
    """List the videos of a split, sorted by name; every file is checked to be present, complete and of one size.

    root   folder of the data set; "" means synthetic video
    kind   one of `KINDS`, or "auto" to detect it from the files in the folder
    split  "train", "val", the name of another split file, or the absolute path of a text file with one name per line
    tell   called with each fault of a video or file. If it returns, videos with faults stay in the index if they can be
           read at all; use such an index only to find further faults
    Raises InputError, one line with the file and the fix. Faults of the folder, the split or meta.json are always raised.
    """
    if kind not in ("auto", *KINDS):
        raise InputError(f"--data.kind {kind}: unknown; use one of auto, {', '.join(KINDS)}")
    if kind == "synthetic" or (kind == "auto" and not root):
        return list(synthetic_index(split=split))
    if not root:
        raise InputError(f"--data.kind {kind} needs a folder; add --data.root PATH")
    root = os.path.expanduser(root)
    if "\0" in root or not os.path.isdir(root):
        raise InputError(f"{root}: no such data folder; give another --data.root, or none for synthetic video")
    videos = KINDS[detect_kind(root) if kind == "auto" else kind](root, split, tell)
    return sorted(videos, key=lambda video: video.name)


def detect_kind(root: str) -> str:
    """Return the kind of data set in a folder, from the files in it.

    Raises InputError that lists the files looked for.
    """
    for kind, marks in _MARKS.items():
        if any(os.path.exists(os.path.join(root, mark)) for mark in marks):
            return kind
    if (place := _place_near(root)) is not None:
        raise InputError(f"{root}: no known data set, but {place} is one; give that folder as --data.root")
    looked_for = "; ".join(f"{kind}: {' or '.join(marks)}" for kind, marks in _MARKS.items())
    raise InputError(
        f"{root}: no known data set; looked for {looked_for}. Give the folder that holds one of these as --data.root; "
        f"images with masks need --data.kind, {' or '.join(STILL_KINDS)}"
    )


def _place_near(root: str) -> str | None:
    """Return a folder in `root`, or one that it is in, that holds a data set: archives add a folder, and people name a folder in it."""
    inside = [os.path.join(root, name) for name in entries(root)]
    inside += [
        os.path.join(path, name) for path in inside[:_MOST_LOOKED_AT] for name in entries(path)[:_MOST_LOOKED_AT]
    ]
    above = [os.path.abspath(os.path.join(root, *[os.pardir] * steps)) for steps in (1, 2, 3)]
    beyond = [
        path for path in above if any(os.path.exists(os.path.join(path, one)) for one in ("JPEGImages", "frames"))
    ]
    return next((path for path in (*inside, *beyond) if _has_marks(path)), None)


def _has_marks(root: str) -> bool:
    return any(os.path.exists(os.path.join(root, mark)) for marks in _MARKS.values() for mark in marks)


def notes_on(videos: Sequence[Video]) -> list[str]:
    """Return lines about how videos are read that a user may not expect, a few at most: turned frames, files that are not read."""
    folders = [video for video in videos if isinstance(video, FolderVideo)]
    lines = [note for video in videos if isinstance(video, FolderVideo | Still) for note in video.notes]
    if len(lines) > _MOST_NOTES:
        lines = [*lines[: _MOST_NOTES - 1], f"… and {len(lines) - _MOST_NOTES + 1} more notes of this kind"]
    turned = [video for video in folders if video.orientations]
    if turned:
        more = f" and of {len(turned) - 1} more videos" if len(turned) > 1 else ""
        lines.append(f"{turned[0].frame_folder}: frames of it{more} are turned as their EXIF orientation says")
    return lines


def _index_davis(root: str, split: str, tell: Tell, year: str, meaning: MaskMeaning) -> Iterator[Video]:
    frames, masks = os.path.join(root, "JPEGImages/480p"), os.path.join(root, "Annotations/480p")

    def indexed(name: str) -> Video:
        video = _scan(root, name, frames, masks, meaning, tell)
        # test-dev and test-challenge have first masks only; in any other split, a missing mask is a lost file.
        if split == "train" or video.annotated != (0,):
            _require_masks(video, range(video.num_frames), tell)
        return video

    return _each(_read_split(root, os.path.join(root, "ImageSets", year), split), indexed, tell)


def _index_youtubevos(root: str, split: str, tell: Tell) -> Iterator[Video]:
    folder = root
    if not os.path.exists(os.path.join(root, "meta.json")):
        folder = os.path.join(root, {"val": "valid"}.get(split, check_name(split, "--data.split")))
    meta_path = os.path.join(folder, "meta.json")
    check_inside(root, meta_path)
    all_frames, all_masks = os.path.join(folder, "JPEGImages"), os.path.join(folder, "Annotations")
    meta = _read_meta(meta_path, entries(all_frames))

    def indexed(name: str) -> Video:
        video = _scan(root, name, all_frames, all_masks, "palette", tell)
        position = {same_text(video.frame_name(i)): i for i in range(video.num_frames)}
        first_seen = []
        for number, listed_frames in sorted(meta[name].items()):
            frames = [same_text(frame) for frame in listed_frames]
            if not frames or frames[0] not in position:
                missing = f"frame {frames[0]}, which is not in {video.frame_folder}" if frames else "no frame"
                tell(InputError(f"{meta_path}: object {number} of video {name} has {missing}; extract it again"))
            first_seen.append((number, position.get(frames[0], 0) if frames else 0))
        listed = {position[f] for frames in meta[name].values() for one in frames if (f := same_text(one)) in position}
        _require_masks(video, sorted(listed) if split == "train" else sorted({i for _, i in first_seen}), tell)
        return replace(video, objects=tuple(first_seen))

    return _each(meta, indexed, tell)


def _index_folder(root: str, split: str, tell: Tell) -> Iterator[Video]:
    masks = os.path.join(root, "masks")
    if not os.path.isdir(masks):
        raise InputError(f"{masks}: no such folder; put the first mask of each video there, masks/VIDEO/00000.png")
    frames = os.path.join(root, "frames")
    below = [entry for entry in entries(frames) if os.path.isdir(os.path.join(frames, entry))]
    known = {same_text(entry) for entry in entries(masks) if os.path.isdir(os.path.join(masks, entry))}
    several = any(same_text(entry) in known for entry in below)
    # Pictures beside the folders of several videos are none of their frames.
    places = () if several else (frames,) if below else (root, frames)
    single = next((folder for folder in places if os.path.isdir(folder) and image_files(folder)), None)
    if single:
        video = _scan(root, "", single, masks, "black_and_white_or_palette", tell)
        video = _from_first_mask(video, tell)
        return iter([replace(video, name=check_name(os.path.basename(os.path.abspath(root)), "--data.root"))])
    names = (
        _read_split(root, root, split)
        if _has_split(root, split, below)
        else [check_name(entry, frames) for entry in below]
    )
    if not names:
        raise InputError(f"{root}: no frames; put them in frames/VIDEO/00000.jpg, or one video beside the folder masks")

    def indexed(name: str) -> Video:
        return _from_first_mask(_scan(root, name, frames, masks, "black_and_white_or_palette", tell), tell)

    return _each(names, indexed, tell)


def _has_split(root: str, split: str, folders: Collection[str]) -> bool:
    """Return whether a folder has split files: that of this split, or another text file whose every line is the name of a video."""
    if os.path.isabs(split) or os.path.lexists(os.path.join(root, f"{split}.txt")):
        return True
    known = {same_text(folder) for folder in folders}
    for path in (os.path.join(root, file) for file in entries(root) if file.endswith(".txt")):
        with contextlib.suppress(InputError):  # a README, or a link that leads out
            check_inside(root, path)
            names = read_names(path, "")
            if names and all(same_text(name) in known for name in names):
                return True
    return False


def _from_first_mask(video: FolderVideo, tell: Tell) -> FolderVideo:
    """Return a video of kind `folder`, which is followed from its first mask on; report it if it has none."""
    if not video.annotated:
        _require_masks(video, [0], tell)
    elif first := video.annotated[0]:
        path = os.path.join(video.mask_folder, video.mask_files[first] or "")
        note = f"{path}: the first mask of this video; the {first} frames before it are not segmented"
        return replace(video, notes=(*video.notes, note))
    return video


def _each(names: Iterable[str], indexed: Callable[[str], Video], tell: Tell) -> Iterator[Video]:
    """Yield the videos of these names; one that cannot be indexed is reported to `tell` and left out."""
    for name in names:
        try:
            video = indexed(name)
        except InputError as fault:
            tell(fault)
        else:
            yield video


def _scan(root: str, name: str, all_frames: str, all_masks: str, meaning: MaskMeaning, tell: Tell) -> FolderVideo:
    """List and check the files of one video.

    Masks are optional here; `_require_masks` checks those that the data set must have.
    """
    frame_folder, mask_folder = in_folder(all_frames, name), in_folder(all_masks, name)
    if not os.path.isdir(frame_folder):
        raise InputError(
            f"{frame_folder}: the split names this video, but its folder is missing; add it or drop the name"
        )
    places = [path for folder in (frame_folder, mask_folder) for path in (folder, *links_in(folder))]
    outside = [fault for path in places if (fault := outside_fault(root, path)) is not None]
    for fault in outside:
        tell(fault)
    if outside:  # nothing is read there
        raise outside[0]
    found = list_frames(frame_folder)
    if not found.files:
        why = no_frames(frame_folder) or "add them or drop the video"
        raise InputError(f"{frame_folder}: no frame in it (.jpg, .jpeg or .png); {why}")
    mask_of: dict[str, str] = {}
    for file in entries(mask_folder):
        stem, ending = os.path.splitext(file)
        if ending.lower() == ".png" and mask_of.setdefault(same_text(stem), file) != file:
            tell(InputError(f"{os.path.join(mask_folder, stem)}: two masks for one frame; keep one of them"))
    for one in sorted(set(entries(frame_folder)) - set(found.files)):
        stem, ending = os.path.splitext(one)
        if ending.lower() in FRAME_ENDINGS and same_text(stem) in mask_of:
            tell(
                InputError(
                    f"{os.path.join(frame_folder, one)}: is a folder, not the frame of a mask; copy the frame again"
                )
            )
    mask_files = tuple(mask_of.get(same_text(os.path.splitext(file)[0])) for file in found.files)
    notes = tuple(filter(None, [found.note(frame_folder)]))
    video = FolderVideo(name, frame_folder, found.files, mask_folder, mask_files, (0, 0), meaning, notes=notes)
    orientations = []
    for number, path in enumerate(video.files()):
        try:
            examined = images.examine(path)
            if number < video.num_frames:
                orientations.append(examined.orientation)
                if examined.orientation != UPRIGHT and not video.orientations:
                    video = replace(video, orientations=(examined.orientation,))
            if video.size == (0, 0):
                video = replace(video, size=examined.size)
            else:
                video.check_size(path, examined.size)
        except InputError as fault:
            tell(fault)
            orientations += [UPRIGHT] * (number < video.num_frames and len(orientations) <= number)
    if video.orientations:
        video = replace(video, orientations=tuple(orientations))
    if video.size == (0, 0):
        raise InputError(
            f"{frame_folder}: none of its frames and masks is a complete image; copy it again or drop the video"
        )
    return video


def _require_masks(video: FolderVideo, indices: Sequence[int], tell: Tell) -> None:
    for i in indices:
        if not video.mask_files[i]:
            path = os.path.join(video.mask_folder, f"{video.frame_name(i)}.png")
            frame = os.path.join(video.frame_folder, video.frame_files[i])
            tell(
                InputError(
                    f"{path}: the mask of frame {frame} is missing{_other_kind(path)}; add it or drop the video from the split"
                )
            )


def _other_kind(path: str) -> str:
    """Return a remark on a file of another kind in a mask's place, or ""."""
    folder, file = os.path.split(path)
    stem = os.path.splitext(file)[0]
    others = [one for one in entries(folder) if os.path.splitext(one)[0] == stem]
    return f" ({others[0]} is no PNG file)" if others else ""


def _read_split(root: str, folder: str, split: str) -> list[str]:
    if os.path.isabs(split):  # a list of the user's own, which may be anywhere
        path, folder = split, os.path.dirname(split)
    else:
        path = os.path.join(folder, f"{check_name(split, '--data.split')}.txt")
        check_inside(root, path)
    if not os.path.exists(path):
        there = ", ".join(file[:-4] for file in entries(folder) if file.endswith(".txt")) or "no others"
        raise InputError(f"{path}: no such split file (found: {there}); write one video name per line")
    names = read_names(path, "write one video name per line")
    if not names:
        raise InputError(f"{path}: the split is empty; write one video name per line")
    return sorted({same_text(name): name for name in names}.values())


class _MetaObject(TypedDict):
    frames: list[str]


class _MetaVideo(TypedDict):
    objects: dict[str, _MetaObject]


class _Meta(TypedDict):
    videos: dict[str, _MetaVideo]


def _read_meta(path: str, folders: Collection[str]) -> dict[str, dict[int, list[str]]]:
    """Read meta.json as video -> object id -> names of its frames. It may not list more videos than there are `folders`."""
    advice = "use the meta.json of YouTube-VOS (video, objects, frames), which is beside JPEGImages in train and valid"
    meta = checked(read_json_file(path, advice), dict[str, Any], path, advice)
    if isinstance(meta.get("videos"), dict) and len(meta["videos"]) > len(folders):
        known = set(folders)
        missing = next(name for name in meta["videos"] if name not in known)
        raise InputError(
            f"{path}: lists {len(meta['videos']):,} videos, but there are {len(folders):,} folders of frames; add {missing[:80]} and "
            "any other missing folder, or drop the videos"
        )
    videos = checked(meta, _Meta, path, advice)["videos"]
    if not videos:
        raise InputError(f"{path}: the split is empty; list at least one video")
    for name, video in videos.items():
        check_name(name, path)
        number = next(
            (one for one in video["objects"] if not re.fullmatch("[1-9][0-9]{0,2}", one) or int(one) > 254), ""
        )
        if number:
            raise InputError(
                f"{path}: the object {number[:40]!r} of video {name} is not a number from 1 to 254; {advice}"
            )
    return {
        name: {int(number): entry["frames"] for number, entry in video["objects"].items()}
        for name, video in videos.items()
    }


_MARKS = {
    "davis2017": ("ImageSets/2017",),
    "davis2016": ("ImageSets/2016",),
    "youtubevos": ("meta.json", "train/meta.json", "valid/meta.json"),
    "labels": (LIST, CONFIDENCE),  # before folder: labels have masks, too
    "folder": ("masks",),
}

KINDS: dict[str, Callable[[str, str, Tell], Iterator[Video]]] = {
    "davis2016": lambda root, split, tell: _index_davis(root, split, tell, "2016", "foreground"),
    "davis2017": lambda root, split, tell: _index_davis(root, split, tell, "2017", "palette"),
    "youtubevos": _index_youtubevos,
    "labels": index_labels,
    "folder": _index_folder,
    "synthetic": lambda root, split, tell: iter(synthetic_index(split=split)),
    "stills": index_stills,
    "coco": index_coco,
}
