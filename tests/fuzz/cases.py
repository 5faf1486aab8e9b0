"""What an input is, what a reader is, and how an input is kept as a seed."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.random import Generator

SEEDS = Path(__file__).parent / "seeds"
SPECIALS = (":folder", ":fifo", ":loop", ":device", ":unreadable")
"""What may lie in a file's place: a folder, a FIFO, a link to itself, /dev/zero, or a name that no file can have."""

Files = dict[str, bytes | str | None]
"""Relative name -> content; None: absent; one of SPECIALS: no regular file."""
Mutation = Callable[[Generator, Files, "list[Files]"], Files]
"""A changed copy of a sample; the list holds all samples of the reader, to splice with."""


class NotTellableError(Exception):
    """The format has no checksum, and no other reader says what the changed files mean."""


@dataclass(frozen=True)
class Reader:
    """One of the project's readers, as its jobs call it.

    samples    valid inputs by name, made below a folder
    read       what it says of a folder of files, as plain values and arrays; raises InputError for what it refuses
    oracle     the same by other code, for the changed files; raises whatever it likes for what is not valid, and NotTellableError
    mutations  by name
    share      of the inputs, against the other readers
    known      hostile inputs made by hand, by name, tried in every run
    """

    name: str
    samples: Callable[[Path], dict[str, Files]]
    read: Callable[[Path], Any]
    oracle: Callable[[Path], Any]
    mutations: Mapping[str, Mutation]
    share: float = 1.0
    known: Callable[[dict[str, Files]], dict[str, tuple[str, Files]]] = field(default=lambda samples: {})


@dataclass(frozen=True)
class Case:
    """One input of a reader; `number` is -1 for one made by hand or kept as a seed."""

    reader: str
    number: int
    sample: str
    mutation: str
    files: Files
    """The whole folder."""


def lay(folder: Path, files: Files) -> None:
    """Write a sample or an input into an empty folder."""
    for name, content in files.items():
        path = folder / name
        if content is None:
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif content == ":folder":
            path.mkdir()
        elif content == ":fifo":
            os.mkfifo(path)
        elif content == ":device":
            path.symlink_to("/dev/zero")
        elif content == ":loop":
            path.symlink_to(path.name)
        else:
            path.symlink_to("x" * 300)


def made(reader: Reader, samples: dict[str, Files], seed: int, number: int) -> Case:
    """Input `number` of a reader: one mutation, sometimes two."""
    rng = np.random.default_rng([zlib.crc32(reader.name.encode()), seed, number])
    names = sorted(reader.mutations)
    sample = sorted(samples)[int(rng.integers(len(samples)))]
    files, applied = dict(samples[sample]), []
    for _ in range(2 if rng.random() < 0.1 else 1):
        applied.append(names[int(rng.integers(len(names)))])
        with contextlib.suppress(RecursionError):  # the first of two may have nested deeper than the second can read
            files = reader.mutations[applied[-1]](rng, files, list(samples.values()))
    return Case(reader.name, number, sample, "+".join(applied), files)


def same(one: Any, other: Any) -> bool:
    """Whether two readings are equal: arrays with their types and shapes, NaN like NaN."""
    if isinstance(one, np.ndarray) or isinstance(other, np.ndarray):
        if not (isinstance(one, np.ndarray) and isinstance(other, np.ndarray)):
            return False
        if one.shape != other.shape or one.dtype != other.dtype:
            return False
        return one.tobytes() == other.tobytes()
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[name], other[name]) for name in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float) and one != one:
        return other != other
    return type(one) is type(other) and one == other


def keep(case: Case, sample: Files, folder: Path, why: str) -> Path:
    """Write an input down as a seed: the changed files alone. It is one of tests/fuzz/seeds once copied there."""
    changed = {name: content for name, content in case.files.items() if sample.get(name) != content}
    changed |= {name: None for name in sample if name not in case.files}
    text = {
        "reader": case.reader,
        "sample": case.sample,
        "why": why,
        "files": {name: _packed(content) for name, content in changed.items()},
    }
    folder.mkdir(parents=True, exist_ok=True)
    label = case.mutation.replace("+", "-").replace(" ", "-") if case.number < 0 else f"{case.number:06d}"
    path = folder / f"{case.reader}-{label}.json"
    path.write_text(json.dumps(text, indent=1) + "\n", encoding="utf-8")
    return path


def kept(path: Path, samples: dict[str, Files]) -> Case:
    """The input that a seed file holds, on today's samples."""
    text = json.loads(path.read_text(encoding="utf-8"))
    files = dict(samples[text["sample"]])
    for name, packed in text["files"].items():
        files[name] = _unpacked(packed)
    return Case(text["reader"], -1, text["sample"], path.stem, files)


def _packed(content: bytes | str | None) -> str | None:
    if isinstance(content, bytes):
        return "zlib:" + base64.b85encode(zlib.compress(content, 9)).decode()
    return content


def _unpacked(text: str | None) -> bytes | str | None:
    return zlib.decompress(base64.b85decode(text[5:])) if text is not None and text.startswith("zlib:") else text
