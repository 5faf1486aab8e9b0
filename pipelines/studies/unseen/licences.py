"""The terms of the data sets from which a model was made, for its card."""

from __future__ import annotations

from pipelines.studies.protocols.planned import Videos

DAVIS = "**DAVIS**: for research, non-commercial use, with attribution (Perazzi et al. 2016, Pont-Tuset et al. 2017)."
STILLS = (
    "**Berkeley Segmentation Data Set 500** (stills): for non-commercial research and education, with citation (Arbelaez et al. 2011).",
    "**Penn-Fudan pedestrians** (stills): the authors keep their rights; for research (Wang et al. 2007).",
)
"""The stills of the published runs."""
IMAGENET = (
    "**ImageNet** (the trunk's first weights): for non-commercial research and education (Russakovsky et al. 2015)."
)


def licences(videos: Videos, begun: bool, trunk: bool) -> list[str]:
    """Return one line for each data set that a model was made from.

    begun  it began with weights that had learned from stills
    trunk  its first weights, or its teacher's, are ImageNet's
    """
    return [DAVIS, *(STILLS if begun or videos.stills else ()), *([IMAGENET] if trunk else [])]
