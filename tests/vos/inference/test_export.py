"""Graphs as files: each format gives PyTorch's numbers, for any number of objects and for the sizes it was made for."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vos.errors import InputError
from vos.inference.export import (
    Shape,
    example_tensors,
    load_graph,
    openvino_from_onnx,
    required,
    run_graph,
    write_onnx,
    write_program,
)
from vos.inference.graphs import inference_copy
from vos.models import VOSModel, build

SIZE = (70, 100)


@pytest.fixture(scope="module")
def model() -> VOSModel:
    torch.manual_seed(0)
    return inference_copy(build("mobilevos-tiny"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, model: VOSModel) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    write_onnx("step", model, str(folder / "step.onnx"), Shape(SIZE))
    openvino_from_onnx(str(folder / "step.onnx"), str(folder / "step.xml"))
    write_program("step", model, str(folder / "step.pt2"), Shape(SIZE))
    write_program("step", model, str(folder / "free.pt2"), Shape(None))
    return folder


def inputs(model: VOSModel, size: tuple[int, int], objects: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(objects)
    tensors: dict[str, Any] = {name: tensor.numpy() for name, tensor in example_tensors(model, size, objects).items()}
    for name, array in tensors.items():
        if array.dtype == np.float32:
            tensors[name] = rng.standard_normal(array.shape, dtype=np.float32)
    tensors["frame"] = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
    return tensors


def differences(path: Path, model: VOSModel, size: tuple[int, int], objects: int) -> dict[str, float]:
    arrays = inputs(model, size, objects)
    got = load_graph("step", str(path))(arrays)
    with torch.no_grad():
        expected = run_graph("step", model, {name: torch.from_numpy(array) for name, array in arrays.items()})
    assert {name: array.shape for name, array in got.items()} == {name: tuple(t.shape) for name, t in expected.items()}
    return {name: float(np.abs(got[name] - expected[name].numpy()).max()) for name in ("prob", "key", "value")}


@pytest.mark.parametrize("objects", [1, 2, 5])
@pytest.mark.parametrize("file", ["step.onnx", "step.xml", "step.pt2"])
def test_a_file_gives_pytorchs_numbers_for_any_number_of_objects(
    folder: Path, model: VOSModel, file: str, objects: int
):
    assert max(differences(folder / file, model, SIZE, objects).values()) < 1e-4


@pytest.mark.parametrize("size", [(64, 96), (128, 80)])
def test_a_graph_of_free_size_takes_any_sides_that_are_multiples_of_16(folder: Path, model: VOSModel, size: Any):
    assert max(differences(folder / "free.pt2", model, size, 2).values()) < 1e-4


def test_a_package_that_is_absent_is_named_with_the_line_that_installs_it():
    with pytest.raises(InputError, match="pip install notinstalled"):
        required("notinstalled.part")


def test_executorch_files_give_pytorchs_numbers_for_any_number_of_objects_up_to_theirs(tmp_path: Path, model: VOSModel):
    pytest.importorskip(
        "executorch", reason="executorch is not installed (pip install executorch): its files are not tried"
    )
    from vos.inference.export import write_executorch

    write_executorch("step", model, str(tmp_path / "step.pte"), Shape(SIZE, 3))
    for objects in (1, 2, 3):
        assert max(differences(tmp_path / "step.pte", model, SIZE, objects).values()) < 1e-4
