"""Measure the fingerprint of videos, which detects whether they have changed: `jobs.benchmark data`."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence

from pipelines.studies.benchmarks.rows import Measure, median, seconds
from vos.config import BenchmarkConfig
from vos.data.contents import RACY_S, fingerprint
from vos.data.datasets import load_index
from vos.data.synthetic import synthetic_index
from vos.data.videos import Video
from vos.published.bounds import Figure

VIDEOS, FRAMES = 100, 100
"""Each frame has a mask: 20,000 files."""
SIZE = (96, 160)


def fingerprints(config: BenchmarkConfig) -> Iterator[Figure]:
    """Measure the fingerprint of 20,000 files: read for the first time, unchanged, and with one video changed."""
    with tempfile.TemporaryDirectory() as root:
        _write(root)
        videos = load_index(root, "folder", "train")
        files = sum(len(video.files()) for video in videos)
        how = f"{files:,} files of {VIDEOS} videos, {config.rounds} rounds"
        first, unchanged, changed, indexed = [], [], [], []
        for _ in range(config.rounds):
            _touch(videos)
            first.append(seconds(_reading, videos, VIDEOS))
            unchanged.append(seconds(_reading, videos, 0))
            _touch(videos[:1])
            changed.append(seconds(_reading, videos, 1))
            indexed.append(seconds(load_index, root, "folder", "train"))
        start = [index + known for index, known in zip(indexed, unchanged, strict=True)]
    yield median("s for contents read for the first time", first, how=how)
    yield median("s for contents that did not change", unchanged, "<=", 3, how)
    yield median("s for contents of which one video changed", changed, "<=", 3, how)
    yield median("s for the index: header and end of every file", indexed, how=how)
    yield median("s for index and fingerprint, unchanged", start, "<=", 3, how)


def _write(root: str) -> None:
    from vos.media.images import write_frame, write_mask

    video = synthetic_index(1, FRAMES, SIZE)[0]
    for index in range(FRAMES):
        write_frame(os.path.join(root, f"frames/000/{index:05d}.jpg"), video.frame(index))
        labels = video.mask(index)
        assert labels is not None
        write_mask(os.path.join(root, f"masks/000/{index:05d}.png"), labels)
    for number in range(1, VIDEOS):
        for kind in ("frames", "masks"):
            shutil.copytree(os.path.join(root, kind, "000"), os.path.join(root, kind, f"{number:03d}"))


def _reading(videos: Sequence[Video], expected: int) -> None:
    """Compute a fingerprint and assert how many videos it reads, so that each figure measures the intended case."""
    read: list[int] = []
    fingerprint(videos, lambda done, total: read.append(total))
    assert len(read) == expected, f"{len(read)} videos were read, not {expected}"


def _touch(videos: Sequence[Video]) -> None:
    """Change every file's modification time, and wait until it is old enough for its contents to be recorded when read."""
    for video in videos:
        for path in video.files():
            os.utime(path)
    time.sleep(RACY_S + 0.5)


MEASURES: Sequence[Measure] = (fingerprints,)
