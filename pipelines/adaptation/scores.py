"""Score a student on the videos that it is adapted to: by true masks that nothing learned from, else by the teacher's held-out labels."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TypedDict

import numpy as np

from pipelines.evaluation.evaluate import evaluate_model
from pipelines.evaluation.sequences import ground_truth
from vos.config import EvaluateConfig
from vos.data.labels import MASKS, Labels, labelled_video, read_label, read_labels, read_receipt
from vos.data.videos import Video, object_ids
from vos.inference.labelling import HELD_OUT
from vos.media.images import read_mask
from vos.metrics.davis import merge, score_masks
from vos.metrics.scores import SequenceScore

TRUE_MASKS, AGREEMENT = "true masks", "agreement with the teacher"


class Score(TypedDict):
    """J&F in [0, 1] of the videos that are scored in one way, and how many videos and frames that are."""

    by: str
    j_and_f: float
    j: float
    f: float
    videos: int
    frames: int


@dataclass(frozen=True)
class HeldOut:
    """Frames of a video that the teacher labelled and nothing learned from, with its masks (T, H, W)."""

    video: str
    names: tuple[str, ...]
    masks: np.ndarray


def held_out(root: str) -> list[HeldOut]:
    """Return the held-out frames of finished labels. Raises InputError where they are damaged."""
    labels: Labels = read_labels(root)
    found = []
    for listed in labels["videos"]:
        receipt = read_receipt(root, labels, listed)
        frames = [frame for frame in receipt["frames"] if frame["reason"] == HELD_OUT]
        if not frames or not listed["kept"]:
            continue
        size = labelled_video(root, labels, listed).size
        folder = os.path.join(root, MASKS, listed["name"])
        masks = [read_label(os.path.join(folder, f"{one['name']}.png"), one["mask_sha256"], size) for one in frames]
        found.append(HeldOut(listed["name"], tuple(one["name"] for one in frames), np.stack(masks)))
    return found


def score(config: EvaluateConfig, videos: list[Video], label: str, others: list[HeldOut]) -> list[Score]:
    """Segment the videos from their first masks and score them; a row for each way that has a video.

    videos  those that `config` names
    others  held-out labels of the videos without further true masks
    """
    evaluation = evaluate_model(config, label=label)
    rows = []
    if evaluation.sequences:
        truth = [ground_truth(video)[1] for video in videos]
        metrics, sequences = evaluation.metrics, evaluation.sequences
        figures = {"j_and_f": metrics["val/j_and_f"], "j": metrics["val/j"], "f": metrics["val/f"]}
        assert len(sequences) == sum(map(bool, truth))
        rows.append(
            Score(by=TRUE_MASKS, videos=len(sequences), frames=sum(row["frames"] for row in sequences), **figures)
        )
    scored = {row["sequence"] for row in evaluation.sequences}
    agreements = [_agreement(evaluation.masks, one) for one in others if one.video not in scored]
    if agreements:
        summary = merge(agreements).summary()
        frames = sum(len(one.names) for one in others if one.video not in scored)
        figures = {"j_and_f": summary["j_and_f"], "j": summary["j_mean"], "f": summary["f_mean"]}
        rows.append(Score(by=AGREEMENT, videos=len(agreements), frames=frames, **figures))
    return rows


def _agreement(masks: str, held: HeldOut) -> SequenceScore:
    found = np.stack([read_mask(os.path.join(masks, held.video, f"{name}.png")) for name in held.names])
    shown = object_ids(held.masks.reshape(-1, held.masks.shape[-1]))
    return score_masks(held.masks, found, shown, exclude_ends=False, name=held.video, frames=held.names)
