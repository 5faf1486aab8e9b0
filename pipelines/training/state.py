"""Save and load a training's state: everything that a later process needs for an exact resume, readable without unpickling.

    checkpoints/step-0000200/model.safetensors   the averaged weights, with model.json: a checkpoint like any other
                             state.safetensors   weights, average and moments of the optimiser, float32
                             state.json          step, place in the data, random states, configuration; digests of the others

`state.json` is written last and sealed (`vos.files.seals`). A folder without it, or with files of other digests, is not a checkpoint and
is skipped with a note. A `state.json` that was edited, or belongs to another training, ends the training. A folder of any other name is
the user's and is not touched. The format does not depend on Ray Train: a training without Ray, or with another number of workers,
continues from the same files.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import os
import random
import re
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, TypedDict

import numpy as np
import torch
from safetensors.torch import save

from pipelines import storage
from pipelines.runtime.output_folder import identity_of
from vos.errors import InputError
from vos.files.canonical import differences
from vos.files.json_files import parse_json
from vos.files.seals import SEAL, sealed, unsealed
from vos.files.written import Written
from vos.models.checkpoint import DESCRIPTION, WEIGHTS, save_checkpoint
from vos.models.interface import VOSModel
from vos.models.weight_files import check_finite, parse_safetensors

FOLDER = "checkpoints"
TENSORS = "state.safetensors"
STATE = "state.json"
FORMAT = 1
KEPT = 2


@dataclass(frozen=True)
class Progress:
    """The progress of a training."""

    step: int = 0
    """Finished steps."""
    metrics: dict[str, float] = field(default_factory=dict)
    """Metrics of the last step."""
    best_step: int = 0
    best_score: float = -1.0
    """J&F of the best validation so far, after `best_step` (-1: none yet)."""
    waited: int = 0
    """Validations since then."""
    seconds: float = 0.0
    """Wall time of steps, validations and checkpoints, summed over restarts."""
    cpu_seconds: float = 0.0
    """CPU time of rank 0's process over the same, all threads; it measures a step's cost on a machine with other work."""
    teacher_forwards: int = 0
    """Clips on which a teacher has run; none with a cache."""
    stopped: bool = False
    """Whether patience has ended the training before its last step."""

    def validated(self, step: int, score: float, patience: int) -> Progress:
        if score > self.best_score:
            return replace(self, best_step=step, best_score=score, waited=0)
        waited = self.waited + 1
        return replace(self, waited=waited, stopped=bool(patience) and waited >= patience)


class RandomState(TypedDict):
    """The global random states of a process, as JSON."""

    torch: str
    cuda: str | None
    python: tuple[int, list[int], float | None]
    numpy: tuple[str, list[int], int, int, float]


class _Progress(TypedDict):
    step: int
    metrics: dict[str, float]
    best_step: int
    best_score: float
    waited: int
    seconds: float
    cpu_seconds: float
    teacher_forwards: int
    stopped: bool


class _State(TypedDict):
    format: int
    config: dict[str, Any]
    progress: _Progress
    manner: dict[str, Any]
    recent: list[tuple[int, dict[str, float]]]
    random: list[RandomState]
    sha256: dict[str, str]


@dataclass(frozen=True)
class Saved:
    """A complete checkpoint of a training, from its `state.json`."""

    folder: str
    progress: Progress
    manner: dict[str, Any]
    """Settings that change only the last bits: workers, micro-batch, threads, compilation."""
    recent: list[tuple[int, dict[str, float]]]
    """(step, metrics) of the last steps"""
    random: list[RandomState]
    """Random states, one of each rank."""
    sha256: dict[str, str]
    """Digests of the other files, by name."""

    def tensors(self) -> dict[str, torch.Tensor]:
        path = storage.join(self.folder, TENSORS)
        tensors = parse_safetensors(storage.read_bytes(path), path)
        check_finite(tensors, path)
        return tensors


def write(
    folder: Written,
    progress: Progress,
    average: VOSModel,
    tensors: dict[str, torch.Tensor],
    about: dict[str, Any],
    half: bool,
) -> None:
    """Save a checkpoint and delete all but the newest ones.

    folder   of the training
    average  the network to publish, in float16 with `half`
    about    JSON: `role`, `config`, `manner`, `recent`, `random`, `cache`, `commit`, `size_px` and the place in the data
    """
    files = {TENSORS: save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})}
    files |= model_files(average, describe(about, progress), half)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    state = {"format": FORMAT, **about, "progress": asdict(progress), "sha256": digests}
    write_model(
        folder, f"{FOLDER}/{folder_name(progress.step)}", {**files, STATE: sealed(state, folder.job, folder.of)}
    )
    steps = _own_steps(folder, FOLDER)
    # A checkpoint beyond this step was skipped as damaged, and will be made again.
    kept = [step for step in steps if step <= progress.step][-KEPT:]
    for step in sorted(set(steps) - set(kept)):
        remove_model(
            folder, f"{FOLDER}/{folder_name(step)}", (STATE, *files)
        )  # the state first, so that a partly deleted checkpoint is not taken for a complete one


def write_model(folder: Written, place: str, files: Mapping[str, bytes]) -> None:
    """Write the files of a step in their order; earlier files of this training with these names are replaced, damaged or not."""
    storage.make_folder(os.path.dirname(folder.path(f"{place}/{WEIGHTS}")))
    for name, data in files.items():
        folder.write(f"{place}/{name}", data, proven=folder.knows(f"{place}/{name}"))


def remove_model(folder: Written, place: str, names: tuple[str, ...]) -> None:
    """Delete the files of a step that this training wrote, damaged or not, in their order, and their folder if it is then empty."""
    for name in names:
        path = folder.path(f"{place}/{name}")
        if folder.knows(f"{place}/{name}"):
            storage.remove(path)
    storage.remove_folder(os.path.dirname(folder.path(f"{place}/{WEIGHTS}")))


def _own_steps(folder: Written, place: str) -> list[int]:
    """Return the steps of this training that a folder holds, in order."""
    steps = steps_in(storage.join(folder.root, place))
    return [
        step for step in steps if any(folder.knows(f"{place}/{folder_name(step)}/{name}") for name in (STATE, WEIGHTS))
    ]


def folder_name(step: int) -> str:
    """Return the folder name of a step."""
    return f"step-{step:07d}"


def steps_in(parent: str) -> list[int]:
    """Return the steps that have a subfolder, in order; folders of other names are the user's."""
    found = (re.fullmatch(r"step-(\d+)", name) for name in storage.list_folders(parent))
    return sorted(int(match[1]) for match in found if match and match[0] == folder_name(int(match[1])))


def describe(about: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Return the content of `model.json` for a network in training."""
    kept = {name: about[name] for name in ("role", "config", "cache", "commit", "size_px")}
    return {**kept, "step": progress.step}


def model_files(model: VOSModel, description: dict[str, Any], half: bool) -> dict[str, bytes]:
    """Return the files of a checkpoint folder by name, the description last."""
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(folder, copy.deepcopy(model).half() if half else model, description)
        return {name: storage.read_bytes(os.path.join(folder, name)) for name in (WEIGHTS, DESCRIPTION)}


def newest(folder: Written) -> Saved | None:
    """Return the newest complete checkpoint of a training, None where there is none.

    Raises InputError where one cannot be read, was edited, or belongs to another training: a resume from an older one would lose steps
    without notice.
    """
    found = {place: _described(folder, place) for place in _folders(folder)}
    for place, saved in reversed(found.items()):
        if saved is not None and _intact(saved):
            return saved
        if storage.list_names(place):
            print(f"note: {place}: damaged or unfinished, skipped", file=sys.stderr)
    return None


def best_steps(folder: Written) -> set[int]:
    """Return the best steps of the kept checkpoints; one of their models is published, whichever checkpoint is resumed."""
    found = (_described(folder, place) for place in _folders(folder))
    return {saved.progress.best_step for saved in found if saved is not None and saved.progress.best_step}


def _described(folder: Written, place: str) -> Saved | None:
    """Return the checkpoint that a folder's `state.json` describes, None where it is absent or was never sealed."""
    path = storage.join(place, STATE)
    repair = f"delete {place} to continue from an older checkpoint, or choose another --out"
    data = _read(path)
    try:
        values = parse_json(data or b"", path, repair, finite=False)
    except InputError:
        return None
    if not isinstance(values, dict) or SEAL not in values:
        return None
    try:
        state = unsealed(data or b"", _State, path, folder.job, None, repair)
        _check_state(state, values[SEAL]["of"], folder, place, repair)
    except InputError:
        if folder.overwrite:
            return None
        raise
    progress = Progress(**{name: state["progress"][name] for name in _Progress.__annotations__})
    return Saved(
        place, progress, state["manner"], [(step, m) for step, m in state["recent"]], state["random"], state["sha256"]
    )


def _check_state(state: _State, of: str, folder: Written, place: str, repair: str) -> None:
    """Raise InputError where an unchanged `state.json` of identity `of` belongs to another training or to another step."""
    path, step = storage.join(place, STATE), state["progress"]["step"]
    if of != folder.of:
        changed = "; ".join(differences(identity_of(folder) or {}, state["config"])) or "another fingerprint"
        raise InputError(f"{path}: belongs to another training ({changed}); {repair}")
    if state["format"] != FORMAT or folder_name(step) != os.path.basename(place) or step < 1:
        raise InputError(
            f"{path}: records step {step} and format {state['format']}, which do not fit its folder; {repair}"
        )


def _intact(saved: Saved) -> bool:
    files = ((_read(storage.join(saved.folder, name)), digest) for name, digest in saved.sha256.items())
    return all(data is not None and hashlib.sha256(data).hexdigest() == digest for data, digest in files)


def _read(path: str) -> bytes | None:
    """Return a file of a checkpoint, None where there is none."""
    try:
        return storage.read_bytes(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = " ".join((error.strerror or str(error)).lower().split())
        raise InputError(
            f"{path}: this checkpoint cannot be read ({reason}); fix this and run the same command again, "
            "or delete the checkpoint's folder to continue from an older one"
        ) from error


def publish(place: str, folder: Written) -> None:
    """Copy the model of a step's folder to the training's folder, as its result."""
    for name in (WEIGHTS, DESCRIPTION):
        folder.write(name, storage.read_bytes(storage.join(place, name)))


def _folders(folder: Written) -> list[str]:
    """Return the checkpoint folders, the newest last."""
    parent = os.path.dirname(folder.path(f"{FOLDER}/{STATE}"))
    return [os.path.dirname(folder.path(f"{FOLDER}/{folder_name(step)}/{STATE}")) for step in steps_in(parent)]


def random_state() -> RandomState:
    """Return the global random states of this process, as JSON."""
    version, numbers, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  # only the legacy generator has a global state
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {
        "torch": _text(torch.get_rng_state()),
        "cuda": None if cuda is None else _text(cuda),
        "python": (version, list(numbers), gauss),
        "numpy": (str(name), np.asarray(keys).tolist(), *rest),  # type: ignore[typeddict-item]
    }


def set_random_state(state: RandomState, path: str) -> None:
    """Restore the global random states. Raises InputError, naming the file, for states that cannot be restored."""
    try:
        _set_random_state(state)
    except (ValueError, TypeError, LookupError, ArithmeticError, RuntimeError) as error:
        raise InputError(f"{path}: holds a random state that cannot be restored ({error}); delete its folder") from None


def _set_random_state(state: RandomState) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, place, has_gauss, cached = state["numpy"]
    if len(keys) != 624 or not 0 <= place <= 624:  # NumPy does not check this, and would read out of bounds
        raise ValueError(f"a Mersenne twister has 624 numbers, not {len(keys)}, and a place among them")
    np.random.set_state((name, np.array(keys, np.uint32), place, has_gauss, cached))  # noqa: NPY002
    torch.set_rng_state(_tensor(state["torch"]))
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(_tensor(state["cuda"]))


def seed_everything(seed: int, rank: int) -> None:
    """Seed the global random states from (seed, rank). This project does not draw from them, but a user's network may."""
    state = np.random.SeedSequence([seed, rank]).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(int(state[1]))  # noqa: NPY002
    torch.manual_seed(int(state[2]))


def _text(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
