"""Frames per second of a model on some sequences, by a single process."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines import tracking
from pipelines.runtime.session import set_threads
from vos.config import EvaluateConfig
from vos.data.videos import Video
from vos.inference.engine import Engine
from vos.inference.whole_video import segmented_span


def measure_speed(
    config: EvaluateConfig, model: Any, policy: Any, videos: list[Video], run: tracking.Run
) -> dict[str, float]:
    import torch

    from vos.data.transforms import resize_labels
    from vos.inference.timing import hardware, measure_engine_fps, measure_fps
    from vos.inference.whole_video import first_mask, network_frame, network_size

    set_threads(config.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if not isinstance(model, Engine):
        model = model.to(device)
    short, long = [], []
    for video in videos:
        if isinstance(model, Engine):
            span = segmented_span(video, config.max_frames)
            images, labels = [video.frame(index) for index in span], first_mask(video, span.start)
            short.append(measure_engine_fps(model, images, labels))
            long.append(measure_engine_fps(model, images, labels, repeats=config.fps.long_repeats))
            continue
        size = network_size(video, config.size_px)
        span = segmented_span(video, config.max_frames)
        frames = [network_frame(video, index, size).to(device) for index in span]
        labels = torch.from_numpy(resize_labels(first_mask(video, span.start), size)).long()
        short.append(measure_fps(model, frames, labels, policy))
        long.append(measure_fps(model, frames, labels, policy, repeats=config.fps.long_repeats))
    height, width = short[0].size
    protocol = (
        f"batch 1, {height}x{width}, first frame and decoding excluded, {', '.join(video.name for video in videos)}"
    )
    run.set_tags({"fps.protocol": protocol, "fps.hardware": hardware()})
    return {
        "fps/short": float(np.median([speed.fps for speed in short])),
        "fps/long": float(np.median([speed.fps for speed in long])),
    }
