"""Lists of names: whole, bounded, and of nothing but names."""

import os
from pathlib import Path

import pytest

from vos.errors import InputError
from vos.files.names import read_names


def read(path: str) -> list[str]:
    return read_names(path, "name another")


def test_a_list_is_a_bounded_file_of_plain_names(tmp_path: Path):
    path = tmp_path / "val.txt"
    path.write_text("bear\n\n  ant \n")
    assert read(str(path)) == ["bear", "ant"]
    for data, words in (
        (b"bear\n../ant", "leaves"),
        (b"\xff\xfe", "UTF-8"),
        (b"a\x1b[m", "control"),
        ("\u202eb".encode(), "control"),
    ):
        path.write_bytes(data)
        with pytest.raises(InputError, match=words):
            read(str(path))
    with open(path, "wb") as file:
        file.truncate(2**34)
    with pytest.raises(InputError, match="MOBILEVOS_MAX_LIST_BYTES"):
        read(str(path))
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(InputError, match="a pipe"):
        read(str(path))
