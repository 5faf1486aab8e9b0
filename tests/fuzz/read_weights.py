"""Checkpoints, bare weights, the state of a training, exported graphs."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import TensorProto, helper

from pipelines.training import state as training_state
from pipelines.training.state import Progress
from tests.fuzz import weight_files
from tests.fuzz.byte_mutations import CHANGES, any_bytes, in_one_file
from tests.fuzz.cases import Files, Mutation, NotTellableError, Reader
from tests.fuzz.json_mutations import json_changes, strict
from tests.fuzz.seals import RUN, sealed, sealed_mutations, unsealed
from vos.files.written import Written
from vos.inference.graph_files import ExportedGraphs
from vos.inference.graphs import ENGINE_GRAPHS, NEEDED
from vos.inference.runtimes import OnnxRuntime
from vos.models import build
from vos.models.checkpoint import load_checkpoint, save_checkpoint
from vos.models.interface import VOSModel

MODEL = "mobilevos-tiny"


def _model() -> VOSModel:
    torch.manual_seed(0)
    return build(MODEL).half().eval()


def _folder_files(folder: Path) -> Files:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def checkpoint_samples(folder: Path) -> dict[str, Files]:
    save_checkpoint(str(folder / "model"), _model(), {"role": "student", "step": 7})
    return {"half": _folder_files(folder / "model")}


def _digest(state: dict[str, np.ndarray]) -> str:
    """Of float32 values, as networks have them once loaded."""
    digest = hashlib.sha256()
    for name, array in sorted(state.items()):
        digest.update(f"{name} {array.shape} ".encode())
        digest.update(
            np.ascontiguousarray(
                array.astype(np.float32) if array.dtype.kind == "f" else array.astype(np.int64)
            ).tobytes()
        )
    return digest.hexdigest()


def _weights(model: VOSModel) -> str:
    return _digest({name: tensor.numpy() for name, tensor in model.state_dict().items()})


def read_checkpoint(folder: Path) -> dict[str, Any]:
    model, description = load_checkpoint(str(folder))
    described = {
        name: description.get(name) for name in ("model", "role", "step", "preprocessing", "batch_norm_frozen")
    }
    return {"weights": _weights(model), **described}


def checkpoint_by_others(folder: Path) -> dict[str, Any]:
    description = json.loads((folder / "model.json").read_bytes())
    if "seal" in description:  # those of earlier versions have none
        assert (
            unsealed((folder / "model.json").read_bytes(), "checkpoint")["weights_sha256"]
            == hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        )
    state = weight_files.parsed((folder / "model.safetensors").read_bytes())
    wanted = {name: tuple(tensor.shape) for name, tensor in build(MODEL).state_dict().items()}
    assert {name: array.shape for name, array in state.items()} == wanted, "other tensors"
    assert all(np.isfinite(array).all() for array in state.values()), "not finite"
    assert description["model"] == MODEL and description.get("preprocessing", "imagenet") in ("imagenet", "tensorflow")
    assert description.get("role") in ("teacher", "student", None)
    described = {
        name: description.get(name) for name in ("model", "role", "step", "preprocessing", "batch_norm_frozen")
    }
    return {"weights": _digest(state), **described}


def pth_samples(folder: Path) -> dict[str, Files]:
    state = _model().state_dict()
    found: dict[str, Files] = {}
    for name, settings in (("zip", {}), ("old", {"_use_new_zipfile_serialization": False})):
        sink = io.BytesIO()
        torch.save({f"module.{key}": tensor for key, tensor in state.items()}, sink, **settings)
        found[name] = {"model.pth": sink.getvalue()}
    return found


def read_pth(folder: Path) -> str:
    return _weights(load_checkpoint(str(folder / "model.pth"), MODEL)[0])


def pth_by_others(folder: Path) -> str:
    """Only an archive's CRC-32 tells; the old format has no checksum."""
    import zipfile

    path = folder / "model.pth"
    if not zipfile.is_zipfile(path):
        raise NotTellableError
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(set(names)) < len(names):
            raise ValueError("a name twice")
        if damaged := archive.testzip():
            raise ValueError(f"{damaged}: wrong CRC")
    raise NotTellableError


ABOUT: dict[str, Any] = {"role": "student", "config": {}, "cache": "none", "commit": "", "size_px": 0, "manner": {}}


def state_samples(folder: Path) -> dict[str, Files]:
    about = {**ABOUT, "recent": [[1, {"train/total": 0.5}]], "random": [training_state.random_state()]}
    for step in (1, 2):
        tensors = {"model.a": torch.full((50,), float(step)), "adam.b": torch.zeros(3, 3)}
        training_state.write(
            Written(str(folder / "run"), "train", RUN),
            Progress(step=step, metrics={"train/total": 0.5}),
            _tiny(),
            tensors,
            about,
            half=True,
        )
    return {"two steps": _folder_files(folder / "run")}


def _tiny() -> VOSModel:
    torch.manual_seed(0)
    return build(MODEL).eval()


def read_state(folder: Path) -> dict[str, Any]:
    saved = training_state.newest(Written(str(folder), "train", RUN))
    if saved is None:
        return {"step": 0}
    for one in saved.random:
        training_state.set_random_state(one, str(folder))
    return {
        "step": saved.progress.step,
        "folder": os.path.basename(saved.folder),
        "progress": dict(vars(saved.progress)),
        "manner": saved.manner,
        "recent": [[step, dict(metrics)] for step, metrics in saved.recent],
        "tensors": _digest({name: tensor.numpy() for name, tensor in saved.tensors().items()}),
        "random": saved.random,
    }


def state_by_others(folder: Path) -> dict[str, Any]:
    """The newest folder whose files are those that its state.json lists; where a state.json cannot be parsed, the one before it."""
    for place in sorted((folder / "checkpoints").glob("step-*"), reverse=True):
        try:
            strict((place / "state.json").read_bytes())
            state = unsealed((place / "state.json").read_bytes(), "train")
            assert state["seal"]["of"] == RUN
            assert state["format"] == 1 and set(state["sha256"]) == {
                "state.safetensors",
                "model.safetensors",
                "model.json",
            }
            for name, digest in state["sha256"].items():
                assert hashlib.sha256((place / name).read_bytes()).hexdigest() == digest
        except (OSError, ValueError, KeyError, TypeError, AssertionError, RecursionError):
            continue
        progress = state["progress"]
        assert f"step-{progress['step']:07d}" == place.name, "another step"
        assert set(progress) == set(vars(Progress())), "fields of the progress"
        assert all(type(progress[name]) in (type(value), int) for name, value in vars(Progress()).items()), "types"
        tensors = _digest(weight_files.parsed((place / "state.safetensors").read_bytes()))
        known = {"step": progress["step"], "folder": place.name, "progress": progress, "manner": state["manner"]}
        return {**known, "recent": state["recent"], "tensors": tensors, "random": state["random"]}
    return {"step": 0}


def graph_samples(folder: Path) -> dict[str, Files]:
    found: dict[str, Files] = {}
    for why, size, objects in (("any size", None, None), ("one size", [64, 96], 1)):
        files = {f"{name}.onnx": _graph(name) for name in NEEDED}
        text: dict[str, Any] = {
            "model": MODEL,
            "parameters": 7,
            "precision": "fp32",
            "format": "onnx",
            "size": size,
            "objects": objects,
        }
        text["files"] = {name: f"{name}.onnx" for name in NEEDED}
        text["sha256"] = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
        found[why] = {"graphs.json": sealed(text, "export", RUN).encode(), **files}
    return found


def _graph(name: str) -> bytes:
    """A graph with the tensors of the real one, that adds some weights to the first of them."""
    real = ENGINE_GRAPHS[name]
    inputs, outputs = (
        [helper.make_tensor_value_info(one, TensorProto.FLOAT, [1, 4]) for one in names]
        for names in (real.inputs, real.outputs)
    )
    weight = helper.make_tensor("w", TensorProto.FLOAT, [4], np.arange(4, dtype=np.float32).tobytes(), raw=True)
    nodes = [helper.make_node("Add", [real.inputs[0], "w"], [one]) for one in real.outputs]
    graph = helper.make_graph(nodes, name, inputs, outputs, [weight])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8).SerializeToString()


def read_graphs(folder: Path) -> dict[str, Any]:
    graphs = ExportedGraphs(str(folder))
    graphs.check_objects(1)
    files = graphs.read((64, 96))
    OnnxRuntime(graphs, 1).prepare((64, 96))
    return {
        "files": {name: hashlib.sha256(one.data).hexdigest() for name, one in files.items()},
        "precision": graphs.precision,
    }


def graphs_by_others(folder: Path) -> dict[str, Any]:
    text = unsealed((folder / "graphs.json").read_bytes(), "export")
    assert text.get("size") in (None, [64, 96]) and text.get("objects") in (None, 0, 1), "not for these frames"
    assert text["precision"] in ("fp32", "int8") and text.get("format", "onnx") == "onnx"
    digests = {}
    for name in NEEDED:
        data = (folder / os.path.basename(text["files"][name])).read_bytes()
        assert text["sha256"][text["files"][name]] == hashlib.sha256(data).hexdigest(), "another file"
        digests[name] = hashlib.sha256(data).hexdigest()
        if data != _graph(name):
            raise NotTellableError  # digests made right: what a graph computes proves nothing
    return {"files": digests, "precision": text["precision"]}


def _weight_mutations(names: str, tensors: str) -> dict[str, Mutation]:
    headers = {
        "header": weight_files.on(tensors, weight_files.change_header),
        "numbers": weight_files.on(tensors, weight_files.change_numbers),
    }
    raw = {**any_bytes(), **headers, **json_changes(lambda name: name.endswith(names))}
    return {**raw, **sealed_mutations(".safetensors")}


def _archives() -> dict[str, Mutation]:
    change = weight_files.on(".pth", weight_files.change_archive)
    return {**any_bytes(), **{f"archive {i}": change for i in range(6)}}


READERS = [
    Reader(
        "checkpoint",
        checkpoint_samples,
        read_checkpoint,
        checkpoint_by_others,
        _weight_mutations("model.json", "model.safetensors"),
        1.2,
    ),
    Reader("pth", pth_samples, read_pth, pth_by_others, _archives(), 1),
    Reader(
        "training state",
        state_samples,
        read_state,
        state_by_others,
        _weight_mutations("state.json", "state.safetensors"),
        1.2,
    ),
    Reader(
        "graphs",
        graph_samples,
        read_graphs,
        graphs_by_others,
        {
            **any_bytes(),
            **{
                f"onnx {name}": in_one_file(change, lambda one: one.endswith(".onnx"))
                for name, change in CHANGES.items()
            },
            **json_changes(lambda name: name == "graphs.json"),
            **sealed_mutations(".onnx"),
        },
        1.5,
    ),
]
