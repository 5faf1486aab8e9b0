"""Files of weights: whatever their bytes, they are read rightly, or refused in one line at no cost."""

import io
import json
import os
import pickle
import struct
import time
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from vos.errors import InputError
from vos.models.weight_files import read_weights

TENSORS = {
    "a.weight": torch.arange(24, dtype=torch.float32).reshape(2, 3, 4),
    "half": torch.arange(6).half(),
    "b16": torch.arange(5).bfloat16(),
    "wide": torch.arange(5).double(),
    "count": torch.tensor(7),
    "flag": torch.tensor([True, False]),
    "none": torch.zeros(0, 3),
}


def pth(value: Any, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()


def refusal(data: bytes, path: Path) -> str:
    path.write_bytes(data)
    began = time.process_time()
    with pytest.raises(InputError) as error:
        read_weights(str(path))
    assert time.process_time() - began < 2
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("legacy", [False, True])
def test_both_formats_of_torch_are_read_as_torch_reads_them(tmp_path: Path, legacy: bool):
    path = tmp_path / "w.pth"
    shared = torch.randn(4, 4)
    views = {"transposed": shared.t(), "column": shared[:, 1], "row": shared[2], "parameter": nn.Parameter(shared + 1)}
    layer = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).state_dict()
    for table in (TENSORS, views, layer, OrderedDict((f"module.{name}", one) for name, one in TENSORS.items())):
        path.write_bytes(pth(table, legacy))
        expected = {name.removeprefix("module."): one for name, one in torch.load(path, weights_only=True).items()}
        got = read_weights(str(path)).tensors
        assert got.keys() == expected.keys()
        for name, tensor in expected.items():
            assert got[name].dtype == tensor.dtype and torch.equal(got[name], tensor)


class Runs:
    """Leaves a file where it is unpickled."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self._path),)


def test_a_pickle_that_calls_is_refused_and_nothing_is_called(tmp_path: Path):
    done = tmp_path / "done"
    for data in (pth({"a": Runs(done)}), pth({"a": Runs(done)}, True), pickle.dumps(Runs(done)), pth(nn.Linear(2, 2))):
        assert "w.pth" in refusal(data, tmp_path / "w.pth")
    assert not done.exists()


def archive(pickled: bytes, storages: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compression) as file:
        for name, data in {"data.pkl": pickled, **{f"data/{key}": one for key, one in storages.items()}}.items():
            file.writestr(f"archive/{name}", data)
    return stream.getvalue()


def tensor_pickle(count: int, offset: int, size: tuple[int, ...], stride: tuple[int, ...]) -> bytes:
    """A table of one float32 tensor, by hand, so that it may claim anything."""

    def number(value: int) -> bytes:
        data = value.to_bytes(9, "little", signed=True)
        return b"\x8a" + bytes([len(data)]) + data

    def numbers(values: tuple[int, ...]) -> bytes:
        return b"(" + b"".join(map(number, values)) + b"t"

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + number(count) + b"tQ"
    arguments = b"(" + storage + number(offset) + numbers(size) + numbers(stride) + b"\x89" + b"}" + b"t"
    return b"\x80\x02}" + text("w") + b"ctorch._utils\n_rebuild_tensor_v2\n" + arguments + b"Rs."


def test_a_table_made_by_hand_is_read(tmp_path: Path):
    values = np.arange(6, dtype=np.float32)
    (tmp_path / "w.pth").write_bytes(archive(tensor_pickle(6, 1, (2, 2), (2, 1)), {"0": values.tobytes()}))
    assert read_weights(str(tmp_path / "w.pth")).tensors["w"].tolist() == [[1, 2], [3, 4]]


ONE = np.ones(1, np.float32).tobytes()


@pytest.mark.parametrize(
    "data",
    [
        archive(tensor_pickle(1, 0, (2**39,), (0,)), {"0": ONE}),
        archive(tensor_pickle(1, 0, (2,), (1,)), {"0": ONE}),
        archive(tensor_pickle(1, -1, (1,), (1,)), {"0": ONE}),
        archive(tensor_pickle(1, 1, (1,), (1,)), {"0": ONE}),
        archive(tensor_pickle(2, 0, (2,), (-1,)), {"0": ONE * 2}),
        archive(tensor_pickle(2**38, 0, (2**38,), (1,)), {"0": ONE}),
        archive(tensor_pickle(1, 0, (1,) * 9, (1,) * 9), {"0": ONE}),
        archive(tensor_pickle(1, 0, (1, 1), (1,)), {"0": ONE}),
        archive(tensor_pickle(1, 0, (1,), (1,)), {}),
        archive(tensor_pickle(1, 0, (1,), (1,)), {"0": ONE}, zipfile.ZIP_DEFLATED),
        archive(tensor_pickle(2**22, 0, (2**22,), (1,)), {"0": bytes(2**24)}, zipfile.ZIP_DEFLATED),
        archive(b"\x80\x02" + b"N" * 600_000 + b".", {}),
        archive(b"\x80\x02}" + b"\x86".join([b"q\x00h\x00h\x00"] * 60) + b"\x86h\x00s.", {}),
        archive(b"\x80\x02B\xff\xff\xff\x7f", {}),
        archive(b"\x80\x02\x8b\xff\xff\xff\x7f", {}),
        archive(b"\x80\x02L" + b"9" * 100_000 + b"L\n.", {}),
        archive(b"\x80\x02t.", {}),
        archive(b"\x80\x02(((", {}),
        archive(b"cbuiltins\nbytearray\n\x8a\x05\x00\x00\x00\x00\x01\x85R.", {}),
        archive(b"\x80\x02h\x07.", {}),
        b"PK\x03\x04",
        b"PK\x03\x04" + b"PK\x01\x02" * 20_000,
        b"\x80\x02",
        b"",
        b"\x00" * 4096,
    ],
    ids=lambda data: f"{len(data)} bytes",
)
def test_a_crafted_archive_is_refused_before_it_costs_anything(tmp_path: Path, data: bytes):
    refusal(data, tmp_path / "w.pth")


@pytest.mark.parametrize("legacy", [False, True])
def test_any_change_of_a_byte_is_read_or_refused_in_one_line(tmp_path: Path, legacy: bool):
    data, rng, path = pth(TENSORS, legacy), np.random.default_rng(0), tmp_path / "w.pth"
    for _ in range(300):
        changed = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            changed[place] = rng.integers(0, 256)
        path.write_bytes(changed)
        try:
            read_weights(str(path))
        except InputError as error:
            assert str(path) in str(error) and "\n" not in str(error)


def safetensors(header: Any, body: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def entry(dtype: str = "F32", shape: Any = (1,), offsets: Any = (0, 4)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        struct.pack("<Q", 2**63),
        struct.pack("<Q", 2**40) + b"{}",
        safetensors(b"{}" + b" " * 2**23),
        safetensors({"a": entry("F8_E4M3", (4,))}, bytes(4)),
        safetensors({"a": entry("F4", (8,))}, bytes(4)),
        safetensors({"a": entry("F32", (2**40, 2**40))}, bytes(4)),
        safetensors({"a": entry("F32", (-1,))}, bytes(4)),
        safetensors({"a": entry("F32", (1,), (0, 2**62))}, bytes(4)),
        safetensors({"a": entry("F32", (1,), (4, 0))}, bytes(4)),
        safetensors({"a": entry(), "b": entry()}, bytes(4)),
        safetensors({"a": entry(), "b": entry("F32", (1,), (8, 12))}, bytes(12)),
        safetensors({"a": entry()}, bytes(5)),
        safetensors(b'{"a": %b, "a": %b}' % ((json.dumps(entry()).encode(),) * 2), bytes(4)),
        safetensors({"a": [1]}),
        safetensors({"a": entry(shape="1")}, bytes(4)),
        safetensors(b"[" * 100_000),
    ],
    ids=lambda data: f"{len(data)} bytes",
)
def test_a_crafted_header_is_refused(tmp_path: Path, data: bytes):
    refusal(data, tmp_path / "w.safetensors")


def test_safetensors_are_read_as_their_library_reads_them(tmp_path: Path):
    (tmp_path / "w.safetensors").write_bytes(save(TENSORS))
    got: dict[str, Tensor] = read_weights(str(tmp_path / "w.safetensors")).tensors
    assert got.keys() == TENSORS.keys()
    assert all(torch.equal(got[name], tensor) and got[name].dtype == tensor.dtype for name, tensor in TENSORS.items())


@pytest.mark.parametrize("write", [save, pth])
def test_a_file_above_the_bound_is_refused_with_the_variable_that_raises_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Any], bytes]
):
    monkeypatch.setenv("MOBILEVOS_MAX_CHECKPOINT_BYTES", "100")
    assert "MOBILEVOS_MAX_CHECKPOINT_BYTES" in refusal(write(TENSORS), tmp_path / "w.safetensors")
