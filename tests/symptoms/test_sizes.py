"""Frames that are very large, and objects that are very small."""

from __future__ import annotations

import re
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

from jobs.segment import main
from vos import Engine, load
from vos.data.transforms import resize_labels, short_side_size, size_that_keeps
from vos.inference.engine import VanishedObject
from vos.media.images import write_frame, write_mask
from vos.models.memory import read_memory

FULL_HD = (1080, 1920)


def labels_with(*boxes: tuple[int, int, int, int, int], size: tuple[int, int] = FULL_HD) -> np.ndarray:
    """(H, W) with boxes of (id, y, x, height, width)."""
    labels = np.zeros(size, np.uint8)
    for number, y, x, height, width in boxes:
        labels[y : y + height, x : x + width] = number
    return labels


LARGE = (1, 200, 300, 400, 500)
SMALL = [(7, 901, 1204, 1, 1), (7, 3, 1917, 2, 3), (7, 700, 0, 1, 10), (7, 1079, 0, 1, 1), (7, 500, 501, 2, 1)]


@pytest.mark.parametrize("box", SMALL)
def test_the_size_named_is_the_smallest_that_keeps_an_object(box: tuple[int, int, int, int, int]):
    labels = labels_with(LARGE, box)
    found = size_that_keeps(labels, 7, 320)
    kept = [px for px in range(321, 1080) if (resize_labels(labels, short_side_size(FULL_HD, px)) == 7).any()]
    assert found == (kept[0] if kept else 0)


def test_start_warns_of_an_object_that_vanishes_and_says_at_which_size_it_does_not():
    engine = Engine(load("builtin-student"), "eager", size_px=96)
    frame = np.zeros((*FULL_HD, 3), np.uint8)
    labels = labels_with(LARGE, (7, 901, 1204, 1, 1))
    with pytest.warns(VanishedObject, match=r"object 7 .*171x96"):
        engine.start(frame, labels)
    assert list(engine.vanished) == [7]
    size_px = engine.vanished[7]
    engine = Engine(load("builtin-student"), "eager", size_px=size_px)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        engine.start(frame, labels)
    assert engine.vanished == {}
    assert (engine.probabilities()[2] > 0.5).any()


def test_an_object_that_is_added_later_is_warned_of_too():
    engine = Engine(load("builtin-student"), "eager", size_px=96)
    frame = np.zeros((*FULL_HD, 3), np.uint8)
    engine.start(frame, labels_with(LARGE))
    assert engine.vanished == {}
    with pytest.warns(VanishedObject, match="object 9"):
        engine.add_object(frame, labels_with((9, 901, 1204, 1, 1)))


def test_the_job_names_the_object_and_the_size_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    for index in range(3):
        write_frame(str(tmp_path / f"frames/{index}.jpg"), np.full((*FULL_HD, 3), 90, np.uint8))
    write_mask(str(tmp_path / "first.png"), labels_with(LARGE, (7, 901, 1204, 1, 1)))
    write_mask(str(tmp_path / "later.png"), labels_with((9, 3, 1204, 1, 1)))
    flags = [str(tmp_path / "frames"), "--first-mask", str(tmp_path / "first.png"), "--size-px", "96", "--runtime"]
    flags += ["eager", "--out", str(tmp_path / "out.mp4"), "--add", f"1:{tmp_path / 'later.png'}"]
    assert main(flags) == 0
    printed = capsys.readouterr()
    for number in (7, 9):
        for text in (printed.out, printed.err):
            lines = [line for line in text.splitlines() if f"object {number} is not followed" in line]
            assert len(lines) == 1 and re.search(r"--size-px (\d+)", lines[0])
    assert "Warning" not in printed.err


@pytest.mark.parametrize("objects", [1, 3])
@pytest.mark.parametrize("together", [False, True])
def test_reading_in_chunks_changes_nothing(objects: int, together: bool, monkeypatch: pytest.MonkeyPatch):
    import torch

    from vos.inference import graphs

    generator = torch.Generator().manual_seed(0)
    key, first, recent = (torch.randn(1, 8, 6, 7, generator=generator) for _ in range(3))
    values = [torch.randn(objects, 5, 6, 7, generator=generator) for _ in range(2)]
    first_key = first if together else first.repeat(objects, 1, 1, 1)
    whole = graphs.read_two_frames(key, first_key, values[0], recent, values[1], together)
    memory_key, memory_value = torch.stack((first, recent), 2), torch.stack(values, 2).unsqueeze(0)
    expected = read_memory(memory_key, memory_value, key, None)
    torch.testing.assert_close(whole, expected, atol=1e-5, rtol=1e-5)
    for scores in (1, 84, 200, 84 * 41):
        monkeypatch.setattr(graphs, "READ_SCORES", scores)
        parts = graphs.read_two_frames(key, first_key, values[0], recent, values[1], together)
        torch.testing.assert_close(parts, whole, atol=1e-6, rtol=1e-6)


BOUNDED = """
import resource, sys
import numpy as np
from vos import Engine, load
engine = Engine(load("builtin-student"), "eager", size_px=0)
frame, labels = np.zeros((1600, 2560, 3), np.uint8), np.zeros((1600, 2560), np.uint8)
labels[400:900, 500:1200] = 1
engine.start(frame, labels)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
engine.step(frame)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_the_memory_that_a_step_takes_does_not_grow_with_the_square_of_the_frame():
    done = subprocess.run([sys.executable, "-c", BOUNDED], capture_output=True, text=True, check=True)
    # All scores of a frame of 2560x1600 are 2.4 GiB (16,000 x 32,000 in float32), and were kept twice.
    assert int(done.stdout) < 700_000, "KiB"


LIMITED = """
import resource, sys
from jobs.segment import main
import torch, cv2, av, vos.inference.head_start  # what is loaded is not what is limited
now = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (now + (300 << 20), resource.RLIM_INFINITY))
sys.exit(main(sys.argv[1:]))
"""


def test_too_little_memory_is_one_line_that_names_the_flag(tmp_path: Path):
    size = (2160, 3840)
    for index in range(2):
        write_frame(str(tmp_path / f"frames/{index}.jpg"), np.full((*size, 3), 90, np.uint8))
    write_mask(str(tmp_path / "first.png"), labels_with(LARGE, size=size))
    flags = [str(tmp_path / "frames"), "--first-mask", str(tmp_path / "first.png"), "--size-px", "0"]
    flags += ["--runtime", "eager", "--out", str(tmp_path / "out.mp4")]
    done = subprocess.run([sys.executable, "-c", LIMITED, *flags], capture_output=True, text=True, check=False)
    assert done.returncode == 2, done.stderr
    assert "not enough memory" in done.stderr and "--size-px 1080" in done.stderr and "Traceback" not in done.stderr
    assert not list(tmp_path.glob("out*"))
