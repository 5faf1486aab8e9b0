"""The video that comes with the package: segmented, and drawn as the picture in README.md.

docs/sample.jpg is a copy of the picture that `segment_sample("runs/sample")` writes.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

from pipelines.delivery.segment import Segmentation, raise_if_incomplete, segment_video
from pipelines.evaluation.pictures import close_ups
from pipelines.runtime.output_folder import OutputFile
from vos.config import SegmentConfig
from vos.inference.sample_video import SAMPLE_VIDEO
from vos.media.images import frame_file, read_mask
from vos.media.video_files import open_video

COLUMNS = 4
JPEG_QUALITY = 85


@dataclass(frozen=True)
class Sample:
    segmentation: Segmentation
    picture: str
    """Path of the JPEG: frames spread over the video, with their masks."""


def segment_sample(folder: str, overwrite: bool = False) -> Sample:
    """Segment the sample with the student that ships: `folder`/sample.mp4, sample-masks/ and sample.jpg.

    Raises InputError where a file that is not ours is in the way.
    """
    picture = OutputFile(os.path.join(folder, "sample.jpg"), "sample", overwrite)
    picture.check()
    result = segment_video(SegmentConfig(sample=True, out=os.path.join(folder, "sample.mp4"), overwrite=overwrite))
    raise_if_incomplete(result)
    shown = np.linspace(0, result.num_frames - 1, COLUMNS).round().astype(int).tolist()
    frames = {index: frame for index, frame in enumerate(open_video(SAMPLE_VIDEO).frames) if index in shown}
    masks = {index: read_mask(os.path.join(result.masks, f"{index:05d}.png")) for index in shown}
    return Sample(result, picture.write(frame_file(picture.path, close_ups(frames, masks), JPEG_QUALITY)))
