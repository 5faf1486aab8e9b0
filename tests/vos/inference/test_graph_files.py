"""Exported folders in the engine: what they were made for is played, all else is refused before anything runs."""

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Callable
from importlib import metadata
from multiprocessing.pool import ThreadPool
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.external_data_helper
import onnx.numpy_helper
import pytest

from tests.test_architecture import import_graph, module_name
from vos.errors import InputError
from vos.files.seals import sealed
from vos.inference import graph_files
from vos.inference.engine import Engine
from vos.inference.export import Shape, write_onnx
from vos.inference.graph_files import (
    EXPORTERS,
    GRAPHS_FILE,
    SEALED_BY,
    SOURCES,
    ExportedGraphs,
    MadeGraphs,
    kept_graph,
    sources_digest,
)
from vos.inference.graphs import NEEDED, inference_copy
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


def describe(folder: Path, **more: Any) -> None:
    """Sealed anew, as whoever can compute digests would."""
    files = {name: f"{name}.onnx" for name in NEEDED}
    digests = {
        one.name: hashlib.sha256(one.read_bytes()).hexdigest() for one in folder.glob("*.[oxb]*") if one.is_file()
    }
    about = {"model": "mobilevos-tiny", "parameters": 1, "precision": "fp32", "format": "onnx", "size": SIZE}
    about |= {"files": files, "sha256": digests, **more}
    (folder / GRAPHS_FILE).write_bytes(sealed(about, SEALED_BY, ""))


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


@pytest.fixture
def copied(for_two: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(for_two, tmp_path / "copied"))


@pytest.mark.parametrize("more", [{}, {"objects": None}])
def test_an_export_that_names_no_number_of_objects_takes_any(copied: Path, more: dict[str, None]):
    describe(copied, **more)
    for count in (1, 2, 254):
        ExportedGraphs(str(copied)).check_objects(count)


def refusal(folder: Path, runtime: str = "onnxruntime") -> str:
    """The one line with which the engine refuses a folder, at the latest when it plays."""
    with pytest.raises(InputError) as error:
        engine = Engine(str(folder), runtime, threads=1)
        engine.start(FRAMES[0], stripes(1, 2))
        for frame in FRAMES[1:]:
            engine.step(frame)
    assert "\n" not in str(error.value) and str(folder) in str(error.value)
    return str(error.value)


def test_a_graph_with_negated_weights_is_refused_with_both_digests(copied: Path):
    path = copied / "read_decode.onnx"
    proto = onnx.load(path)
    for one in proto.graph.initializer:
        if one.name == "decoder.pred.weight" or one.name.endswith("pred.weight"):
            one.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(one), one.name))
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(proto.SerializeToString())
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    assert found != expected
    said = refusal(copied)
    assert "read_decode.onnx" in said and found[:12] in said and expected[:12] in said and "jobs.export" in said


@pytest.mark.parametrize("content", [b"", b"\x08\x07", bytes(1000)])
def test_a_damaged_graph_is_refused_sealed_or_not(copied: Path, content: bytes):
    (copied / "encode_query.onnx").write_bytes(content)
    assert "encode_query.onnx" in refusal(copied)
    describe(copied)
    assert "encode_query.onnx" in refusal(copied)


def test_a_graph_in_another_ones_place_is_refused(copied: Path):
    describe(copied, files={name: "encode_query.onnx" for name in NEEDED})
    assert "its tensors are not those of" in refusal(copied)


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_tensors_in_other_files_are_not_read(copied: Path, runtime: str, monkeypatch: pytest.MonkeyPatch):
    path, secret = copied / "read_decode.onnx", copied.parent / "secret"
    proto = onnx.load(path)
    (one, *_) = (one for one in proto.graph.initializer if one.raw_data)
    secret.write_bytes(one.raw_data)
    onnx.external_data_helper.set_external_data(one, "../secret")
    one.ClearField("raw_data")
    path.write_bytes(proto.SerializeToString())
    describe(copied)
    monkeypatch.chdir(copied)  # OpenVINO takes such a place for one in the working folder
    assert "tensors in other files" in refusal(copied, runtime)


def elsewhere(folder: Path) -> str:
    (folder / "encode_query.onnx").rename(folder.parent / "encode_query.onnx")
    return "../encode_query.onnx"


def linked(folder: Path) -> str:
    elsewhere(folder)
    (folder / "encode_query.onnx").symlink_to(folder.parent / "encode_query.onnx")
    return "encode_query.onnx"


def absolute(folder: Path) -> str:
    return str(folder / "encode_query.onnx")


@pytest.mark.parametrize("place", [elsewhere, linked, absolute, lambda _: "", lambda _: "..", lambda _: "a\0b"])
def test_a_graph_outside_of_its_folder_is_not_loaded(copied: Path, place: Any):
    about = json.loads((copied / GRAPHS_FILE).read_text())
    name = place(copied)
    describe(copied, files={**about["files"], "encode_query": name}, sha256={**about["sha256"], name: "0" * 64})
    said = refusal(copied)
    assert "is not the name of a file in its folder" in said or "is a link" in said


def test_a_pipe_in_place_of_a_graph_is_refused_at_once(copied: Path):
    (copied / "encode_query.onnx").unlink()
    os.mkfifo(copied / "encode_query.onnx")
    assert "not a file" in refusal(copied)


@pytest.mark.parametrize(
    "more",
    [
        {"precision": "fp8"},
        {"format": 3},
        {"size": [32]},
        {"size": [0, 48]},
        {"size": "32x48"},
        {"objects": 0},
        {"objects": -1},
        {"objects": True},
        {"files": []},
        {"files": {}},
        {"files": {name: 1 for name in NEEDED}},
        {"sha256": {}},
        {"parameters": None},
    ],
)
def test_a_description_of_the_wrong_types_is_refused(copied: Path, more: dict[str, Any]):
    describe(copied, **more)
    refusal(copied)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff", b"[" * 10_000, b'{"seal": {}}'])
def test_a_description_that_is_no_sealed_json_is_refused(copied: Path, text: bytes):
    (copied / GRAPHS_FILE).write_bytes(text)
    assert GRAPHS_FILE in refusal(copied)


def test_an_edited_description_is_refused(copied: Path):
    about = json.loads((copied / GRAPHS_FILE).read_text())
    (copied / GRAPHS_FILE).write_text(json.dumps({**about, "precision": "int8"}))
    assert "was changed" in refusal(copied)


# The cache.

PACKAGE = Path(graph_files.PACKAGE)
APART = {
    "vos.errors": "texts of errors",
    "vos.redaction": "texts of errors",
    "vos.files": "moves bytes to and from the disk, bounded and compared with their digests, as they are",
    "vos.config": "what a network is built with reaches the digest as its name, preprocessing and weights",
}
"""Modules, with all below them, that what makes graphs may import without an influence on them."""


def of_the_graphs() -> set[str]:
    return {path.relative_to(PACKAGE).as_posix() for pattern in SOURCES for path in PACKAGE.glob(pattern)}


def test_the_digest_covers_everything_that_a_graph_is_made_from():
    files = {module_name(path): path for path in PACKAGE.rglob("*.py")}
    imports = import_graph(files)
    queue = ["vos.inference.graph_files", "vos.inference.export", "vos.inference.graphs"]
    queue += [name for name in files if name.startswith("vos.models")]
    closure: set[str] = set()
    while queue:
        module = queue.pop()
        if module not in closure:
            closure.add(module)
            queue += imports[module]
    covered = {name for name, path in files.items() if path.relative_to(PACKAGE).as_posix() in of_the_graphs()}
    uncovered = {name for name in closure - covered if ".".join(name.split(".")[:2]) not in APART}
    assert uncovered == set(), "add them to SOURCES, or to APART with the reason"
    assert all(list(PACKAGE.glob(pattern)) for pattern in SOURCES)


def test_a_change_of_any_source_of_the_graphs_changes_the_digest_and_no_other_does(tmp_path: Path):
    tree = tmp_path / "vos"
    shutil.copytree(PACKAGE, tree, ignore=lambda _, names: [one for one in names if one.startswith("builtin_")])
    before = sources_digest(str(tree))
    assert before == sources_digest(str(PACKAGE))
    for path in tree.rglob("*.py"):
        source = path.read_bytes()
        path.write_bytes(source + b"\n")
        is_one = path.relative_to(tree).as_posix() in of_the_graphs()
        assert (sources_digest(str(tree)) != before) == is_one, path
        path.write_bytes(source)
    (tree / "models" / "new.py").touch()
    assert sources_digest(str(tree)) != before


@pytest.mark.parametrize("package", EXPORTERS)
def test_graphs_of_another_release_of_an_exporter_are_other_graphs(
    package: str, model: VOSModel, monkeypatch: pytest.MonkeyPatch
):
    before, release = MadeGraphs(model)._digest(), metadata.version
    monkeypatch.setattr(metadata, "version", lambda one: release(one) + ".post1" * (one == package))
    assert MadeGraphs(model)._digest() != before


def test_graphs_of_other_sources_or_weights_are_other_graphs(
    model: VOSModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    before, other = MadeGraphs(model)._digest(), copy.deepcopy(model)
    assert MadeGraphs(other)._digest() == before
    next(iter(other.parameters())).data.mul_(2)
    assert MadeGraphs(other)._digest() != before
    monkeypatch.setattr(graph_files, "PACKAGE", str(tmp_path))  # another tree, without a source in it
    assert MadeGraphs(model)._digest() != before


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, model: VOSModel) -> Path:
    """A cache that two made at once."""
    folder = tmp_path_factory.mktemp("made")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOBILEVOS_CACHE", str(folder))
        with ThreadPool(2) as pool:
            first, second = pool.map(lambda _: MadeGraphs(model).read(SIZE), range(2))
    assert first == second and all(one.data == Path(one.path).read_bytes() for one in first.values())
    return folder


@pytest.fixture
def cache(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOBILEVOS_CACHE", str(tmp_path / "cache"))
    return Path(shutil.copytree(made, tmp_path / "cache"))


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def edit(path: Path) -> None:
    path.write_bytes(b"\x00" + path.read_bytes()[1:])


def replace_by_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def lose_the_digest(path: Path) -> None:
    Path(f"{path}.sha256").unlink()


def edit_the_digest(path: Path) -> None:
    Path(f"{path}.sha256").write_text("0" * 64)


@pytest.mark.parametrize("damage", [truncate, edit, replace_by_a_pipe, lose_the_digest, edit_the_digest])
def test_a_graph_of_the_cache_is_used_only_with_its_digest_beside_it(cache: Path, damage: Callable[[Path], object]):
    for path in cache.rglob("*.onnx"):
        assert kept_graph(str(path)) == path.read_bytes()
        damage(path)
        assert kept_graph(str(path)) is None


def test_damaged_graphs_of_the_cache_are_made_again_with_one_note_each(
    model: VOSModel, cache: Path, capfd: pytest.CaptureFixture[str]
):
    before = MadeGraphs(model).read(SIZE)
    assert capfd.readouterr().err == ""
    truncate(Path(before["encode_value"].path))
    left = Path(before["encode_value"].path).with_name("encode_value.onnx.0123.tmp")
    left.write_text("of a process that was killed")
    after = MadeGraphs(model).read(SIZE)
    said = capfd.readouterr().err.splitlines()
    assert len(said) == 1 and before["encode_value"].path in said[0] and "made again" in said[0]
    assert not left.exists()
    assert after == MadeGraphs(model).read(SIZE) and after["encode_query"] == before["encode_query"]
    assert onnx.load_model_from_string(after["encode_value"].data).graph.node
    assert capfd.readouterr().err == ""


def test_a_cache_that_cannot_be_written_is_refused_with_the_variable_that_moves_it(
    model: VOSModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("MOBILEVOS_CACHE", str(tmp_path / "file"))
    (tmp_path / "file").write_text("mine")
    with pytest.raises(InputError, match="MOBILEVOS_CACHE"):
        MadeGraphs(model).read(SIZE)
