"""One sequence: segmented, its masks written, scored; and all of a split, one per row of a Ray Data set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from pipelines.runtime.actors import run_on_actors
from pipelines.runtime.models import load_engine, load_model
from pipelines.runtime.progress import progress_bar
from pipelines.runtime.session import ray_session, set_threads
from vos.config import EvaluateConfig
from vos.data.videos import Video
from vos.errors import InputError
from vos.files.written import Written
from vos.inference.whole_video import segment_video, segmented_span
from vos.models.checkpoint import DIGEST

if TYPE_CHECKING:
    from vos.metrics.scores import SequenceScore

MASKS = "masks"
COPY = "copy"
"""The baseline that repeats the first mask."""


def ground_truth(video: Video, max_frames: int = 0) -> tuple[str, list[int]]:
    """Return the protocol by which a video is scored, and its scored frames, ascending; no frames where nothing can be scored.

    max_frames  number of frames that are segmented from the start (0 = all)

    DAVIS's protocol applies to videos with a mask on every frame and all objects in the first one. YouTube-VOS's protocol applies to all
    others: it scores the frames that have a mask, and each object after its first frame. Masks that only introduce objects are not ground
    truth, because in YouTube-VOS's valid and test splits they omit the objects that are already known.
    """
    from vos.metrics.scores import DAVIS2017, YOUTUBEVOS

    given = set(video.first_seen.values())
    davis = len(video.annotated) == video.num_frames and len(given) == 1
    # DAVIS does not score the first and the last frame, YouTube-VOS not the first.
    least = 3 if davis else 2
    span = segmented_span(video, max_frames)
    frames = [index for index in video.annotated if index in span]
    scored = len(frames) >= least and not given.issuperset(video.annotated)
    return DAVIS2017 if davis else YOUTUBEVOS, frames if scored else []


def segment_and_score(
    model: Any, video: Video, policy: Any, size_px: int, max_frames: int, folder: Written | None = None
) -> SequenceScore | None:
    """Segment one video, write its masks into `folder` (if given), and score the frames that have ground truth.

    Returns a SequenceScore, or None where the video has no ground truth beyond its first masks (`ground_truth`).
    """
    from vos.media.images import mask_png
    from vos.metrics.davis import score_masks

    protocol, scored = ground_truth(video, max_frames)
    truth, predictions, frames = [], [], []
    for index, labels in segment_video(model, video, policy, size_px, max_frames):
        if folder is not None:
            folder.write(mask_name(video, index), mask_png(labels), sync=False)
        if index in scored:
            truth.append(video.mask(index))
            predictions.append(labels)
            frames.append(video.frame_name(index))
    if not truth:
        return None
    return score_masks(
        np.stack(truth),
        np.stack(predictions),
        sorted(video.first_seen),
        name=video.name,
        frames=frames,
        protocol=protocol,
    )


def segmenter(config: EvaluateConfig) -> tuple[Any, dict[str, Any]]:
    """Return the model (a network, an engine, or None for the copy of the first mask) and its description."""
    if config.checkpoint == COPY:
        return None, {"model": COPY, "parameters": 0}
    if not config.runtime:
        return load_model(config.checkpoint)
    engine = load_engine(
        config.checkpoint,
        config.runtime,
        config.precision,
        config.size_px,
        config.threads,
        gate=config.memory.gate,
    )
    return engine, engine.description


def check_same(checkpoint: str, own: dict[str, Any], info: dict[str, Any]) -> None:
    """Raise InputError where the weights are not those with which the evaluation started."""
    if own.get(DIGEST) != info.get(DIGEST):
        raise InputError(f"{checkpoint}: its weights have changed since the evaluation started; evaluate it again")


class SegmentActor:
    """Loads the network once, then segments and scores one sequence per call."""

    def __init__(
        self, config: EvaluateConfig, videos: list[Video], policy: Any, folder: Written, info: dict[str, Any]
    ) -> None:
        import torch

        set_threads(config.threads)
        self._model, own = segmenter(config)
        check_same(config.checkpoint, own, info)
        if torch.cuda.is_available() and isinstance(self._model, torch.nn.Module):
            self._model = self._model.to("cuda")
        self._config, self._videos, self._policy, self._folder = config, videos, policy, folder

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        video = self._videos[item["id"]]
        score = segment_and_score(
            self._model, video, self._policy, self._config.size_px, self._config.max_frames, self._folder
        )
        row: dict[str, Any] = {"sequence": video.name, "scores": None}
        if score is not None:
            row |= {
                "scores": score.to_json(),
                "j_and_f": score.j_and_f,
                "j": score.j,
                "f": score.f,
                "frames": len({name for one in score.objects for name in one.frames}),
            }
        return row


def segment_all(
    config: EvaluateConfig, videos: list[Video], policy: Any, folder: Written, info: dict[str, Any], label: str
) -> Iterator[dict[str, Any]]:
    with ray_session(num_cpus=2 * config.workers + 2):
        arguments = {"config": config, "videos": videos, "policy": policy, "folder": folder, "info": info}
        with progress_bar(label or info["model"], len(videos), "sequence") as bar:
            for row in run_on_actors([{"id": i} for i in range(len(videos))], SegmentActor, arguments, config.workers):
                bar.update()
                yield row


def mask_name(video: Video, index: int) -> str:
    return f"{MASKS}/{video.name}/{video.frame_name(index)}.png"
