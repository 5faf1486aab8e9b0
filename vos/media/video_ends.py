"""What a container says of its own end."""

from __future__ import annotations

from typing import NamedTuple

MOST_PARTS = 1_000_000
"""So many boxes, elements, pages or packets are looked at: a file of more was made to take long."""


class End(NamedTuple):
    """problem: why the file is not whole; unverified: why that cannot be known. Both "" where it is whole."""

    problem: str = ""
    unverified: str = ""


WHOLE = End()
