"""Training on Ray Train: what is learnt depends on the configuration, not on workers, interruptions or order."""

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from pipelines.models import load_model
from pipelines.training import TrainResult, train
from vos.config import CacheConfig, TrainConfig
from vos.config_json import dumps
from vos.errors import InputError


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_file(os.path.join(folder, "model.safetensors"))


@pytest.fixture(scope="module")
def undisturbed(cache: str, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    from vos.presets import preset

    base = preset(TrainConfig, "smoke")
    out = str(tmp_path_factory.mktemp("training"))
    return train(replace(base, cache=cache, steps=4, checkpoint_every=2, out=out))


def losses(store: str, result: TrainResult) -> list[float]:
    import mlflow

    history = mlflow.MlflowClient(tracking_uri=store).get_metric_history(result.run_id, "train/total")
    return [metric.value for metric in sorted(history, key=lambda metric: metric.step)]


def test_two_workers_see_the_losses_that_one_sees(
    undisturbed: TrainResult, train_config: TrainConfig, store: str
) -> None:
    result = train(replace(train_config, workers=2))
    assert losses(store, result) == pytest.approx(losses(store, undisturbed), rel=1e-4)


def test_a_finished_training_is_not_run_again_and_another_one_is_refused(
    undisturbed: TrainResult, train_config: TrainConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config = replace(train_config, out=undisturbed.checkpoint)
    again = train(config)
    assert again.run_id == undisturbed.run_id
    assert "already finished" in capsys.readouterr().out
    with pytest.raises(InputError, match=r"loss\.w: 0\.95 -> 0\.5.*choose another --out"):
        train(replace(config, loss=replace(config.loss, w=0.5)))


def test_the_metrics_of_every_step_reach_mlflow(undisturbed: TrainResult, store: str) -> None:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=store)
    run = client.get_run(undisturbed.run_id)
    assert run.info.status == "FINISHED"
    for name in ("cross_entropy", "dice", "kd", "representation", "total", "lr"):
        assert [metric.step for metric in client.get_metric_history(undisturbed.run_id, f"train/{name}")] == [
            1,
            2,
            3,
            4,
        ]
    assert run.data.params["loss.temperature"] == "2.0"
    name, version = undisturbed.version.split("/")
    assert client.get_model_version(name, version).run_id == undisturbed.run_id


def test_the_checkpoint_says_what_it_is_and_loads(undisturbed: TrainResult) -> None:
    model, info = load_model(undisturbed.checkpoint)
    assert info["model"] == "mobilevos-tiny" and info["role"] == "student" and info["step"] == 4
    assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_distillation_changes_what_is_learnt(undisturbed: TrainResult, train_config: TrainConfig) -> None:
    plain = train(replace(train_config, loss=replace(train_config.loss, kd=0.0, representation=0.0)))
    assert "train/kd" not in plain.metrics and "train/kd" in undisturbed.metrics
    ours, theirs = weights(plain.checkpoint), weights(undisturbed.checkpoint)
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_killed_training_continues_from_its_checkpoint_to_the_same_weights(
    undisturbed: TrainResult, cache_config: CacheConfig, train_config: TrainConfig
) -> None:
    path = Path(train_config.out).with_suffix(".json")
    path.write_text(dumps(train_config))
    command = [sys.executable, "-m", "jobs.train", "--config", str(path), "--out", train_config.out]
    process = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not list(Path(train_config.out, "ray").glob("*/step-0000002/model.json")):
        assert process.poll() is None, "the training ended before its first checkpoint"
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    result = train(train_config)
    assert json.loads(Path(result.checkpoint, "model.json").read_text())["step"] == 4
    for name, value in weights(undisturbed.checkpoint).items():
        assert torch.equal(weights(result.checkpoint)[name], value), name


def test_a_loss_that_is_not_finite_names_the_draws(train_config: TrainConfig) -> None:
    from vos.command_line import input_error

    config = replace(train_config, optimiser=replace(train_config.optimiser, lr=1e30, warmup_steps=0))
    with pytest.raises(Exception) as caught:
        train(config)
    message = input_error(caught.value)
    assert message is not None and "the loss is" in message and "on draws [" in message
    assert not Path(config.out, "model.safetensors").exists()
