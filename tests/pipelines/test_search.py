"""The search: every trial reads the one cache, and the best configuration is a file that jobs.train takes."""

from dataclasses import replace
from pathlib import Path

from pipelines.search import search
from pipelines.tracking import SCORE
from vos.command_line import parse_config
from vos.config import TrainConfig, TuneConfig
from vos.presets import preset


def test_a_search_ranks_its_trials_and_writes_the_best_configuration(cache: str, store: str, tmp_path: Path) -> None:
    import mlflow

    base = preset(TuneConfig, "smoke")
    config = replace(
        base, cache=cache, out=str(tmp_path), train=replace(base.train, steps=2, checkpoint_every=2), max_frames=4
    )
    result = search(config)
    assert len(result.trials) == 2
    assert len({trial["w"] for trial in result.trials}) == 2
    best = max(result.trials, key=lambda trial: trial[SCORE])
    train_config = parse_config(TrainConfig, "", ["--config", result.best_config])
    assert (train_config.loss.w, train_config.loss.density) == (best["w"], best["density"])
    assert train_config.cache == cache

    client = mlflow.MlflowClient(tracking_uri=store)
    experiment = client.get_experiment_by_name("tune")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id])
    parents = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in runs if run.data.tags.get("mlflow.parentRunId") == parents[0].info.run_id]
    assert sorted(run.data.metrics[SCORE] for run in children) == sorted(trial[SCORE] for trial in result.trials)

    again = search(config)
    assert sorted(trial["trial"] for trial in again.trials) == sorted(trial["trial"] for trial in result.trials)
