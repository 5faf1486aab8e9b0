"""Cut a small video of every container at many places, and count what becomes of each piece: none may pass for a whole video.

Examples:
  python -m tests.chaos.cuts
  python -m tests.chaos.cuts --cuts 40 --only gif
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.videos import KINDS, Kind, pictures, write_video
from vos.errors import InputError
from vos.media.video_files import open_video

REFUSED, ENDED, NOTED, PASSED = "refused", "frames, then refused", "end cannot be verified", "taken for whole"
OUTCOMES = (REFUSED, ENDED, NOTED, PASSED)


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, default=199, help="cuts of each video, evenly spread")
    parser.add_argument("--only", default="", help="containers whose name begins so")
    options = parser.parse_args(argv)
    print(f"{'container':34}" + "".join(f"{name:>24}" for name in OUTCOMES) + f"{'the whole file':>24}")
    passed = 0
    with tempfile.TemporaryDirectory() as folder:
        for name, kind in KINDS.items():
            if name.startswith(options.only):
                whole, counts = cut_everywhere(kind, Path(folder), options.cuts)
                passed += counts[PASSED]
                print(f"{name:34}" + "".join(f"{counts[one]:>24}" for one in OUTCOMES) + f"{whole:>24}")
    print(f"verdict: {passed} of the pieces were taken for whole videos")
    return 1 if passed else 0


def cut_everywhere(kind: Kind, folder: Path, num_cuts: int) -> tuple[str, Counter[str]]:
    """What becomes of the whole file, and how often what of its pieces."""
    path = folder / f"whole{kind.ending}"
    data = Path(write_video(str(path), kind, pictures())).read_bytes()
    piece = folder / f"piece{kind.ending}"
    counts: Counter[str] = Counter()
    for end in ends(data, num_cuts):
        piece.write_bytes(data[:end])
        counts[outcome(str(piece))] += 1
    return outcome(str(path)), counts


def ends(data: bytes, num_cuts: int) -> Sequence[int]:
    """Places to cut, each before the end."""
    return sorted({len(data) * i // (num_cuts + 1) for i in range(1, num_cuts + 1)})


def outcome(path: str) -> str:
    """Of OUTCOMES, for one file."""
    try:
        video = open_video(path)
    except InputError:
        return REFUSED
    try:
        for _ in video.frames:
            pass
    except InputError:
        return ENDED
    return NOTED if video.unverified_end else PASSED


if __name__ == "__main__":
    sys.exit(main())
