"""Text tables: aligned, complete, in percent, and silent about what was not measured."""

from dataclasses import replace

import pytest

from pipelines.evaluation.evaluate import Evaluation
from pipelines.evaluation.tables import method_table, sequence_table
from pipelines.runtime.tables import percent, table
from pipelines.search.tables import repeat_table, trial_table
from pipelines.search.trials import Status, Trial
from vos.config import SpaceConfig, TuneConfig

MEASURED = {"val/j_and_f": 0.8125, "val/j": 0.75, "val/f": 0.875, "fps/short": 31.46, "fps/long": 7.0}


def evaluation(metrics: dict[str, float], parameters: int = 330_000, model: str = "mobilevos-tiny") -> Evaluation:
    sequences = [
        {"sequence": "bear", "j_and_f": 1.0, "j": 1.0, "f": 1.0, "frames": 3},
        {"sequence": "a-much-longer-name", "j_and_f": 0.005, "j": 0.0, "f": 0.01, "frames": 3},
    ]
    return Evaluation(metrics, sequences if metrics else [], "masks", parameters, model)


def cells(text: str) -> list[list[str]]:
    """The cells of a table's rows, without its rule."""
    return [line.split() for i, line in enumerate(text.splitlines()) if i != 1]


def test_columns_are_aligned_the_first_to_the_left_and_the_others_to_the_right():
    lines = table(["name", "n"], [["a", 1], ["long name", 12345]]).splitlines()
    assert lines[0].startswith("name ") and lines[2].startswith("a ")
    assert len({len(line) for line in lines}) == 1
    assert lines[2].endswith("    1") and lines[3] == "long name  12345"


def test_a_table_without_rows_is_its_header():
    assert table(["a", "bb"], []).splitlines() == ["a  bb", "-  --"]


def test_percent_is_percent_and_what_was_not_measured_is_a_dash():
    assert [percent(value) for value in (0.0, 0.8125, 1.0, None)] == ["0.0", "81.2", "100.0", "-"]


def test_every_sequence_has_a_row_and_the_mean_comes_last():
    rows = cells(sequence_table(evaluation({k: v for k, v in MEASURED.items() if k.startswith("val")})))
    assert [row[0] for row in rows[1:]] == ["bear", "a-much-longer-name", "all"]
    assert rows[1][1:] == ["100.0"] * 3 and rows[2][1:] == ["0.5", "0.0", "1.0"]
    assert rows[3][-3:] == ["81.2", "75.0", "87.5"]


def test_the_speed_is_shown_when_it_was_measured_and_only_then():
    assert "short 31.5, long 7.0" in sequence_table(evaluation(MEASURED))
    assert "fps" not in sequence_table(evaluation({"val/j_and_f": 0.5}))


def test_without_ground_truth_a_table_shows_dashes():
    assert cells(sequence_table(evaluation({})))[-1][-3:] == ["-", "-", "-"]


def test_methods_keep_their_order_and_show_size_accuracy_and_speed():
    rows = cells(method_table({"copy": evaluation({"val/j": 0.5}, parameters=0), "student": evaluation(MEASURED)}))
    assert rows[1] == ["copy", "-", "-", "50.0", "-", "-", "-"]
    assert rows[2] == ["student", "0.33", "M", "81.2", "75.0", "87.5", "31.5", "7.0"]


def test_trials_are_ranked_finished_ones_first_and_none_is_lost():
    kinds: list[tuple[str, float, Status]] = [("t0", 0.2, "finished"), ("t1", 0.5, "finished"), ("t2", 0.9, "stopped")]
    trials = [Trial(name, {"w": 0.5, "density": 0.25}, 0, score, 30, status, 61.2) for name, score, status in kinds]
    rows = cells(trial_table([*trials, replace(trials[0], seed=1)], TuneConfig(space=SpaceConfig(temperature=()))))
    assert [row[0] for row in rows[1:]] == ["t1", "t0", "t2"]
    assert rows[1] == ["t1", "0.5", "0.25", "50.0", "30", "61", "finished"]


def test_repeats_are_told_as_mean_and_spread():
    one = Trial("t", {"w": 0.5}, 1, 0.4, 30, "finished")
    rows = cells(repeat_table([one, replace(one, seed=2, score=0.6)], ["w"]))
    assert rows[-1] == ["1.", "0.5", "50.0", "14.1", "2"]


@pytest.mark.parametrize("name", ["a", "student, distilled"])
def test_every_table_is_lines_without_trailing_blanks(name: str):
    for text in (method_table({name: evaluation(MEASURED)}), sequence_table(evaluation(MEASURED))):
        assert all(line == line.rstrip() for line in text.splitlines())


def test_the_published_figures_stand_beside_ours_marked_as_reported():
    text = sequence_table(evaluation(MEASURED, model="mobilevos-mobilenetv2-noaspp"))
    reported = [line for line in text.splitlines() if line.startswith("reported: ")]
    assert "DAVIS-2016: J&F 90.1, J 89.0, F 91.1, FPS 86.0" in reported[0] and "DAVIS-2017: J&F 81.8" in reported[1]
    assert "reported" not in sequence_table(evaluation(MEASURED))
