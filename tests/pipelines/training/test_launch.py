"""Training: what is learnt depends on the configuration, not on Ray, workers, interruptions or order."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from pipelines.runtime.models import load_model
from pipelines.runtime.output_folder import existing
from pipelines.training import state as training_state
from pipelines.training.launch import TrainResult, train
from pipelines.training.loop import TRAIN, new_model, run_training
from vos.config import TrainConfig, ValidationConfig
from vos.config.presets import preset
from vos.distillation.ranks import Ranks
from vos.errors import InputError
from vos.files.canonical import dumps


def weights(folder: str) -> dict[str, torch.Tensor]:
    return load_file(os.path.join(folder, "model.safetensors"))


def assert_same_weights(folder: str, wanted: str) -> None:
    ours, theirs = weights(folder), weights(wanted)
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


class Stopped(Exception):
    """Stands for any sudden end of a process, at a step that the test chooses."""


def stop_after(config: TrainConfig, step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Train in this process until `step` is done, then break off."""
    from pipelines.training import loop as training_loop

    class Breaking(training_loop.TrainingStep):
        def __call__(self, number: int, *batch: Any) -> dict[str, float]:
            if number == step:
                raise Stopped
            return super().__call__(number, *batch)

    with monkeypatch.context() as patch:
        patch.setattr(training_loop, "TrainingStep", Breaking)
        with pytest.raises(Stopped):
            train(config, here=True)


@pytest.fixture(scope="module")
def undisturbed(cache: str, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """The training of `train_config`, by Ray Train's one worker."""
    base = preset(TrainConfig, "smoke")
    out = str(tmp_path_factory.mktemp("training"))
    return train(replace(base, cache=cache, steps=4, checkpoint_every=2, out=out))


def losses(store: str, result: TrainResult) -> list[float]:
    import mlflow

    history = mlflow.MlflowClient(tracking_uri=store).get_metric_history(result.run_id, "train/total")
    return [metric.value for metric in sorted(history, key=lambda metric: metric.step)]


def test_without_ray_the_same_weights_come_out_bit_for_bit(
    undisturbed: TrainResult, train_config: TrainConfig, store: str
) -> None:
    result = train(train_config, here=True, register=False)
    assert_same_weights(result.checkpoint, undisturbed.checkpoint)
    assert losses(store, result) == losses(store, undisturbed) and result.version == ""


def test_two_workers_see_the_losses_that_one_sees_for_twenty_steps(train_config: TrainConfig, store: str) -> None:
    # At the preset's 1e-3 a rounding error grows a hundredfold at each step in which a pixel changes sides; that is no error of DDP.
    calm = replace(train_config.optimiser, lr=3e-4)
    validation = ValidationConfig(every=20, videos=2, max_frames=4)
    config = replace(train_config, steps=20, batch=4, checkpoint_every=20, optimiser=calm, validation=validation)
    alone = train(config, here=True)
    both = train(replace(config, workers=2, micro_batch=1, out=f"{config.out}-2"))
    assert losses(store, both) == pytest.approx(losses(store, alone), rel=1e-5)
    assert both.metrics["val/j_and_f"] == pytest.approx(alone.metrics["val/j_and_f"], abs=1e-3), "one video each"


def test_layers_that_have_learnt_nothing_are_not_kept_as_they_are() -> None:
    config = preset(TrainConfig, "davis-cpu")
    assert config.freeze_early and not config.trunk_weights
    with pytest.raises(InputError, match="--freeze-early.*--trunk-weights"):
        new_model(config)
    new_model(replace(config, freeze_early=False))


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
    plain = train(replace(train_config, loss=replace(train_config.loss, kd=0.0, representation=0.0)), here=True)
    assert "train/kd" not in plain.metrics and "train/kd" in undisturbed.metrics
    ours, theirs = weights(plain.checkpoint), weights(undisturbed.checkpoint)
    assert any(not torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_killed_training_continues_from_its_checkpoint_to_the_same_weights(
    undisturbed: TrainResult, train_config: TrainConfig, store: str, killed_when: Callable[..., None]
) -> None:
    path = Path(train_config.out).with_suffix(".json")
    path.write_text(dumps(train_config))
    state = Path(train_config.out, "checkpoints/step-0000002/state.json")
    killed_when(["jobs.train", "--config", str(path), "--out", train_config.out], state.exists)
    begun = json.loads(Path(train_config.out, "run.json").read_text())["run_id"]
    result = train(train_config)
    assert json.loads(Path(result.checkpoint, "model.json").read_text())["step"] == 4
    assert_same_weights(result.checkpoint, undisturbed.checkpoint)
    assert result.run_id == begun, "it is one training, so one run"


def test_a_training_broken_off_anywhere_ends_with_the_same_weights_and_one_curve(
    undisturbed: TrainResult, train_config: TrainConfig, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(train_config, 3, monkeypatch)
    result = train(train_config, here=True)
    assert_same_weights(result.checkpoint, undisturbed.checkpoint)
    assert losses(store, result) == losses(store, undisturbed)


def test_metrics_that_never_reached_mlflow_are_said_again_from_the_checkpoint(
    undisturbed: TrainResult, train_config: TrainConfig, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_after(train_config, 3, monkeypatch)
    Path(train_config.out, "run.json").unlink()  # as if none of them had
    result = train(train_config, here=True)
    assert losses(store, result) == losses(store, undisturbed)


def test_a_training_killed_while_it_was_registered_is_registered_once(train_config: TrainConfig) -> None:
    result = train(train_config, here=True)
    Path(train_config.out, "result.json").unlink()
    again = train(train_config, here=True)
    assert (again.version, again.run_id) == (result.version, result.run_id)


def test_a_worker_that_repeats_steps_makes_no_second_row_of_them(ray_cluster: None, store: str) -> None:
    import mlflow
    import ray

    from pipelines import tracking
    from pipelines.runtime.progress import followed, new_board

    with tracking.start_run("testing", "repeats", TrainConfig()) as run:
        board = new_board()
        with followed(board, run, "repeats", 4):
            for steps in ((1, 2, 3), (2, 3, 4)):
                ray.get(board.post.remote([(step, 1.7e9, {"train/total": float(step)}) for step in steps]))
                while ray.get(board.waiting.remote()):
                    pass
    history = mlflow.MlflowClient(tracking_uri=store).get_metric_history(run.run_id, "train/total")
    assert [metric.step for metric in history] == [1, 2, 3, 4]


def test_a_damaged_checkpoint_is_passed_over(
    undisturbed: TrainResult, train_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = replace(train_config, checkpoint_every=1)
    stop_after(config, 3, monkeypatch)
    newest = training_state.newest(existing(config.out, TRAIN))
    assert newest is not None and newest.progress.step == 3
    path = Path(newest.folder, training_state.TENSORS)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    older = training_state.newest(existing(config.out, TRAIN))
    assert older is not None and older.progress.step == 2
    assert_same_weights(train(config, here=True).checkpoint, undisturbed.checkpoint)


def test_another_number_of_workers_continues_with_the_same_batches_and_says_what_is_lost(
    undisturbed: TrainResult,
    train_config: TrainConfig,
    store: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stop_after(train_config, 3, monkeypatch)
    result = train(replace(train_config, workers=2))
    said = capsys.readouterr().err
    assert "after step 2" in said and "not bit for bit" in said and "workers: 1 -> 2" in said
    assert losses(store, result) == pytest.approx(losses(store, undisturbed), rel=1e-5)


def test_a_checkpoint_tells_all_without_unpickling(undisturbed: TrainResult) -> None:
    newest = training_state.newest(existing(undisturbed.checkpoint, TRAIN))
    assert newest is not None
    state = json.loads(Path(newest.folder, training_state.STATE).read_text())
    assert (
        state["progress"]["step"] == 4 and state["data"] == {"epoch": 0, "next_clip": 8} and len(state["random"]) == 1
    )
    assert state["config"]["loss"]["w"] == 0.95 and len(state["cache"]) == 32 and state["commit"]
    names = newest.tensors().keys()
    assert {name.split(".")[0] for name in names} == {"model", "average", "optimiser"}
    assert not [path for path in Path(undisturbed.checkpoint).rglob("*") if path.suffix in (".pt", ".pkl", ".pth")]


def test_random_states_come_back() -> None:
    training_state.seed_everything(1, 0)
    state = json.loads(json.dumps(training_state.random_state()))
    wanted = torch.rand(3)
    training_state.seed_everything(2, 0)
    training_state.set_random_state(state, "state.json")
    assert torch.equal(torch.rand(3), wanted)


def test_the_best_validation_is_kept_and_patience_ends_a_training(train_config: TrainConfig, store: str) -> None:
    import mlflow

    validation = ValidationConfig(every=2, videos=2, max_frames=4, patience=2)
    frozen = replace(train_config.optimiser, lr=1e-12, ema=0.0)  # nothing is learnt: the first score stays the best
    seen: list[int] = []
    config = replace(train_config, steps=20, validation=validation, optimiser=frozen)
    result = train(config, here=True, on_validated=lambda step, scores: seen.append(step))
    assert seen == [2, 4, 6], "two validations after the best one"
    assert json.loads(Path(result.checkpoint, "model.json").read_text())["step"] == 2
    assert result.metrics["best_step"] == 2
    assert [path.name for path in Path(result.checkpoint, "best").iterdir()] == ["step-0000002"]
    history = mlflow.MlflowClient(tracking_uri=store).get_metric_history(result.run_id, "val/j_and_f")
    assert [metric.step for metric in history] == [2, 4, 6]
    assert result.metrics["val/j_and_f"] == history[0].value


def test_the_best_model_of_the_older_checkpoint_is_there_when_the_newer_one_is_damaged(
    train_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.training import loop as training_loop

    scores = iter(
        [0.1, 0.2, 0.9, 0.3, 0.1, 0.1]
    )  # the best at step 2 and then at 3; on the way back from 2, none is better
    metrics = ("val/j_and_f", "val/j", "val/f")
    monkeypatch.setattr(training_loop, "validate", lambda *_: dict.fromkeys(metrics, next(scores)))
    config = replace(train_config, validation=ValidationConfig(every=1, videos=2, max_frames=4))
    mine = Path(config.out, "best", "mine", "model.json")

    def stop(step: int, _: dict[str, float]) -> None:
        mine.parent.mkdir(parents=True, exist_ok=True)
        mine.write_text("{}")
        if step == 4:
            raise Stopped

    with pytest.raises(Stopped):
        train(config, here=True, on_validated=stop)
    assert {path.name for path in Path(config.out, "best").iterdir()} == {"step-0000002", "step-0000003", "mine"}
    Path(config.out, "checkpoints", "step-0000004", training_state.TENSORS).write_bytes(b"cut")
    result = train(config, here=True)
    assert json.loads(Path(result.checkpoint, "model.json").read_text())["step"] == 2
    assert {path.name for path in Path(config.out, "best").iterdir()} == {"step-0000002", "mine"} and mine.exists()


def test_a_cache_that_was_extended_meanwhile_is_noticed_by_the_worker_that_reads_it(train_config: TrainConfig) -> None:
    about = {"role": "student", "config": {}, "cache": "f" * 32, "commit": ""}  # as the driver saw it
    with pytest.raises(InputError, match=r"extended or replaced.*ffffffffffff -> .*another --out") as refusal:
        run_training(train_config, about, Ranks(), lambda module: module, lambda *_: None)
    assert str(refusal.value).startswith(train_config.cache)
    assert not Path(train_config.out).exists()


def test_more_columns_than_the_cache_holds_are_refused(train_config: TrainConfig) -> None:
    with pytest.raises(InputError, match=r"--loss.rank 17: .* stores 16 columns"):
        train(replace(train_config, loss=replace(train_config.loss, rank=17)))


def test_a_loss_that_is_not_finite_names_the_draws(train_config: TrainConfig) -> None:
    config = replace(train_config, workers=2, optimiser=replace(train_config.optimiser, lr=1e30, warmup_steps=0))
    with pytest.raises(InputError, match=r"step \d: the (loss|gradient's norm) is (nan|inf) on draws \["):
        train(config)
    assert not Path(config.out, "model.safetensors").exists()
