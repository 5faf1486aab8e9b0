"""The pictures and the page of a search."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipelines.search import page as search_pages
from pipelines.search.trials import Trial, by_parameters, repeat_rows, trial_name
from vos.files.written import Written

NAMES = ["w", "temperature", "density"]


def trials(count: int = 16) -> list[Trial]:
    """Made up: J&F depends on w alone."""
    random = np.random.default_rng(0)
    made = []
    for i in range(count):
        w, tau, density = random.uniform(0, 1), 10 ** random.uniform(-1, 1), 2 ** random.uniform(-4, 0)
        status = "stopped" if i % 5 == 4 else "finished"
        parameters = {"w": w, "temperature": tau, "density": density}
        made.append(Trial(f"trial{i:02d}", parameters, 0, 0.5 + 0.3 * w, 30, status, 60.0, 0, f"run{i}"))
    return made


def repeated(trial: Trial) -> list[Trial]:
    return [replace(trial, seed=seed, score=trial.score + 0.01 * seed) for seed in (1, 2, 3)]


def test_the_parameter_that_decides_the_score_is_the_most_important_one():
    shares = search_pages.importances(trials(), NAMES)
    assert max(shares, key=lambda name: shares[name]) == "w" and sum(shares.values()) == pytest.approx(1)


def test_few_trials_or_equal_ones_say_nothing_of_importance():
    assert search_pages.importances(trials(3), NAMES) == {}
    assert search_pages.importances([replace(one, score=0.5) for one in trials()], NAMES) == {}


@pytest.mark.parametrize("count", [1, 2, 16])
def test_the_page_holds_every_trial_and_every_picture_and_needs_nothing_else(tmp_path: Path, count: int):
    made = trials(count)
    again = repeated(made[0])
    metrics = {
        "val/j_and_f": 0.61,
        "val/j_and_f_sd": 0.02,
        "tune/stopped_early": 3.0,
        "tune/train_seconds": 960.0,
        "tune/teacher_forwards": 0.0,
    }
    page = Path(
        search_pages.write(Written(str(tmp_path), "tune"), NAMES, made, again, made[0].parameters, metrics)
    ).read_text()
    assert all(one.name in page for one in made)
    assert "61.0 ± 2.0 (sd of 3 further seeds)" in page and "0 teacher forwards" in page
    pictures = sorted(path.name for path in (tmp_path / "pages").glob("*.png"))
    wanted = ["density-curve.png", "importance.png", "parallel-coordinates.png", "w-temperature.png"]
    assert pictures == [name for name in wanted if count >= 4 or name != "importance.png"]
    assert page.count("data:image/png;base64,") == len(pictures)
    assert not re.search(r'(src|href)="(?!data:)', page)
    lines = (tmp_path / "pages/trials.csv").read_text().splitlines()
    assert len(lines) == 1 + count + 3


def test_plots_of_what_was_not_searched_are_left_out():
    few = [replace(one, parameters={"lr": 1e-3 * (i + 1)}) for i, one in enumerate(trials())]
    assert search_pages.w_temperature_map(few, [], ["lr"]) is None
    assert search_pages.density_curve(few, [], ["lr"]) is None
    assert search_pages.parallel_coordinates(few, [], ["lr"]) is not None


def test_repeats_are_put_together_by_their_parameters_the_best_mean_first():
    low, high = trials()[:2]
    low, high = replace(low, score=0.2), replace(high, score=0.6)
    rows = repeat_rows([*repeated(low), *repeated(high)])
    assert [row[0] for row in rows] == [high.parameters, low.parameters]
    assert rows[0][1:] == (pytest.approx(0.62), pytest.approx(0.01), 3)
    assert [len(group) for group in by_parameters([*repeated(low), *repeated(high)])] == [3, 3]


def test_a_setting_that_lost_seeds_does_not_win_by_those_that_are_left():
    steady, lucky = trials()[:2]
    lost = repeated(replace(lucky, score=0.9))[:1]
    assert repeat_rows([*lost, *repeated(replace(steady, score=0.5))])[0][0] == steady.parameters


def test_a_trial_is_named_by_its_parameters_and_the_number_of_its_seed():
    assert trial_name({"w": 0.314, "temperature": 2.0, "density": 0.5}) == "w 0.31 τ 2.00 d 0.50"
    assert trial_name({"lr": 0.00123}, 2) == "lr 1.2e-03 #2"
