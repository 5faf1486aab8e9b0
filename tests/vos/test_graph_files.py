"""Exported folders in the engine: what they were made for is played, all else is refused before anything runs."""

import json
from pathlib import Path

import numpy as np
import pytest

from vos.engine import Engine
from vos.errors import InputError
from vos.export import Shape, write_onnx
from vos.graph_files import DESCRIPTION, ExportedGraphs
from vos.graphs import NEEDED, inference_copy
from vos.models import VOSModel

SIZE = (32, 48)
FRAMES = np.random.default_rng(0).integers(0, 256, (4, *SIZE, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def for_two(tmp_path_factory: pytest.TempPathFactory, model: VOSModel) -> Path:
    """An export for two objects: what of it the engine reads."""
    folder = tmp_path_factory.mktemp("for_two")
    plain = inference_copy(model)
    for name in NEEDED:
        write_onnx(name, plain, str(folder / f"{name}.onnx"), Shape(SIZE, 2))
    describe(folder, objects=2)
    return folder


def describe(folder: Path, **more: int | None) -> None:
    files = {name: f"{name}.onnx" for name in NEEDED}
    about = {"model": "mobilevos-tiny", "precision": "fp32", "format": "onnx", "size": SIZE, "files": files, **more}
    (folder / DESCRIPTION).write_text(json.dumps(about))


def stripes(*objects: int) -> np.ndarray:
    """Labels with an upright stripe for each id."""
    labels = np.zeros(SIZE, np.uint8)
    for place, one in enumerate(objects):
        labels[4:28, 2 + 11 * place : 10 + 11 * place] = one
    return labels


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_an_export_for_a_number_of_objects_plays_that_number_and_refuses_fewer_and_more(
    for_two: Path, model: VOSModel, runtime: str
):
    engine, network = Engine(str(for_two), runtime, precision="fp32", threads=1), Engine(model, "eager", threads=1)
    for objects in [(1,), (1, 2, 3), (7, 2, 5, 9)]:
        with pytest.raises(InputError, match=rf"for_two.* 2 object\(s\).* {len(objects)}.*--objects") as refusal:
            engine.start(FRAMES[0], stripes(*objects))
        assert "\n" not in str(refusal.value)
    for one in (engine, network):
        one.start(FRAMES[0], stripes(7, 2))
        one.step(FRAMES[1])
    with pytest.raises(InputError, match=r"for_two.* 2 object\(s\).* 3.*--objects"):
        engine.add_object(FRAMES[2], stripes(7, 2, 5))
    for frame in FRAMES[2:]:  # the refusal left the video as it was
        np.testing.assert_array_equal(engine.step(frame), network.step(frame))
        np.testing.assert_allclose(engine.probabilities(), network.probabilities(), atol=1e-4)


@pytest.mark.parametrize("more", [{}, {"objects": None}])
def test_an_export_that_names_no_number_of_objects_takes_any(tmp_path: Path, more: dict[str, None]):
    """Older descriptions have no such entry."""
    describe(tmp_path, **more)
    for count in (1, 2, 254):
        ExportedGraphs(str(tmp_path)).check_objects(count)
