"""The kill command for trainings: what it compares, and a short run of it. `python -m tests.chaos.train --kills 30` is the whole."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.training.launch import train
from tests.chaos import train as chaos
from vos.config import TrainConfig


def test_a_single_bit_of_the_weights_or_of_the_state_would_be_reported(train_config: TrainConfig, tmp_path: Path):
    calm = Path(train(replace(train_config, checkpoint_every=4), here=True, register=False).checkpoint)
    copied = Path(shutil.copytree(calm, tmp_path / "copied"))
    assert chaos.compare(copied, calm) == []
    for name in ("model.safetensors", "checkpoints/step-0000004/state.safetensors"):
        data = bytearray((copied / name).read_bytes())
        data[-1] ^= 1
        (copied / name).write_bytes(data)
    first, second = chaos.compare(copied, calm)
    assert first.startswith("model.safetensors: 1 of ") and "state.safetensors: 1 of " in second


@pytest.mark.slow
def test_kills_of_driver_and_worker_leave_the_weights_of_an_undisturbed_training():
    assert chaos.main(["--kills", "3", "--steps", "60"]) == 0
