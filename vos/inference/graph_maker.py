"""A child process that makes a network's graphs for a frame size, while this process segments.

A process and not a thread: torch's exporters are Python, and would take turns with the frames. The weights go to it as they are in memory,
so it does not matter where the network came from. It ends when its parent does, however that ends: its standard input closes then. What it
has finished by then is kept; an unfinished file has another name, and the next process that makes graphs there removes it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
import threading
from typing import BinaryIO

import torch
from safetensors.torch import save

from vos.errors import InputError, printable
from vos.inference.graph_files import PACKAGE, MadeGraphs
from vos.models import VOSModel, build
from vos.models.weight_files import parse_safetensors

NICENESS = 5
"""Of the child: where both want a core, the frames get three quarters of it."""
PATIENCE_S = 10


class GraphMaker:
    """The child, from the side of its parent."""

    def __init__(self, model: VOSModel, size: tuple[int, int]) -> None:
        path = os.pathsep.join(filter(None, (os.path.dirname(PACKAGE), os.environ.get("PYTHONPATH"))))
        self._said: BinaryIO = tempfile.TemporaryFile()  # noqa: SIM115
        with tempfile.TemporaryFile() as weights:
            weights.write(save({name: one.detach().cpu().contiguous() for name, one in model.state_dict().items()}))
            weights.seek(0)
            words = (model.name, model.preprocessing, *size, weights.fileno())
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-m", "vos.inference.graph_maker", *map(str, words)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                pass_fds=(weights.fileno(),),
                env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
                start_new_session=True,  # Ctrl-C is for the parent, which then stops it
            )
        with contextlib.suppress(OSError):  # it may have ended
            os.setpriority(os.PRIO_PROCESS, self.process.pid, NICENESS)

    def ended(self) -> bool:
        return self.process.poll() is not None

    def problem(self) -> str:
        """Why a child that has ended did not make the graphs, in one line."""
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return printable(lines[-1][:300] if lines else f"exit code {self.process.returncode}")

    def stop(self) -> None:
        """End it, if it has not ended, and wait until it is gone."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.terminate()
        try:
            self.process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self._said.close()


def _end_with_the_parent() -> None:
    os.read(0, 1)  # nothing is ever written: it returns when the other side is closed
    os._exit(1)


def main(argv: list[str]) -> int:
    """Arguments: architecture, preprocessing, height, width, and the descriptor of a .safetensors file."""
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    torch.set_num_threads(1)
    name, preprocessing, height, width, descriptor = argv
    try:
        model = build(name, preprocessing).eval()
        with open(int(descriptor), "rb") as file:
            model.load_state_dict(parse_safetensors(file.read(), "the weights of the parent"))
        MadeGraphs(model).read((int(height), int(width)))
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
