"""Scores of masks as people have them: ids with gaps, names without zeros, sequences that are absent or too short."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from jobs.score import main
from pipelines.evaluation.sequences import segment_and_score
from vos.data.datasets import load_index
from vos.errors import InputError
from vos.files.written import Written
from vos.media.images import write_frame, write_mask
from vos.metrics.davis import score_folders, score_masks
from vos.metrics.scores import YOUTUBEVOS

SIZE = (48, 96)


def scene(ids: tuple[int, ...], frames: int, step_px: int = 3, later: int = 0) -> np.ndarray:
    """(T, H, W): squares with these ids that move to the right; the last of them begins in frame `later`."""
    labels = np.zeros((frames, *SIZE), np.uint8)
    for t in range(frames):
        for place, number in enumerate(ids):
            if place < len(ids) - 1 or t >= later:
                x = 2 + 20 * place + step_px * t
                labels[t, 6 + 2 * place : 22 + 2 * place, x : x + 14] = number
    return labels


def write(folder: Path, labels: np.ndarray, name: str = "{:05d}.png", start: int = 0) -> Path:
    for index, mask in enumerate(labels, start):
        write_mask(str(folder / name.format(index)), mask)
    return folder


def score(capsys: pytest.CaptureFixture[str], *flags: object) -> tuple[int, str, str]:
    code = main([str(flag) for flag in flags])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def mean_of(text: str, row: str = "mean") -> float:
    return float(re.search(rf"^{row} .*?\)\s+([\d.]+)", text, re.MULTILINE)[1])  # type: ignore[index]


@pytest.mark.parametrize(
    ("ids", "later"),
    [((1, 200), 0), ((3, 7, 250), 0), ((2,), 0), ((254,), 0), ((1, 2, 9), 0), ((1, 3), 4), ((3, 1), 4), ((1, 2), 11)],
)
def test_a_run_and_its_folder_of_masks_have_one_score_whatever_the_ids(
    ids: tuple[int, ...], later: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    truth = scene(ids, 12, later=later)
    write(tmp_path / "data/masks/v", truth)
    for index in range(len(truth)):
        write_frame(str(tmp_path / f"data/frames/v/{index:05d}.jpg"), np.full((*SIZE, 3), 90, np.uint8))
    kind = "folder"
    if later:  # a sequence whose objects begin at different times
        kind = "youtubevos"
        (tmp_path / "data/masks").rename(tmp_path / "data/Annotations")
        (tmp_path / "data/frames").rename(tmp_path / "data/JPEGImages")
        first = {number: 0 if number != ids[-1] else later for number in ids}
        objects = ", ".join(f'"{n}": {{"category": "a", "frames": ["{at:05d}"]}}' for n, at in first.items())
        (tmp_path / "data/meta.json").write_text(f'{{"videos": {{"v": {{"objects": {{{objects}}}}}}}}}')
    video = load_index(str(tmp_path / "data"), kind, "train")[0]
    run = segment_and_score(None, video, None, 0, 0, Written(str(tmp_path), "evaluate"))
    assert run is not None
    gt = tmp_path / "data" / ("Annotations" if later else "masks")
    code, text, _ = score(capsys, "--gt", gt, "--pred", tmp_path / "masks", "--csv", tmp_path / "scores.csv")
    assert code == 0 and mean_of(text) == pytest.approx(100 * run.j_and_f, abs=0.05)
    rows = (tmp_path / "scores.csv").read_text().splitlines()[1:]
    assert [int(row.split(",")[1]) for row in rows] == [one.object_id for one in run.objects]


def test_the_official_figure_that_counts_ids_that_never_occur_is_printed_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    truth, seen = scene((1, 200), 8), scene((1, 200), 8, step_px=1)
    write(tmp_path / "gt/v", truth)
    write(tmp_path / "pred/v", seen)
    own = (score_masks(truth, seen, [1]).j_and_f + score_masks(truth, seen, [200]).j_and_f) / 2
    counted = (2 * own + 198) / 200
    flags = ("--gt", tmp_path / "gt", "--pred", tmp_path / "pred", "--out", tmp_path / "out")
    code, text, _ = score(capsys, *flags)
    assert code == 0 and "official (" not in text
    assert mean_of(text) == pytest.approx(100 * own, abs=0.05)
    code, text, _ = score(capsys, *flags, "--official")
    assert mean_of(text) == pytest.approx(100 * own, abs=0.05)
    assert mean_of(text, "official") == pytest.approx(100 * counted, abs=0.05)
    assert "198 ids" in text


def test_an_id_that_only_a_prediction_shows_is_no_object_and_is_named():
    truth = scene((1, 5), 6)
    wrong = truth.copy()
    wrong[:, 40:, 80:] = 3
    found = score_masks(truth, wrong)
    assert [one.object_id for one in found.objects] == [1, 5] and found.j_and_f == 1
    assert [one.object_id for one in found.never] == [2, 3, 4]
    assert [one.j.mean() for one in found.never] == [1, 0, 1], "the official code counts a false object as missed"


@pytest.mark.parametrize(
    ("true_name", "predicted_name", "start"),
    [
        ("{}.png", "{}.png", 1),
        ("{:05d}.png", "{}.png", 0),
        ("frame{}.png", "frame{:03d}.png", 5),
        ("{:05d}.png", "{:05d}.PNG", 0),
        ("shot2_{}.png", "shot2_{}.png", 95),
    ],
)
def test_masks_are_in_the_order_of_their_numbers_whatever_the_zeros(
    true_name: str, predicted_name: str, start: int, tmp_path: Path
):
    truth, seen = scene((1, 2), 12), scene((1, 2), 12, step_px=1)
    write(tmp_path / "gt/v", truth, true_name, start)
    write(tmp_path / "pred/v", seen, predicted_name, start)
    found = score_folders(tmp_path / "gt", tmp_path / "pred")
    wanted = score_masks(truth, seen)
    for ours, theirs in zip(found.sequences[0].objects, wanted.objects, strict=True):
        np.testing.assert_array_equal(ours.j, theirs.j)
        np.testing.assert_array_equal(ours.f, theirs.f)


def test_predictions_counted_from_another_number_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    write(tmp_path / "gt/v", scene((1,), 8))
    write(tmp_path / "pred/v", scene((1,), 8), start=1)
    code, text, _ = score(capsys, "--gt", tmp_path / "gt", "--pred", tmp_path / "pred", "--out", tmp_path / "out")
    assert code == 0 and re.search(r"note: v: true masks are 00000.png to 00007.png, .* 00001.png to 00008.png", text)
    assert "davis2017" in text


def test_two_predictions_for_one_frame_are_refused(tmp_path: Path):
    write(tmp_path / "gt/v", scene((1,), 5))
    write(tmp_path / "pred/v", scene((1,), 5), "{}.png")
    write(tmp_path / "pred/v", scene((1,), 5), "{:02d}.png")
    with pytest.raises(InputError, match=r"v: .*2\.png and .*1\.png|v: .*1\.png.* both frame 00001"):
        score_folders(tmp_path / "gt", tmp_path / "pred", strict=False)


def test_sequences_that_cannot_be_scored_are_named_and_the_others_scored(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    good = scene((1,), 6)
    for name, labels in {"good": good, "short": good[:1], "two": good[:2], "bare": 0 * good, "holes": good}.items():
        write(tmp_path / "gt" / name, labels)
        write(tmp_path / "pred" / name, labels)
    (tmp_path / "pred/holes/00003.png").unlink()
    write(tmp_path / "gt/unpredicted", good)
    write(tmp_path / "pred/untrue", good)
    (tmp_path / "gt/.ipynb_checkpoints").mkdir()
    write_mask(str(tmp_path / "gt/.ipynb_checkpoints/00000-checkpoint.png"), good[0])
    flags = ("--gt", tmp_path / "gt", "--pred", tmp_path / "pred", "--out", tmp_path / "out")
    code, text, _ = score(capsys, *flags)
    assert code == 0 and mean_of(text) == 100
    left_out = dict(line.split(": ", 2)[1:] for line in text.splitlines() if line.startswith("left out: "))
    assert sorted(left_out) == ["bare", "holes", "short", "two", "unpredicted", "untrue"]
    assert "1 true mask" in left_out["short"] and "2 true masks" in left_out["two"] and "object" in left_out["bare"]
    assert "00003.png" in left_out["holes"] and "no predicted masks" in left_out["unpredicted"]
    assert "no true masks" in left_out["untrue"]
    for workers in (1, 2):
        assert len(score_folders(tmp_path / "gt", tmp_path / "pred", workers, strict=False).left_out) == 6
    code, _, error = score(capsys, *flags, "--strict")
    assert code == 2 and "00003.png" in error and len(error.splitlines()) == 1


@pytest.mark.parametrize("names", ["good,absent", "absent", "list.txt"])
def test_an_absent_sequence_is_named(names: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for side in ("gt", "pred"):
        write(tmp_path / side / "good", scene((1,), 6))
    (tmp_path / "list.txt").write_text("good\nabsent\n")
    given = tmp_path / names if names.endswith(".txt") else names
    flags = ("--gt", tmp_path / "gt", "--pred", tmp_path / "pred", "--out", tmp_path / "out", "--sequences", given)
    code, text, error = score(capsys, *flags)
    if "good" in names or names.endswith(".txt"):
        assert code == 0 and mean_of(text) == 100 and re.search(r"left out: absent: no true masks in .*gt/absent", text)
    else:
        assert code == 2 and re.search(r"no sequence can be scored: absent: no true masks", error)
    assert score(capsys, *flags, "--strict")[0] == 2


def test_sparse_true_masks_are_scored_as_a_run_scores_them(tmp_path: Path):
    truth, seen = scene((1, 2), 11), scene((1, 2), 11, step_px=2)
    write(tmp_path / "pred/v", seen)
    for index in range(0, 11, 5):
        write_mask(str(tmp_path / f"gt/v/{index:05d}.png"), truth[index])
    found = score_folders(tmp_path / "gt", tmp_path / "pred", protocol="auto")
    assert found.protocol == YOUTUBEVOS and found.sequences[0].objects[0].frames == ("00005", "00010")
