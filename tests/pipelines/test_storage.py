"""Whole files: after a write the new one, after a failed write the old one, and nothing else in the folder."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines import storage
from vos.config.command_line import input_error
from vos.errors import InputError


@pytest.fixture(params=["local", "uri"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The same folder as a path and as a file:// URI."""
    return str(tmp_path) if request.param == "local" else f"file://{tmp_path}"


@pytest.fixture
def regular_file(tmp_path: Path) -> Path:
    """A file: nothing can be made below it, whoever tries (root ignores permissions)."""
    path = tmp_path / "regular"
    path.write_text("kept")
    return path


def test_what_was_written_is_read_back_and_the_second_write_wins(folder: str):
    path = storage.join(folder, "a.bin")
    for data in (b"\x00long first", b"", b"2"):
        storage.write_bytes(path, data)
        assert storage.read_bytes(path) == data
    assert storage.list_names(folder) == ["a.bin"]


def test_folders_are_made_with_their_parents_and_may_be_there_already(folder: str):
    inner = storage.join(folder, "a", "b", "c")
    for _ in range(2):
        storage.make_folder(inner)
    storage.write_bytes(storage.join(inner, "file"), b"x")
    assert storage.list_names(inner) == ["file"]


def test_names_are_sorted_and_only_of_files(folder: str):
    for name in ("b", "a", "c"):
        storage.write_bytes(storage.join(folder, name), b"")
    storage.make_folder(storage.join(folder, "aa"))
    assert storage.list_names(folder) == ["a", "b", "c"]


def test_a_folder_that_is_not_there_has_no_names(folder: str):
    assert storage.list_names(storage.join(folder, "absent")) == []


def test_folders_are_listed_apart_from_files_and_go_when_they_are_empty(folder: str):
    assert storage.list_folders(storage.join(folder, "absent")) == []
    for name in ("b", "a"):
        storage.make_folder(storage.join(folder, name))
    storage.write_bytes(storage.join(folder, "file"), b"")
    storage.write_bytes(storage.join(folder, "b", "stranger"), b"kept")
    assert storage.list_folders(folder) == ["a", "b"]
    for name in ("a", "b", "absent"):
        storage.remove_folder(storage.join(folder, name))
    assert storage.list_folders(folder) == ["b"]
    assert storage.read_bytes(storage.join(folder, "b", "stranger")) == b"kept"


def test_a_second_writer_waits_as_long_as_it_is_told_for_the_first(tmp_path: Path):
    hold = "import sys\nfrom pipelines.storage import only_writer\nwith only_writer(sys.argv[1]): print(flush=True); sys.stdin.read()"
    command = [sys.executable, "-c", hold, str(tmp_path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as first:
        assert first.stdout is not None and first.stdout.readline()
        with pytest.raises(InputError, match="another process is writing here"), storage.only_writer(str(tmp_path)):
            raise AssertionError
        first.kill()
        with storage.only_writer(str(tmp_path), wait_s=30):
            pass


def test_a_file_that_is_not_there_is_a_file_not_found_error(folder: str):
    with pytest.raises(FileNotFoundError):
        storage.read_bytes(storage.join(folder, "absent"))


@pytest.mark.parametrize("failing", ["write", "fsync", "replace"])
def test_a_failing_write_leaves_the_old_file_and_no_other(
    failing: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = storage.join(folder, "a.bin")
    storage.write_bytes(path, b"old")

    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    data: Any = b"new"
    if failing == "write":
        data = ["not bytes"]
    else:
        monkeypatch.setattr(os, failing, full)
    with pytest.raises((InputError, TypeError)):
        storage.write_bytes(path, data)
    monkeypatch.undo()
    assert storage.read_bytes(path) == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_an_interrupted_write_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def interrupted(*arguments: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    with pytest.raises(KeyboardInterrupt):
        storage.write_bytes(str(tmp_path / "a.bin"), b"new")
    assert os.listdir(tmp_path) == []


def test_while_a_file_is_written_its_name_shows_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path, seen = tmp_path / "a.bin", []
    path.write_bytes(b"old")
    fsync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda number: (seen.append(path.read_bytes()), fsync(number)))
    storage.write_bytes(str(path), b"new")
    assert seen == [b"old"] and path.read_bytes() == b"new"


@pytest.mark.parametrize("below", ["", "/runs/x"])
def test_a_folder_that_cannot_be_made_is_named_in_one_line(below: str, regular_file: Path):
    for path in (f"{regular_file}{below}", f"file://{regular_file}{below}"):
        with pytest.raises(InputError) as refusal:
            storage.make_folder(path)
        assert path in str(refusal.value) and "\n" not in str(refusal.value)
    assert regular_file.read_text() == "kept"


def test_a_file_that_cannot_be_written_is_the_users_part(regular_file: Path):
    for path in (f"{regular_file}/a.bin", f"file://{regular_file}/a.bin"):
        with pytest.raises((OSError, InputError)) as refusal:
            storage.write_bytes(path, b"x")
        message = input_error(refusal.value)
        assert message is not None and str(regular_file) in message and "\n" not in message


@pytest.mark.parametrize("uri", ["foo://bucket/x", "file://relative/x", "://x"])
@pytest.mark.parametrize("use", [storage.read_bytes, storage.list_names, storage.make_folder])
def test_a_uri_that_cannot_be_used_is_refused_in_one_line(uri: str, use: Any):
    with pytest.raises(InputError) as refusal:
        use(uri)
    assert str(refusal.value).startswith(uri) and "\n" not in str(refusal.value)


def test_joining_keeps_both_slashes_of_a_uri():
    assert storage.join("s3://bucket/a", "shards", "x.parquet") == "s3://bucket/a/shards/x.parquet"
    assert storage.join("s3://bucket/a/", "x") == "s3://bucket/a/x"
    assert [storage.is_uri(path) for path in ("s3://b", "file:///b", "/a/b", "a:b", "C:/x")] == [True, True] + [
        False
    ] * 3


@pytest.mark.parametrize("prefix", ["", "file://"])
def test_a_pipe_or_device_in_a_files_place_is_named_and_not_waited_for(prefix: str, tmp_path: Path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "zero").symlink_to("/dev/zero")
    for name in ("pipe", "zero"):
        with pytest.raises(InputError, match=f"{tmp_path}/{name}: is a pipe, socket or device"):
            storage.read_bytes(f"{prefix}{tmp_path}/{name}")
