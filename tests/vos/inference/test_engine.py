"""The real-time engine: it is the reference loop, frame by frame, on every runtime, at constant memory."""

import copy
from typing import Any

import numpy as np
import pytest
import torch

from vos.data.transforms import resize_frame, resize_labels, to_tensor
from vos.errors import InputError
from vos.inference.engine import Engine
from vos.inference.export import example_tensors
from vos.inference.graphs import ENGINE_GRAPHS, TOGETHER
from vos.inference.propagate import iter_propagate
from vos.inference.runtimes import TorchRuntime, bf16_is_faster
from vos.models import VOSModel, build
from vos.models.memory import MemoryPolicy, confidence

POLICY = MemoryPolicy("first_recent", top_k=None)
SIZE = (72, 100)
GATE = 0.418


@pytest.fixture(scope="module")
def mobilenet() -> VOSModel:
    """BatchNorm to fold and TensorFlow's padding, with statistics that are not the identity."""
    torch.manual_seed(1)
    model = build("mobilevos-mobilenetv2", "tensorflow")
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
        model.decoder.pred.weight.mul_(5)
    return model.eval()


def video(num_frames: int, size: tuple[int, int] = SIZE, seed: int = 0) -> np.ndarray:
    """(T, H, W, 3) uint8 of coarse noise."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (num_frames, size[0] // 8 + 1, size[1] // 8 + 1, 3), dtype=np.uint8)
    return np.repeat(np.repeat(coarse, 8, 1), 8, 2)[:, : size[0], : size[1]]


def squares(*objects: int, size: tuple[int, int] = SIZE) -> np.ndarray:
    """Labels with a square for each id, side by side."""
    labels = np.zeros(size, np.uint8)
    for place, one in enumerate(objects):
        left = 5 + place * size[1] // (len(objects) + 1)
        labels[10:40, left : left + size[1] // 4] = one
    return labels


def reference(
    model: VOSModel,
    frames: np.ndarray,
    labels: np.ndarray,
    later: dict[int, np.ndarray] | None = None,
    policy: MemoryPolicy = POLICY,
) -> Any:
    tensors = to_tensor(frames)
    given = {index: torch.from_numpy(one) for index, one in (later or {}).items()}
    return [prob.numpy() for prob in iter_propagate(model, tensors, torch.from_numpy(labels), policy, given)]


def played(engine: Engine, frames: np.ndarray, labels: np.ndarray) -> list[np.ndarray]:
    engine.start(frames[0], labels)
    return [engine.step(frame) for frame in frames[1:]]


@pytest.mark.parametrize("name", ["model", "mobilenet"])
@pytest.mark.parametrize("size", [SIZE, (64, 96)])
def test_the_engine_is_the_reference_loop(name: str, size: tuple[int, int], request: pytest.FixtureRequest):
    model = request.getfixturevalue(name)
    frames, labels = video(6, size), squares(1, 2, size=size)
    expected = reference(model, frames, labels)
    engine = Engine(model, "eager", threads=1)
    engine.start(frames[0], labels)
    for index in range(1, len(frames)):
        masks = engine.step(frames[index])
        np.testing.assert_allclose(engine.probabilities(), expected[index], atol=2e-5)
        assert (masks == expected[index].argmax(0)).mean() > 0.999


@pytest.mark.parametrize("runtime", ["onnxruntime", "openvino"])
def test_every_runtime_agrees_with_eager(runtime: str, mobilenet: VOSModel):
    frames, labels, later = video(7), squares(1, 2), squares(0, 0, 3)
    eager, other = (Engine(mobilenet, one, precision="fp32", threads=1) for one in ("eager", runtime))
    for engine in (eager, other):
        engine.start(frames[0], labels)
    for index, frame in enumerate(frames[1:]):
        masks = [engine.step(frame) for engine in (eager, other)]
        if index == 2:
            masks = [engine.add_object(frame, later) for engine in (eager, other)]
        assert np.abs(eager.probabilities() - other.probabilities()).max() <= 1e-3
        assert (masks[0] == masks[1]).mean() > 0.999


def test_every_graph_runs_where_the_network_is(model: VOSModel):
    """The meta device stands for a GPU: it refuses whatever was left on the CPU, and has no numbers."""
    runtime = TorchRuntime(copy.deepcopy(model).to("meta"), 1, compiled=False)
    examples = example_tensors(model, SIZE)
    tensors = {name: tensor.to("meta") for name, tensor in examples.items()}
    for graph in ENGINE_GRAPHS:
        for name, output in runtime.run(graph, tensors).items():
            assert output.device.type == "meta"
            assert name not in examples or output.shape == examples[name].shape


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("runtime", ["eager", "onnxruntime"])
def test_a_network_on_a_gpu_gives_the_labels_of_the_one_on_the_cpu(model: VOSModel, runtime: str):
    frames, labels = video(4), squares(1, 2)
    expected = played(Engine(model, "eager", threads=1), frames, labels)
    on_gpu = Engine(copy.deepcopy(model).cuda(), runtime, threads=1)
    for one, two in zip(played(on_gpu, frames, labels), expected, strict=True):
        assert (one == two).mean() > 0.999


@pytest.mark.slow  # compiling takes a minute
def test_torch_compile_agrees_with_eager(model: VOSModel):
    frames, labels = video(4), squares(1, 2)
    eager, other = (Engine(model, one, threads=1) for one in ("eager", "compile"))
    for one, two in zip(played(eager, frames, labels), played(other, frames, labels), strict=True):
        assert (one == two).mean() > 0.999
    assert np.abs(eager.probabilities() - other.probabilities()).max() <= 1e-3


def test_an_object_added_in_mid_video_is_one_that_appears_later_in_the_reference_loop(model: VOSModel):
    frames, labels, later = video(7), squares(1), squares(0, 2, 3)
    expected = reference(model, frames, labels, {3: later})
    engine = Engine(model, "eager", threads=1)
    engine.start(frames[0], labels)
    for index in range(1, 7):
        masks = engine.step(frames[index]) if index != 3 else engine.add_object(frames[3], later)
        prob = engine.probabilities()
        np.testing.assert_allclose(prob, expected[index][: len(prob)], atol=2e-5)
        assert (masks == prob.argmax(0)).all()
    assert engine.object_ids == (1, 2, 3)


@pytest.mark.parametrize("runtime", ["eager", "openvino"])
def test_a_gate_keeps_out_the_frames_that_it_keeps_out_of_the_reference_loop(model: VOSModel, runtime: str):
    """Across a hand-over to another engine, and where an object appears: that frame is remembered whatever its confidence."""
    unsure = copy.deepcopy(model)
    with torch.no_grad():
        assert unsure.decoder.pred.bias is not None
        unsure.decoder.pred.bias.add_(2)
    frames, labels, later = video(9), squares(1), squares(0, 2)
    policy = MemoryPolicy("first_recent", top_k=None, gate=GATE)
    expected = reference(unsure, frames, labels, {4: later}, policy)
    sure = [confidence(torch.from_numpy(prob)) for prob in expected]
    assert {one >= GATE for one in sure[1:]} == {True, False} and min(abs(one - GATE) for one in sure) > 1e-4
    engine, next_one = (Engine(unsure, runtime, precision="fp32", threads=1, gate=GATE) for _ in range(2))
    engine.start(frames[0], labels)
    for index in range(1, 9):
        if index == 7:
            next_one.resume(engine.suspend())
            engine = next_one
        _ = engine.step(frames[index]) if index != 4 else engine.add_object(frames[4], later)
        prob = engine.probabilities()
        np.testing.assert_allclose(prob, expected[index][: len(prob)], atol=2e-5)


def test_adding_an_object_to_the_frame_that_was_just_segmented_segments_it_only_once(model: VOSModel):
    frames, labels, later = video(6), squares(1), squares(0, 2)
    once, twice = (Engine(model, "eager", threads=1) for _ in range(2))
    for engine in (once, twice):
        engine.start(frames[0], labels)
        engine.step(frames[1])
    twice.step(frames[2])
    assert (once.add_object(frames[2], later) == twice.add_object(frames[2], later)).all()
    assert (once.step(frames[3]) == twice.step(frames[3])).all()
    np.testing.assert_array_equal(once.probabilities(), twice.probabilities())


def test_objects_keep_the_ids_that_the_user_gave(model: VOSModel):
    frames = video(4)
    small, large = Engine(model, "eager", threads=1), Engine(model, "eager", threads=1)
    for one, two in zip(
        played(small, frames, squares(1, 2)), played(large, frames, squares(7, 200).astype(np.int64)), strict=True
    ):
        np.testing.assert_array_equal(np.array([0, 7, 200], np.uint8)[one], two)
    assert large.object_ids == (7, 200)


def test_a_camera_may_reuse_its_buffer(model: VOSModel):
    frames, labels = video(5), squares(1)
    expected = played(Engine(model, "eager", threads=1), frames, labels)
    engine, buffer = Engine(model, "eager", threads=1), frames[0].copy()
    engine.start(buffer, labels)
    for frame, masks in zip(frames[1:], expected, strict=True):
        buffer[:] = frame
        np.testing.assert_array_equal(engine.step(buffer), masks)
        buffer[:] = 0


def test_another_video_begins_as_if_it_were_the_first(model: VOSModel):
    used = Engine(model, "eager", threads=1)
    played(used, video(5, seed=1), squares(1, 2, 3))
    fresh = Engine(model, "eager", threads=1)
    for size in (SIZE, (80, 64)):
        frames, labels = video(4, size, seed=2), squares(1, size=size)
        for one, two in zip(played(used, frames, labels), played(fresh, frames, labels), strict=True):
            np.testing.assert_array_equal(one, two)


def test_the_query_is_encoded_once_for_all_objects_and_the_last_value_never(
    model: VOSModel, monkeypatch: pytest.MonkeyPatch
):
    engine = Engine(model, "eager", threads=1)
    calls: list[str] = []
    run = engine._runtime.run
    monkeypatch.setattr(engine._runtime, "run", lambda graph, tensors: calls.append(graph) or run(graph, tensors))
    played(engine, video(4), squares(1, 2, 3))
    assert calls.count("encode_query") == 4 and calls.count(TOGETHER) == calls.count("encode_value") == 3


@pytest.mark.parametrize("runtime", ["eager", "openvino"])
def test_a_suspended_video_goes_on_as_if_no_other_had_been_played(mobilenet: VOSModel, runtime: str):
    frames, labels = video(6), squares(1, 2)
    expected = played(Engine(mobilenet, runtime, precision="fp32", threads=1), frames, labels)
    engine = Engine(mobilenet, runtime, precision="fp32", threads=1)
    engine.start(frames[0], labels)
    found = [engine.step(frame) for frame in frames[1:3]]
    waiting = engine.suspend()
    with pytest.raises(InputError, match="step before start"):
        engine.step(frames[3])
    played(engine, video(4, (80, 64), seed=1), squares(1, 2, 3, size=(80, 64)))
    engine.resume(waiting)
    for one, two in zip(found + [engine.step(frame) for frame in frames[3:]], expected, strict=True):
        np.testing.assert_array_equal(one, two)


def test_nothing_is_held_that_grows_with_the_video(model: VOSModel):
    engine, frames = Engine(model, "eager", threads=1), video(3)
    engine.start(frames[0], squares(1, 2))
    held = []
    for index in range(40):
        engine.step(frames[index % 3])
        held.append(sum(tensor.numel() * tensor.element_size() for tensor in engine._tensors.values()))
    assert len(set(held[1:])) == 1


@pytest.mark.parametrize("upsampling", ["bilinear", "edge"])
def test_a_working_size_gives_labels_of_the_frames_size_from_the_small_video(model: VOSModel, upsampling: str):
    frames, labels = video(4, (144, 200)), squares(1, 2, size=(144, 200))
    engine = Engine(model, "eager", threads=1, size_px=72, upsampling=upsampling)
    small = Engine(model, "eager", threads=1)
    engine.start(frames[0], labels)
    small.start(resize_frame(frames[0], SIZE), resize_labels(labels, SIZE))
    for frame in frames[1:]:
        masks, small_masks = engine.step(frame), small.step(resize_frame(frame, SIZE))
        assert masks.shape == (144, 200)
        assert (resize_labels(masks, SIZE) == small_masks).mean() > 0.9
        np.testing.assert_allclose(engine.probabilities().sum(0), 1, atol=1e-5)


def test_frames_below_the_working_size_are_not_enlarged(model: VOSModel):
    frames, labels = video(3), squares(1)
    for one, two in zip(
        played(Engine(model, "eager", threads=1, size_px=480), frames, labels),
        played(Engine(model, "eager", threads=1), frames, labels),
        strict=True,
    ):
        np.testing.assert_array_equal(one, two)


def test_auto_says_what_it_chose_and_why(model: VOSModel):
    engine = Engine(model)
    assert engine.runtime == "openvino" and engine.precision == ("bf16" if bf16_is_faster() else "fp32")
    assert "openvino: " in engine.reason and engine.precision in engine.reason


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda e: e.step(video(1)[0]), "step before start"),
        (lambda e: e.add_object(video(1)[0], squares(1)), "add_object before start"),
        (lambda e: e.suspend(), "suspend before start"),
        (lambda e: e.probabilities(), "probabilities before start"),
        (lambda e: e.start(video(1)[0], squares()), "no new object"),
        (lambda e: e.start(video(1)[0], squares(255)), "255 is void"),
        (lambda e: e.start(video(1)[0], squares(1)[:-1]), "integers of its size"),
        (lambda e: e.start(video(1)[0].astype(np.float32), squares(1)), "uint8"),
        (lambda e: (e.start(video(1)[0], squares(1)), e.step(video(1, (64, 64))[0])), "64x64, the first was 100x72"),
        (lambda e: (e.start(video(1)[0], squares(1)), e.add_object(video(1)[0], squares(1))), "no new object"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(model: VOSModel, call: Any, words: str):
    with pytest.raises(InputError, match=words) as error:
        call(Engine(model, "eager", threads=1))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"runtime": "tensorrt"}, "use one of auto, eager"),
        ({"runtime": "eager", "precision": "bf16"}, "does not fit eager: use fp32"),
        ({"runtime": "openvino", "precision": "int8"}, "jobs.export --int8"),
        ({"upsampling": "nearest"}, "use one of bilinear, edge"),
        ({"gate": 1.5}, "use 0"),
    ],
)
def test_an_unknown_choice_is_refused_with_the_known_ones(model: VOSModel, arguments: dict[str, Any], words: str):
    with pytest.raises(InputError, match=words):
        Engine(model, **arguments)  # type: ignore[arg-type]


def test_the_public_names_segment_a_video_at_the_size_that_the_network_was_trained_for():
    from vos import Engine as PublicEngine
    from vos import load

    model = load("builtin-student")
    height, width = model.trained_size_px + 16, model.trained_size_px + 64
    frames = np.zeros((2, height, width, 3), np.uint8)
    labels = np.zeros((height, width), np.uint8)
    labels[40:80, 40:80] = 3
    engine = PublicEngine(model, "eager", threads=1)
    engine.start(frames[0], labels)
    found = engine.step(frames[1])
    assert min(engine.working_size) == model.trained_size_px == 320
    assert found.shape == labels.shape and set(np.unique(found)) <= {0, 3}
    with pytest.raises(InputError, match="no such checkpoint"):
        load("nowhere")
