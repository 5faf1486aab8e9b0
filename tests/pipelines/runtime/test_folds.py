"""Folds of a data set and of a mixture, as every job indexes them."""

import pytest

from pipelines.runtime.videos import index_videos
from vos.config import DataConfig
from vos.data.mixtures import Mixture
from vos.errors import InputError


@pytest.mark.parametrize("split", ["", "@train", "@val"])
def test_no_video_of_a_fold_is_also_learnt_from(split: str):
    data = DataConfig(sources=(f"synthetic{split}=:1",), fold=2, fold_videos=4, synthetic_videos=14, synthetic_frames=4)
    train, val = (index_videos(data, name) for name in ("train", "val"))
    assert isinstance(train, Mixture) and isinstance(val, Mixture) and len(val) == 4 and train
    assert not {video.name for video in train} & {video.name for video in val}
    with pytest.raises(InputError, match="use 1 to 3"):
        index_videos(DataConfig(fold=4, fold_videos=4, synthetic_videos=14), "val")
