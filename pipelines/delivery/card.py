"""Write the card of an exported model: its use, inputs, outputs, figures and licence."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.evaluation.evaluate import EVALUATE, SUMMARY, Summary
from pipelines.runtime.output_folder import existing
from vos.config import ExportConfig
from vos.errors import InputError

RUNTIMES = {
    "onnx": "onnxruntime",
    "openvino": "openvino",
    "torch-export": "torch",
    "executorch": "executorch",
}


def card(figures: Sequence[str], about: Mapping[str, Any], info: Mapping[str, Any]) -> str:
    """Return the README.md of the export's folder. figures: lines of `figures_of`."""
    size = f"{about['size'][1]}x{about['size'][0]}" if about["size"] else "any whose sides are multiples of 16"
    up_to = "up to " if about["format"] == "executorch" else ""
    objects = f"{up_to}{about['objects']}" if about["objects"] else "any number of"
    lines = [
        f"# {about['model']}: video object segmentation ({about['format']}, {about['precision']})",
        "",
        f"{about['parameters']:,} parameters, frames of {size}, {objects} object(s). The memory (first and most recent frame) "
        "goes in and comes out as tensors, so a loop needs no other code and takes constant time and memory for any length.",
        "",
        "## Run",
    ]
    if about["format"] in ("onnx", "openvino"):
        lines += [
            "```sh",
            f"pip install numpy opencv-python-headless {RUNTIMES[about['format']]}",
            "python segment.py VIDEO FIRST_MASK.png OVERLAY.mp4",
            "```",
            "`segment.py` is the whole loop: read it to write your own.",
        ]
    else:
        lines += [f"With the package `{RUNTIMES[about['format']]}`; tensors in the order of the table below."]
    lines += [
        "1. `start(frame, labels, objects)` → `key`, `value`: the first memory (`first_key` is `key` once per object), and the first",
        "   recent one.",
        "2. Each frame: `step(frame, first_key, first_value, recent_key, recent_value)` → `labels`, `prob`, `key`, `value`; the last two",
        "   are the recent memory of the next frame. Or the same in three: `encode_query`, `read_decode`, `encode_value`.",
        "",
        "## Input",
        "Frames are raw RGB, uint8, (H, W, 3): **normalisation is inside** (ImageNet mean and deviation). Labels are uint8, 0 is "
        "background, objects are 1, 2, …",
        "",
        "| graph | inputs | outputs |",
        "|---|---|---|",
    ]
    for name, graph in about["graphs"].items():
        lines.append(f"| `{name}` | {_tensors(graph['inputs'])} | {_tensors(graph['outputs'])} |")
    lines += [
        "",
        "## Figures",
        *figures,
        "",
        "Largest difference of a probability from PyTorch over real frames: "
        + ", ".join(f"{value:.1e} ({name})" for name, value in about["parity"].items())
        + ".",
        "",
        "| file | bytes | SHA-256 |",
        "|---|---|---|",
        *(f"| {name} | {count:,} | `{about['sha256'][name][:16]}…` |" for name, count in about["bytes"].items()),
        "",
        "## Licence and data",
        f"Code: Apache-2.0. The weights carry the terms of what they were trained on: {_training_data(info)}",
    ]
    return "\n".join(lines) + "\n"


def _tensors(tensors: Any) -> str:
    return ", ".join(
        f"{one['name']} ({', '.join(str(side) for side in one['shape'])}) {one['dtype']}" for one in tensors
    )


def figures_of(config: ExportConfig) -> list[str]:
    """Return the card's lines on J&F and speed. Raises InputError for an --evaluation that is absent or damaged."""
    if not config.evaluation:
        return ["J&F and FPS: not measured for this export (`--evaluation` takes a folder of jobs.evaluate)."]
    repair = "name the --out of a finished jobs.evaluate"
    summary = existing(config.evaluation, EVALUATE).read_json(SUMMARY, Summary, repair)
    if summary is None:
        raise InputError(f"--evaluation {config.evaluation}: holds no {SUMMARY}; {repair}")
    metrics, shares = summary["metrics"], ("val/j_and_f", "val/j", "val/f")
    rows = [f"| {name} | {100 * value:.1f} |" for name, value in metrics.items() if name in shares]
    rows += [f"| {name} | {value:.1f} |" for name, value in metrics.items() if name.startswith("fps/")]
    return ["| metric | |", "|---|---|", *rows, "", "Measured by jobs.evaluate on the checkpoint, not on these files."]


def _training_data(info: Mapping[str, Any]) -> str:
    data = info.get("config", {}).get("data", {}) if isinstance(info.get("config"), Mapping) else {}
    root = str(data.get("root", ""))
    if not data:
        return "not known from this checkpoint; ask whoever trained it."
    if not root:
        return "synthetic video made by this project; no terms of others."
    named = os.path.basename(root.rstrip("/"))
    return (
        f"videos of the folder `{named}` (and, where the trunk started from ImageNet weights, ImageNet). "
        "DAVIS is for research, non-commercial use, with attribution (Perazzi et al. 2016, Pont-Tuset et al. 2017); others have theirs."
    )
