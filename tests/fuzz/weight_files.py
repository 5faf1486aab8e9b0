"""Files of weights: safetensors and torch's archives, taken apart and put together without the project's code."""

from __future__ import annotations

import io
import json
import pickle
import struct
import zipfile
from typing import Any

import numpy as np
from numpy.random import Generator

from tests.fuzz.byte_mutations import ByteChange, flip_bits, pick
from tests.fuzz.cases import Files, Mutation
from tests.fuzz.json_mutations import change_text, change_value, written

DTYPES = {
    "F16": np.float16,
    "F32": np.float32,
    "F64": np.float64,
    "I64": np.int64,
    "I32": np.int32,
    "U8": np.uint8,
    "BOOL": np.bool_,
}


def parsed(data: bytes) -> dict[str, np.ndarray]:
    """Name -> array of a safetensors file. Raises for what breaks the format's rules."""
    length = struct.unpack("<Q", data[:8])[0]
    assert length <= len(data) - 8, "header longer than the file"
    header = json.loads(data[8 : 8 + length].decode(), object_pairs_hook=_once)
    body, found, spans = data[8 + length :], {}, []
    for name, entry in header.items():
        if name == "__metadata__":
            assert all(isinstance(value, str) for value in entry.values())
            continue
        start, end = entry["data_offsets"]
        array = np.frombuffer(body[start:end], DTYPES[entry["dtype"]])
        assert 0 <= start <= end <= len(body)
        found[name] = array.reshape(entry["shape"])
        spans.append((start, end))
    at = 0
    for start, end in sorted(spans):
        assert start == at, "a hole or an overlap"
        at = end
    assert at == len(body), "bytes behind the last tensor"
    return found


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    assert len(dict(pairs)) == len(pairs), "a name twice"
    return dict(pairs)


def change_header(rng: Generator, data: bytes) -> bytes:
    """The JSON header of a safetensors file, its length made right."""
    try:
        length = struct.unpack("<Q", data[:8])[0]
        tree = json.loads(data[8 : 8 + length])
    except (ValueError, struct.error, RecursionError):
        return data
    action = int(rng.integers(5))
    if action == 0:
        text = change_text(rng, json.dumps(tree))
    elif action == 1:
        text = json.dumps(tree)
        return struct.pack("<Q", int(rng.choice([0, 1, length - 1, length + 1, 2**31, 2**40, 2**63]))) + data[8:]
    elif action == 2:  # a tensor in the place of another one
        names = [name for name in tree if name != "__metadata__"]
        one, two = (names[int(rng.integers(len(names)))] for _ in range(2))
        tree[one], tree[two] = tree[two], tree[one]
        text = json.dumps(tree)
    elif action == 3:
        names = [name for name in tree if name != "__metadata__"]
        name = names[int(rng.integers(len(names)))]
        shape = tree[name]["shape"]
        tree[name]["shape"] = [shape[::-1], [-1], [2**40, 2**40], [0], [*shape, 1], [1, *shape]][int(rng.integers(6))]
        text = json.dumps(tree)
    else:
        text = written(change_value(rng, tree))
    head = text.encode("utf-8", "surrogatepass")
    return struct.pack("<Q", len(head)) + head + data[8 + length :]


def change_numbers(rng: Generator, data: bytes) -> bytes:
    """Weights that are NaN, infinite, huge, or only other ones."""
    try:
        length = struct.unpack("<Q", data[:8])[0]
    except struct.error:
        return data
    start = 8 + length
    if start + 8 > len(data):
        return data
    at = start + 4 * int(rng.integers(0, (len(data) - start) // 4))
    number = float(rng.choice([np.nan, np.inf, -np.inf, 3e38, 0.0, 1.0]))
    return data[:at] + struct.pack("<f", number) + data[at + 4 :]


class _Runs:
    """Unpickled, it runs what the worker looks for."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return exec, ("import sys; sys.code_was_run = True",)


def change_archive(rng: Generator, data: bytes) -> bytes:
    """An entry of a torch archive dropped, doubled, renamed, changed, deflated, or with another pickle."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            entries = [(info.filename, archive.read(info)) for info in archive.infolist()]
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, EOFError, ValueError, struct.error):
        return data
    if not entries:
        return data
    at = int(rng.integers(len(entries)))
    action = int(rng.integers(9))
    compression = zipfile.ZIP_DEFLATED if rng.random() < 0.3 else zipfile.ZIP_STORED
    main = next((i for i, (name, _) in enumerate(entries) if name.endswith("data.pkl")), at)
    if action == 0:
        del entries[at]
    elif action == 1:
        entries.append((entries[at][0], flip_bits(rng, entries[at][1])))
    elif action == 2:
        entries[at] = str(rng.choice(["../x", "/x", "archive/../x", "other", ""])) or "x", entries[at][1]
    elif action == 3:
        entries[at] = entries[at][0], flip_bits(rng, entries[at][1])
    elif action == 4:
        entries[main] = entries[main][0], flip_bits(rng, entries[main][1])
    elif action == 5:
        programs = [
            pickle.dumps(_Runs()),
            pickle.dumps({"a": _Runs()}),
            pickle.dumps([1, 2]),
            pickle.dumps({"a": 1}),
            pickle.dumps(None),
        ]
        programs += [
            b"\x80\x02" + b"]" * 100_000 + b".",
            b"\x80\x02X\xff\xff\xff\x7f",
            b"\x80\x02cos\nsystem\n.",
            b"(" * 1000,
            b".",
        ]
        programs += [
            b"\x80\x02\x8a\xff" + bytes(255) + b".",
            b"\x80\x02}q\x00" + b"h\x00" * 100_000 + b".",
            pickle.dumps({1: 2, None: 3}),
        ]
        entries[main] = entries[main][0], programs[int(rng.integers(len(programs)))]
    elif action == 6:
        entries[at] = entries[at][0], entries[at][1][: len(entries[at][1]) // 2]
    elif action == 7:
        entries[at] = entries[at][0], bytes(100_000_000)
        compression = zipfile.ZIP_DEFLATED
    else:
        entries.reverse()
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", compression) as archive:
        for name, content in entries:
            archive.writestr(name, content)
    return sink.getvalue()


def on(ending: str, change: ByteChange) -> Mutation:
    """A change of bytes for the files of an ending."""

    def mutate(rng: Generator, files: Files, corpus: list[Files]) -> Files:
        name = pick(rng, files, lambda one: one.endswith(ending) and isinstance(files[one], bytes))
        data = files.get(name)
        return files | {name: change(rng, data)} if isinstance(data, bytes) else files

    return mutate
