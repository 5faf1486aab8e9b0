"""The actor of jobs.label: it loads the teacher once; a call labels one video, writes its files and returns a small receipt."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import cv2
import numpy as np

from pipelines.runtime.models import load_model, working_size_px
from pipelines.runtime.session import set_threads
from vos.config import LabelConfig
from vos.data.labels import CONFIDENCE, MASKS, VIDEOS, Frame, Receipt, source_of
from vos.data.videos import Video
from vos.errors import InputError
from vos.files.written import Written
from vos.inference.labelling import Following, LabelledFrame, Rules, judged, label_video
from vos.media.images import mask_png
from vos.models.memory import MemoryPolicy


def following(config: LabelConfig, info: dict[str, Any]) -> Following:
    """Return how the teacher follows videos. info: the description of its checkpoint."""
    policy = MemoryPolicy(
        "infinite", every=config.teacher.memory_every, top_k=config.teacher.top_k or None, include_last=True
    )
    size_px = working_size_px(config.size_px, info)
    return Following(policy, size_px, config.scales, config.flip, config.check_every)


class LabelActor:
    """Loads the teacher once, then labels one video per call.

    videos   with the given masks that may be read
    scored   for each video, whether further given masks will score it, so that no frame is held out
    """

    def __init__(self, config: LabelConfig, videos: list[Video], scored: list[bool], folder: Written) -> None:
        import torch

        set_threads(config.threads)
        cv2.setNumThreads(config.threads)
        model, info = load_model(config.teacher.checkpoint)
        self._model = model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        self._config, self._videos, self._scored, self._folder = config, videos, scored, folder
        self._how = following(config, info)

    def __call__(self, item: dict[str, Any]) -> dict[str, Any]:
        """Label and write a video; returns its name, its counts, the digest of its receipt and the CPU seconds used."""
        began, number = time.process_time(), item["id"]
        video = self._videos[number]
        seen: list[LabelledFrame] = []
        digests: list[tuple[str, str]] = []
        for frame in label_video(self._model, video, self._how, every=self._config.masks == "all"):
            if not np.isfinite(list(frame.shown.values())).all():
                raise InputError(
                    f"{video.name}: the teacher's output is not finite; check {self._config.teacher.checkpoint}; finished videos are kept"
                )
            files = zip(label_names(video, frame.index), (mask_png(frame.labels), _grey(frame.confidence)), strict=True)
            mask, confidence = (self._write(name, data) for name, data in files)
            digests.append((mask, confidence))
            seen.append(_without_pixels(frame))
        hold_out = 0 if self._scored[number] else self._config.hold_out
        reasons = judged(seen, Rules(self._config.min_confidence, self._config.min_agreement, hold_out))
        receipt = _receipt(video, self._config.data.root, seen, reasons, digests)
        name = f"{VIDEOS}/{video.name}.json"
        with open(self._folder.write_json(name, receipt), "rb") as file:
            sha256 = hashlib.sha256(file.read()).hexdigest()
        return {"id": number, **counts(receipt), "sha256": sha256, "cpu_s": time.process_time() - began}

    def _write(self, name: str, data: bytes) -> str:
        # A file of this name in the record is ours, also where it was damaged or edited: that is why it is made again.
        self._folder.write(name, data, sync=False, proven=self._folder.knows(name))
        return hashlib.sha256(data).hexdigest()


def label_names(video: Video, index: int) -> tuple[str, str]:
    """Return the names of a frame's mask and confidence map."""
    stem = f"{video.name}/{video.frame_name(index)}.png"
    return f"{MASKS}/{stem}", f"{CONFIDENCE}/{stem}"


def counts(receipt: Receipt) -> dict[str, Any]:
    """Return frames, kept frames, and whether the teacher kept an object beyond the given masks."""
    kept = [frame for frame in receipt["frames"] if frame["kept"]]
    lost = len(receipt["frames"]) > 1 and all(
        set(frame["confidence"]) <= set(map(str, frame["given"])) for frame in kept
    )
    return {"frames": len(receipt["frames"]), "kept": len(kept), "lost": lost}


def _without_pixels(frame: LabelledFrame) -> LabelledFrame:
    nothing = np.zeros((0, 0), np.uint8)
    return LabelledFrame(frame.index, nothing, nothing, frame.shown, frame.given, frame.begins, frame.agreement)


def _grey(confidence: np.ndarray) -> bytes:
    done, data = cv2.imencode(".png", confidence)
    assert done
    return data.tobytes()


def _receipt(
    video: Video, root: str, seen: list[LabelledFrame], reasons: list[str], digests: list[tuple[str, str]]
) -> Receipt:
    frames = [
        Frame(
            index=frame.index,
            name=video.frame_name(frame.index),
            kept=not reason,
            reason=reason,
            given=list(frame.given),
            begins=frame.begins,
            confidence={str(one): value for one, value in frame.shown.items()},
            agreement={str(one): value for one, value in frame.agreement.items()},
            mask_sha256=mask,
            confidence_sha256=confidence,
        )
        for frame, reason, (mask, confidence) in zip(seen, reasons, digests, strict=True)
    ]
    return Receipt(video=video.name, size=list(video.size), frames=frames, **source_of(video, root))  # pyright: ignore[reportArgumentType]
