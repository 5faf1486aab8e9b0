"""The demo, whole, at its smallest: what a new user sees first."""

import json
from dataclasses import replace
from pathlib import Path

import cv2
import pytest
from PIL import Image

from pipelines.studies.demo import adaptation, run_demo, verdict
from vos.config import DataConfig, DemoConfig
from vos.config.presets import preset
from vos.data.synthetic import synthetic_index
from vos.media.images import write_frame, write_mask


def test_the_demo_ends_with_a_table_a_verdict_a_picture_and_a_video(
    ray_cluster: None, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    end = run_demo(replace(preset(DemoConfig, "smoke"), out=str(tmp_path), draws=8, steps=2))
    text = capsys.readouterr().out
    rows = [line for line in text.splitlines() if line.startswith(("student", "the same", "teacher"))]
    assert [row.split("  ")[0].split(" (")[0] for row in rows] == [
        "student that ships",
        "the same, adapted, seed 0",
        "the same, adapted, seed 1",
        "teacher",
    ]
    for row in (rows[0], rows[-1]):  # parameters, J&F, J, F, FPS short and long
        assert len(row.replace(" M", "M").split("  ")[1:]) >= 6 and "-" not in row.split()[2:]
    for row in rows[1:-1]:  # the speed of the same network is not measured again
        assert row.split()[-2:] == ["-", "-"]
    assert "2 seeds" in text
    assert (tmp_path / "table.txt").read_text().strip() in text
    strip = cv2.imread(str(tmp_path / "strip.png"))
    assert strip is not None and strip.std() > 10
    with Image.open(tmp_path / "demo.gif") as gif:
        assert getattr(gif, "n_frames", 1) > 5
    assert "make ui" in text or "open http" in text
    assert "CC BY 3.0" in end and (tmp_path / "sample/sample.jpg").stat().st_size > 10_000


@pytest.mark.parametrize("root", ["", "DAVIS"])
@pytest.mark.parametrize("name", ["smoke", "demo", "paper"])
def test_the_student_is_adapted_in_one_process_at_the_scale_of_the_videos(name: str, root: str) -> None:
    config = replace(preset(DemoConfig, name), data=DataConfig(root=root))
    found = adaptation(config, "cache")
    assert (found.workers, found.here, found.steps, found.optimiser.lr) == (1, True, config.steps, config.lr)
    assert found.preset == ("davis-cpu" if root and name == "demo" else name)


def test_a_gain_is_claimed_only_where_it_exceeds_the_spread_of_the_seeds() -> None:
    assert "gained 26.6" in verdict(0.444, [0.70, 0.71, 0.72])
    assert "no gain is claimed" in verdict(0.70, [0.70, 0.71, 0.72])
    assert "no gain is claimed" in verdict(0.72, [0.60, 0.61, 0.61])


@pytest.mark.slow
def test_on_videos_that_have_only_masks_of_new_objects_the_demo_ends_with_its_table_and_pictures_too(
    ray_cluster: None, store: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """YouTube-VOS's layout: its videos for validation have no ground truth, and may begin before their first mask."""
    for folder, first, annotated in (("train", 0, range(6)), ("valid", 2, range(2, 3))):
        video = synthetic_index(1, 6, (64, 96), split=folder)[0]
        root = tmp_path / "data" / folder
        for index in range(6):
            write_frame(str(root / f"JPEGImages/v/{index:05d}.jpg"), video.frame(index))
        for index in annotated:
            write_mask(str(root / f"Annotations/v/{index:05d}.png"), video.mask(index))
        objects = {str(label): {"frames": [f"{first:05d}"]} for label in video.first_seen}
        (root / "meta.json").write_text(json.dumps({"videos": {"v": {"objects": objects}}}))
    data = DataConfig(root=str(tmp_path / "data"), kind="youtubevos")
    config = replace(preset(DemoConfig, "smoke"), out=str(tmp_path / "out"), draws=4, steps=2)
    run_demo(replace(config, data=data))
    text = capsys.readouterr().out
    assert (tmp_path / "out/table.txt").read_text().strip() in text
    strip = cv2.imread(str(tmp_path / "out/strip.png"))
    assert strip is not None and strip.std() > 10
    with Image.open(tmp_path / "out/demo.gif") as gif:
        assert getattr(gif, "n_frames", 1) == 4, "from the first mask on"
