"""Checkpoints of a training on disk: which one it goes on from, what is dropped, and what is nobody's but the user's."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines import storage
from pipelines.training import state as training_state
from pipelines.training.state import Progress
from vos.errors import InputError
from vos.files.canonical import fingerprint
from vos.files.written import Written
from vos.models import build
from vos.models.interface import VOSModel

ABOUT: dict[str, Any] = {
    **{"role": "student", "config": {}, "cache": "none", "commit": "", "size_px": 0},
    **{"manner": {}, "recent": [], "random": []},
}


@pytest.fixture(scope="module")
def network() -> VOSModel:
    return build("mobilevos-tiny").eval()


@pytest.fixture
def checkpoint(network: VOSModel, tmp_path: Path):
    """A function that writes the checkpoint of a step and returns its folder."""

    def write(step: int) -> Path:
        tensors = {"model.a": torch.zeros(2)}
        training_state.write(of(tmp_path), Progress(step=step), network, tensors, ABOUT, half=False)
        return tmp_path / "checkpoints" / f"step-{step:07d}"

    return write


def of(out: Path) -> Written:
    """The folder of the training whose identity is empty."""
    return Written(str(out), "train", fingerprint(ABOUT["config"]))


def names(out: Path) -> list[str]:
    return storage.list_folders(str(out / "checkpoints"))


def newest_step(out: Path) -> int:
    saved = training_state.newest(of(out))
    return saved.progress.step if saved else 0


def damage(folder: Path) -> None:
    path = folder / training_state.TENSORS
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_the_two_newest_checkpoints_are_kept(checkpoint: Any, tmp_path: Path) -> None:
    for step in (100, 9_999_999, 10_000_000):  # the last has a digit more and sorts before the others as text
        checkpoint(step)
    assert names(tmp_path) == ["step-10000000", "step-9999999"] and newest_step(tmp_path) == 10_000_000


@pytest.mark.parametrize("name", ["before-lr-change", "step-good", "step-0000100-copy", "step-00000100", "step-1"])
def test_a_copy_that_the_user_made_is_neither_deleted_nor_continued_from(
    name: str, checkpoint: Any, tmp_path: Path
) -> None:
    shutil.copytree(checkpoint(100), tmp_path / "checkpoints" / name)
    for step in (200, 300):
        checkpoint(step)
    assert sorted(path.name for path in (tmp_path / "checkpoints" / name).iterdir()) == [
        *("model.json", "model.safetensors", "state.json", "state.safetensors")
    ]
    assert set(names(tmp_path)) == {name, "step-0000200", "step-0000300"} and newest_step(tmp_path) == 300


def test_a_checkpoint_that_was_just_written_outlives_damaged_ones_of_later_steps(
    checkpoint: Any, tmp_path: Path
) -> None:
    for step in (400, 600):
        damage(checkpoint(step))
    assert newest_step(tmp_path) == 0
    for step in (200, 300):
        checkpoint(step)
        assert newest_step(tmp_path) == step
    assert names(tmp_path) == ["step-0000200", "step-0000300"]


@pytest.mark.parametrize("text", ["", "[]", "7", "{}", '{"format": 1}', '{"format": 1, "recent": 3}', None])
def test_a_checkpoint_without_a_sensible_state_is_passed_over(
    text: str | None, checkpoint: Any, tmp_path: Path
) -> None:
    checkpoint(1)
    state = checkpoint(2) / training_state.STATE
    state.unlink()
    if text is not None:
        state.write_text(text)
    assert newest_step(tmp_path) == 1


@pytest.mark.parametrize("file", ["state.safetensors", "model.safetensors", "model.json"])
def test_a_checkpoint_that_lacks_a_file_is_passed_over(file: str, checkpoint: Any, tmp_path: Path) -> None:
    checkpoint(1)
    (checkpoint(2) / file).unlink()
    assert newest_step(tmp_path) == 1


@pytest.mark.parametrize("file", ["state.json", "state.safetensors"])
def test_a_checkpoint_that_is_there_and_cannot_be_read_ends_the_training_in_one_line(
    file: str, checkpoint: Any, tmp_path: Path
) -> None:
    checkpoint(1)
    path = checkpoint(2) / file
    path.unlink()
    path.symlink_to(path.name)  # what no rights of root's can follow
    with pytest.raises(InputError, match=r"cannot be read.*symbolic links.*run the same command again") as refusal:
        training_state.newest(of(tmp_path))
    assert str(refusal.value).startswith(str(path)) and "\n" not in str(refusal.value)
    shutil.rmtree(path.parent)
    assert newest_step(tmp_path) == 1


def test_a_store_that_cannot_be_reached_is_not_taken_for_a_training_without_checkpoints(
    checkpoint: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint(1)

    def refused(path: str) -> bytes:
        raise InputError(f"{path}: cannot be used as a URI (no answer)")

    monkeypatch.setattr(storage, "read_bytes", refused)
    with pytest.raises(InputError, match="no answer"):
        training_state.newest(of(tmp_path))
