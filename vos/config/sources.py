"""The spelling of one data set of a mixture: KIND[@SPLIT]=PATH[:WEIGHT], such as davis2016=DAVIS:0.5 or stills=STILLS:0.3.

SPLIT is the name of a split, or the path of a text file with one name per line: davis2016@lists/eight.txt=DAVIS:0.5. A slash makes it a
path.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from typing import Literal, NamedTuple, get_args

from vos.errors import InputError

Kind = Literal["auto", "davis2016", "davis2017", "youtubevos", "folder", "synthetic", "stills", "coco", "labels"]
KINDS: tuple[str, ...] = get_args(Kind)
SPELLING = "write KIND=PATH:WEIGHT, such as davis2016=DAVIS:0.5 stills=STILLS:0.3"


class Spelled(NamedTuple):
    """One data set of a mixture.

    name    the kind, with -2, -3, … where a mixture has several of one kind
    split   of its videos for training, "" for the usual one; an absolute path is a file with their names
    weight  share of the clips, relative to the other weights
    """

    name: str
    kind: str
    split: str
    root: str
    weight: float


def split_paths(text: str) -> tuple[str, ...]:
    """Split the spelling of a source; every second part is a path (or ""), so that a relative one can be made absolute.

    davis2016@lists/a.txt=DAVIS:0.5 -> ("davis2016@", "lists/a.txt", "=", "DAVIS", ":0.5")
    """
    head, place, after = _parted(text)
    kind, at, split = head.removesuffix("=").partition("@")
    if os.sep not in split:
        return head, place, after
    return kind + at, split, "=", place, after


def _parted(text: str) -> tuple[str, str, str]:
    """Return (KIND[@SPLIT]=, PATH, :WEIGHT)."""
    kind, equals, rest = text.partition("=")
    place, colon, weight = rest.rpartition(":")
    if not colon or _number(weight) is None:
        place, colon, weight = rest, "", ""
    return kind + equals, place, colon + weight


def read_sources(texts: Sequence[str]) -> tuple[Spelled, ...]:
    """Read the values of --data.sources, which weights of 0 may switch off.

    Raises InputError for a wrong spelling, a kind that is not in `KINDS`, a data set listed twice, and weights that are negative or sum
    to nothing.
    """
    found: list[Spelled] = []
    for text in texts:
        before, place, after = _parted(text)
        kind, _, split = before.removesuffix("=").partition("@")
        if not before.endswith("=") or (not place and kind != "synthetic"):
            raise InputError(f"--data.sources {text}: no source; {SPELLING}")
        if kind not in KINDS:
            raise InputError(f"--data.sources {text}: kind '{kind}' is unknown; use one of {', '.join(KINDS)}")
        weight = _number(after[1:]) if after else 1.0
        if weight is None or not 0 <= weight < math.inf:
            raise InputError(f"--data.sources {text}: the weight is a share of the clips; use 0 or more")
        if any((one.kind, one.split, one.root) == (kind, split, place) for one in found):
            raise InputError(f"--data.sources {text}: is listed twice; list it once, with the sum of the weights")
        count = sum(one.kind == kind for one in found)
        found.append(Spelled(f"{kind}-{count + 1}" if count else kind, kind, split, place, weight))
    if found and not sum(one.weight for one in found):
        raise InputError(f"--data.sources {' '.join(texts)}: the weights sum to 0; give one of them a weight above 0")
    return tuple(found)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None
