"""Folds of a data set and of a mixture, as every job indexes them."""

from pathlib import Path

import pytest

from pipelines.runtime.videos import index_videos
from vos.config import DataConfig
from vos.data.mixtures import Mixture
from vos.data.synthetic import synthetic_index, write_davis
from vos.errors import InputError


@pytest.mark.parametrize("split", ["", "@train", "@val"])
def test_no_video_of_a_fold_is_also_learnt_from(split: str):
    data = DataConfig(sources=(f"synthetic{split}=:1",), fold=2, fold_videos=4, synthetic_videos=14, synthetic_frames=4)
    train, val = (index_videos(data, name) for name in ("train", "val"))
    assert isinstance(train, Mixture) and isinstance(val, Mixture) and len(val) == 4 and train
    assert not {video.name for video in train} & {video.name for video in val}
    with pytest.raises(InputError, match="use 1 to 3"):
        index_videos(DataConfig(fold=4, fold_videos=4, synthetic_videos=14), "val")


def test_a_video_that_one_source_holds_out_is_in_no_other_source(tmp_path: Path):
    root = str(tmp_path / "davis")
    videos = synthetic_index(num_videos=6, num_frames=2, size=(32, 48))
    write_davis(videos, root, "train")
    write_davis(videos[:5], root, "few")
    sources = (f"davis2017={root}:1", f"davis2017@few={root}:1")
    data = DataConfig(sources=sources, fold=1, fold_videos=2)
    train, val = (index_videos(data, name) for name in ("train", "val"))
    assert isinstance(train, Mixture) and [len(source.videos) >= 3 for source in train.sources] == [True, True]
    held_out = {video.name for video in val}
    assert len(held_out) == 2 and not held_out & {video.name for video in train}
