"""Evaluate a checkpoint: masks, J, F and FPS, one sequence per row of a Ray Data set.

Masks are palette PNGs at the original size, in the layout that the DAVIS tools read. Speed is measured afterwards, by a single process.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass, replace
from typing import Any, TypedDict

from pipelines import storage, tracking
from pipelines.evaluation.pages import PAGES, log_pages, page_names
from pipelines.evaluation.sequences import MASKS, check_same, ground_truth, mask_name, segment_all, segmenter
from pipelines.evaluation.sources import index_sequences, named_by_source, score_metrics
from pipelines.evaluation.speed import measure_speed
from pipelines.runtime.models import load_model, working_size_px
from pipelines.runtime.output_folder import CONFIG, OutputFile, check_folder, claimed_folder
from pipelines.runtime.sources import log_sources
from pipelines.runtime.videos import log_videos
from vos.config import EvaluateConfig
from vos.data.videos import FolderVideo, Video
from vos.errors import InputError
from vos.files.canonical import to_dict
from vos.files.written import Written
from vos.inference.engine import Engine
from vos.inference.graph_files import is_exported
from vos.inference.whole_video import memory_policy
from vos.models.builtin import BUILTIN
from vos.models.checkpoint import DESCRIPTION, DIGEST, WEIGHTS, is_infinite, load_checkpoint, save_checkpoint
from vos.models.memory import MemoryPolicy

EVALUATE = "evaluate"
SUMMARY, SCORES = "summary.json", "scores.csv"
ENGINE_MEMORY = MemoryPolicy("first_recent", top_k=None)
"""The engine's memory: which frames it keeps and reads, without a gate."""


class _Sequence(TypedDict):
    sequence: str
    j_and_f: float
    j: float
    f: float
    frames: int


class Summary(TypedDict):
    """The content of `summary.json` of a finished evaluation; scores are in [0, 1]."""

    metrics: dict[str, float]
    sequences: list[_Sequence]
    model: str
    parameters: int
    run_id: str
    size_px: int


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation: metrics by their MLflow names, one row per sequence, and the folder of the masks."""

    metrics: dict[str, float]
    sequences: list[dict[str, Any]]
    masks: str
    parameters: int
    model: str
    run_id: str = ""
    cut: str = ""
    """"first 8 frames" where sequences were cut, so that their scores are not read as those of whole sequences."""
    version: str = ""
    """The registered version with its alias and the reason, where --register asked for one."""


def evaluate_model(config: EvaluateConfig, label: str = "") -> Evaluation:
    """Segment every sequence of the split, score it and measure speed. Raises InputError for bad input."""
    indexed = index_sequences(config.data, config.split)
    videos = named_by_source(indexed)
    if storage.is_uri(config.out):
        raise InputError(f"--out {config.out}: masks are written to a local folder; choose one and copy it afterwards")
    if config.register and not any(ground_truth(video, config.max_frames)[1] for video in videos):
        raise InputError("--register: none of these sequences can be scored; evaluate a split that has ground truth")
    if config.register and is_exported(config.checkpoint):
        raise InputError(
            f"--register: {config.checkpoint} holds exported graphs; evaluate the checkpoint that they were made from"
        )
    masks = os.path.join(config.out, MASKS)
    _check_apart(videos, masks)
    check_folder(config, EVALUATE)
    csv = OutputFile(config.csv, EVALUATE, config.overwrite) if config.csv else None
    if csv:
        csv.check()
    with tempfile.TemporaryDirectory() as place:
        chosen, registered = _local_checkpoint(config, place)
        model, info = segmenter(chosen)
        size_px = working_size_px(config.size_px, info)
        config, chosen = replace(config, size_px=size_px), replace(chosen, size_px=size_px)
        with claimed_folder(config, EVALUATE, "an evaluation", names=_names(videos)) as folder:
            if registered[0]:  # copied to a place that every actor can read
                chosen = replace(chosen, checkpoint=_kept(folder, chosen.checkpoint))
            storage.make_folder(masks)
            subject = _Subject(indexed, videos, chosen, model, info, registered)
            return _evaluate_into(folder, config, subject, csv, label)


@dataclass(frozen=True)
class _Subject:
    """What is evaluated: the videos as indexed and as named in the result, the configuration with its checkpoint, the model and its
    description, and name and number of its registered version ("" if none)."""

    indexed: list[Video]
    videos: list[Video]
    config: EvaluateConfig
    model: Any
    info: dict[str, Any]
    registered: tuple[str, str]


def _evaluate_into(
    folder: Written, config: EvaluateConfig, of: _Subject, csv: OutputFile | None, label: str
) -> Evaluation:
    model, info, videos = of.model, of.info, of.videos
    engines = replace(ENGINE_MEMORY, gate=config.memory.gate)
    policy = engines if config.runtime else memory_policy(config.memory, infinite=is_infinite(info))
    tags = {"model": info["model"], "role": info.get("role", ""), "split": config.split, "memory": policy.kind}
    cut = _cut(config, videos)
    if cut:
        tags["cut"] = cut
    if isinstance(model, Engine):
        tags |= {"runtime": model.runtime, "precision": model.precision, "runtime.reason": model.reason}
    name = label or f"{os.path.basename(config.checkpoint.rstrip('/'))} on {config.split}"
    with tracking.start_run("evaluate", name, config, tags) as run:
        _remove_earlier(folder, videos)
        data = log_videos(run, config.data, config.split, of.indexed, "evaluation")
        log_sources(run, config.data, config.split, of.indexed, "evaluation")
        rows = sorted(segment_all(of.config, videos, policy, folder, info, label), key=lambda row: row["sequence"])
        scored = [row for row in rows if row["scores"]]
        metrics = _write_scores(folder, csv, scored) if scored else {}
        if model is not None and config.fps.sequences:
            metrics |= measure_speed(config, model, policy, videos[: config.fps.sequences], run)
        run.log_metrics(metrics)
        if scored:
            run.log_artifact(folder.path(SCORES))
            log_pages(run, folder, os.path.join(config.out, MASKS), videos, scored, config.max_frames)
        sequences = [_Sequence(**{key: row[key] for key in _Sequence.__annotations__}) for row in scored]
        run.log_dict({"metrics": metrics, "sequences": sequences}, SUMMARY)
        version = ""
        if config.register:
            evaluation = {
                "metrics": metrics,
                "data": data,
                "weights": info[DIGEST],
                "protocol": _protocol(config, policy),
                "serving": {"size_px": config.size_px, "memory": to_dict(config.memory)},
            }
            version = _register(run, of.config.checkpoint, model, info, evaluation, of.registered)
        summary = Summary(
            metrics=metrics,
            sequences=sequences,
            model=info["model"],
            parameters=info["parameters"],
            run_id=run.run_id,
            size_px=config.size_px,
        )
        folder.write_json(SUMMARY, summary)
    rows = [dict(row) for row in sequences]
    masks = os.path.join(config.out, MASKS)
    return Evaluation(metrics, rows, masks, info["parameters"], info["model"], run.run_id, cut, version)


def _cut(config: EvaluateConfig, videos: list[Video]) -> str:
    """Return how sequences were cut, "" where none was."""
    longest = max((video.num_frames for video in videos), default=0)
    return f"first {config.max_frames} frames" if 0 < config.max_frames < longest else ""


def _kept(folder: Written, checkpoint: str) -> str:
    """Copy a registered version below --out; returns its folder there."""
    place = f"checkpoint/{os.path.basename(checkpoint)}"
    for name in storage.list_names(checkpoint):
        folder.write(f"{place}/{name}", storage.read_bytes(os.path.join(checkpoint, name)))
    return os.path.dirname(folder.path(f"{place}/{WEIGHTS}"))


def _names(videos: list[Video]) -> list[str]:
    """Return the names of all files that this job will write."""
    masks = (mask_name(video, index) for video in videos for index in range(video.num_frames))
    return [SUMMARY, SCORES, CONFIG, *page_names(videos), *masks]


def _check_apart(videos: list[Video], masks: str) -> None:
    """Raise InputError where the predicted masks would be written into the data's folder of true masks."""
    place = os.path.join(os.path.realpath(masks), "")
    for video in videos:
        if isinstance(video, FolderVideo) and os.path.join(os.path.realpath(video.mask_folder), "").startswith(place):
            out = os.path.dirname(masks)
            raise InputError(f"--out {out}: {video.mask_folder} holds the true masks of the data; choose another --out")


def _remove_earlier(folder: Written, videos: list[Video]) -> None:
    """Delete the files of an earlier evaluation that this one will write, so that an interruption leaves no mixture of both.

    The masks of other sequences are kept, since they may belong to another split. Files that this job did not write are kept too.
    """
    pages = [f"{PAGES}/{name}" for name in storage.list_names(os.path.join(folder.root, PAGES))]
    for name in (SUMMARY, SCORES, *(name for name in pages if folder.knows(name))):
        folder.remove(name)
    for video in videos:
        own = {f"{video.frame_name(index)}.png" for index in range(video.num_frames)}
        for name in storage.list_names(os.path.join(folder.root, MASKS, video.name)):
            if name in own:
                folder.remove(f"{MASKS}/{video.name}/{name}")


def _local_checkpoint(config: EvaluateConfig, place: str) -> tuple[EvaluateConfig, tuple[str, str]]:
    """Return the configuration with a checkpoint that can be loaded, and (name, number) of the registered version, ("", "") if none.

    place  where a registered version is copied to
    """
    if not tracking.is_reference(config.checkpoint):
        return config, ("", "")
    folder, name, version = tracking.resolve(config.checkpoint, place)
    return replace(config, checkpoint=folder), (name, version)


def _protocol(config: EvaluateConfig, policy: Any) -> dict[str, Any]:
    """Return the settings that must be equal for two evaluations of the same videos to be comparable."""
    memory = {"kind": policy.kind, "top_k": policy.top_k or 0}
    if policy.kind == "infinite":
        memory["every"] = config.memory.every
        # Recorded only where it is on, so that versions evaluated before this option are still comparable.
        if policy.include_last:
            memory["include_last"] = True
    if policy.gate:
        memory["gate"] = policy.gate
    return {"split": config.split, "size_px": config.size_px, "max_frames": config.max_frames, "memory": memory}


def _register(
    run: tracking.Run,
    checkpoint: str,
    model: Any,
    info: dict[str, Any],
    evaluation: dict[str, Any],
    registered: tuple[str, str],
) -> str:
    """Register the evaluation; returns the version with its alias and the reason.

    registered  (name, number) of the version that was evaluated; with "" a new version, named after its architecture, is made
    """
    checkpoint, (name, version) = BUILTIN.get(checkpoint, checkpoint), registered
    name = name or info["model"]
    if WEIGHTS in storage.list_names(checkpoint):
        return run.register_evaluated(name, checkpoint, evaluation, version)
    with tempfile.TemporaryDirectory() as folder:
        if checkpoint.endswith(".safetensors"):  # it does not load without its description
            shutil.copyfile(checkpoint, os.path.join(folder, WEIGHTS))
            shutil.copyfile(os.path.join(os.path.dirname(checkpoint), DESCRIPTION), os.path.join(folder, DESCRIPTION))
        else:  # an official STCN file, whose digest differs in this project's format
            if isinstance(model, Engine):
                model, reread = load_model(checkpoint)
                check_same(checkpoint, reread, info)
            save_checkpoint(folder, model, {"role": "teacher"})
            evaluation = {**evaluation, "weights": load_checkpoint(folder)[1][DIGEST]}
        return run.register_evaluated(name, folder, evaluation, version)


def _write_scores(folder: Written, csv: OutputFile | None, rows: list[dict[str, Any]]) -> dict[str, float]:
    from vos.metrics.davis import merge
    from vos.metrics.scores import SequenceScore

    scores = merge([SequenceScore.from_json(row["scores"]) for row in rows])
    folder.write(SCORES, scores.csv().encode())
    if csv:
        csv.write(scores.csv().encode())
    return score_metrics(scores.sequences)
