"""The search: every trial reads the one cache, nothing finished is trained again, and the winner is a file that jobs.train takes."""

import json
import os
import pickle
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from pipelines import storage
from pipelines.search.one_trial import folder_name, records
from pipelines.search.search import next_commands, run_trials, search, searcher_after, winner_of
from pipelines.search.trials import Trial
from pipelines.tracking import SCORE
from vos.config import SpaceConfig, TrainConfig, TuneConfig
from vos.config.command_line import parse_config
from vos.config.presets import preset
from vos.errors import InputError
from vos.files.canonical import dumps, fingerprint
from vos.files.seals import sealed
from vos.files.written import Written

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def config(cache: str, store: str, tmp_path: Path) -> TuneConfig:
    base = preset(TuneConfig, "smoke")
    short = replace(base.train, steps=4)
    return replace(base, cache=cache, out=str(tmp_path / "tune"), train=short, rungs=2, max_frames=4, seed=5)


def test_a_search_ranks_its_trials_repeats_the_best_and_names_the_winner(config: TuneConfig, store: str) -> None:
    import mlflow

    result = search(replace(config, repeat=2))
    assert len(result.trials) == 2 and len({trial.parameters["w"] for trial in result.trials}) == 2
    finished = [trial for trial in result.trials if trial.status == "finished"]
    assert finished and all(0 <= trial.score <= 1 and trial.teacher_forwards == 0 for trial in result.trials)
    assert {trial.seed for trial in result.repeats} == {6, 7} and len(result.repeats) == 2 * len(finished)
    train_config = parse_config(TrainConfig, "", ["--config", result.best_config])
    assert {name: getattr(train_config.loss, name) for name in result.winner} == result.winner
    assert train_config.cache == config.cache and train_config.validation.every == 0

    client = mlflow.MlflowClient(tracking_uri=store)
    run_id = json.loads(Path(config.out, "run.json").read_text())["run_id"]
    parent = client.get_run(run_id)
    assert parent.data.metrics["tune/teacher_forwards"] == 0 and parent.data.metrics["tune/trials"] == 2
    assert "val/j_and_f_sd" in parent.data.metrics
    kept = {Path(file.path).name for file in client.list_artifacts(run_id)}
    assert {"search.html", "trials.csv", "parallel-coordinates.png", "density-curve.png", "best.json"} <= kept
    runs = client.search_runs([parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")
    assert sorted(run.data.metrics[SCORE] for run in runs if run.data.tags["trial.status"] == "finished") == sorted(
        trial.score for trial in [*finished, *result.repeats]
    )
    assert all(run.info.status == "FINISHED" for run in runs)
    assert not list(client.search_model_versions(f"run_id = '{runs[0].info.run_id}'")), "trials are not releases"

    again = search(replace(config, repeat=2, resume=True))
    assert again.trials == result.trials and again.repeats == result.repeats


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.open, (str(self.path), os.O_CREAT)


def plant_pickles(out: Path, ran: Path) -> dict[Path, bytes]:
    """A payload under every name that Ray has ever read from a search's or a training's folder; returns the files."""
    data = pickle.dumps(Payload(ran))
    hidden = {"_type": "CLOUDPICKLE_FALLBACK", "value": data.hex()}
    state = json.dumps(
        {"checkpoints": [json.dumps(hidden)], "runner_data": hidden, "trial_data": [[hidden, hidden]]}
    ).encode()
    planted = {}
    for place in (out / "ray/search-0000", out / "ray/search-0000/trial", out / "checkpoints", out):
        place.mkdir(parents=True, exist_ok=True)
        for name in (
            "tuner",
            "trainer",
            "trainable",
            "params",
            "searcher-state-1",
            "search_gen_state-1",
            "scheduler",
            "data",
        ):
            planted[place / f"{name}.pkl"] = data
        for name in (
            "experiment_state-1",
            "basic-variant-state-1",
            "checkpoint_manager_snapshot",
            "result",
            ".tune_metadata",
        ):
            planted[place / f"{name}.json"] = state
    for path, content in planted.items():
        path.write_bytes(content)
    return planted


def test_a_search_that_goes_on_begins_with_its_unfinished_trials_and_proposes_new_ones(config: TuneConfig) -> None:
    fresh = searcher_after(config, [])
    proposed = [fresh.suggest(str(number)) for number in range(3)]
    assert [searcher_after(config, []).suggest("0")] == proposed[:1], "a function of the seed"
    known = [
        Trial(str(number), parameters, config.seed, 0.5, 4, status)
        for number, (parameters, status) in enumerate(
            zip(proposed, ("finished", "interrupted", "stopped"), strict=True)
        )
    ]
    later = searcher_after(config, known)
    assert later.suggest("a") == proposed[1]
    new = later.suggest("b")
    assert new not in proposed
    again = searcher_after(config, known)
    assert [again.suggest("a"), again.suggest("b")] == [proposed[1], new]
    evaluated = [trial.value for trial in later._ot_study.trials if trial.state.is_finished()]
    assert evaluated == [0.5, 0.5]


def test_a_trials_record_is_believed_only_where_it_lies(tmp_path: Path) -> None:
    folder = Written(str(tmp_path), "tune", "one")
    name = folder_name({"w": 0.5}, 5)
    trial = Trial(name, {"w": 0.5}, 5, 0.7, 4, "finished", validations=[(2, 0.6), (4, 0.7)])
    folder.write_json(f"trials/{name}/trial.json", asdict(trial))
    assert records(folder) == [trial]
    folder.write_json("trials/another/trial.json", asdict(trial))
    with pytest.raises(InputError, match=f"belongs to another trial, {name}"):
        records(folder)
    with pytest.raises(InputError, match="belongs to another run"):
        records(Written(str(tmp_path), "tune", "two"))
    folder.write_json("trials/another/trial.json", {**asdict(trial), "status": "excellent"})
    with pytest.raises(InputError, match="'status' holds \"excellent\" instead of one of running"):
        records(folder)


def test_a_killed_search_trains_no_finished_trial_again_and_loses_none(
    config: TuneConfig, store: str, killed_when: Callable[..., None]
) -> None:
    config = replace(config, trials=3, concurrent=1, asha=False)
    path = Path(config.out).with_suffix(".json")
    path.write_text(dumps(config))

    def finished() -> dict[str, str]:
        records = {path: path.read_text() for path in Path(config.out, "trials").glob("*/trial.json")}
        return {str(path): text for path, text in records.items() if json.loads(text)["status"] == "finished"}

    killed_when(["jobs.tune", "--config", str(path), "--out", config.out], finished)
    before = finished()
    weights = {path: Path(path).with_name("model.safetensors").stat().st_mtime_ns for path in before}
    planted = plant_pickles(Path(config.out), ran := Path(config.out).with_name("ran"))
    result = search(replace(config, resume=True))
    assert not ran.exists() and all(path.read_bytes() == data for path, data in planted.items()), "nothing unpickled"
    assert not [path for path in Path(config.out, "ray").iterdir() if path.name != "search-0000"], (
        "Ray's own are deleted"
    )
    assert [trial.status for trial in result.trials] == ["finished"] * 3
    assert sum(trial.teacher_forwards for trial in result.trials) == 0
    assert finished().items() >= before.items(), "what was found stays as it was"
    assert all(Path(path).with_name("model.safetensors").stat().st_mtime_ns == time for path, time in weights.items())


def test_a_trial_whose_loss_bursts_is_a_failed_one_and_the_others_go_on(
    config: TuneConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    # One of the two learning rates is beyond all bounds.
    wild = replace(config, space=SpaceConfig(w=(), temperature=(), density=(), lr=(1e-7, 1e20)), trials=3)
    result = search(wild)
    failed = [trial for trial in result.trials if trial.status == "failed"]
    assert failed and all("lower --optimiser.lr" in trial.problem for trial in failed)
    assert f"trial failed: {failed[0].name}: step" in capfd.readouterr().out
    assert result.winner["lr"] < min(trial.parameters["lr"] for trial in failed)


def test_a_trial_that_finds_another_cache_than_the_search_named_fails_and_says_so(
    config: TuneConfig, capfd: pytest.CaptureFixture[str]
) -> None:
    base = replace(config.train, cache=config.cache, seed=config.seed, threads=1)
    folder = Written(config.out, "tune", files=storage.FILES)
    trials = run_trials(folder, replace(config, trials=1, asha=False), base, "f" * 32, parent="")
    assert trials == [] and not list(Path(config.out).glob("trials/*/model.safetensors"))
    assert f"{config.cache}: this cache was extended or replaced" in capfd.readouterr().out


def test_another_search_in_the_folder_is_refused_and_so_is_resuming_nothing(config: TuneConfig) -> None:
    with pytest.raises(InputError, match=r"--resume: .* holds no search"):
        search(replace(config, resume=True))
    assert not os.path.exists(config.out)
    os.makedirs(config.out)
    Path(config.out, "identity.json").write_bytes(
        sealed({"identity": {"trials": 7}}, "tune", fingerprint({"trials": 7}))
    )
    with pytest.raises(InputError, match=r"another configuration .*trials: 7 -> 2.*choose another --out"):
        search(config)


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_the_commands_that_follow_a_search_train_its_winner_wherever_it_lies(
    scheme: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    best = tmp_path / "tune" / "best.json"
    best.parent.mkdir()
    best.write_text(dumps(replace(preset(TrainConfig, "smoke"), steps=77)))
    *before, last = (shlex.split(line) for line in next_commands(f"{scheme}{best}"))
    monkeypatch.chdir(tmp_path)
    for program, *arguments in before:
        assert program == "python"
        subprocess.run([sys.executable, *arguments], env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    assert last[:3] == ["python", "-m", "jobs.train"]
    config = parse_config(TrainConfig, "", last[3:])
    assert (config.steps, config.out) == (77, str(tmp_path / "runs/best"))


def test_the_winner_is_the_best_mean_over_seeds_not_the_luckiest_trial() -> None:
    lucky, steady = Trial("a", {"w": 0.1}, 0, 0.9, 4, "finished"), Trial("b", {"w": 0.2}, 0, 0.8, 4, "finished")
    repeats = [
        replace(trial, seed=seed, score=score)
        for trial, scores in ((lucky, (0.5, 0.6)), (steady, (0.7, 0.8)))
        for seed, score in enumerate(scores, 1)
    ]
    assert winner_of([lucky, steady], []) == {"w": 0.1}
    assert winner_of([lucky, steady], repeats) == {"w": 0.2}
