"""Whose folder an --out is: new, empty or this job's; a lost or damaged mark never makes it a new one."""

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import storage
from pipelines.runtime.output_folder import OutputFile, claim, existing, output_folder
from pipelines.training import state as training_state
from pipelines.training.launch import train
from pipelines.training.loop import TRAIN
from vos.config import TrainConfig
from vos.config.presets import preset
from vos.errors import InputError
from vos.files.canonical import fingerprint
from vos.files.seals import sealed
from vos.files.written import LEDGER, Written


@pytest.fixture(scope="module")
def finished(store: str, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """A training of three steps without a cache, finished."""
    out = str(tmp_path_factory.mktemp("finished") / "out")
    config = replace(preset(TrainConfig, "smoke"), here=True, steps=3, checkpoint_every=1, out=out)
    train(config, register=False)
    return config


@pytest.fixture
def config(finished: TrainConfig, tmp_path: Path) -> TrainConfig:
    """That training in a folder of its own, to damage."""
    import shutil

    return replace(finished, out=str(shutil.copytree(finished.out, tmp_path / "out")))


def content(folder: str) -> dict[str, bytes]:
    """Every file but config.json, which says where it lies."""
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != "config.json"]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def edit(path: Path, change: Callable[[dict], object]) -> None:
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def test_the_same_command_finds_it_finished_and_a_copy_of_the_folder_too(config: TrainConfig, capsys):
    before = content(config.out)
    assert train(config).checkpoint == config.out
    assert "already finished" in capsys.readouterr().out
    assert content(config.out) == before


DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no identity": (lambda out: (out / "identity.json").unlink(), "holds files that this job did not write"),
    "empty identity": (lambda out: (out / "identity.json").write_text(""), "identity.json: not JSON"),
    "half an identity": (lambda out: os.truncate(out / "identity.json", 99), "identity.json: not JSON"),
    "edited identity": (
        lambda out: edit(out / "identity.json", lambda values: values["identity"].update(seed=7)),
        "identity.json: was changed",
    ),
    "identity of old": (
        lambda out: (out / "identity.json").write_text(json.dumps({"seed": 0})),
        "identity.json: has no seal.*earlier version",
    ),
    "an identity that is a list": (lambda out: (out / "identity.json").write_text("[]"), "instead of an object"),
    "another job's": (
        lambda out: (out / "identity.json").write_bytes(sealed({"identity": {}}, "tune", fingerprint({}))),
        "written by jobs.tune",
    ),
    "edited result": (
        lambda out: edit(out / "result.json", lambda values: values.update(version="model/9")),
        "result.json: was changed",
    ),
    "half a result": (lambda out: os.truncate(out / "result.json", 40), "result.json: not JSON"),
    "a result of another training": (
        lambda out: (out / "result.json").write_bytes(sealed({"run_id": "a"}, "train", "another")),
        "result.json: belongs to another run",
    ),
    "edited run": (
        lambda out: edit(out / "run.json", lambda values: values.update(run_id="7")),
        "run.json: was changed",
    ),
    "other weights": (
        lambda out: (out / "model.safetensors").write_bytes(b"other"),
        "model.safetensors: is not the file that this training made",
    ),
    "no weights": (
        lambda out: (out / "model.safetensors").unlink(),
        "model.safetensors: is not the file that this training made",
    ),
}


@pytest.mark.parametrize("seed", [0, 3], ids=["same seed", "another seed"])
@pytest.mark.parametrize("name", DAMAGES)
def test_a_folder_whose_files_cannot_be_believed_is_refused_and_left_as_it_is(
    name: str, seed: int, config: TrainConfig, capsys
):
    damage, said = DAMAGES[name]
    damage(Path(config.out))
    before = content(config.out)
    wanted = said if seed == 0 or "identity" in name or name == "another job's" else r"seed: 0 -> 3"
    with pytest.raises(InputError, match=wanted) as refusal:
        train(replace(config, seed=seed))
    assert "\n" not in str(refusal.value) and content(config.out) == before
    assert "already finished" not in capsys.readouterr().out


def unfinished(config: TrainConfig) -> Path:
    """The folder as a kill after its second step would have left it; returns the folder of that step."""
    out = Path(config.out)
    for name in ("result.json", "model.safetensors", "model.json"):
        (out / name).unlink()
    import shutil

    shutil.rmtree(out / "checkpoints/step-0000003")
    return out / "checkpoints/step-0000002"


def sealed_state(state: Path, change: Callable[[dict], object]) -> None:
    """Edit a state.json and seal it again, as somebody would who reads this code."""
    values = json.loads(state.read_text())
    seal = values.pop("seal")
    change(values)
    state.write_bytes(sealed(values, seal["job"], seal["of"]))


STATES: dict[str, tuple[Callable[[Path], object], str]] = {
    "edited step": (
        lambda state: edit(state, lambda v: v["progress"].update(step=3)),
        "was changed after it was written",
    ),
    "step of another folder": (
        lambda state: sealed_state(state, lambda v: v["progress"].update(step=3)),
        "records step 3",
    ),
    "negative step": (lambda state: sealed_state(state, lambda v: v["progress"].update(step=-2)), "records step -2"),
    "text for a step": (
        lambda state: sealed_state(state, lambda v: v["progress"].update(step="2")),
        "instead of an integer",
    ),
    "a list for the progress": (
        lambda state: sealed_state(state, lambda v: v.update(progress=[])),
        "instead of an object",
    ),
    "no digests": (lambda state: sealed_state(state, lambda v: v.pop("sha256")), "lacks 'sha256'"),
    "garbage for a random state": (
        lambda state: sealed_state(state, lambda v: v["random"][0].update(torch="%%%")),
        "random state that cannot be restored",
    ),
    "a short random state": (
        lambda state: sealed_state(state, lambda v: v["random"][0].update(numpy=["MT19937", [1], 0, 0, 0.0])),
        "random state that cannot be restored",
    ),
    "an old random state": (
        lambda state: sealed_state(state, lambda v: v["random"][0].update(python=[1, [1], None])),
        "random state that cannot be restored",
    ),
    "of another training": (
        lambda state: state.write_bytes(
            sealed(
                {**_without_seal(state), "config": {**_without_seal(state)["config"], "seed": 9}}, "train", "another"
            )
        ),
        "belongs to another training .seed: 0 -> 9",
    ),
}


def _without_seal(state: Path) -> dict:
    values = json.loads(state.read_text())
    del values["seal"]
    return values


@pytest.mark.parametrize("name", STATES)
def test_a_checkpoint_that_is_not_this_trainings_or_was_edited_is_not_continued(name: str, config: TrainConfig):
    damage, said = STATES[name]
    state = unfinished(config) / training_state.STATE
    damage(state)
    before = content(config.out)
    with pytest.raises(InputError, match=said) as refusal:
        train(config, register=False)
    assert "state.json" in str(refusal.value) and "\n" not in str(refusal.value)
    assert content(config.out) == before


def test_a_checkpoint_beyond_the_plan_is_not_continued(config: TrainConfig):
    place = unfinished(config)
    place.rename(place.with_name("step-0000009"))
    sealed_state(
        place.with_name("step-0000009") / training_state.STATE, lambda values: values["progress"].update(step=9)
    )
    with pytest.raises(InputError, match="holds step 9, beyond the last one, 3"):
        train(config, register=False)


def test_a_users_folder_with_a_steps_name_is_neither_continued_nor_deleted(config: TrainConfig, finished: TrainConfig):
    unfinished(config)
    mine = Path(config.out, "checkpoints", "step-0000001", "notes.txt")
    mine.parent.mkdir()
    mine.write_text("mine")
    train(config, register=False)
    assert mine.read_text() == "mine"
    assert Path(config.out, "model.safetensors").read_bytes() == Path(finished.out, "model.safetensors").read_bytes()


def test_with_overwrite_a_folder_that_cannot_be_believed_is_begun_anew(config: TrainConfig, finished: TrainConfig):
    (Path(config.out) / "identity.json").write_text("")
    Path(config.out, "notes.txt").write_text("mine")
    other = replace(config, seed=3, overwrite=True)
    train(other, register=False)
    assert existing(config.out, TRAIN).read_json("result.json", dict, "") is not None
    assert Path(config.out, "model.safetensors").read_bytes() != Path(finished.out, "model.safetensors").read_bytes()
    assert Path(config.out, "notes.txt").read_text() == "mine"
    model = Path(config.out, "model.safetensors")
    model.write_bytes(b"damaged")
    train(other, register=False)
    assert model.stat().st_size > 100, "published again from the last checkpoint"


@pytest.mark.parametrize("names", [["README.md"], ["a/b.txt"], [LEDGER, "thesis.tex"]])
def test_a_folder_of_the_users_is_refused_with_names_and_untouched(names: list[str], tmp_path: Path):
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("mine")
    config = TrainConfig(out=str(tmp_path))
    for out in (str(tmp_path), f"file://{tmp_path}"):
        with (
            pytest.raises(
                InputError, match=f"did not write .{names[-1].split('/')[0]}.*choose another --out.*--overwrite"
            ),
            output_folder(replace(config, out=out), TRAIN),
        ):
            pass
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted({name.split("/")[0] for name in names})


def test_what_a_kill_in_the_first_moment_leaves_is_still_a_new_folder(tmp_path: Path):
    config = TrainConfig(out=str(tmp_path))
    (tmp_path / storage.LOCK).touch()
    (tmp_path / f"identity.json.{'0' * 32}.tmp").write_text("{")
    with output_folder(config, TRAIN) as folder:
        assert not claim(folder, config, {"seed": 1}, "a training")
        assert claim(folder, config, {"seed": 1}, "a training")


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_a_lock_that_is_no_file_is_refused(kind: str, tmp_path: Path):
    (tmp_path / "out").mkdir()
    lock = tmp_path / "out" / storage.LOCK
    lock.symlink_to(tmp_path / "theirs") if kind == "link" else os.mkfifo(lock)
    config = TrainConfig(out=str(tmp_path / "out"))
    if kind == "link":
        with pytest.raises(InputError, match=r"\.lock: cannot be used"), output_folder(config, TRAIN):
            pass
        assert not (tmp_path / "theirs").exists()
    else:
        with output_folder(config, TRAIN):  # of no harm, and nothing waits
            pass


def test_a_single_file_is_replaced_only_where_this_job_wrote_it(tmp_path: Path):
    path = tmp_path / "scores.csv"
    file = OutputFile(str(path), "evaluate", overwrite=False)
    path.write_text("mine")
    with pytest.raises(InputError, match="scores.csv would be replaced"):
        file.check()
    replace(file, overwrite=True).write(b"ours")
    file.check()
    file.write(b"ours again")
    path.write_text("mine")
    with pytest.raises(InputError, match="scores.csv would be replaced"):
        file.write(b"ours")
    assert path.read_text() == "mine"


def test_files_of_another_process_of_the_job_are_ours(tmp_path: Path):
    first, second = (Written(str(tmp_path), "evaluate") for _ in range(2))
    assert second.owns("a.png")
    first.write("a.png", b"1")
    second.write("a.png", b"2")
    first.write("a.png", b"3")
