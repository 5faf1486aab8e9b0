"""An engine that segments at once, in PyTorch, while the graphs of a faster runtime are made, and then changes over to that runtime.

Making graphs takes many seconds; only the first video of a frame size needs it. The memory moves over between two frames, as arrays. Both
sides compute the same network, in another order: the frame at which they change depends on the time that it took, and shows in no more than
the last bits of the probabilities. Where numbers must repeat, name a runtime: then its graphs are waited for.
"""

from __future__ import annotations

from functools import partial
from types import TracebackType

import torch

from vos.inference.engine import Engine, size_inside, working_px
from vos.inference.graph_files import MadeGraphs
from vos.inference.graph_maker import GraphMaker
from vos.inference.graphs import ENGINE_GRAPHS
from vos.inference.runtimes import available_threads, choose
from vos.models.interface import VOSModel


class HeadStart:
    """The engine of one video, first in PyTorch where that is sooner.

        with HeadStart(model, frame.shape[:2]) as head_start:
            head_start.engine.start(frame, labels)
            for index, frame in enumerate(camera, 1):
                head_start.advance(index)
                labels = head_start.engine.step(frame)

    frame_size  (H, W) of the video; the other arguments are Engine's

    It begins in PyTorch where `runtime` is "auto" and means one with graphs, which this machine has not kept yet, and `precision` is "auto"
    or "fp32". Everywhere else `engine` is Engine's, from beginning to end. A thread is left to the process that makes the graphs.
    """

    def __init__(
        self,
        model: VOSModel | str,
        frame_size: tuple[int, int],
        runtime: str = "auto",
        *,
        precision: str = "auto",
        size_px: int | None = None,
        threads: int = 0,
        upsampling: str = "bilinear",
        gate: float = 0.0,
    ) -> None:
        threads = threads or available_threads()
        size_px = working_px(model, size_px)
        self._make = partial(Engine, model, size_px=size_px, upsampling=upsampling, gate=gate)
        self._last = partial(self._make, runtime, precision=precision, threads=threads)
        self._threads = threads
        self._maker: GraphMaker | None = None
        self.news = ""
        """What a user should know before the first frame, "" for nothing."""
        self._goal = _runtime_with_graphs(model, runtime, precision)
        self._size = size_inside(frame_size, size_px)
        if isinstance(model, str) or not self._goal or not (graphs := MadeGraphs(model)).missing(self._size):
            self.engine = self._last()
            return
        self._graphs = graphs
        self.engine = self._make("eager", threads=max(1, threads - 1))
        self.engine.reason = f"the graphs for {self._goal} are not made yet"
        self._maker = GraphMaker(model, self._size)
        inside = "" if self._size == frame_size else f" ({self._size[1]}x{self._size[0]} inside)"
        self.news = (
            f"preparing the graphs for {self._goal} and frames of {frame_size[1]}x{frame_size[0]}{inside} in the background, "
            "once; the first frames are segmented by PyTorch"
        )

    def advance(self, index: int) -> str:
        """Call before each frame with its index: changes over if the graphs are ready. Returns what a user should know, "" for nothing.

        Raises InputError as Engine does.
        """
        if self._maker is None or not self._maker.ended():
            return ""
        problem = self._maker.problem() if self._graphs.missing(self._size) else ""
        self._stop()
        if problem:
            return f"the graphs could not be made ({problem}); PyTorch segments the whole video"
        engine = self._last()
        torch.set_num_threads(self._threads)
        engine.resume(self.engine.suspend())
        engine.reason = f"{engine.reason}; PyTorch before frame {index}"
        self.engine = engine
        return f"changed over to {engine.runtime} at frame {index}"

    def close(self) -> str:
        """End what goes on in the background. Returns what a user should know, "" for nothing."""
        if self._maker is None:
            return ""
        self._stop()
        num_kept = len(ENGINE_GRAPHS) - len(self._graphs.missing(self._size))
        return (
            f"ended before the graphs for {self._goal} were made: {num_kept} of {len(ENGINE_GRAPHS)} are kept, the next video of "
            f"this size makes the others; --runtime {self._goal} waits for them"
        )

    def _stop(self) -> None:
        if self._maker is not None:
            self._maker.stop()
        self._maker = None

    def __enter__(self) -> HeadStart:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._stop()


def _runtime_with_graphs(model: VOSModel | str, runtime: str, precision: str) -> str:
    """The runtime that `auto` means, where it plays graphs that we make; else ""."""
    if isinstance(model, str) or runtime != "auto" or precision not in ("auto", "fp32"):
        return ""
    chosen = choose(runtime, precision, "", next(model.parameters()).is_cuda).runtime
    return chosen if chosen in ("onnxruntime", "openvino") else ""
