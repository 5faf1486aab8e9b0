"""J and F are the official ones: the golden figures, and the plain transcription on masks of every awkward kind."""

import csv
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests import oracle_davis
from vos.errors import InputError
from vos.metrics.davis import merge, score_folders, score_masks, score_sequence
from vos.metrics.scores import CSV_COLUMNS, seen_objects, statistics

KINDS = ("empty", "full", "pixel", "boxes", "ring", "stripes", "noise")


def draw_labels(rng: np.random.Generator, kind: str, H: int, W: int) -> np.ndarray:
    """(H, W) uint8 labels 0 to 3; boxes may leave the image, so that they touch its borders."""
    labels = np.zeros((H, W), np.uint8)
    if kind == "full":
        labels[:] = rng.integers(1, 4)
    elif kind == "pixel":
        labels[rng.integers(H), rng.integers(W)] = rng.integers(1, 4)
    elif kind == "boxes":
        for _ in range(rng.integers(1, 5)):
            y, x = rng.integers(-4, H), rng.integers(-4, W)
            height, width = rng.integers(4, H + 8), rng.integers(4, W + 8)
            labels[max(0, y) : y + height, max(0, x) : x + width] = rng.integers(0, 4)
    elif kind == "ring":
        labels[H // 6 : H - H // 6, W // 6 : W - W // 6] = 1
        labels[H // 3 : H - H // 3, W // 3 : W - W // 3] = rng.choice([0, 2])
    elif kind == "stripes":
        labels[:] = np.arange(W) // rng.integers(1, 5) % 3
    elif kind == "noise":
        labels[:] = rng.integers(0, 4, (H, W))
    return labels


@st.composite
def sequences(draw) -> tuple[np.ndarray, np.ndarray]:
    """True and predicted labels (4, H, W), related or not; the first true mask shows object 3."""
    H, W = draw(st.integers(1, 50)), draw(st.integers(1, 50))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    gt = np.stack([draw_labels(rng, draw(st.sampled_from(KINDS)), H, W) for _ in range(4)])
    if draw(st.booleans()):
        pred = np.roll(gt, rng.integers(-3, 4, 2), (1, 2))
    else:
        pred = np.stack([draw_labels(rng, draw(st.sampled_from(KINDS)), H, W) for _ in range(4)])
    gt[0, 0, 0] = 3
    return gt, pred


def assert_same_as_oracle(gt: np.ndarray, pred: np.ndarray) -> None:
    expected = oracle_davis.score_arrays(gt, pred)
    score = score_masks(gt, pred)
    shown = set(np.unique(gt[:-1])) - {0, 255}
    assert [item.object_id for item in score.objects] == [number for number in expected if number in shown]
    found = score.official()
    assert [item.object_id for item in found.objects] == list(expected)
    for item in found.objects:
        j, f = expected[item.object_id]
        np.testing.assert_allclose(item.j, j, atol=1e-12)
        np.testing.assert_allclose(item.f, f, atol=1e-12)
        np.testing.assert_allclose(item.j_statistics, oracle_davis.summarise(j), atol=1e-12)


def write_masks(folder: Path, labels: np.ndarray, names: list[str] | None = None, mode: str = "P") -> None:
    folder.mkdir(parents=True)
    for index, mask in enumerate(labels):
        image = Image.fromarray(mask, "L")
        if mode == "P":
            image.putpalette(np.random.default_rng(0).bytes(768))
        image.save(folder / f"{names[index] if names else f'{index:05d}'}.png")


def moving_box(T: int = 6, H: int = 40, W: int = 60, label: int = 1, step: int = 3) -> np.ndarray:
    labels = np.zeros((T, H, W), np.uint8)
    for t in range(T):
        labels[t, 8:30, 5 + step * t : 25 + step * t] = label
    return labels


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Two sequences, `a` with one object and `b` with two."""
    write_masks(tmp_path / "gt" / "a", moving_box())
    write_masks(tmp_path / "pred" / "a", moving_box(step=2))
    two = np.maximum(moving_box(), np.flip(moving_box(label=2), axis=2))
    write_masks(tmp_path / "gt" / "b", two)
    write_masks(tmp_path / "pred" / "b", np.roll(two, 2, axis=1))
    return tmp_path / "gt", tmp_path / "pred"


def test_every_golden_figure_is_reproduced(shared, tmp_path):
    golden = shared / "golden" / "davis_eval"
    (tmp_path / "scores.csv").write_text(score_folders(golden / "gt", golden / "pred").csv())
    tables = []
    for path in (golden / "scores.csv", tmp_path / "scores.csv"):
        head, *rows = csv.reader(path.read_text().splitlines())
        assert tuple(head) == CSV_COLUMNS
        tables.append({tuple(row[:2]): np.array(row[2:], float) for row in rows})
    assert tables[0].keys() == tables[1].keys()
    for key, figures in tables[0].items():
        np.testing.assert_allclose(tables[1][key], figures, atol=1e-6)


@settings(max_examples=150, deadline=None)
@given(sequences())
def test_scores_equal_the_plain_transcription(masks):
    assert_same_as_oracle(*masks)


@pytest.mark.parametrize(("H", "W"), [(1, 1), (1, 30), (30, 1), (2, 2), (126, 90), (480, 854)])
def test_image_sizes_with_other_tolerances_agree_with_the_transcription(H, W):
    rng = np.random.default_rng(H * W)
    gt = np.stack([draw_labels(rng, "boxes", H, W) for _ in range(3)])
    gt[0, -1, -1] = 3
    assert_same_as_oracle(gt, np.roll(gt, (H // 60, W // 60), (1, 2)))


@pytest.mark.parametrize("num_frames", [3, 4, 5, 7, 12, 69, 106])
def test_mean_recall_and_decay_are_the_official_ones(num_frames):
    curve = np.random.default_rng(num_frames).random(num_frames)
    np.testing.assert_allclose(statistics(curve), oracle_davis.summarise(curve), atol=1e-15)


def test_a_perfect_prediction_scores_one_and_first_and_last_frame_do_not_count():
    gt = moving_box()
    pred = gt.copy()
    pred[[0, -1]] = 0
    score = score_masks(gt, pred, name="box")
    assert (score.sequence, score.j, score.f, score.j_and_f) == ("box", 1, 1, 1)
    assert score.objects[0].frames == ("00001", "00002", "00003", "00004")
    assert score_masks(gt, pred, exclude_ends=False).j == pytest.approx(4 / 6)


def test_an_object_that_is_absent_scores_one_where_both_miss_it_and_zero_where_one_does():
    gt = np.maximum(moving_box(5), np.flip(moving_box(5, label=2), axis=2))
    pred = gt.copy()
    gt[3][gt[3] == 2] = 0
    pred[1:4][pred[1:4] == 2] = 0
    second = score_masks(gt, pred).objects[1]
    assert second.object_id == 2
    assert second.j.tolist() == second.f.tolist() == [0, 0, 1]


def test_a_label_that_no_object_has_counts_as_background_and_is_listed():
    gt = moving_box()
    pred = moving_box(step=2)
    strange = pred.copy()
    strange[:, :5] = 7
    strange[:, -1] = 255
    plain, score = score_masks(gt, pred), score_masks(gt, strange)
    assert score.ignored_labels == (7, 255) and plain.ignored_labels == ()
    np.testing.assert_array_equal(score.objects[0].j, plain.objects[0].j)
    np.testing.assert_array_equal(score.objects[0].f, plain.objects[0].f)


@pytest.mark.parametrize("options", [{"protocol": "youtubevos"}, {"object_ids": [1, 3]}])
def test_a_label_between_those_of_the_objects_is_listed_as_well(options):
    gt = np.maximum(moving_box(), np.flip(moving_box(label=3), axis=2))
    pred = gt.copy()
    pred[3, -1, -1] = 2  # the very last pixel, after which no label changes
    assert score_masks(gt, pred, **options).ignored_labels == (2,)
    assert score_masks(gt, gt, **options).ignored_labels == ()


def test_a_label_that_becomes_an_object_later_is_not_listed():
    gt = moving_box()
    gt[3:, 32:38, 40:55] = 2
    pred = moving_box(step=2)
    pred[1:, 32:38, 40:55] = 2
    pred[2, 0, 0] = 3
    assert score_masks(gt, pred, protocol="youtubevos").ignored_labels == (3,)


def test_void_of_the_true_mask_is_background():
    gt = moving_box()
    void = np.where((gt == 0) & (np.arange(60) > 50), 255, gt).astype(np.uint8)
    assert_same_as_oracle(void, moving_box(step=2))
    assert len(score_masks(void, gt).objects) == 1


def test_chosen_objects_and_any_integer_type_are_scored_alike():
    gt, pred = moving_box(label=4), moving_box(label=4, step=2)
    chosen = score_masks(gt.astype(np.int64), pred.astype(np.int32), object_ids=[4]).objects
    assert [item.object_id for item in chosen] == [4]
    assert chosen[0].j.tolist() == score_masks(gt, pred).objects[0].j.tolist()
    assert score_masks(gt > 0, pred > 0).j == chosen[0].j.mean()


def test_folders_and_memory_give_the_same_scores_with_one_process_or_two(folders):
    one, two = (score_folders(*folders, workers=workers) for workers in (1, 2))
    assert one.rows() == two.rows()
    assert [row[:2] for row in one.rows()] == [("a", 1), ("b", 1), ("b", 2)]
    in_memory = score_masks(moving_box(), moving_box(step=2), name="a")
    apart = [score_sequence(str(folders[0] / "b"), str(folders[1] / "b")), in_memory]
    assert merge(apart).rows() == one.rows()


def test_averages_run_over_objects_or_in_davis2016_over_sequences(folders):
    scores = score_folders(*folders)
    assert scores.j == pytest.approx(np.mean([row.j_mean for row in scores.rows()]))
    assert scores.f == pytest.approx(np.mean([row.f_mean for row in scores.rows()]))
    summary = scores.summary()
    assert (summary["j_and_f"], summary["j_mean"]) == (scores.j_and_f, scores.j)
    assert summary["f_decay"] == pytest.approx(np.mean([row.f_decay for row in scores.rows()]))
    binary = score_folders(*folders, protocol="davis2016")
    assert [row[:2] for row in binary.rows()] == [("a", 1), ("b", 1)]
    assert binary.j == pytest.approx(np.mean([one.j for one in binary.sequences]))
    by_sequence = merge(scores.sequences, protocol="davis2016")
    assert by_sequence.j == pytest.approx(np.mean([one.j for one in scores.sequences])) != pytest.approx(scores.j)


def test_masks_of_0_and_255_are_one_object_in_davis2016(folders, tmp_path):
    write_masks(tmp_path / "gt16" / "a", 255 * moving_box(), mode="L")
    write_masks(tmp_path / "pred16" / "a", 255 * moving_box(step=2), mode="L")
    binary = score_folders(tmp_path / "gt16", tmp_path / "pred16", protocol="davis2016")
    assert binary.rows() == score_folders(*folders, sequences=["a"]).rows()
    with pytest.raises(InputError, match="davis2016"):
        score_folders(tmp_path / "gt16", tmp_path / "pred16")


@pytest.fixture
def youtube(tmp_path: Path) -> tuple[Path, Path]:
    """True masks at every fifth frame, object 5 from the third of them on; predictions at every frame but the first."""
    gt = moving_box(5)
    gt[2:, 32:38, 40:55] = 5
    write_masks(tmp_path / "gt" / "v", gt, [f"{5 * t:05d}" for t in range(5)])
    pred = np.repeat(gt, 5, axis=0)
    pred[pred == 5] = 0
    pred[20:, 32:38, 40:55] = 5
    write_masks(tmp_path / "pred" / "v", pred[1:], [f"{t:05d}" for t in range(1, 25)])
    return tmp_path / "gt", tmp_path / "pred"


def test_youtubevos_scores_annotated_frames_after_the_first_one_of_each_object(youtube):
    first, later = score_folders(*youtube, protocol="youtubevos").sequences[0].objects
    assert (first.object_id, first.frames) == (1, ("00005", "00010", "00015", "00020"))
    assert (later.object_id, later.frames) == (5, ("00015", "00020"))
    assert later.j.tolist() == later.f.tolist() == [0, 1]
    assert set(first.j) == {1.0}


def test_youtubevos_averages_seen_and_unseen_objects_apart(youtube):
    training = {"videos": {"t": {"objects": {"1": {"category": "duck"}}}}}
    meta = {"videos": {"v": {"objects": {"1": {"category": "duck"}, "5": {"category": "tram"}}}}}
    seen = seen_objects(meta, training)
    assert seen == {("v", 1): True, ("v", 5): False}
    summary = score_folders(*youtube, protocol="youtubevos", seen=seen).summary()
    assert [summary[name] for name in ("j_seen", "f_seen", "j_unseen", "f_unseen", "g")] == [1, 1, 0.5, 0.5, 0.75]
    with pytest.raises(InputError, match="object 5"):
        score_folders(*youtube, protocol="youtubevos", seen={("v", 1): True}).summary()
    with pytest.raises(InputError, match=r"meta\.json"):
        seen_objects({"videos": {"v": {}}}, training)


def test_frames_that_the_prediction_lacks_are_named_before_anything_is_scored(folders):
    gt, pred = folders
    for name in ("00000", "00005"):
        (pred / "a" / f"{name}.png").unlink()
    score_folders(gt, pred)  # first and last frame are not scored, so they need not be there
    (pred / "a" / "00001.png").write_bytes(b"not read yet")
    for name in ("00002", "00004"):
        (pred / "b" / f"{name}.png").unlink()
    with pytest.raises(InputError) as error:
        score_folders(gt, pred)
    assert "b/00002.png" in str(error.value) and "b/00004.png" in str(error.value)
    assert "\n" not in str(error.value) and "b/00003.png" not in str(error.value)


def test_a_sequence_that_was_not_predicted_is_an_error_unless_it_is_left_out(folders, tmp_path):
    gt, pred = folders
    write_masks(tmp_path / "gt" / "c", moving_box(20))
    with pytest.raises(InputError, match=r"c: no predicted masks in"):
        score_folders(gt, pred)
    assert [one.sequence for one in score_folders(gt, pred, sequences=["b", "a"]).sequences] == ["a", "b"]


def test_masks_of_different_size_are_both_named(folders):
    gt, pred = folders
    Image.fromarray(moving_box()[3, :, :-1].copy(), "L").save(pred / "a" / "00003.png")
    for workers in (1, 2):
        with pytest.raises(InputError) as error:
            score_folders(gt, pred, workers=workers)
        message = str(error.value)
        assert "\n" not in message
        assert all(part in message for part in ("pred/a/00003.png", "59x40", "gt/a/00003.png", "60x40"))


def test_an_unreadable_mask_is_named(folders):
    path = folders[1] / "b" / "00002.png"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InputError, match=r"b/00002\.png.*truncated"):
        score_folders(*folders)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda gt, pred: score_folders(gt / "nowhere", pred), "nowhere"),
        (lambda gt, pred: score_folders(gt / "a", pred / "a"), "one folder for each sequence"),
        (lambda gt, pred: score_folders(gt, pred, workers=0), "workers 0"),
        (lambda gt, pred: score_folders(gt, pred, protocol="davis2018"), "davis2017, davis2016, youtubevos"),
        (lambda gt, pred: score_folders(gt, pred, sequences=["x"]), "x: no true masks in"),
        (lambda gt, pred: score_masks(moving_box(2), moving_box(2)), "2 frames"),
        (lambda gt, pred: score_masks(moving_box(4), moving_box(5)), r"\(4, 40, 60\).*\(5, 40, 60\)"),
        (lambda gt, pred: score_masks(moving_box() * 0, moving_box()), "no object"),
        (lambda gt, pred: score_masks(moving_box() * 1.0, moving_box()), "float64"),
        (lambda gt, pred: score_masks(moving_box() - np.int16(1), moving_box()), "0 to 255"),
        (lambda gt, pred: score_masks(moving_box(), moving_box(), object_ids=[0]), "1 to 255"),
        (lambda gt, pred: merge([]), "no sequence"),
        (lambda gt, pred: merge([score_masks(moving_box(), moving_box(), name="a")] * 2), "twice"),
    ],
)
def test_what_a_user_gets_wrong_is_one_clear_line(folders, call, message):
    with pytest.raises(InputError, match=message) as error:
        call(*folders)
    assert "\n" not in str(error.value)
