"""Labels of a teacher as a data set: the frames of another data set, with the masks that jobs.label kept.

    ROOT/masks/V/*.png        palette PNGs with the ids of the video, named like its frames
    ROOT/confidence/V/*.png   grey, 255 is certain
    ROOT/videos/V.json        sealed: what is kept of the video, and the digest of each file
    ROOT/labels.json          sealed, written last: where the frames are, and which videos there are

Only the frames are read from the labelled data set, none of its masks. Both JSON files are untrusted: names in them are checked, and a
mask whose bytes are not those that jobs.label wrote is refused when it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NotRequired, TypedDict

import numpy as np

from vos.data.synthetic import SyntheticVideo
from vos.data.videos import FolderVideo, Video
from vos.errors import InputError
from vos.files.canonical import fingerprint
from vos.files.names import check_name
from vos.files.seals import unsealed
from vos.files.whole import inside, read_regular
from vos.media import images

JOB, LIST = "label", "labels.json"
MASKS, CONFIDENCE, VIDEOS = "masks", "confidence", "videos"
REPAIR = "run jobs.label again with the same flags"
MOST_PX = 1 << 16


class SyntheticSource(TypedDict):
    """The numbers of a synthetic video."""

    split: str
    seed: int
    number: int
    num_frames: int
    height: int
    width: int


class Frame(TypedDict):
    """One frame of a receipt: its place in the video, whether it is kept or why not, objects with confidence and agreement, digests."""

    index: int
    name: str
    kept: bool
    reason: str
    given: list[int]
    begins: bool
    confidence: dict[str, float]
    agreement: dict[str, float]
    mask_sha256: str
    confidence_sha256: str


class Receipt(TypedDict):
    """The content of videos/V.json. folder: of the frames, below the root of the data set."""

    video: str
    size: list[int]
    folder: NotRequired[str]
    files: NotRequired[list[str]]
    orientations: NotRequired[list[int]]
    synthetic: NotRequired[SyntheticSource]
    frames: list[Frame]


class Listed(TypedDict):
    """A video in labels.json."""

    name: str
    frames: int
    kept: int
    sha256: str


class Labels(TypedDict):
    """The content of labels.json. root: of the labelled data set, "" for synthetic video."""

    identity: dict[str, object]
    root: str
    split: str
    teacher: dict[str, object]
    videos: list[Listed]


@dataclass(frozen=True)
class LabelledVideo:
    """A video whose masks are a teacher's.

    frames    the same video without masks
    folder    of the masks
    digests   SHA-256 of the mask of each frame, "" where the frame has none
    objects   (id, first kept frame that shows it)
    """

    frames: Video
    folder: str
    digests: tuple[str, ...]
    objects: tuple[tuple[int, int], ...]

    @property
    def name(self) -> str:
        return self.frames.name

    @property
    def num_frames(self) -> int:
        return self.frames.num_frames

    @property
    def size(self) -> tuple[int, int]:
        return self.frames.size

    @property
    def annotated(self) -> tuple[int, ...]:
        return tuple(index for index, digest in enumerate(self.digests) if digest)

    @property
    def first_seen(self) -> dict[int, int]:
        return dict(self.objects)

    def frame_name(self, index: int) -> str:
        return self.frames.frame_name(index)

    def frame(self, index: int) -> np.ndarray:
        return self.frames.frame(index)

    def mask(self, index: int) -> np.ndarray | None:
        """Return a mask, None where the frame is left out. Raises InputError if its file is not the one that jobs.label wrote."""
        return read_label(self._path(index), self.digests[index], self.size) if self.digests[index] else None

    def signature(self) -> str:
        return json.dumps(["labels", self.frames.signature(), self.digests, self.objects])

    def files(self) -> tuple[str, ...]:
        return (*self.frames.files(), *(self._path(index) for index in self.annotated))

    def _path(self, index: int) -> str:
        return os.path.join(self.folder, f"{self.frame_name(index)}.png")


def read_label(path: str, sha256: str, size: tuple[int, int]) -> np.ndarray:
    """Return a PNG that jobs.label wrote, (H, W) uint8. Raises InputError if it is absent, changed or of another size."""
    data = read_regular(path, "image_bytes", REPAIR)
    if hashlib.sha256(data).hexdigest() != sha256:
        raise InputError(f"{path}: was changed after jobs.label wrote it (its digest does not match); {REPAIR}")
    pixels = images.read_mask(path)
    if pixels.shape != tuple(size):
        raise InputError(f"{path}: {pixels.shape[1]}x{pixels.shape[0]} pixels instead of {size[1]}x{size[0]}; {REPAIR}")
    return pixels


def read_labels(root: str) -> Labels:
    """Return the list of finished labels. Raises InputError if it is absent, changed or of another kind."""
    path = os.path.join(root, LIST)
    if not os.path.lexists(path):
        raise InputError(f"{path}: these labels are absent or unfinished; make or resume them with jobs.label")
    found = unsealed(read_regular(path, "json_bytes", REPAIR), Labels, path, JOB, None, REPAIR)
    for listed in found["videos"]:
        check_name(listed["name"], path)
    names = [listed["name"] for listed in found["videos"]]
    if len(set(names)) < len(names):
        raise InputError(f"{path}: lists a video twice; {REPAIR}")
    return found


def read_receipt(root: str, labels: Labels, listed: Listed) -> Receipt:
    """Return what is kept of a video. Raises InputError if its file is absent, changed or does not fit the list."""
    path = inside(os.path.join(root, VIDEOS), f"{listed['name']}.json", os.path.join(root, LIST))
    data = read_regular(path, "json_bytes", REPAIR)
    if hashlib.sha256(data).hexdigest() != listed["sha256"]:
        raise InputError(f"{path}: is not the file that {LIST} lists; {REPAIR}")
    found = unsealed(data, Receipt, path, JOB, fingerprint(labels["identity"]), REPAIR)
    if problem := _misfit(found, listed):
        raise InputError(f"{path}: {problem}; {REPAIR}")
    for frame in found["frames"]:
        check_name(frame["name"], path)
    return found


def _misfit(receipt: Receipt, listed: Listed) -> str:
    """Describe why a receipt cannot be one of this video; "" if it can."""
    indices = [frame["index"] for frame in receipt["frames"]]
    if (
        receipt["video"] != listed["name"]
        or len(receipt["size"]) != 2
        or not all(0 < n < MOST_PX for n in receipt["size"])
    ):
        return "is of another video"
    if not indices or indices != list(range(indices[0], indices[-1] + 1)) or indices[0] < 0 or len(indices) > 10**6:
        return "its frames are not consecutive"
    shown = [number for frame in receipt["frames"] for number in frame["confidence"]]
    if not all(number.isdecimal() and len(number) <= 3 and 1 <= int(number) <= 254 for number in shown):
        return "its objects are not numbers from 1 to 254"
    if ("folder" in receipt) == ("synthetic" in receipt):
        return "does not tell where its frames are"
    return ""


def index_labels(root: str, split: str, tell: Callable[[InputError], None]) -> Iterator[Video]:
    """Yield the labelled videos that have clips: two kept frames or more. Any split holds all of them.

    tell  called with each fault of a video, as in `vos.data.datasets.load_index`
    """
    labels = read_labels(root)
    for listed in labels["videos"]:
        if listed["kept"] < 2:
            continue
        try:
            video = labelled_video(root, labels, listed)
            for path in video.files():
                if images.check_complete(path) != video.size:
                    raise InputError(
                        f"{path}: has not {video.size[1]}x{video.size[0]} pixels any more; restore it, or {REPAIR}"
                    )
        except InputError as fault:
            tell(fault)
        else:
            yield video


def labelled_video(root: str, labels: Labels, listed: Listed) -> LabelledVideo:
    """Return a video of the list with its kept masks. Raises InputError for a receipt that is damaged or leads out of the folder."""
    receipt = read_receipt(root, labels, listed)
    frames = _frames(labels["root"], receipt, os.path.join(root, VIDEOS, f"{listed['name']}.json"))
    digests, objects = [""] * frames.num_frames, {}
    folder = inside(os.path.join(root, MASKS), listed["name"], os.path.join(root, LIST))
    for frame in receipt["frames"]:
        if frame["index"] >= len(digests) or frames.frame_name(frame["index"]) != frame["name"]:
            raise InputError(f"{root}: frame {frame['name']} of {listed['name']} is not in the video; {REPAIR}")
        if frame["kept"]:
            digests[frame["index"]] = frame["mask_sha256"]
            for one in sorted(map(int, frame["confidence"])):
                objects.setdefault(one, frame["index"])
    return LabelledVideo(frames, folder, tuple(digests), tuple(sorted(objects.items())))


def _frames(root: str, receipt: Receipt, origin: str) -> Video:
    """Return the video without masks: its frames are read from the labelled data set."""
    size = (receipt["size"][0], receipt["size"][1])
    if "synthetic" in receipt:
        numbers = receipt["synthetic"]
        check_name(numbers["split"], origin)
        video = SyntheticVideo(
            numbers["split"],
            numbers["seed"],
            numbers["number"],
            numbers["num_frames"],
            (numbers["height"], numbers["width"]),
        )
        if (
            video.size != size
            or min(size) < 32
            or not 0 < video.num_frames <= 10**6
            or video.seed < 0
            or video.number < 0
        ):
            raise InputError(f"{origin}: its synthetic video is impossible; {REPAIR}")
        return video
    parts = [check_name(part, origin) for part in receipt.get("folder", "").split("/") if part]
    files = tuple(check_name(file, origin) for file in receipt.get("files", []))
    folder = os.path.join(root, *parts)
    if not root or not os.path.isdir(folder):
        raise InputError(
            f"{folder or origin}: the frames of {receipt['video']} are no longer there; restore them, or {REPAIR}"
        )
    turned = tuple(receipt.get("orientations", []))
    return FolderVideo(receipt["video"], folder, files, "", (None,) * len(files), size, objects=(), orientations=turned)


def source_of(video: Video, root: str) -> dict[str, object]:
    """Return the entries of a receipt that tell where a video's frames are. root: of its data set."""
    if isinstance(video, SyntheticVideo):
        return {
            "synthetic": SyntheticSource(
                split=video.split,
                seed=video.seed,
                number=video.number,
                num_frames=video.num_frames,
                height=video.size[0],
                width=video.size[1],
            )
        }
    assert isinstance(video, FolderVideo), f"{video.name}: frames of this kind of video cannot be found again"
    folder = os.path.relpath(video.frame_folder, root)
    found: dict[str, object] = {"folder": "" if folder == "." else folder, "files": list(video.frame_files)}
    return found | ({"orientations": list(video.orientations)} if video.orientations else {})
