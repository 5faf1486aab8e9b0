"""Adapting is one command: every stage is done once, and scores come from what nothing learned from."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.adaptation import sample
from pipelines.adaptation.adapt import adapt
from pipelines.adaptation.scores import AGREEMENT, TRUE_MASKS, Score
from pipelines.adaptation.tables import summary, verdict
from pipelines.runtime.output_folder import NOTHING, mark
from tests.pipelines.labelling.conftest import write_videos
from vos.config import BUILTIN_TEACHER, AdaptConfig, DataConfig
from vos.config.presets import preset
from vos.data.datasets import load_index
from vos.errors import InputError
from vos.files.written import Written


def adapt_config(root: str, out: Path) -> AdaptConfig:
    base = preset(AdaptConfig, "smoke")
    data = DataConfig(root=root, kind="folder")
    return replace(
        base,
        data=data,
        out=str(out),
        teacher=BUILTIN_TEACHER,
        draws=4,
        steps=2,
        crop_px=32,
        min_agreement=0.3,
        hold_out=2,
    )


def test_a_folder_with_one_mask_each_is_labelled_cached_learned_and_scored_once(ray_cluster: None, tmp_path: Path):
    config = adapt_config(write_videos(tmp_path / "videos", range(1)), tmp_path / "out")
    result = adapt(config)
    assert [row["by"] for row in result.before] == [AGREEMENT] and result.before[0]["videos"] == 2
    assert list(result.stages) == ["start", "label", "cache", "score-before", "train-0", "score-after-0"]
    assert all(stage["cpu_s"] > 0 for stage in result.stages.values())
    train = json.loads((tmp_path / "out/student-0/config.json").read_text())
    assert train["loss"]["w"] == 1.0 and train["data"]["kind"] == "labels"
    text = summary(config, result)
    assert f"jobs.segment VIDEO.mp4 --first-mask MASK.png --model {tmp_path}/out/student-0" in text
    assert "agreement with the teacher" in text
    assert f"jobs.export --model {tmp_path}/out/student-0" in text

    weights = tmp_path / "out/student-0/model.safetensors"
    before = weights.stat().st_mtime_ns
    assert adapt(config) == result
    assert weights.stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"holds an adaptation with another configuration \(steps: 2 -> 3\)"):
        adapt(replace(config, steps=3))


def test_true_masks_score_where_there_are_more_than_the_first(ray_cluster: None, tmp_path: Path):
    root = write_videos(tmp_path / "videos", range(0, 7, 3))
    result = adapt(adapt_config(root, tmp_path / "out"))
    assert [(row["by"], row["videos"], row["frames"]) for row in result.before] == [(TRUE_MASKS, 2, 4)]
    assert [row["by"] for row in result.after[0]] == [TRUE_MASKS]


def test_bad_input_is_refused_before_anything_is_written(tmp_path: Path):
    config = adapt_config(str(tmp_path / "none"), tmp_path / "out")
    for wrong, said in (
        (config, "no such data folder"),
        (replace(config, out="s3://bucket/out"), "local folder"),
        (replace(config, student=BUILTIN_TEACHER), "is a teacher; give a student"),
    ):
        with pytest.raises(InputError, match=said):
            adapt(wrong)
    assert not (tmp_path / "out").exists()


def test_the_sample_is_a_folder_of_frames_with_one_mask_and_is_unpacked_once(tmp_path: Path):
    folder = Written(str(tmp_path / "out"), "adapt")
    mark(folder, NOTHING)
    data = sample.unpack(folder)
    (video,) = load_index(data.root, data.kind)
    assert (video.name, video.num_frames, video.size) == ("bunny", 84, (360, 640))
    assert video.annotated == (0,) and set(video.first_seen) == {1, 2}
    last = Path(data.root, "frames/bunny/00083.jpg")
    before = last.stat().st_mtime_ns
    assert sample.unpack(folder) == data and last.stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("gained", "said"),
    [([0.02], r"+2.0; --seeds 3"), ([0.02, 0.03], "gained 2.5"), ([-0.01, 0.03], "no gain is claimed")],
)
def test_a_gain_is_claimed_where_it_exceeds_the_spread_of_the_seeds(gained: list[float], said: str):
    before = Score(by=TRUE_MASKS, j_and_f=0.5, j=0.5, f=0.5, videos=1, frames=1)
    assert said in verdict(before, gained)
