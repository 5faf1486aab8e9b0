"""A video begins in PyTorch while its graphs are made, and goes on with them as if it had never been another runtime's."""

import fcntl
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from vos.errors import InputError
from vos.inference import head_start, runtimes
from vos.inference.engine import Engine
from vos.inference.graph_files import MadeGraphs, kept_graph
from vos.inference.graphs import ENGINE_GRAPHS
from vos.inference.head_start import HeadStart
from vos.models import VOSModel

SIZE = (48, 64)
LATER = 3
"""The frame in which a third object appears."""


def coarse(num_frames: int, seed: int = 0) -> np.ndarray:
    cells = np.random.default_rng(seed).integers(0, 256, (num_frames, SIZE[0] // 8, SIZE[1] // 8, 3), dtype=np.uint8)
    return np.repeat(np.repeat(cells, 8, 1), 8, 2)


def stripes(*objects: int) -> np.ndarray:
    labels = np.zeros(SIZE, np.uint8)
    for place, one in enumerate(objects):
        labels[8:40, 4 + 20 * place : 20 + 20 * place] = one
    return labels


FRAMES, GIVEN, ADDED = coarse(7), stripes(1, 2), stripes(0, 0, 3)


def played(
    current: Callable[[int], Engine], frames: np.ndarray = FRAMES
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """(index, labels, probabilities) of every frame after the first; `current` says which engine plays it."""
    current(0).start(frames[0], GIVEN)
    for index, frame in enumerate(frames[1:], 1):
        engine = current(index)
        labels = engine.add_object(frame, ADDED) if index == LATER else engine.step(frame)
        yield index, labels, engine.probabilities()


def unlocked(cache: Path) -> bool:
    """Whether no process makes graphs in any folder of a cache."""
    for path in cache.rglob(".lock"):
        with path.open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
    return True


def unfinished(cache: Path) -> list[Path]:
    """Graphs with a digest beside them that is not theirs."""
    return [path for path in cache.rglob("*.onnx") if Path(f"{path}.sha256").exists() and not kept_graph(str(path))]


def by(engine: Engine) -> list[tuple[int, np.ndarray, np.ndarray]]:
    return list(played(lambda _: engine))


def assert_alike(found: Any, expected: Any) -> None:
    """Within what any two runtimes differ by (test_every_runtime_agrees_with_eager)."""
    for (_, labels, prob), (_, other_labels, other_prob) in zip(found, expected, strict=True):
        assert np.abs(prob - other_prob).max() <= 1e-3 and (labels == other_labels).mean() > 0.999


@pytest.fixture
def cold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOBILEVOS_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_the_first_masks_are_there_before_the_graphs_and_the_rest_is_played_by_them(
    model: VOSModel, cold: Path, monkeypatch: pytest.MonkeyPatch
):
    with HeadStart(model, SIZE, threads=1) as first:
        assert first.engine.runtime == "eager" and "64x48" in first.news and "once" in first.news
        graphs, maker, news = MadeGraphs(model), first._maker, []
        assert maker is not None

        def current(index: int) -> Engine:
            if index == 4:
                assert maker.process.wait(300) == 0, maker.problem()
            if index:
                news.append(first.advance(index))
            return first.engine

        found = []
        for one in played(current):
            found.append(one)
            if one[0] == 1:
                assert set(graphs.missing(SIZE)) == ENGINE_GRAPHS.keys(), "the mask was there first"
                assert first.engine.runtime == "eager"
        assert [bool(one) for one in news] == [index == 4 for index in range(1, 7)]
        assert "changed over to openvino at frame 4" in news[3]
        assert first.engine.runtime == "openvino" and "before frame 4" in first.engine.reason
        assert first.close() == ""
    assert_alike(found, by(Engine(model, "eager", threads=1)))
    assert_alike(found, by(Engine(model, "openvino", precision="fp32", threads=1)))
    monkeypatch.setattr(head_start, "GraphMaker", None)  # the next video of this size begins with them
    with HeadStart(model, SIZE, threads=1) as second:
        assert second.engine.runtime == "openvino" and second.news == "" and second.advance(1) == ""


class Ready:
    """A maker whose graphs are in the cache all the time, and ready when the test says so."""

    now = False

    def ended(self) -> bool:
        return self.now

    def stop(self) -> None: ...


@pytest.mark.parametrize("runtime", ["openvino", "onnxruntime"])
@pytest.mark.parametrize("change", [1, LATER, LATER + 1, 6])
def test_the_frame_of_the_change_over_decides_nothing(
    model: VOSModel, runtime: str, change: int, monkeypatch: pytest.MonkeyPatch
):
    expected = by(Engine(model, runtime, precision="fp32", threads=1))
    maker = Ready()
    monkeypatch.setattr(head_start, "GraphMaker", lambda *_: maker)
    monkeypatch.setattr(runtimes, "installed", lambda package: package == runtime)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MadeGraphs, "missing", lambda *_: ["all"])
        video = HeadStart(model, SIZE, precision="fp32", threads=1)

    def current(index: int) -> Engine:
        maker.now = index >= change
        said = video.advance(index) if index else ""
        assert bool(said) == (index == change)
        assert video.engine.runtime == (runtime if index >= change else "eager")
        return video.engine

    assert_alike(list(played(current)), expected)
    assert video.close() == ""


@pytest.mark.parametrize(
    ("settings", "runtime"),
    [
        ({"runtime": "eager"}, "eager"),
        ({"runtime": "onnxruntime"}, "onnxruntime"),
        ({"runtime": "openvino"}, "openvino"),
        ({"precision": "bf16"}, "openvino"),
    ],
)
def test_who_names_a_runtime_or_a_precision_gets_it_from_the_first_frame_on(
    model: VOSModel, cold: Path, settings: dict[str, Any], runtime: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(head_start, "GraphMaker", None)  # none may be made
    with HeadStart(model, SIZE, threads=1, **settings) as video:
        engine = video.engine
        assert engine.runtime == runtime and video.news == video.advance(1) == video.close() == ""
    assert Engine(model, threads=1, **settings).reason == engine.reason


def test_where_no_runtime_plays_graphs_pytorch_does_it_all(
    model: VOSModel, cold: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(head_start, "GraphMaker", None)
    monkeypatch.setattr(runtimes, "installed", lambda _: False)
    with HeadStart(model, SIZE, threads=1) as video:
        assert video.engine.runtime == "eager" and "neither" in video.engine.reason and video.news == ""


def test_a_thread_is_left_to_the_process_that_makes_the_graphs(
    model: VOSModel, cold: Path, monkeypatch: pytest.MonkeyPatch
):
    before, maker = torch.get_num_threads(), Ready()
    monkeypatch.setattr(head_start, "GraphMaker", lambda *_: maker)
    try:
        for threads, left in ((1, 1), (2, 1), (3, 2)):
            assert HeadStart(model, SIZE, threads=threads).engine.threads == torch.get_num_threads() == left
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("size_px", [None, 0, 24, 32, 400])
def test_graphs_are_made_for_the_size_at_which_the_network_sees_the_frames(
    model: VOSModel, cold: Path, size_px: int | None, monkeypatch: pytest.MonkeyPatch
):
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(head_start, "GraphMaker", lambda _, size: asked.append(size) or Ready())
    monkeypatch.setattr(model, "trained_size_px", 32)
    video = HeadStart(model, SIZE, size_px=size_px, threads=1)
    video.engine.start(FRAMES[0], GIVEN)
    assert asked == [video.engine.working_size] and ("inside" in video.news) == (asked[0] != SIZE)


def test_the_end_of_the_video_ends_the_process_and_unlocks_the_cache(model: VOSModel, cold: Path):
    with HeadStart(model, SIZE, threads=1) as video:
        maker = video._maker
        assert maker is not None
        by(video.engine)
        said = video.close()
        assert maker.process.returncode is not None
        assert "of 4 are kept" in said and "--runtime openvino" in said
    assert video.close() == ""
    assert unlocked(cold) and unfinished(cold) == []


def test_an_error_in_the_video_ends_the_process(model: VOSModel, cold: Path):
    with pytest.raises(InputError), HeadStart(model, SIZE, threads=1) as video:
        maker = video._maker
        video.engine.step(FRAMES[0])
    assert maker is not None and maker.process.returncode is not None


@pytest.mark.parametrize("problem", [b"error: no space", b""])
def test_where_graphs_cannot_be_made_pytorch_segments_the_whole_video_and_says_why(
    model: VOSModel, cold: Path, tmp_path: Path, problem: bytes, monkeypatch: pytest.MonkeyPatch
):
    python = tmp_path / "python"
    python.write_bytes(b"#!/bin/sh\necho 'first line' >&2\necho '" + problem + b"' >&2\nexit 3\n")
    python.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(python))
    with HeadStart(model, SIZE, threads=1) as video:
        assert video._maker is not None
        assert video._maker.process.wait(60) == 3
        said = video.advance(1)
        assert (problem.decode() or "first line") in said and "PyTorch" in said and "\n" not in said
        assert video.advance(2) == video.close() == "" and video.engine.runtime == "eager"
