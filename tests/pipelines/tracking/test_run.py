"""Runs, metrics and the registry, in a real SQLite store."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from pipelines import tracking
from pipelines.tracking import events, registry
from vos.config import CacheConfig, DataConfig, TrainConfig, TuneConfig
from vos.config.command_line import input_error
from vos.config.presets import preset
from vos.errors import InputError
from vos.files.canonical import dumps, to_dict
from vos.models import build
from vos.models.checkpoint import load_checkpoint, save_checkpoint

CONFIG = CacheConfig(seed=3)


@pytest.fixture
def client(store: str) -> Any:
    import mlflow

    return mlflow.MlflowClient(tracking_uri=store, registry_uri=store)


def num_leaves(values: dict[str, Any]) -> int:
    return sum(num_leaves(value) if isinstance(value, dict) else 1 for value in values.values())


@pytest.mark.parametrize(
    "config", [CONFIG, preset(TrainConfig, "paper"), preset(TuneConfig, "demo")], ids=lambda c: type(c).__name__
)
def test_the_resolved_configuration_is_with_the_run_as_parameters_and_as_a_file(client: Any, config: Any):
    with tracking.start_run("testing", "configured", config) as run:
        pass
    params = client.get_run(run.run_id).data.params
    assert len(params) == num_leaves(to_dict(config))
    assert params["data.synthetic_videos"] == str(config.data.synthetic_videos) and params["seed"] == str(config.seed)
    saved = Path(client.download_artifacts(run.run_id, "config.json"))
    assert json.loads(saved.read_text()) == json.loads(dumps(config))


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (None, "FINISHED"),
        (ValueError("bad"), "FAILED"),
        (KeyboardInterrupt(), "KILLED"),
        (SystemExit(0), "FINISHED"),  # as Ray Tune stops a trial, at any moment of the search's own last words about it
        (SystemExit("out of disk"), "FAILED"),
    ],
)
def test_a_run_ends_as_its_block_does_and_the_error_goes_on(client: Any, error: BaseException | None, status: str):
    started: list[str] = []

    def job() -> None:
        with tracking.start_run("testing", "ending", CONFIG) as run:
            started.append(run.run_id)
            assert client.get_run(run.run_id).info.status == "RUNNING"
            if error is not None:
                raise error

    if error is None:
        job()
    else:
        with pytest.raises(type(error)):
            job()
    assert client.get_run(started[0]).info.status == status


def test_runs_that_name_new_data_at_the_same_moment_all_have_it(client: Any):
    experiment = client.create_experiment("crowd")
    runs = [client.create_run(experiment).info.run_id for _ in range(6)]
    rounds, together = 5, threading.Barrier(len(runs))

    def say(run_id: str) -> None:
        for number in range(rounds):
            together.wait(60)
            event = {"op": "dataset", "name": f"videos-{number}", "digest": "abc", "source": "/data", "profile": {}}
            events.send(client, run_id, {**event, "context": "testing"})

    with ThreadPoolExecutor(len(runs)) as pool:
        list(pool.map(say, runs))
    for run_id in runs:
        assert len(client.get_run(run_id).inputs.dataset_inputs) == rounds


def test_two_runs_at_once_do_not_mix_and_leave_no_run_active(client: Any):
    import mlflow

    with (
        tracking.start_run("testing", "outer", CONFIG) as outer,
        tracking.start_run("testing", "inner", CONFIG) as inner,
    ):
        outer.log_metrics({"train/total": 1.0})
        inner.log_metrics({"train/total": 2.0})
        assert mlflow.active_run() is None
    found = [client.get_run(run.run_id).data.metrics["train/total"] for run in (outer, inner)]
    assert found == [1.0, 2.0]


def test_many_steps_arrive_whole_with_their_steps_and_times(client: Any):
    series = [(step, 1_000.5 + step, {"train/total": float(step), "train/lr": 0.5}) for step in range(600)]
    with tracking.start_run("testing", "series", CONFIG) as run:
        run.log_series(series)
    history = sorted(client.get_metric_history(run.run_id, "train/total"), key=lambda metric: metric.step)
    assert [(metric.step, metric.value) for metric in history] == [(step, float(step)) for step in range(600)]
    assert history[7].timestamp == 1_007_500
    assert len(client.get_metric_history(run.run_id, "train/lr")) == 600


def test_an_earlier_run_can_be_added_to(client: Any):
    with tracking.start_run("testing", "first", CONFIG) as run:
        run.log_metrics({"a": 1.0})
    tracking.existing_run(run.run_id).log_metrics({"val/j": 0.5})
    assert client.get_run(run.run_id).data.metrics == {"a": 1.0, "val/j": 0.5}
    assert client.get_run(run.run_id).info.status == "FINISHED"


def test_an_interrupted_run_goes_on_as_the_same_one_and_knows_what_it_has_said(client: Any):
    with pytest.raises(KeyboardInterrupt), tracking.start_run("testing", "broken off", CONFIG) as first:
        first.log_series([(step, 1.7e9, {"train/total": 1.0 / step}) for step in (1, 2)])
        raise KeyboardInterrupt
    with tracking.start_run("testing", "broken off", CONFIG, resume=first.run_id) as second:
        assert client.get_run(second.run_id).info.status == "RUNNING"
        assert second.history("train/total") == {1: 1.0, 2: 0.5} and second.history("absent") == {}
    assert second.run_id == first.run_id and client.get_run(first.run_id).info.status == "FINISHED"


def test_a_run_that_another_store_knows_begins_anew(client: Any):
    with tracking.start_run("testing", "elsewhere", CONFIG, resume="0" * 32) as run:
        pass
    assert client.get_run(run.run_id).info.status == "FINISHED" and run.run_id != "0" * 32


def test_tags_say_which_code_and_which_job_made_the_run(client: Any):
    with tracking.start_run("testing", "tagged", CONFIG, {"cache.fingerprint": "abc"}) as run:
        run.set_tags({"fps.hardware": "one core"})
    found = client.get_run(run.run_id)
    assert found.info.run_name == "tagged" and "git.commit" in found.data.tags
    wanted = {"job": "testing", "cache.fingerprint": "abc", "fps.hardware": "one core"}
    assert wanted.items() <= found.data.tags.items()


def test_a_data_set_is_an_input_of_the_run_with_its_fingerprint_place_and_size(client: Any):
    with tracking.start_run("testing", "inputs", CONFIG) as run:
        run.log_dataset("teacher-cache", "f" * 64, "s3://bucket/cache", {"rows": 24, "bytes": 1000}, "training")
    (used,) = client.get_run(run.run_id).inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest) == ("teacher-cache", "f" * 36)
    assert json.loads(used.dataset.source) == {"uri": "s3://bucket/cache"}
    assert json.loads(used.dataset.profile) == {"rows": 24, "bytes": 1000}
    assert {tag.key: tag.value for tag in used.tags} == {"mlflow.data.context": "training"}


def test_a_path_longer_than_a_parameter_may_be_does_not_stop_the_run(client: Any):
    with tracking.start_run("testing", "long", CacheConfig(data=DataConfig(root="/x" * 4000))) as run:
        pass
    assert client.get_run(run.run_id).data.params["data.root"].startswith("/x/x")


def test_registering_again_makes_the_next_version_and_each_keeps_its_own_weights(client: Any, tmp_path: Path):
    names = []
    for step in (1, 2):
        folder = tmp_path / str(step)
        save_checkpoint(str(folder), build("mobilevos-tiny"), {"step": step})
        (folder / "trainer_state.pt").write_bytes(b"not part of the model")
        with tracking.start_run("testing", f"train-{step}", CONFIG) as run:
            names.append(run.register("tracked-model", str(folder), f"{step} steps"))
    assert names == ["tracked-model/1", "tracked-model/2"]
    for number in (1, 2):
        version = client.get_model_version("tracked-model", str(number))
        assert version.description == f"{number} steps"
        kept, *_ = registry.resolve(f"models:/tracked-model/{number}", str(tmp_path / "kept"))
        _, description = load_checkpoint(kept)
        assert description["step"] == number
        assert sorted(path.name for path in Path(kept).iterdir()) == ["model.json", "model.safetensors"]


# Which store.


def test_the_store_is_the_named_one_else_sqlite_under_the_projects_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking.store_uri() == f"sqlite:///{tmp_path}/runs/mlflow.db"
    monkeypatch.setenv("MOBILEVOS_HOME", "/srv/project")
    assert tracking.store_uri() == "sqlite:////srv/project/runs/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert tracking.store_uri() == "http://127.0.0.1:5000"
    assert "http://127.0.0.1:5000" in tracking.page_line()


@pytest.mark.parametrize("uri", ["sqlite:///{file}/mlflow.db", "sqlite:///{file}/runs/mlflow.db", "foo://nowhere"])
def test_a_store_that_cannot_be_used_is_the_users_part_in_one_line(
    uri: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    file = tmp_path / "regular"
    file.write_text("kept")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri.format(file=file))
    with pytest.raises((InputError, OSError)) as refusal, tracking.start_run("testing", "nowhere", CONFIG):
        pass
    message = input_error(refusal.value)
    assert message is not None and "\n" not in message
    assert str(file) in message or "foo://nowhere" in message
    assert file.read_text() == "kept"


def test_the_commit_is_the_codes_whatever_folder_the_project_is_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    here = tracking.commit()
    monkeypatch.setenv("MOBILEVOS_HOME", str(tmp_path))
    assert tracking.commit() == here
