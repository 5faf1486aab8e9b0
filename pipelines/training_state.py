"""A training on disk: everything that a later process needs to go on as if nothing had happened, readable without unpickling.

    checkpoints/step-0000200/model.safetensors   the averaged weights, with model.json: a checkpoint like any other
                             state.safetensors   weights, average and moments of the optimiser, float32
                             state.json          step, place in the data, random states, configuration; digests of the others

`state.json` is written last: a folder without it, or whose files are not the ones it names, is no checkpoint and is passed over. So is a
folder of any other name: it is the user's, and is left alone. The folder is not Ray Train's: a training without Ray, or with another
number of workers, continues from the same files.
"""

from __future__ import annotations

import base64
import copy
import hashlib
import json
import os
import random
import re
import tempfile
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import numpy as np
import torch
from safetensors.torch import load, save

from pipelines import storage
from vos.checkpoint import DESCRIPTION, WEIGHTS, save_checkpoint
from vos.errors import InputError
from vos.models.interface import VOSModel

FOLDER = "checkpoints"
TENSORS = "state.safetensors"
STATE = "state.json"
FORMAT = 1
KEPT = 2


@dataclass(frozen=True)
class Progress:
    """Where a training is."""

    step: int = 0
    """Steps that are done."""
    metrics: dict[str, float] = field(default_factory=dict)
    """What the last step measured."""
    best_step: int = 0
    best_score: float = -1.0
    """The best validation so far: after which step, and its J&F (-1: none yet)."""
    waited: int = 0
    """Validations in a row since then."""
    seconds: float = 0.0
    """Time spent in steps, validations and checkpoints, over all processes that worked on it one after the other."""
    cpu_seconds: float = 0.0
    """Processor time of rank 0's process over the same, all of its threads: what a step costs on a machine with other work."""
    teacher_forwards: int = 0
    """Clips that a teacher was shown meanwhile: none, with a cache."""
    stopped: bool = False
    """Whether patience has ended the training before its last step."""

    def validated(self, step: int, score: float, patience: int) -> Progress:
        if score > self.best_score:
            return replace(self, best_step=step, best_score=score, waited=0)
        waited = self.waited + 1
        return replace(self, waited=waited, stopped=bool(patience) and waited >= patience)


@dataclass(frozen=True)
class Saved:
    """A complete checkpoint of a training, as its `state.json` says."""

    folder: str
    progress: Progress
    manner: dict[str, Any]
    """What changes last bits and nothing else: workers, micro-batch, threads, compilation."""
    recent: list[tuple[int, dict[str, float]]]
    """(step, metrics) of the last steps"""
    random: list[dict[str, Any]]
    """Random states, one of each rank."""
    sha256: dict[str, str]
    """Digests of the other files, by name."""

    def tensors(self) -> dict[str, torch.Tensor]:
        return load(storage.read_bytes(storage.join(self.folder, TENSORS)))


def write(
    out: str,
    progress: Progress,
    average: VOSModel,
    tensors: dict[str, torch.Tensor],
    about: dict[str, Any],
    half: bool,
) -> None:
    """Save a checkpoint and drop all but the newest ones, of which it is one.

    average  the network to ship, `half` in float16
    about    JSON: `role`, `config`, `manner`, `recent`, `random`, `cache`, `commit` and the place in the data
    """
    parent = storage.join(out, FOLDER)
    folder = storage.join(parent, folder_name(progress.step))
    storage.make_folder(folder)
    files = {TENSORS: save({name: value.detach().cpu().contiguous() for name, value in tensors.items()})}
    files |= model_files(average, describe(about, progress), half)
    for name, data in files.items():
        storage.write_bytes(storage.join(folder, name), data)
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    state = {"format": FORMAT, **about, "progress": asdict(progress), "sha256": digests}
    storage.write_bytes(storage.join(folder, STATE), json.dumps(state, indent=1).encode())
    steps = steps_in(parent)
    # What lies beyond this step was passed over as damaged, or this step would not be done now: it is about to be made again.
    kept = [step for step in steps if step <= progress.step][-KEPT:]
    for step in sorted(set(steps) - set(kept)):
        old = storage.join(parent, folder_name(step))
        for name in (STATE, *files):  # the state first: half a folder must not look like a whole one
            storage.remove(storage.join(old, name))
        storage.remove_folder(old)


def folder_name(step: int) -> str:
    """What the folder of a step is called."""
    return f"step-{step:07d}"


def steps_in(parent: str) -> list[int]:
    """The steps that a folder holds folders of, in order; folders of other names are the user's."""
    found = (re.fullmatch(r"step-(\d+)", name) for name in storage.list_folders(parent))
    return sorted(int(match[1]) for match in found if match and match[0] == folder_name(int(match[1])))


def describe(about: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """What `model.json` says of a network in training."""
    kept = {name: about[name] for name in ("role", "config", "cache", "commit")}
    return {**kept, "step": progress.step}


def model_files(model: VOSModel, description: dict[str, Any], half: bool) -> dict[str, bytes]:
    """The files of a checkpoint folder, by name, the description last."""
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(folder, copy.deepcopy(model).half() if half else model, description)
        return {name: storage.read_bytes(os.path.join(folder, name)) for name in (WEIGHTS, DESCRIPTION)}


def newest(out: str) -> Saved | None:
    """The newest complete checkpoint of a training, None where there is none.

    Raises InputError when one is there and cannot be read: to begin again from an older one would lose steps in silence.
    """
    found = (_described(folder) for folder in reversed(_folders(out)))
    return next((saved for saved in found if saved is not None and _intact(saved)), None)


def best_steps(out: str) -> set[int]:
    """The steps whose models the kept checkpoints call the best: one of them is shipped, whichever checkpoint is continued from."""
    found = (_described(folder) for folder in _folders(out))
    return {saved.progress.best_step for saved in found if saved is not None and saved.progress.best_step}


def _described(folder: str) -> Saved | None:
    """What the `state.json` of a checkpoint says, None where there is none that makes sense."""
    text = _read(storage.join(folder, STATE))
    if text is None:
        return None
    try:
        state = json.loads(text)
        if state["format"] != FORMAT:
            return None
        recent = [(step, metrics) for step, metrics in state["recent"]]
        about = (state["manner"], recent, state["random"], dict(state["sha256"]))
        return Saved(folder, Progress(**state["progress"]), *about)
    except (ValueError, KeyError, TypeError):
        return None


def _intact(saved: Saved) -> bool:
    files = ((_read(storage.join(saved.folder, name)), digest) for name, digest in saved.sha256.items())
    return all(data is not None and hashlib.sha256(data).hexdigest() == digest for data, digest in files)


def _read(path: str) -> bytes | None:
    """A file of a checkpoint, None where there is none."""
    try:
        return storage.read_bytes(path)
    except FileNotFoundError:
        return None
    except OSError as error:
        reason = " ".join((error.strerror or str(error)).lower().split())
        raise InputError(
            f"{path}: this checkpoint cannot be read ({reason}); mend that and run the same command again, "
            "or delete the checkpoint's folder to continue from an older one"
        ) from error


def publish(folder: str, out: str) -> None:
    """Make the model of a folder the result of the training, whatever happens in between."""
    for name in (WEIGHTS, DESCRIPTION):
        storage.write_bytes(storage.join(out, name), storage.read_bytes(storage.join(folder, name)))


def _folders(out: str) -> list[str]:
    """Checkpoint folders, the newest last."""
    parent = storage.join(out, FOLDER)
    return [storage.join(parent, folder_name(step)) for step in steps_in(parent)]


def random_state() -> dict[str, Any]:
    """The global random states of this process, as JSON."""
    version, numbers, gauss = random.getstate()
    name, keys, *rest = np.random.get_state()  # noqa: NPY002  # the legacy generator is the one with a global state
    cuda = torch.cuda.get_rng_state() if torch.cuda.is_available() else None
    return {
        "torch": _text(torch.get_rng_state()),
        "cuda": None if cuda is None else _text(cuda),
        "python": [version, list(numbers), gauss],
        "numpy": [name, np.asarray(keys).tolist(), *rest],
    }


def set_random_state(state: dict[str, Any]) -> None:
    version, numbers, gauss = state["python"]
    random.setstate((version, tuple(numbers), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), *rest))  # noqa: NPY002
    torch.set_rng_state(_tensor(state["torch"]))
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(_tensor(state["cuda"]))


def seed_everything(seed: int, rank: int) -> None:
    """Nothing of ours draws from a global random state; what a network of the user's own draws is a function of (seed, rank)."""
    state = np.random.SeedSequence([seed, rank]).generate_state(3)
    random.seed(int(state[0]))
    np.random.seed(int(state[1]))  # noqa: NPY002
    torch.manual_seed(int(state[2]))


def _text(state: torch.Tensor) -> str:
    return base64.b64encode(state.numpy().tobytes()).decode()


def _tensor(text: str) -> torch.Tensor:
    return torch.frombuffer(bytearray(base64.b64decode(text)), dtype=torch.uint8)
