"""What MLflow shows of our runs: saved views, the machine's load, and the table of sequences."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from pipelines import tracking
from pipelines.evaluation.pages import sequence_csv
from pipelines.tracking import load, pages, store
from vos.config import CacheConfig, TrainConfig

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def client(store: str) -> Any:
    import mlflow

    return mlflow.MlflowClient(tracking_uri=store, registry_uri=store)


def test_an_experiment_has_its_saved_view_and_keeps_what_a_person_wrote_there(client: Any):
    made = store.experiment_id(client, "tune")
    client.set_experiment_tag(made, pages.NOTE, "mine")
    assert store.experiment_id(client, "tune") == made
    tags = client.get_experiment(made).tags
    view = json.loads(tags["mlflow.sharedViewState.mobilevos-tune"])
    state = json.loads(view["state"])
    assert view["name"] == "Best J&F per parameter" and state["orderByKey"] == "metrics.`val/j_and_f`"
    assert {"params.`loss.w`", "params.`loss.density`"} <= set(state["selectedColumns"])
    assert tags[pages.NOTE] == "mine"


def test_the_load_of_the_machine_arrives_with_the_run_and_lies_within_its_bounds(
    client: Any, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(load, "SAMPLE_S", 0.01)
    with tracking.start_run("testing", "sampled", CacheConfig()) as run:
        while "system/cpu_utilization_percentage" not in client.get_run(run.run_id).data.metrics:
            pass
    metrics = client.get_run(run.run_id).data.metrics
    assert 0 <= metrics["system/cpu_utilization_percentage"] <= 100
    assert 0 < metrics["system/system_memory_usage_percentage"] < 100
    assert metrics["system/system_memory_usage_megabytes"] > 0


def test_the_table_of_sequences_has_the_fall_of_j_from_the_first_quarter_to_the_last():
    curve = {"id": 1, "frames": [f"{i:05d}" for i in range(1, 9)], "j": [1.0] * 4 + [0.5] * 4, "f": [1.0] * 8}
    row = {"sequence": "bear", "scores": {"objects": [curve]}, "j_and_f": 0.875, "j": 0.75, "f": 1.0, "frames": 8}
    assert sequence_csv([row]).splitlines()[1] == "bear,1,8,87.5,75.0,100.0,100.0,50.0"


def test_every_experiment_that_a_job_writes_to_has_a_description() -> None:
    sources = [path.read_text(encoding="utf-8") for path in (ROOT / "pipelines").rglob("*.py")]
    used = {
        name for text in sources for name in re.findall(r'(?:start_run\(|folder_run\(folder, config, )"(\w+)"', text)
    }
    assert {"cache", "evaluate", "export", "tune", "demo", "benchmark"} <= used
    assert used | {TrainConfig().experiment} <= set(pages.EXPERIMENTS)
