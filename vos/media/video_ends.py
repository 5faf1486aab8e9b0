"""The result of checking whether a video file is complete."""

from __future__ import annotations

from typing import NamedTuple

MOST_PARTS = 1_000_000
"""Most boxes, elements, pages or packets that are checked: a file with more may have been made to take long."""


class End(NamedTuple):
    """problem: why the file is not complete; unverified: why this cannot be checked. Both are "" if it is complete."""

    problem: str = ""
    unverified: str = ""


WHOLE = End()
