"""Reader of tables of tensors in the two formats of torch.save, without unpickling and without torch's own reader.

It supports only the pickle opcodes that a `state_dict()` needs, and a fixed list of global names: storages and the functions that make
tensors of them. Nothing is called. Memory is bounded by the size of the file: archive entries must be uncompressed, and no tensor has
more elements than its storage.
"""

from __future__ import annotations

import io
import math
import pickletools
import zipfile
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vos.errors import InputError
from vos.files.limits import check_limit

MAX_ENTRIES = 10_000
MAX_OPCODES = 500_000
MAX_PICKLE_BYTES = 16 * 2**20
_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_DTYPES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
}
_STORAGES = {f"{module} {name}": dtype for name, dtype in _DTYPES.items() for module in ("torch", "torch.cuda")}
_TENSORS = ("torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_tensor")
_PARAMETER = "torch._utils _rebuild_parameter"
_TABLE = "collections OrderedDict"
_KNOWN = {*_STORAGES, *_TENSORS, _PARAMETER, _TABLE}
_MARK = object()


class _Global(NamedTuple):
    """The name of a function or class, which is never looked up."""

    name: str


class _Storage(NamedTuple):
    key: str
    dtype: torch.dtype
    count: int


class _View(NamedTuple):
    """A tensor, before its bytes are read."""

    storage: _Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def read_pickled(data: bytes, path: str) -> dict[str, Tensor]:
    """Return the tensors of a `torch.save(model.state_dict(), path)`, from any release of torch.

    data  the file; `path` is named in errors
    Raises InputError for damaged files, and for files that hold anything other than a table of tensors.
    """
    try:
        return _read_archive(data, path) if data[:4] == b"PK\x03\x04" else _read_legacy(data, path)
    except InputError:
        raise
    except Exception as error:  # damaged bytes raise almost anything: BadZipFile, IndexError, struct.error, ...
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:120]
        raise InputError(f"{path}: is truncated or not a file of bare weights ({reason}); copy it again") from None


def _read_archive(data: bytes, path: str) -> dict[str, Tensor]:
    """Read the format of torch 1.6 and later: a zip with `data.pkl` and a file for each storage."""
    # Counted before zipfile reads the directory: every entry begins with this signature, and zipfile makes an object of each.
    if data.count(b"PK\x01\x02") > MAX_ENTRIES:
        raise ValueError(f"more than {MAX_ENTRIES} entries")
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        entries = {entry.filename: entry for entry in archive.infolist()}
        if len(entries) != len(archive.infolist()):
            raise ValueError("an entry occurs twice")
        for name, entry in entries.items():
            if entry.compress_type != zipfile.ZIP_STORED or entry.compress_size != entry.file_size:
                raise ValueError(f"{name[:40]} is compressed")
        if sum(entry.file_size for entry in entries.values()) > len(data):
            raise ValueError("entries overlap")
        (pickled,) = (name for name in entries if name.count("/") == 1 and name.endswith("/data.pkl"))
        folder = pickled.removesuffix("data.pkl")
        if f"{folder}byteorder" in entries and archive.read(f"{folder}byteorder") != b"little":
            raise ValueError("its numbers are big-endian")
        if entries[pickled].file_size > MAX_PICKLE_BYTES:
            raise ValueError(f"more than {MAX_PICKLE_BYTES} bytes of names")
        table = _table(_Reader(path).read(io.BytesIO(archive.read(pickled))), path)
        return _tensors(table, lambda storage: archive.read(f"{folder}data/{storage.key}"), path)


def _read_legacy(data: bytes, path: str) -> dict[str, Tensor]:
    """Read the format before torch 1.6: five pickles, then each storage as its number of elements and its bytes."""
    stream = io.BytesIO(data)
    if _Reader(path).read(stream) != _LEGACY_MAGIC or _Reader(path).read(stream) != _LEGACY_PROTOCOL:
        raise ValueError("not of torch.save")
    system = _Reader(path).read(stream)
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise ValueError("its numbers are big-endian")
    table = _table(_Reader(path).read(stream), path)
    sizes = {view.storage.key: view.storage for view in table.values()}
    places: dict[str, tuple[int, int]] = {}
    for key in _Reader(path).read(stream):
        count = int.from_bytes(stream.read(8), "little")
        if key not in sizes or count != sizes[key].count or key in places:
            raise ValueError("its storages do not match its table")
        begin, length = stream.tell(), count * sizes[key].dtype.itemsize
        places[key] = begin, begin + length
        stream.seek(length, io.SEEK_CUR)
    return _tensors(table, lambda storage: data[slice(*places[storage.key])], path)


def _table(value: Any, path: str) -> dict[str, _View]:
    if not isinstance(value, dict) or not all(isinstance(one, _View) for one in value.values()):
        raise InputError(f"{path}: is not a plain table of weights; save only the model's state_dict()")
    return value


def _tensors(table: dict[str, _View], read: Callable[[_Storage], bytes], path: str) -> dict[str, Tensor]:
    check_limit("checkpoint_bytes", sum(math.prod(v.size) * v.storage.dtype.itemsize for v in table.values()), path)
    storages: dict[_Storage, Tensor] = {}
    result: dict[str, Tensor] = {}
    for name, view in table.items():
        storage = view.storage
        if storage not in storages:
            content = bytearray(read(storage))
            if len(content) != storage.count * storage.dtype.itemsize:
                raise ValueError(f"the storage of {name[:80]} is incomplete")
            storages[storage] = torch.frombuffer(content, dtype=storage.dtype) if content else torch.empty(0)
        last = view.offset + sum((n - 1) * step for n, step in zip(view.size, view.stride, strict=True))
        count = math.prod(view.size)
        if count and (last >= storage.count or count > storage.count):
            raise ValueError(f"{name[:80]} reaches beyond its storage")
        flat = storages[storage]
        result[name] = (
            flat.as_strided(view.size, view.stride, view.offset)
            if count
            else flat.new_empty(view.size).to(storage.dtype)
        )
    return result


class _Reader:
    """A stack machine for the opcodes of one pickle."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def read(self, stream: io.BytesIO) -> Any:
        """Return the value of the pickle at the stream's position, and move the position behind it."""
        for number, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
            if number >= MAX_OPCODES:
                raise ValueError(f"more than {MAX_OPCODES} opcodes")
            self._take(opcode.name, argument)
        (value,) = self._stack
        return value

    def _take(self, name: str, argument: Any) -> None:
        stack = self._stack
        if name in _CONSTANTS:
            stack.append(_CONSTANTS[name])
        elif name in _LITERALS:
            stack.append(argument)
        elif name in ("BINPUT", "LONG_BINPUT"):
            self._memo[argument] = stack[-1]
        elif name in ("BINGET", "LONG_BINGET"):
            stack.append(self._memo[argument])
        elif name in _MAKERS:
            stack.append(_MAKERS[name]())
        elif name == "TUPLE":
            stack.append(tuple(self._to_mark()))
        elif name in _TUPLES:
            items = tuple(stack.pop() for _ in range(_TUPLES[name]))
            stack.append(items[::-1])
        elif name in ("SETITEM", "SETITEMS"):
            items = self._to_mark() if name == "SETITEMS" else [stack.pop(), stack.pop()][::-1]
            self._set(stack[-1], items)
        elif name in ("APPEND", "APPENDS"):
            items = self._to_mark() if name == "APPENDS" else [stack.pop()]
            if type(stack[-1]) is not list:
                raise ValueError("appends to no list")
            stack[-1].extend(items)
        elif name == "GLOBAL":
            if argument not in _KNOWN:
                self._refuse(argument)
            stack.append(_Global(argument))
        elif name == "BINPERSID":
            stack.append(_storage(stack.pop()))
        elif name == "REDUCE":
            arguments = stack.pop()
            stack.append(self._made(stack.pop(), arguments))
        elif name == "BUILD":  # the versions of a model's layers, which do not affect its weights
            stack.pop()
        elif name not in ("PROTO", "STOP"):
            self._refuse(name)

    def _to_mark(self) -> list[Any]:
        place = len(self._stack) - 1
        while self._stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise ValueError("a mark is missing")
        items = self._stack[place + 1 :]
        del self._stack[place:]
        return items

    def _set(self, table: Any, items: list[Any]) -> None:
        names, values = items[::2], items[1::2]
        if type(table) is not dict or len(names) != len(values) or not all(type(name) is str for name in names):
            raise ValueError("a table's names are not all strings")
        if len(set(names)) != len(names) or not table.keys().isdisjoint(names):
            raise ValueError("a name occurs twice")
        table.update(zip(names, values, strict=True))

    def _made(self, function: Any, arguments: Any) -> Any:
        name = function.name if isinstance(function, _Global) else ""
        if name == _TABLE and arguments == ():
            return {}
        if name in _TENSORS:
            return _view(*arguments[:4])
        if name == _PARAMETER and isinstance(arguments[0], _View):
            return arguments[0]
        return self._refuse(name or "REDUCE")

    def _refuse(self, what: str) -> Any:
        raise InputError(
            f"{self._path}: holds more than tensors ({what[:60]}), which is never loaded; save only the model's state_dict()"
        )


def _storage(reference: Any) -> _Storage:
    kind, storage_type, key, _, count, *more = reference
    if kind != "storage" or any(one is not None for one in more) or not isinstance(storage_type, _Global):
        raise ValueError("a storage of unknown kind")
    if type(key) is not str or type(count) is not int or not 0 <= count < 2**40:
        raise ValueError("a storage of impossible size")
    return _Storage(key, _STORAGES[storage_type.name], count)


def _view(storage: Any, offset: Any, size: Any, stride: Any) -> _View:
    numbers = (offset, *size, *stride)
    if not isinstance(storage, _Storage) or not all(type(one) is int and 0 <= one < 2**40 for one in numbers):
        raise ValueError("a tensor of impossible shape")
    if len(size) != len(stride) or len(size) > 8:
        raise ValueError("a tensor of impossible shape")
    return _View(storage, offset, tuple(size), tuple(stride))


_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
_LITERALS = ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "BINSTRING", "SHORT_BINSTRING")
_MAKERS: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}
