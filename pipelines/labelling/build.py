"""Label the videos of a data set: given masks -> teacher, forwards and backwards -> masks and confidence -> the list of kept frames.

One row of the Ray data set is one video. Its actor writes every mask and every confidence map (temporary name, rename), then the video's
sealed receipt, which makes the video complete. A killed job loses only its unfinished videos. The list of all videos is written last.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipelines import storage, tracking
from pipelines.labelling.teacher import LabelActor, counts, label_names
from pipelines.runtime.actors import run_on_actors
from pipelines.runtime.models import load_model, weights_digest, working_size_px
from pipelines.runtime.output_folder import check_folder, claimed_folder
from pipelines.runtime.progress import progress_bar
from pipelines.runtime.session import ray_session
from pipelines.runtime.videos import announce_check, data_fingerprint, index_videos, log_videos
from vos.config import LabelConfig
from vos.config.fields import identity
from vos.data.labels import CONFIDENCE, JOB, LIST, MASKS, REPAIR, VIDEOS, Labels, Listed, Receipt, read_label
from vos.data.videos import FolderVideo, Video
from vos.errors import InputError
from vos.files.canonical import dumps, fingerprint
from vos.files.written import Written
from vos.inference.labelling import with_given_masks
from vos.stopping import keeping

LABEL = JOB
VERSION = 1


@dataclass(frozen=True)
class LabelResult:
    """Finished labels, and the work that this run did."""

    fingerprint: str
    labels: Labels
    lost: tuple[str, ...]
    """Videos of which nothing is kept beyond the given masks."""
    videos_made: int
    teacher_cpu_s: float


@dataclass(frozen=True)
class Blueprint:
    """Everything that is known before a frame is decoded.

    videos  with the given masks that are read
    scored  for each video, whether it has further given masks, which score it
    """

    videos: list[Video]
    scored: list[bool]
    teacher: dict[str, Any]
    identity: dict[str, Any]


def blueprint(config: LabelConfig) -> Blueprint:
    """Index the videos and load the teacher. Raises InputError where the videos, the teacher or the folder cannot be used."""
    if storage.is_uri(config.out):
        raise InputError(
            f"--out {config.out}: labels are written to a local or shared folder; choose one and copy it afterwards"
        )
    everything = index_videos(config.data, config.split)
    _check_apart(everything, config.out)
    videos = [with_given_masks(video, config.masks == "all") for video in everything]
    scored = [
        len(video.annotated) > len(used.annotated) or not video.files()
        for video, used in zip(everything, videos, strict=True)
    ]
    model, info = load_model(config.teacher.checkpoint)
    whole = {
        **identity(config),
        "version": VERSION,
        "data": data_fingerprint(videos),
        "scored": scored if config.hold_out else [],
        "size_px": working_size_px(config.size_px, info),
        "teacher": {**identity(config.teacher), "model": info["model"], "weights": weights_digest(model)},
    }
    # Through JSON, since it is compared with a file's content.
    return Blueprint(videos, scored, info, json.loads(dumps(whole)))


def build_labels(config: LabelConfig) -> LabelResult:
    """Label the videos, or resume an interrupted run.

    Raises InputError for bad input, for a folder that holds other labels, and if the teacher loses every video at once.
    """
    plan = blueprint(config)
    check_folder(config, LABEL)
    with claimed_folder(config, LABEL, "labels", of=plan.identity, shared=True) as folder:
        found = {i: listed for i, video in enumerate(plan.videos) if (listed := _finished(folder, video)) is not None}
        missing = [i for i in range(len(plan.videos)) if i not in found]
        digest = fingerprint(plan.identity)
        labels = None if missing else folder.read_json(LIST, Labels, REPAIR)
        if labels is not None:
            lost = tuple(plan.videos[i].name for i in found if found[i]["lost"])
            return LabelResult(digest, labels, lost, 0, 0.0)
        if missing:
            announce_check(config.data, plan.identity["data"])
        _take_over(folder, plan, missing)
        cpu_s = 0.0
        with (
            keeping(lambda: _kept(folder, plan)),
            tracking.start_run("label", f"label-{digest[:8]}", config, {"labels.fingerprint": digest}) as run,
        ):
            began = time.monotonic()
            for answer in _run_teacher(config, plan, folder, missing):
                found[answer["id"]] = {name: answer[name] for name in ("frames", "kept", "lost", "sha256")}
                cpu_s += answer["cpu_s"]
            lost = [video.name for i, video in enumerate(plan.videos) if found[i]["lost"]]
            if lost and len(lost) == len(plan.videos):
                others = f" and {len(lost) - 1} more videos" if len(lost) > 1 else ""
                raise InputError(
                    f"{lost[0]}{others}: the teacher {config.teacher.checkpoint} loses the objects at once; give another "
                    "--teacher.checkpoint or --size-px, more masks, or a lower --min-agreement"
                )
            labels = _list(config, plan, found)
            folder.write_json(LIST, labels)
            run.log_metrics(
                _metrics(labels, lost) | {"label/teacher_cpu_s": cpu_s, "label/wall_s": time.monotonic() - began}
            )
            run.log_dict(dict(labels), LIST)
            log_videos(run, config.data, config.split, plan.videos, "labelled")
    for name in lost:
        print(f"note: {name}: the teacher loses its objects at once; it is left out of the labels", file=sys.stderr)
    return LabelResult(digest, labels, tuple(lost), len(missing), cpu_s)


def _list(config: LabelConfig, plan: Blueprint, found: dict[int, dict[str, Any]]) -> Labels:
    listed = [
        # A lost video stays in the list, for --show and --verify, without a kept frame.
        Listed(
            name=video.name,
            frames=found[i]["frames"],
            kept=0 if found[i]["lost"] else found[i]["kept"],
            sha256=found[i]["sha256"],
        )
        for i, video in enumerate(plan.videos)
    ]
    root = config.data.root if plan.videos[0].files() else ""
    return Labels(identity=plan.identity, root=root, split=config.split, teacher=described(plan.teacher), videos=listed)


def described(teacher: dict[str, Any]) -> dict[str, object]:
    """Return the description of the teacher as JSON, without its training's configuration."""
    return {name: teacher[name] for name in ("model", "parameters", "size_px") if name in teacher}


def _metrics(labels: Labels, lost: list[str]) -> dict[str, float]:
    frames, kept = (sum(listed[name] for listed in labels["videos"]) for name in ("frames", "kept"))
    return {
        "label/videos": len(labels["videos"]),
        "label/lost": len(lost),
        "label/frames": frames,
        "label/kept": kept,
        "label/kept_share": kept / max(1, frames),
    }


def _check_apart(videos: list[Video], out: str) -> None:
    """Raise InputError where the labels would be written over the data's masks or frames."""
    for video in videos:
        if not isinstance(video, FolderVideo):
            continue
        for name, place in ((MASKS, video.mask_folder), (MASKS, video.frame_folder), (CONFIDENCE, video.frame_folder)):
            if os.path.join(os.path.realpath(place), "").startswith(
                os.path.join(os.path.realpath(os.path.join(out, name)), "")
            ):
                raise InputError(f"--out {out}: {place} is part of the data; choose another --out")


def _take_over(folder: Written, plan: Blueprint, missing: list[int]) -> None:
    """Remove the list, which is no longer true. Raises InputError where unrelated files have the names of the missing ones."""
    names = [LIST]
    for number in missing:
        video = plan.videos[number]
        span = range(min(video.first_seen.values()), video.num_frames)
        names += [place for index in span for place in label_names(video, index)]
    folder.check(name for name in names if not folder.knows(name))
    folder.remove(LIST)


def _finished(folder: Written, video: Video) -> dict[str, Any] | None:
    """Return the counts of a video that an earlier run finished, None when it is absent or one of its files was changed.

    Raises InputError, unless --overwrite, where its receipt was changed.
    """
    name = f"{VIDEOS}/{video.name}.json"
    receipt = folder.read_json(name, Receipt, "delete it and run jobs.label again, or give --overwrite")
    if receipt is None:
        return None
    try:
        check_files(folder.root, receipt)
    except InputError as error:
        print(f"note: {str(error).removesuffix(f'; {REPAIR}')}: {video.name} is labelled again", file=sys.stderr)
        return None
    with open(folder.path(name), "rb") as file:
        return {**counts(receipt), "sha256": hashlib.sha256(file.read()).hexdigest()}


def check_files(root: str, receipt: Receipt) -> None:
    """Check every mask and confidence map of a video. Raises InputError that names the first file that is absent or changed."""
    size = (receipt["size"][0], receipt["size"][1])
    for frame in receipt["frames"]:
        for place, sha256 in ((MASKS, frame["mask_sha256"]), (CONFIDENCE, frame["confidence_sha256"])):
            read_label(os.path.join(root, place, receipt["video"], f"{frame['name']}.png"), sha256, size)


def _kept(folder: Written, plan: Blueprint) -> str:
    """Return what a stopped job keeps."""
    made = sum(os.path.exists(folder.path(f"{VIDEOS}/{video.name}.json")) for video in plan.videos)
    return f"{made} of {len(plan.videos)} videos are kept in {folder.root}; run the same command again to continue"


def _run_teacher(config: LabelConfig, plan: Blueprint, folder: Written, missing: list[int]) -> Iterator[dict[str, Any]]:
    """Yield the actors' answers for the missing videos, as they finish."""
    if not missing:
        return
    frames = [video.num_frames - min(video.first_seen.values()) for video in plan.videos]
    total, left = sum(frames), sum(frames[i] for i in missing)
    with ray_session(num_cpus=2 * config.workers + 2), progress_bar("label", total, "frame", total - left) as bar:
        arguments = {"config": config, "videos": plan.videos, "scored": plan.scored, "folder": folder}
        items = [{"id": i} for i in missing]
        for answer in run_on_actors(items, LabelActor, arguments, config.workers, config.teacher.gpus):
            bar.update(frames[answer["id"]])
            yield answer
