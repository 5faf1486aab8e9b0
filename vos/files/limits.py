"""Limits on the size that a file has or declares, checked before memory is allocated for it.

A few kilobytes can declare gigabytes: a PNG header, a dictionary page of Parquet, a deflated archive. Every reader checks its limit first;
the error line names the variable to raise. Limits are environment variables because readers run in Ray workers as well as in notebooks.
They are read together with the file, never on import.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from vos.errors import InputError


@dataclass(frozen=True)
class Limit:
    """A bound: its default, its unit, and what it limits."""

    default: int
    unit: str
    about: str


def variable(name: str) -> str:
    """Return the environment variable of a limit: `image_pixels` -> `MOBILEVOS_MAX_IMAGE_PIXELS`."""
    return f"MOBILEVOS_MAX_{name.upper()}"


def limit(name: str) -> int:
    """Return the bound from the environment, else the default. Raises InputError if the variable is not a positive integer."""
    text = os.environ.get(variable(name), "")
    if not text:
        return LIMITS[name].default
    if not (text.isascii() and text.isdigit() and int(text[:19]) > 0 and len(text) < 19):
        raise InputError(f"{variable(name)}={text[:40]}: give a positive integer ({LIMITS[name].unit})")
    return int(text)


def check_limit(name: str, amount: int, origin: str) -> None:
    """Raise InputError if `amount` is above the bound. The error names `origin` (a file or flag) and the variable to raise."""
    bound = limit(name)
    if amount > bound:
        raise InputError(
            f"{origin}: {amount:,} {LIMITS[name].unit} are more than the {bound:,} allowed; "
            f"set {variable(name)} higher if this is intended"
        )


LIMITS = {
    "image_pixels": Limit(40_000_000, "pixels", "an image: width x height from its header; 8K has 35,389,440"),
    "video_pixels": Limit(36_000_000, "pixels", "a frame of a video; a decoder keeps up to 16 of them"),
    "jpeg_work": Limit(
        2_000_000_000, "pixels times scans", "a progressive JPEG: pixels that a decoder visits, over all scans"
    ),
    "list_bytes": Limit(16 * 2**20, "bytes", "a list of names: a split file, --sequences"),
    "image_bytes": Limit(256 * 2**20, "bytes", "an image file"),
    "json_bytes": Limit(64 * 2**20, "bytes", "a JSON file"),
    "shard_bytes": Limit(4 * 2**30, "bytes", "a Parquet shard, as stored and as decoded"),
    "checkpoint_bytes": Limit(4 * 2**30, "bytes", "a file of weights, as stored and as decoded"),
    "graph_bytes": Limit(2 * 2**30, "bytes", "a graph file"),
    "synthetic_videos": Limit(1_000_000, "videos", "--data.synthetic-videos"),
    "synthetic_frames": Limit(1_000_000, "frames", "--data.synthetic-frames"),
}
