"""Index the videos that a configuration names, and log a run's inputs to MLflow by the fingerprint of their content."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any, TypeGuard

from pipelines.runtime.progress import progress_bar
from pipelines.tracking import Run
from vos.config import DataConfig
from vos.config.sources import Spelled
from vos.data import contents
from vos.data.check_records import recall
from vos.data.datasets import ONLY_FOR_TRAINING, STILL_KINDS, Tell, load_index, notes_on, raise_fault
from vos.data.mixtures import Mixture, Source, fold_of
from vos.data.synthetic import synthetic_index
from vos.data.videos import Video
from vos.errors import InputError, printable
from vos.printed import JOB, command

_SHARED = (
    "synthetic_videos",
    "synthetic_frames",
    "synthetic_height_px",
    "synthetic_seed",
    "fold_videos",
    "skip_damaged",
)
"""Options of a mixture that hold for each of its sources."""


def log_cache(run: Run, folder: str, manifest: dict[str, Any], context: str) -> None:
    """Log a finished teacher cache as one of the run's MLflow inputs."""
    profile = {"rows": manifest["draws"], "shards": len(manifest["shards"]), "bytes": manifest["bytes"]}
    run.log_dataset("teacher-cache", manifest["fingerprint"], folder, profile, context)


def log_videos(run: Run, data: DataConfig, split: str, videos: Sequence[Video], context: str) -> str:
    """Log the videos of a split; returns their fingerprint, which is also the run's tag `data.fingerprint`."""
    digest = data_fingerprint(videos)
    profile = {"videos": len(videos), "frames": sum(video.num_frames for video in videos)}
    if data.mixture:
        name, place = "mixture", " ".join(data.sources)
    elif is_synthetic(data):
        name, place = "synthetic", f"synthetic://seed-{data.synthetic_seed}"
    else:
        name, place = data.kind if data.kind != "auto" else "videos", data.root
    run.log_dataset(f"{name}-{split}", digest, place, profile, context)
    run.set_tags({"data.fingerprint": digest} | check_tag(data, digest, split))
    return digest


def is_synthetic(data: DataConfig) -> bool:
    """Return whether all videos are generated."""
    if data.mixture:
        return all(one.kind == "synthetic" for one in data.mixture)
    return not data.root or data.kind == "synthetic"


def _can_be_checked(data: DataConfig | None, digest: str) -> TypeGuard[DataConfig]:
    """Return whether videos are read from files and identified by their contents; caches made before 2026-11 record sizes only."""
    return data is not None and not is_synthetic(data) and digest.startswith(contents.FORM)


def check_tag(data: DataConfig | None, digest: str, split: str = "train") -> dict[str, str]:
    """Return the MLflow tag `data.checked`: whether jobs.check found no fault in these videos; no tag where no files are read."""
    return {"data.checked": str(recall(digest, split) is not None).lower()} if _can_be_checked(data, digest) else {}


def announce_check(data: DataConfig | None, digest: str) -> None:
    """Print, before a long job, whether its training videos were checked. No video is read for this."""
    if not _can_be_checked(data, digest):
        return
    if record := recall(digest, "train"):
        state = f"checked on {record['date']}: no faults"
    else:
        kind = ["--data.kind", data.kind] if data.kind != "auto" else []
        place = ["--data.sources", *data.sources] if data.mixture else ["--data.root", data.root, *kind]
        if data.fold:
            place += ["--data.fold", str(data.fold), "--data.fold-videos", str(data.fold_videos)]
        state = "not checked; this job would stop at the first damaged file; check first: " + command(
            *JOB, "jobs.check", *place
        )
    print(f"data    {state}", file=sys.stderr)


def data_fingerprint(videos: Sequence[Video]) -> str:
    """Return the fingerprint of the videos' contents (`vos.data.contents`); a bar is drawn while new or changed files are read."""
    with contextlib.ExitStack() as stack:
        bars: list[Any] = []

        def show(done: int, total: int) -> None:
            if not bars:
                bars.append(stack.enter_context(progress_bar("reading videos", total, "video", delay_s=2)))
            bars[0].update(1)

        return contents.fingerprint(videos, show)


@lru_cache(maxsize=1000)
def say_once(note: str) -> None:
    """Print a note, unless this process printed it before: a job indexes several splits of a data set."""
    print(f"note    {printable(note)}", file=sys.stderr)


def index_videos(data: DataConfig, split: str, tell: Tell = raise_fault) -> list[Video]:
    """Return the videos of a split: those of `data.root`, synthetic ones where there is no root, or a `Mixture` of `data.sources`.

    With `data.fold`, the splits train and val are both made of the training videos.
    tell  as in `vos.data.datasets.load_index`
    Raises InputError for a missing or damaged data set, and for one without videos.
    """
    if data.mixture:
        return _mixture(data, split, tell)
    if data.kind in STILL_KINDS and split != "train":
        raise InputError(
            f"--data.kind {data.kind}: this data set is for training only and has no split '{split}'; give videos with --data.root"
        )
    if not data.fold or split not in ("train", "val"):
        return _indexed(data, split, tell)
    learnt, held_out = _fold_parts(data, "train", tell)
    return learnt if split == "train" else held_out


def _fold_parts(data: DataConfig, training: str, tell: Tell) -> tuple[list[Video], list[Video]]:
    """Return the videos to learn from, those of the split `training`, and the held-out ones, which are always some of the split train."""
    whole = _indexed(data, "train", tell)
    held_out = fold_of(whole, data.fold, data.fold_videos, held_out=True)
    names = {video.name for video in held_out}
    chosen = whole if training == "train" else _indexed(data, training, tell)
    return [video for video in chosen if video.name not in names], held_out


def _mixture(data: DataConfig, split: str, tell: Tell) -> Mixture:
    """Return the sources of a split. Stills and labels have no split but train, so other splits leave them out.

    A video that a fold holds out of one source may be in another, such as the labels of its frames: its name is left out of all.
    """
    parts: list[tuple[Spelled, list[Video]]] = []
    held_out: set[str] = set()
    for one in data.mixture:
        if one.weight == 0 or (split != "train" and one.kind in ONLY_FOR_TRAINING):
            continue
        own = DataConfig(root=one.root, kind=one.kind)  # pyright: ignore[reportArgumentType]  # a kind was checked
        own = replace(own, **{name: getattr(data, name) for name in _SHARED})
        training = one.split or "train"
        if one.kind in ONLY_FOR_TRAINING or not data.fold or split not in ("train", "val"):
            videos = _indexed(own, training if split == "train" else split, tell)
        else:
            learnt, others = _fold_parts(replace(own, fold=data.fold), training, tell)
            videos = learnt if split == "train" else others
            held_out.update(video.name for video in others)
        parts.append((one, videos))
    if not parts:
        raise InputError(
            f"--data.sources {' '.join(data.sources)}: none of them has a split '{split}'; add a source of videos"
        )
    sources = []
    for one, videos in parts:
        if split == "train" and one.kind not in STILL_KINDS:
            videos = [video for video in videos if video.name not in held_out]
        if not videos:
            raise InputError(
                f"--data.sources {one.root}: --data.fold {data.fold} holds out all its videos; use another fold"
            )
        sources.append(Source(one.name, one.weight, tuple(videos)))
    return Mixture(sources)


def _indexed(data: DataConfig, split: str, tell: Tell) -> list[Video]:
    if data.root and data.kind != "synthetic":
        videos = _loaded(data, split, tell)
        for note in notes_on(videos):
            say_once(note)
        return videos
    if data.kind not in ("auto", "synthetic"):
        raise InputError(f"--data.kind {data.kind}: names no folder; give the data set's folder with --data.root")
    height = data.synthetic_height_px
    videos = data.synthetic_videos if split == "train" else max(2, data.synthetic_videos // 6)
    return list(
        synthetic_index(videos, data.synthetic_frames, (height, height * 3 // 2), seed=data.synthetic_seed, split=split)
    )


def _loaded(data: DataConfig, split: str, tell: Tell) -> list[Video]:
    """Return the videos of a folder. Of stills, those with faults are left out if the user allows it, with a note."""
    faults: list[InputError] = []
    skips = data.skip_damaged and data.kind in STILL_KINDS and tell is raise_fault
    try:
        videos = load_index(data.root, data.kind, split, faults.append if skips else tell)
    except InputError as fault:
        if data.kind in STILL_KINDS and tell is raise_fault and not skips:
            raise InputError(f"{fault}; --data.skip-damaged leaves out the images that have a fault") from None
        raise
    if not videos and tell is raise_fault:
        why = f"all {len(faults):,} images have a fault, the first is {faults[0]}" if faults else "it is empty"
        raise InputError(f"{data.root}: no video or image to read: {why}")
    if faults:
        more = f", and {len(faults) - 1:,} more (jobs.check lists them)" if len(faults) > 1 else ""
        say_once(f"{len(faults):,} of {len(videos) + len(faults):,} images are skipped: {faults[0]}{more}")
    return videos
