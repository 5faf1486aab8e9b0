"""Read every frame and mask of a split once, one video per row of a Ray Data set, and list every fault.

    OUT/faults.txt, OUT/warnings.txt   all of them, one a line, sorted; empty where there is none

A video without a fault is recorded by its contents (`vos.data.check_records`). A check that was interrupted, or whose faults were
repaired, therefore reads only the rest. A split without a fault is recorded too; later jobs look this record up.
"""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.runtime.actors import run_on_actors
from pipelines.runtime.output_folder import check_folder, claimed_folder
from pipelines.runtime.progress import progress_bar
from pipelines.runtime.session import ray_session
from pipelines.runtime.videos import data_fingerprint, index_videos, is_synthetic
from vos.config import CheckConfig
from vos.data import check_records
from vos.data.checking import check_video
from vos.data.contents import fingerprint
from vos.data.stills import Still
from vos.data.videos import Video
from vos.errors import InputError

CHECK, FAULTS, WARNINGS = "check", "faults.txt", "warnings.txt"
MOST_LINES, MOST_OF_A_VIDEO = 200, 5
"""Limits of the faults and warnings that are printed; the files list all."""


@dataclass(frozen=True)
class DataCheck:
    """The faults and warnings that were found, as sorted lines, and how much was read."""

    faults: tuple[str, ...]
    warnings: tuple[str, ...]
    videos: int
    images: int
    """still images, which are no videos"""
    files: int
    files_read: int
    """by this run; an earlier run read the others"""
    seconds: float
    """of reading, without the start of Ray"""
    checked_on: str
    """the date of the record that later jobs look up, "" where there is none"""
    out: str


def check_data(config: CheckConfig) -> DataCheck:
    """Read a split, list every fault, and record the split if it has none.

    Raises InputError where no index can be made: an absent folder, a damaged split file or meta.json.
    """
    check_folder(config, CHECK).check([FAULTS, WARNINGS])
    indexing: list[str] = []
    videos = index_videos(config.data, config.split, lambda fault: indexing.append(str(fault)))
    with claimed_folder(config, CHECK, "a check") as folder:
        found = _checked(config, videos, indexing)
        for name, lines in ((FAULTS, found.faults), (WARNINGS, found.warnings)):
            folder.write(name, "".join(f"{line}\n" for line in lines).encode())
    return found


def _checked(config: CheckConfig, videos: list[Video], indexing: list[str]) -> DataCheck:
    files = sum(map(_num_files, videos))
    num_images = sum(isinstance(video, Still) for video in videos)
    num_videos = len(videos) - num_images
    # Where the index has a fault, a file may be unreadable, so the split has no fingerprint.
    whole = data_fingerprint(videos) if not indexing and not is_synthetic(config.data) else ""
    known = check_records.recall(whole, config.split) if whole and not config.again else None
    if known is not None:
        warnings = tuple(known["warnings"])
        return DataCheck((), warnings, num_videos, num_images, files, 0, 0.0, known["date"], config.out)
    records = {} if config.again else _known_videos(videos, config.split)
    faults, warnings, began, read = set(indexing), set(), math.inf, 0
    for record in records.values():
        warnings.update(record["warnings"])
    missing = [number for number in range(len(videos)) if number not in records]
    for answer in _read(config, videos, missing):
        began = min(began, answer["began"])
        number = answer["number"]
        read += _num_files(videos[number])
        faults.update(answer["faults"])
        warnings.update(answer["warnings"])
        _settle(answer["fingerprint"], config.split, answer["faults"], _num_files(videos[number]), answer["warnings"])
    seconds = max(0.0, time.time() - began)
    # Later jobs look up the whole split; it is recorded only if no file changed during the check.
    same = whole if whole and data_fingerprint(videos) == whole else ""
    checked_on = _settle(same, config.split, faults, files, sorted(warnings))
    found = tuple(sorted(faults)), tuple(sorted(warnings))
    return DataCheck(*found, num_videos, num_images, files, read, seconds, checked_on, config.out)


def _settle(digest: str, split: str, faults: Collection[str], files: int, warnings: Sequence[str]) -> str:
    """Record that the videos of a fingerprint have no fault, or delete that record; returns the record's date, or ""."""
    if not digest:
        return ""
    if faults:
        check_records.forget(digest, split)
        return ""
    return check_records.remember(digest, split, files, warnings)["date"]


def _num_files(video: Video) -> int:
    return video.num_frames + len(video.annotated)


def _known_videos(videos: Sequence[Video], split: str) -> dict[int, check_records.Record]:
    """Return the records of earlier checks, of videos that have not changed since, by position in the index."""
    found = {}
    for number, video in enumerate(videos):
        record = check_records.recall(_fingerprint(video), split)
        if record is not None:
            found[number] = record
    return found


def _read(config: CheckConfig, videos: list[Video], missing: list[int]) -> Iterator[dict[str, Any]]:
    """Yield what the actors find in these videos, as they finish."""
    if not missing:
        return
    total = sum(_num_files(videos[number]) for number in missing)
    arguments = {"videos": videos, "for_clips": config.split == "train", "threads": config.threads}
    with ray_session(num_cpus=2 * config.workers + 2), progress_bar("check", total, "file") as bar:
        items = [{"number": number} for number in missing]
        for answer in run_on_actors(items, CheckActor, arguments, config.workers, gpus=0):
            bar.update(_num_files(videos[answer["number"]]))
            yield answer


class CheckActor:
    """Reads one video per call."""

    def __init__(self, videos: list[Video], for_clips: bool, threads: int) -> None:
        import cv2

        cv2.setNumThreads(threads)
        self._videos, self._for_clips = videos, for_clips

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        began = time.time()
        video = self._videos[item["number"]]
        before = _fingerprint(video)
        found = check_video(video, self._for_clips)
        return {
            "number": item["number"],
            "began": began,
            "faults": found.faults,
            "warnings": found.warnings,
            "fingerprint": before if before == _fingerprint(video) else "",
        }


def _fingerprint(video: Video) -> str:
    """Return the fingerprint of one video's contents; "" where it has no files, or one that cannot be read."""
    try:
        return fingerprint([video]) if video.files() else ""
    except InputError:
        return ""


def summary(found: DataCheck) -> str:
    """Return the lines that the job prints: faults, warnings, counts, and what later jobs will report."""
    lines = [*_shown("fault", found.faults, found.out, FAULTS), *_shown("warning", found.warnings, found.out, WARNINGS)]
    speed = f", {found.files_read / found.seconds:,.0f} files/s" if found.files_read and found.seconds else ""
    before = f", {found.files - found.files_read:,} read by an earlier check" if found.files_read < found.files else ""
    counts = [f"{found.videos:,} videos"] * bool(found.videos or not found.images)
    counts += [f"{found.images:,} still images"] * bool(found.images)
    lines.append(f"data     {', '.join(counts)}, {found.files:,} frames and masks")
    lines.append(f"found    faults: {len(found.faults):,}, warnings: {len(found.warnings):,}")
    lines.append(f"read     {found.files_read:,} files in {found.seconds:.1f} s{speed}{before}")
    if found.checked_on:
        lines.append(
            f"checked  on {found.checked_on}, no faults; later jobs on these files report this when they start"
        )
    lines.append(f"lists    {found.out}/{FAULTS}, {found.out}/{WARNINGS}")
    return "\n".join(lines)


def _shown(label: str, found: Iterable[str], out: str, name: str) -> Iterator[str]:
    """Yield at most `MOST_LINES` lines, and at most `MOST_OF_A_VIDEO` of each folder."""
    of_folder: dict[str, int] = {}
    every = list(found)
    shown = []
    for line in every:
        folder = line.partition(": ")[0].rpartition("/")[0] or line
        of_folder[folder] = of_folder.get(folder, 0) + 1
        if of_folder[folder] <= MOST_OF_A_VIDEO and len(shown) < MOST_LINES:
            shown.append(line)
    yield from (f"{label:<8} {line}" for line in shown)
    if len(shown) < len(every):
        yield f"{label:<8} … and {len(every) - len(shown):,} more, in {out}/{name}"
