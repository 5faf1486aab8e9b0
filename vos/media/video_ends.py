"""The result of checking whether a video file is complete."""

from __future__ import annotations

from typing import NamedTuple

MOST_PARTS = 1_000_000
"""Most boxes, elements, pages or packets that are checked: a file with more may have been made to take long."""


class End(NamedTuple):
    """problem: why the file is not complete; unverified: why this cannot be checked. Both are "" if it is complete.

    has_holes  whether parts in its middle are missing, so that frames may be missing without a packet
    """

    problem: str = ""
    unverified: str = ""
    has_holes: bool = False


WHOLE = End()
