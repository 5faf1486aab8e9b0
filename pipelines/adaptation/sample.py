"""The video that comes with the package, as a folder of frames with one mask: what a user's own folder looks like."""

from __future__ import annotations

import os

from vos.config import DataConfig
from vos.files.written import Written
from vos.inference.sample_video import SAMPLE_MASK, SAMPLE_VIDEO
from vos.media.images import frame_file, mask_png, read_mask
from vos.media.video_files import open_video

SAMPLE = "sample"
JPEG_QUALITY = 95


def unpack(folder: Written) -> DataConfig:
    """Write the sample's frames and its mask below `folder`, unless they are there; returns the data set.

    Raises InputError where unrelated files are in the way.
    """
    name = os.path.splitext(os.path.basename(SAMPLE_VIDEO))[0]
    for index, frame in enumerate(open_video(SAMPLE_VIDEO).frames):
        file = f"{SAMPLE}/frames/{name}/{index:05d}.jpg"
        if not (folder.knows(file) and os.path.exists(folder.path(file))):
            folder.write(file, frame_file(file, frame, JPEG_QUALITY), sync=False)
    # Last, so that the folder is complete where it has a mask.
    folder.write(f"{SAMPLE}/masks/{name}/00000.png", mask_png(read_mask(SAMPLE_MASK)))
    return DataConfig(root=os.path.join(folder.root, SAMPLE), kind="folder")
