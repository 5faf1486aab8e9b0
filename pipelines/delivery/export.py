"""Export a checkpoint as graphs with the memory inside, checked against PyTorch on real frames, with a card and an example program."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from pipelines import storage, tracking
from pipelines.delivery.card import card, figures_of
from pipelines.runtime.models import find_model, load_model
from pipelines.runtime.output_folder import check_folder, claimed_folder
from pipelines.runtime.progress import progress_bar
from pipelines.runtime.session import set_threads
from pipelines.runtime.tables import table
from pipelines.runtime.videos import index_videos
from vos.config import ExportConfig
from vos.data.transforms import resize_frame, resize_labels
from vos.data.videos import Video
from vos.errors import InputError
from vos.files.seals import sealed
from vos.files.whole import write_atomic
from vos.files.written import Written
from vos.inference import example_segment
from vos.inference.export import TRACED_SIZE, WRITERS, Shape, load_graph, openvino_from_onnx, run_graph, write_onnx
from vos.inference.graph_files import GRAPHS_FILE, SEALED_BY
from vos.inference.graphs import GRAPHS, inference_copy
from vos.inference.whole_video import first_mask, segmented_span
from vos.models.checkpoint import DIGEST
from vos.models.interface import VOSModel

EXPORT = "export"
CARD, PROGRAM = "README.md", "segment.py"
PARITY_FRAMES = 8
PARITY_BOUND = 1e-3
FREE_PARITY_SIZE = (240, 432)
CALIBRATION_FRAMES, CALIBRATION_GAP = 4, 6


@dataclass(frozen=True)
class Parity:
    """A loop of graphs compared with PyTorch: the largest difference of a probability, and the share of pixels with the same label."""

    what: str
    objects: int
    prob: float
    same_labels: float


def export_model(config: ExportConfig) -> str:
    """Write the folder and check it; returns the text to print.

    Raises InputError where the probabilities of fp32 files differ from PyTorch's by more than PARITY_BOUND.
    """
    if storage.is_uri(config.out):
        raise InputError(f"--out {config.out}: graphs are written to a local folder; choose one and copy it afterwards")
    set_threads(config.threads)
    with tempfile.TemporaryDirectory() as folder:
        model, info = load_model(find_model(config.model, folder))
    check_folder(config, EXPORT).check(_names(config))
    figures = figures_of(config)
    shape = Shape(config.frame_size, config.objects or None)
    clips = _calibration(config) if config.int8 else []
    with (
        claimed_folder(config, EXPORT, "an export", names=_names(config)) as folder,
        tempfile.TemporaryDirectory() as made,
        tracking.start_run("export", f"{info['model']} to {config.to}", config) as run,
    ):
        files = _write_graphs(config, model, shape, clips, made)
        found = _parity(config, model, files)
        worst = float(np.max([one.prob for one in found]))  # NaN if any is, which Python's max may skip
        if not worst <= PARITY_BOUND and not config.int8:  # "not", so that NaN fails too
            raise InputError(
                f"{config.out}: probabilities differ from PyTorch's by {worst:.2g}, more than {PARITY_BOUND}; nothing was exported"
            )
        about = _describe(config, model, info, files, found)
        paths = _release(folder, config, made, about, card(figures, about, info))
        run.log_metrics({"export/max_prob_difference": worst, "export/mib": sum(about["bytes"].values()) / 2**20})
        for path in paths:  # unrelated files in the folder are not logged
            run.log_artifact(path, "export")
    return _tables(about, found)


def _names(config: ExportConfig) -> list[str]:
    """Return the names of the files that an export writes."""
    ending, _ = WRITERS[config.to]
    endings = (ending, ".bin") if config.to == "openvino" else (ending,)
    program = [PROGRAM] if config.to in ("onnx", "openvino") else []
    return [GRAPHS_FILE, CARD, *program, *(f"{name}{one}" for name in GRAPHS for one in endings)]


def _release(folder: Written, config: ExportConfig, made: str, about: dict[str, Any], text: str) -> list[str]:
    """Replace an older export in the folder by the checked files; returns their paths.

    The description is removed first and written last, because a folder without one is not an export.
    """
    formats = (*(ending for ending, _ in WRITERS.values()), ".bin")
    for name in (GRAPHS_FILE, PROGRAM, *(f"{name}{ending}" for name in GRAPHS for ending in formats)):
        if folder.knows(name):
            folder.remove(name)
    paths = [folder.write(name, storage.read_bytes(os.path.join(made, name))) for name in about["bytes"]]
    paths.append(folder.write(CARD, text.encode()))
    if PROGRAM in _names(config):
        paths.append(folder.write(PROGRAM, storage.read_bytes(example_segment.__file__)))
    return [*paths, folder.write(GRAPHS_FILE, sealed(about, SEALED_BY, about[DIGEST]))]


def _write_graphs(config: ExportConfig, model: VOSModel, shape: Shape, clips: list[Any], made: str) -> dict[str, str]:
    """Write the graphs into the folder `made`; returns {graph: path of its file}."""
    ending, write = WRITERS[config.to]
    plain = inference_copy(model)
    files = {name: os.path.join(made, f"{name}{ending}") for name in GRAPHS}
    with tempfile.TemporaryDirectory() as folder, progress_bar(f"export to {config.to}", len(files), "graph") as bar:
        samples: Mapping[str, Any] = {}
        if config.int8:
            from vos.inference.int8 import record

            samples = record(model, clips)
        for name, path in files.items():
            if config.int8:
                _write_int8(name, plain, path, shape, samples[name], folder)
            else:
                write(name, plain, path, shape)
            bar.update()
    return files


def _write_int8(name: str, model: VOSModel, path: str, shape: Shape, samples: Any, folder: str) -> None:
    from vos.inference.int8 import quantise

    source, quantised = os.path.join(folder, f"{name}.onnx"), os.path.join(folder, f"{name}-int8.onnx")
    write_onnx(name, model, source, shape)
    quantise(source, quantised, samples)
    if path.endswith(".xml"):
        openvino_from_onnx(quantised, path)
    else:
        with open(quantised, "rb") as file:
            write_atomic(path, file.read())


def _calibration(config: ExportConfig) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return calibration clips of the training split, at the exported size."""
    size = config.frame_size or FREE_PARITY_SIZE
    videos = index_videos(config.data, "train")
    step = max(1, len(videos) // config.calibration_clips)
    chosen = videos[::step][: config.calibration_clips]
    return [_clip(video, size, CALIBRATION_FRAMES, CALIBRATION_GAP) for video in chosen]


def _clip(video: Video, size: tuple[int, int], num_frames: int, gap: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (frames (T, H, W, 3), labels (H, W) with objects 1 to O), starting at the video's first mask."""
    span = segmented_span(video)[: num_frames * gap : gap]
    frames = np.stack([resize_frame(video.frame(index), size) for index in span])
    labels = resize_labels(first_mask(video, span[0]), size)
    return frames, np.unique(labels, return_inverse=True)[1].reshape(size).astype(np.uint8)


def _parity(config: ExportConfig, model: VOSModel, files: Mapping[str, str]) -> list[Parity]:
    """Compare a loop of the step graph, and a loop of its three parts, with PyTorch over real frames."""
    size = config.frame_size or FREE_PARITY_SIZE
    frames, labels = _clip(index_videos(config.data, "val")[0], size, PARITY_FRAMES, 1)
    graphs = {name: load_graph(name, path) for name, path in files.items()}
    plain = inference_copy(model)

    def torch_graph(name: str) -> Any:
        def run(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
            with torch.no_grad():
                tensors = {one: torch.from_numpy(np.ascontiguousarray(array)) for one, array in arrays.items()}
                return {one: tensor.numpy().copy() for one, tensor in run_graph(name, plain, tensors).items()}

        return run

    eager = {name: torch_graph(name) for name in GRAPHS}
    found = []
    for objects in _checked_objects(config):
        given = _with_objects(labels, objects)
        expected = _loop(eager, frames, given, ("step",))
        for what, steps in (("step", ("step",)), ("three parts", ("encode_query", "read_decode", "encode_value"))):
            got = _loop(graphs, frames, given, steps)
            gaps = [np.abs(a["prob"] - b["prob"]).max() for a, b in zip(expected, got, strict=True)]
            same = float(np.mean([(a["labels"] == b["labels"]).mean() for a, b in zip(expected, got, strict=True)]))
            found.append(Parity(what, objects, float(np.max(gaps)), same))
    return found


def _checked_objects(config: ExportConfig) -> Sequence[int]:
    """Return the numbers of objects to check the files with; ExecuTorch's files take any number up to the exported one."""
    if config.to == "executorch":
        return sorted({1, config.objects})
    return [config.objects] if config.objects else [1, 2]


def _loop(graphs: Mapping[str, Any], frames: np.ndarray, labels: np.ndarray, steps: tuple[str, ...]) -> list[Any]:
    """Run a device's loop: start, then a step per frame. Returns labels and prob of every frame after the first."""
    objects = np.arange(1, labels.max() + 1, dtype=np.uint8)
    memory = graphs["start"]({"frame": frames[0], "labels": labels, "objects": objects})
    arrays = {"first_key": np.repeat(memory["key"], len(objects), 0), "first_value": memory["value"]}
    arrays |= {"recent_key": memory["key"], "recent_value": memory["value"]}
    results = []
    for frame in frames[1:]:
        arrays["frame"] = frame
        for name in steps:
            arrays |= graphs[name](arrays)
        arrays |= {"recent_key": arrays["key"], "recent_value": arrays["value"]}
        results.append({"labels": arrays["labels"], "prob": arrays["prob"]})
    return results


def _with_objects(labels: np.ndarray, num_objects: int) -> np.ndarray:
    """Return labels with exactly `num_objects` objects: the foreground divided into columns of equal area."""
    columns = np.nonzero(labels)[1]
    edges = np.quantile(columns, np.linspace(0, 1, num_objects + 1)[1:-1])
    place = 1 + np.searchsorted(edges, np.arange(labels.shape[1]), side="left")
    return np.where(labels > 0, place[None], 0).astype(np.uint8)


def _describe(
    config: ExportConfig, model: VOSModel, info: Mapping[str, Any], files: Mapping[str, str], found: list[Parity]
) -> dict[str, Any]:
    """Return the content of graphs.json: everything that a program needs to run the files."""
    from vos.inference.export import example_tensors, tensor_names

    examples = example_tensors(model, config.frame_size or TRACED_SIZE, config.objects or 2)
    results = {name: run_graph(name, model, examples) for name in GRAPHS}
    made = os.path.dirname(next(iter(files.values())))
    written = sorted(name for name in os.listdir(made) if os.path.splitext(name)[0] in GRAPHS)

    def tensor(name: str, value: torch.Tensor) -> dict[str, Any]:
        free = name in ("first_key", "first_value", "recent_value", "value", "masks", "objects", "prob")
        shape: list[Any] = list(value.shape)
        if free and (not config.objects or (config.to == "executorch" and config.objects > 1)):
            shape[0] = "O + 1" if name == "prob" else "O"
        if config.frame_size is None and name != "objects":
            axis = 0 if name in ("frame", "labels") else value.ndim - 2
            for place, letter, side in ((axis, "H", TRACED_SIZE[0]), (axis + 1, "W", TRACED_SIZE[1])):
                stride = side // value.shape[place]
                shape[place] = letter if stride == 1 else f"{letter} / {stride}"
        return {"name": name, "shape": shape, "dtype": str(value.dtype).removeprefix("torch.")}

    paths = {name: os.path.join(made, name) for name in written}
    return {
        "model": info["model"],
        "parameters": info["parameters"],
        "precision": "int8" if config.int8 else "fp32",
        "format": config.to,
        "size": list(config.frame_size) if config.frame_size else None,
        "objects": config.objects or None,
        "files": {name: os.path.basename(path) for name, path in files.items()},
        "bytes": {name: os.path.getsize(path) for name, path in paths.items()},
        "sha256": {name: _sha256(path) for name, path in paths.items()},
        "graphs": {
            name: {
                "inputs": [tensor(one, examples[one]) for one in tensor_names(name)[0]],
                "outputs": [tensor(one, value) for one, value in results[name].items()],
            }
            for name in GRAPHS
        },
        "normalisation": "none outside: frames are (H, W, 3) uint8 RGB; ImageNet mean and deviation are applied inside",
        "parity": {f"{one.what}, {one.objects} object(s)": one.prob for one in found},
        "commit": tracking.commit(),
        DIGEST: info[DIGEST],
    }


def _sha256(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _tables(about: Mapping[str, Any], found: list[Parity]) -> str:
    sizes = table(["file", "MiB"], [[name, f"{count / 2**20:.2f}"] for name, count in about["bytes"].items()])
    header = ["against PyTorch", "objects", "max |Δ prob|", "same labels"]
    rows = [[one.what, one.objects, f"{one.prob:.1e}", f"{100 * one.same_labels:.3f} %"] for one in found]
    return f"{sizes}\n\n{table(header, rows)}"
