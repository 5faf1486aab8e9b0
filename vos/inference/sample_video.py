"""The video that comes with the package and the mask of its first frame; sample/ATTRIBUTION.md says where they are from."""

import os

_FOLDER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "sample")
SAMPLE_VIDEO = os.path.join(_FOLDER, "bunny.mp4")
SAMPLE_MASK = os.path.join(_FOLDER, "bunny-mask.png")
SAMPLE_CREDIT = (
    "the sample is from Big Buck Bunny, (c) copyright 2008, Blender Foundation / www.bigbuckbunny.org, CC BY 3.0"
)
"""What the licence asks for wherever the video is shown."""
