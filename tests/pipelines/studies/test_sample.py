"""The sample, from the package to the picture of it."""

from dataclasses import replace
from pathlib import Path

import cv2
import pytest

from pipelines.delivery.segment import Segmentation, segment_video
from pipelines.studies.sample import segment_sample
from vos.config import SegmentConfig
from vos.errors import InputError
from vos.models import build
from vos.models.checkpoint import save_checkpoint


@pytest.fixture
def out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder, and a tiny network for what is segmented."""
    model = str(tmp_path / "student")
    save_checkpoint(model, build("mobilevos-tiny"), {"role": "student"})

    def segment(config: SegmentConfig) -> Segmentation:
        return segment_video(replace(config, model=model, size_px=48, runtime="eager", threads=1))

    monkeypatch.setattr("pipelines.studies.sample.segment_video", segment)
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


def test_the_picture_is_drawn_beside_the_overlay_and_again_over_its_own(out: Path):
    for _ in range(2):
        sample = segment_sample(str(out))
    assert sample.segmentation.num_frames == 84 and sample.picture == str(out / "sample.jpg")
    picture = cv2.imread(sample.picture)
    assert picture is not None and 1590 < picture.shape[1] <= 1600 and picture.std() > 10
    assert {path.name for path in out.iterdir()} == {".written", "sample-masks", "sample.jpg", "sample.mp4"}


def test_another_picture_in_its_place_is_refused_before_any_work(out: Path):
    (out / "sample.jpg").write_bytes(b"a holiday")
    with pytest.raises(InputError, match="sample.jpg"):
        segment_sample(str(out))
    assert not (out / "sample.mp4").exists()
