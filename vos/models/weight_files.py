"""Reader of weight files, .safetensors or .pth: sizes are checked before memory is allocated, and nothing in them is executed.

A file is read once, so its digest is that of the bytes that become tensors.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import NamedTuple, TypedDict

import torch
from safetensors.torch import load
from torch import Tensor

from vos.errors import InputError
from vos.files.json_files import checked, parse_json
from vos.files.whole import read_regular
from vos.models.pickled_weights import read_pickled

MAX_HEADER_BYTES = 4 * 2**20
"""Largest header of a .safetensors file: about 40,000 tensors."""
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}
_AGAIN = "copy it again"


class WeightFile(NamedTuple):
    """The tensors of a file, and its digest."""

    tensors: dict[str, Tensor]
    sha256: str


class _Entry(TypedDict):
    dtype: str
    shape: list[int]
    data_offsets: tuple[int, int]


def read_weights(path: str) -> WeightFile:
    """Read the tensors of a file by name; the `module.` prefix of DataParallel is removed.

    path  .safetensors, or any other name for a file of `torch.save(model.state_dict(), path)`
    Raises InputError, naming the file, if it is missing, not a regular file, too large, damaged, or holds anything else.
    """
    data = read_regular(path, "checkpoint_bytes", "give a .safetensors or .pth file of weights")
    named = parse_safetensors(data, path) if path.endswith(".safetensors") else read_pickled(data, path)
    tensors = {name.removeprefix("module."): tensor for name, tensor in named.items()}
    if len(tensors) != len(named):
        raise InputError(f"{path}: holds the same weights with and without the prefix module.; save only one of them")
    return WeightFile(tensors, hashlib.sha256(data).hexdigest())


def parse_safetensors(data: bytes, path: str) -> dict[str, Tensor]:
    """Parse the bytes of a .safetensors file. Raises InputError, naming `path`, if they are damaged."""
    length = int.from_bytes(data[:8], "little")
    if len(data) < 8 or length > len(data) - 8:
        raise InputError(f"{path}: is truncated or not a .safetensors file; {_AGAIN}")
    if length > MAX_HEADER_BYTES:
        raise InputError(f"{path}: its header declares {length:,} bytes, more than {MAX_HEADER_BYTES:,}; {_AGAIN}")
    header = checked(parse_json(data[8 : 8 + length], path, _AGAIN), dict[str, dict], path, _AGAIN)
    header.pop("__metadata__", None)
    entries = checked(header, dict[str, _Entry], path, _AGAIN)
    end = 0
    for name, entry in sorted(entries.items(), key=lambda item: item[1]["data_offsets"]):
        begin, after = entry["data_offsets"]
        if entry["dtype"] not in _BYTES:
            raise InputError(
                f"{path}: {name[:80]} is of type {entry['dtype'][:20]}, which no network here uses; {_AGAIN}"
            )
        if min(entry["shape"], default=0) < 0 or len(entry["shape"]) > 8 or max(entry["shape"], default=0) > 2**40:
            raise InputError(f"{path}: {name[:80]} has an impossible shape; {_AGAIN}")
        if begin != end or after - begin != math.prod(entry["shape"]) * _BYTES[entry["dtype"]]:
            raise InputError(f"{path}: the bytes of {name[:80]} do not match the header; {_AGAIN}")
        end = after
    if end != len(data) - 8 - length:
        raise InputError(f"{path}: is truncated, or longer than its header declares; {_AGAIN}")
    try:
        return load(data)
    except Exception as error:  # the library's own checks are stricter about the form of the header
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise InputError(f"{path}: is truncated or not a .safetensors file ({reason}); {_AGAIN}") from None


def not_finite(tensors: Mapping[str, Tensor]) -> str:
    """Return the name of the first tensor with a NaN or an infinity, "" if there is none."""
    # A float64 sum is finite exactly if all float32 elements are; it takes a third of the time of isfinite().all().
    suspects = (name for name, one in tensors.items() if one.is_floating_point() and not _sums_up(one))
    return next((name for name in suspects if not bool(torch.isfinite(tensors[name]).all())), "")


def _sums_up(tensor: Tensor) -> bool:
    return math.isfinite(float(tensor.sum(dtype=torch.float64)))


def check_finite(tensors: Mapping[str, Tensor], path: str) -> None:
    """Raise InputError, naming the file and the tensor, if a weight is NaN or infinite."""
    name = not_finite(tensors)
    if name:
        raise InputError(f"{path}: {name} holds NaN or infinite numbers; use an earlier checkpoint")
