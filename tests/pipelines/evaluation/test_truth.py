"""Which true masks of a video score it, and by which protocol: the figures of the official evaluations."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.evaluation.evaluate import evaluate_model
from pipelines.evaluation.sequences import ground_truth, segment_and_score
from pipelines.training.launch import check, train
from vos.config import DataConfig, EvaluateConfig, TrainConfig, ValidationConfig
from vos.config.presets import preset
from vos.data.datasets import load_index
from vos.data.synthetic import synthetic_index, write_davis
from vos.data.videos import Video
from vos.errors import InputError
from vos.files.written import Written
from vos.media.images import write_frame, write_mask
from vos.metrics.davis import score_folders
from vos.metrics.scores import DAVIS2017, YOUTUBEVOS, SequenceScore

SIZE = (48, 64)


def labels_with(objects: tuple[int, ...], shift_px: int = 0) -> np.ndarray:
    """Squares side by side, each a little further to the right."""
    labels = np.zeros(SIZE, np.uint8)
    for number in objects:
        labels[4:20, 20 * (number - 1) + shift_px : 20 * (number - 1) + 12 + shift_px] = number
    return labels


def youtubevos(
    root: Path, shown: dict[int, tuple[int, ...]], first: dict[int, int], num_frames: int, split: str
) -> Video:
    """A video in YouTube-VOS's layout.

    shown  the annotated frames, and the objects that their masks show
    first  object -> the frame that meta.json gives it at
    """
    for index in range(num_frames):
        frame = np.random.default_rng(index).integers(0, 255, (*SIZE, 3), dtype=np.uint8)
        write_frame(str(root / f"JPEGImages/v/{index:05d}.jpg"), frame)
    for index, objects in shown.items():
        write_mask(str(root / f"Annotations/v/{index:05d}.png"), labels_with(objects, index))
    objects = {str(number): {"category": "a", "frames": [f"{index:05d}"]} for number, index in first.items()}
    (root / "meta.json").write_text(json.dumps({"videos": {"v": {"objects": objects}}}))
    return load_index(str(root), "youtubevos", split)[0]


def scored(video: Video, max_frames: int = 0, out: str = "") -> SequenceScore | None:
    """The score of the copy of the first masks, which are kept in OUT/masks."""
    return segment_and_score(None, video, None, 0, max_frames, Written(out, "evaluate") if out else None)


@pytest.mark.parametrize("step", [1, 3], ids=["every frame has a mask", "every third frame has a mask"])
def test_an_object_that_appears_later_is_scored_from_then_on_as_the_folders_of_masks_are(step: int, tmp_path: Path):
    shown = {index: (1, 2) if index >= 6 else (1,) for index in range(0, 12, step)}
    video = youtubevos(tmp_path / "data", shown, {1: 0, 2: 6}, 12, "train")
    found = scored(video, out=str(tmp_path))
    wanted = score_folders(tmp_path / "data/Annotations", tmp_path / "masks", protocol=YOUTUBEVOS).sequences[0]
    assert found is not None
    for ours, theirs in zip(found.objects, wanted.objects, strict=True):
        assert (ours.object_id, ours.frames) == (theirs.object_id, theirs.frames)
        np.testing.assert_array_equal(ours.j, theirs.j)
        np.testing.assert_array_equal(ours.f, theirs.f)


def test_an_object_that_no_segmented_frame_shows_has_no_score(tmp_path: Path):
    shown = {index: (1, 2) if index >= 7 else (1,) for index in range(10)}
    found = scored(youtubevos(tmp_path, shown, {1: 0, 2: 7}, 10, "train"), max_frames=5)
    assert found is not None and [one.object_id for one in found.objects] == [1]
    assert found.objects[0].frames == ("00001", "00002", "00003", "00004")


def test_of_two_sparse_masks_the_second_is_scored(tmp_path: Path):
    found = scored(youtubevos(tmp_path, {0: (1,), 5: (1,)}, {1: 0}, 8, "train"))
    assert found is not None and found.objects[0].frames == ("00005",)


def test_masks_that_only_introduce_objects_are_no_ground_truth(tmp_path: Path):
    """Those of YouTube-VOS's official valid and test: the objects that are known already are not painted in them."""
    video = youtubevos(tmp_path, {0: (1,), 3: (2,), 6: (3,)}, {1: 0, 2: 3, 3: 6}, 10, "val")
    assert ground_truth(video)[1] == [] and scored(video) is None


def test_davis_is_scored_by_its_own_protocol_whatever_the_number_of_frames(tmp_path: Path):
    write_davis(synthetic_index(1, 6, SIZE, split="val"), str(tmp_path / "data"), "val")
    video = load_index(str(tmp_path / "data"), "davis2017", "val")[0]
    assert ground_truth(video) == (DAVIS2017, [0, 1, 2, 3, 4, 5])
    assert ground_truth(video, max_frames=4) == (DAVIS2017, [0, 1, 2, 3])
    assert ground_truth(video, max_frames=2)[1] == [], "the first and the last frame are not scored"
    found = scored(video, out=str(tmp_path))
    wanted = score_folders(tmp_path / "data/Annotations/480p", tmp_path / "masks").sequences[0]
    assert found is not None and [one.object_id for one in found.objects] == sorted(video.first_seen)
    assert (found.j, found.f) == (wanted.j, wanted.f)


def test_first_masks_alone_are_no_ground_truth(tmp_path: Path):
    video = synthetic_index(1, 6, SIZE, split="val")[0]
    write_davis([video], str(tmp_path), "test-dev")
    for index in range(1, 6):
        (tmp_path / f"Annotations/480p/{video.name}/{index:05d}.png").unlink()
    assert ground_truth(load_index(str(tmp_path), "davis2017", "test-dev")[0])[1] == []
    assert ground_truth(replace(video, num_frames=1))[1] == []


def test_registering_what_cannot_be_scored_is_refused_before_anything_is_segmented(tmp_path: Path):
    youtubevos(tmp_path / "data", {0: (1,), 3: (2,), 6: (3,)}, {1: 0, 2: 3, 3: 6}, 10, "val")
    data = DataConfig(root=str(tmp_path / "data"), kind="youtubevos")
    config = replace(preset(EvaluateConfig, "smoke"), out=str(tmp_path / "out"), data=data, register=True)
    with pytest.raises(InputError, match="--register: none of these sequences can be scored"):
        evaluate_model(config)
    assert not (tmp_path / "out").exists()


def test_a_training_that_could_never_validate_is_refused_before_its_first_step(tmp_path: Path):
    for split in ("train", "val"):
        write_davis(synthetic_index(1, 6, (64, 64), split=split), str(tmp_path / "data"), split)
    unscored = sorted((tmp_path / "data/Annotations/480p").glob("val-*/*.png"))[1:]
    config = replace(
        preset(TrainConfig, "smoke"), out=str(tmp_path / "out"), data=DataConfig(root=str(tmp_path / "data"))
    )
    config = replace(config, loss=replace(config.loss, kd=0.0, representation=0.0))
    validated = replace(config, validation=ValidationConfig(every=100))
    check(validated)
    with pytest.raises(InputError, match=r"--validation.every 100: .*--validation.max-frames 2"):
        train(replace(config, validation=ValidationConfig(every=100, max_frames=2)))
    for path in unscored:
        path.unlink()
    with pytest.raises(InputError, match="--validation.every 100: .*none of the 1 sequence"):
        train(validated)
    assert not (tmp_path / "out").exists()
    check(config)
