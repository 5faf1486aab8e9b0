"""int8 graphs by calibration: activations are recorded on real clips, then the decoder's convolutions get int8 weights and inputs.

The quantised ONNX files (with QuantizeLinear and DequantizeLinear nodes) work in ONNX Runtime and OpenVINO. The encoders stay in float:
with MobileNetV2 in int8, keys had an error of 20 %, queries read wrong positions, and J&F fell from 67 to 1 (DECISIONS.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import torch

from vos.errors import InputError
from vos.files.whole import write_atomic
from vos.inference.export import run_graph, tensor_names
from vos.inference.graphs import inference_copy
from vos.models.interface import VOSModel

INT8_LAYERS = ("decoder.compress", "decoder.up_16_8", "decoder.up_8_4")
"""Parts of a weight's name: the layers that become int8. The classifier after them stays in float."""


def record(model: VOSModel, clips: Iterable[tuple[np.ndarray, np.ndarray]]) -> dict[str, list[dict[str, np.ndarray]]]:
    """Segment clips and return the inputs of every graph.

    clips    (frames (T, H, W, 3) uint8, labels (H, W) uint8 of the first with objects 1 to O)
    returns  graph -> its inputs at each frame
    """
    model = inference_copy(model)
    seen: dict[str, list[dict[str, np.ndarray]]] = {}

    def run(name: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        inputs = {one: tensors[one].contiguous() for one in tensor_names(name)[0]}
        seen.setdefault(name, []).append({one: tensor.numpy().copy() for one, tensor in inputs.items()})
        return run_graph(name, model, inputs)

    with torch.no_grad():
        for frames, labels in clips:
            objects = torch.arange(1, int(labels.max()) + 1, dtype=torch.uint8)
            tensors = {"frame": torch.from_numpy(frames[0]), "labels": torch.from_numpy(labels), "objects": objects}
            memory = run("start", tensors)
            first = memory["key"].expand(len(objects), -1, -1, -1)
            tensors |= {"first_key": first, "first_value": memory["value"]}
            tensors |= {"recent_key": memory["key"], "recent_value": memory["value"]}
            for frame in frames[1:]:
                tensors["frame"] = torch.from_numpy(frame)
                seen.setdefault("step", []).append(
                    {one: tensors[one].numpy().copy() for one in tensor_names("step")[0]}
                )
                for name in ("encode_query", "read_decode", "encode_value"):
                    tensors |= run(name, tensors)
                tensors |= {"recent_key": tensors["key"], "recent_value": tensors["value"]}
    return seen


def quantise(source: str, path: str, samples: Sequence[dict[str, np.ndarray]]) -> None:
    """Calibrate one ONNX graph with its recorded inputs and write the int8 graph. Raises InputError if NNCF is not installed."""
    try:
        import nncf
    except ImportError:
        raise InputError("--int8: calibration needs NNCF; pip install nncf") from None
    import logging

    import onnx

    nncf.set_log_level(logging.ERROR)
    model = onnx.load(source)
    convolutions = [node for node in model.graph.node if node.op_type == "Conv"]
    kept = [node.name for node in convolutions if not any(part in one for one in node.input for part in INT8_LAYERS)]
    if len(kept) < len(convolutions):
        others = sorted({node.op_type for node in model.graph.node} - {"Conv"})
        model = nncf.quantize(
            model,
            nncf.Dataset(list(samples)),
            subset_size=len(samples),
            preset=nncf.QuantizationPreset.MIXED,
            ignored_scope=nncf.IgnoredScope(names=kept, types=others, validate=False),
        )
    write_atomic(path, model.SerializeToString())
