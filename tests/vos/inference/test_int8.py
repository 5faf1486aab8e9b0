"""int8 graphs: only the decoder's convolutions are int8, in every graph that decodes, and the masks stay close."""

from pathlib import Path

import numpy as np
import pytest
import torch

from vos.inference.export import Shape, load_graph, write_onnx
from vos.inference.graphs import inference_copy
from vos.inference.int8 import INT8_LAYERS, quantise, record
from vos.models import build

SIZE = (64, 80)


@pytest.mark.parametrize("name", ["step", "encode_value"])
def test_the_decoders_convolutions_become_int8_and_no_others(name: str, tmp_path: Path):
    pytest.importorskip("nncf", reason="NNCF is not installed (pip install nncf): int8 graphs are not tried")
    import onnx

    torch.manual_seed(0)
    model = build("mobilevos-tiny").eval()
    rng = np.random.default_rng(0)
    frames, labels = rng.integers(0, 256, (3, *SIZE, 3), dtype=np.uint8), np.zeros(SIZE, np.uint8)
    labels[10:40, 10:40], labels[10:40, 45:70] = 1, 2
    samples = record(model, [(frames, labels)])[name]
    plain, int8 = str(tmp_path / "plain.onnx"), str(tmp_path / "int8.onnx")
    write_onnx(name, inference_copy(model), plain, Shape(SIZE))
    quantise(plain, int8, samples)
    nodes = onnx.load(int8).graph.node
    quantised = {node.output[0] for node in nodes if node.op_type == "DequantizeLinear"}
    convolutions = [node for node in nodes if node.op_type == "Conv"]
    for node in convolutions:
        is_decoders = any(part in one for one in node.input for part in INT8_LAYERS)
        assert any(one in quantised for one in node.input) == is_decoders
    assert bool(quantised) == (name == "step")
    expected, got = load_graph(name, plain)(samples[0]), load_graph(name, int8)(samples[0])
    for key in expected:
        if expected[key].dtype == np.float32:
            assert np.abs(got[key] - expected[key]).max() < 0.05 * max(1.0, np.abs(expected[key]).max())
