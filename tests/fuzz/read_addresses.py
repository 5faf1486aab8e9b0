"""Addresses and paths as text."""

from __future__ import annotations

import os
from pathlib import Path

from numpy.random import Generator

from pipelines import storage
from pipelines.runtime.output_folder import read_plain
from tests.fuzz.cases import Files, Reader
from vos.config import CacheConfig
from vos.config.command_line import parse_config

ADDRESSES = (
    *(
        "",
        "://",
        "s3://",
        "s3:///k",
        "s3://b?region=",
        "s3://u:p@",
        "file://",
        "file:///",
        "file:///nowhere/x",
        "file://host/x",
        "file:/x",
        "http://127.0.0.1:1/x",
    ),
    *(
        "ftp://x/y",
        "hdfs://",
        "gs://",
        "gcs://",
        "abfs://",
        "abfss://x",
        "mock://x",
        "S3://b/k",
        "s3:/b/k",
        "s3:// b/k",
        "s3://b/%",
        "s3://b/%zz",
        "s3://b/k#f",
    ),
    *(
        "s3://b/k?x",
        "s3://b/k?endpoint_override=",
        "s3://" + "b" * 5000,
        "file:///" + "x" * 300,
        "file:///" + "x/" * 3000,
        "file:///\x00",
        "file:///a\nb",
    ),
    *(
        "file:///dev/zero",
        "file:///proc/self/mem",
        "file:///etc",
        "\x00",
        "a\x00b",
        "x" * 300,
        "x/" * 3000,
        "\udcff",
        "file:///\udcff",
        "/dev/zero",
        "/dev/null/x",
    ),
    *(
        "/proc/self/mem",
        "/",
        ".",
        "..",
        "~",
        "\n",
        "\u202e",
        "file:///é",
        "file:///a b",
        "s3://é/k",
        "s3://b/\udcff",
        "unknown+x://y",
        "1://x",
        "x://",
        "//x",
    ),
)


def address_samples(folder: Path) -> dict[str, Files]:
    return {"a file": {"address.txt": b"@/there.txt", "there.txt": b"whole"}}


def _address(folder: Path) -> str:
    return (folder / "address.txt").read_bytes().decode("utf-8", "surrogateescape").replace("@", str(folder))


def read_address(folder: Path) -> str:
    """The identity at an --out, as jobs look for it; the file itself where the address is right."""
    address = _address(folder)
    if address.endswith("there.txt"):
        return storage.read_bytes(address).decode()
    os.environ["MOBILEVOS_HOME"] = str(folder)
    out = parse_config(CacheConfig, "fuzz", ["--out", address]).out
    return f"nothing there: {read_plain(storage.join(out, 'identity.json'), dict, 'name another')}"


def address_by_others(folder: Path) -> str:
    """Local paths alone can be looked at here: no store answers."""
    address = _address(folder)
    path = address.removeprefix("file://") if address.startswith("file:///") else address
    assert ("://" not in path or path != address) and path.isprintable(), "an address that no one has"
    if path.endswith("there.txt"):
        return Path(path).read_bytes().decode()
    assert not os.path.lexists(os.path.join(folder, path, "identity.json")), "it is there"
    return "nothing there: None"


def other_address(rng: Generator, files: Files, corpus: list[Files]) -> Files:
    text = ADDRESSES[int(rng.integers(len(ADDRESSES)))]
    text = text + "/" + ADDRESSES[int(rng.integers(len(ADDRESSES)))] if rng.random() < 0.3 else text
    return files | {"address.txt": text.encode("utf-8", "surrogateescape")}


def local_address(rng: Generator, files: Files, corpus: list[Files]) -> Files:
    heads = ("@", "file://@", "@/.", "@/../" + "x" * 3, "file://@/./", "@//")
    return files | {"address.txt": (heads[int(rng.integers(len(heads)))] + "/there.txt").encode()}


MUTATIONS = {"address": other_address, "address 2": other_address, "local": local_address}
READERS = [Reader("address", address_samples, read_address, address_by_others, MUTATIONS, 0.7)]
