"""Read, write, list and lock files, local or at a URI (`s3://…`); a file is either complete or absent.

Local files are written under a temporary name beside the target, synced and renamed. On an object store an upload appears only when it
is complete, so it is one write. Paths stay strings, because `pathlib` would remove a slash of a URI.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import posixpath
import shutil
import tempfile
import time
from collections.abc import Iterator
from typing import IO

from vos.config.paths import check_secret
from vos.errors import InputError
from vos.files.whole import write_atomic
from vos.files.written import Files

LOCK = ".lock"


def is_uri(path: str) -> bool:
    return "://" in path


def join(folder: str, *names: str) -> str:
    """Return `folder/name/…`, for local folders and URIs."""
    return posixpath.join(folder, *names)


def _filesystem(path: str):
    from pyarrow import fs

    check_secret("the address", path)
    try:
        return fs.FileSystem.from_uri(path)
    except Exception as error:
        raise InputError(
            f"{path}: cannot be used as a URI ({error}); use a local folder, s3://bucket/folder or file:///folder"
        ) from None


def make_folder(path: str) -> None:
    """Make a folder and its parents. Raises InputError where they cannot be made or written."""
    try:
        if is_uri(path):
            filesystem, inner = _filesystem(path)
            filesystem.create_dir(inner, recursive=True)
            return
        os.makedirs(path, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        reason = (error.strerror or str(error).splitlines()[0]).lower()
        raise InputError(f"{path}: the output folder cannot be written ({reason}); choose another --out") from None


def write_bytes(path: str, data: bytes, sync: bool = True) -> None:
    """Write a whole file; until it is complete, the old one (or none) stays. `sync` as in `write_atomic`."""
    if is_uri(path):
        filesystem, inner = _filesystem(path)
        if filesystem.type_name != "local":
            try:
                with filesystem.open_output_stream(inner) as stream:
                    stream.write(data)
            except OSError as error:
                reason = " ".join(str(error).split())
                raise InputError(
                    f"{path}: cannot be written ({reason}); check the address and your permissions"
                ) from error
            return
        path = inner
    write_atomic(path, data, sync)


def read_bytes(path: str) -> bytes:
    """Return the whole file. Raises FileNotFoundError, and InputError for a pipe or device, whose reading may never end."""
    if is_uri(path):
        filesystem, inner = _filesystem(path)
        if filesystem.type_name != "local":
            try:
                with filesystem.open_input_file(inner) as stream:
                    return stream.read()
            except FileNotFoundError:
                raise
            except OSError as error:
                reason = " ".join(str(error).split())
                raise InputError(
                    f"{path}: cannot be read ({reason}); check the address and your permissions"
                ) from error
        path = inner
    if os.path.exists(path) and not (os.path.isfile(path) or os.path.isdir(path)):
        raise InputError(f"{path}: is a pipe, socket or device, not a file; remove it or name another folder")
    with open(path, "rb") as file:
        return file.read()


def remove(path: str) -> None:
    """Delete a file, if it exists."""
    if is_uri(path):
        filesystem, inner = _filesystem(path)
        with contextlib.suppress(FileNotFoundError):
            filesystem.delete_file(inner)
        return
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


@contextlib.contextmanager
def only_writer(folder: str, wait_s: float = 0) -> Iterator[None]:
    """Lock a local folder for one writing process. A URI is not locked.

    The lock ends with the process, even if it is killed.
    wait_s  how long to wait for another process to release it
    Raises InputError when another process holds it.
    """
    if is_uri(folder):
        yield
        return
    with open(_lock_file(os.path.join(folder, LOCK)), "a", encoding="utf-8") as file:
        end = time.monotonic() + wait_s
        while not _locked(file):
            if time.monotonic() > end:
                raise InputError(
                    f"{folder}: another process is writing here; wait for it, stop it, or choose another --out"
                )
            time.sleep(0.2)
        yield


def _lock_file(path: str) -> int:
    """Open the lock file, made where it is absent, and return its descriptor; a link or a pipe of this name is not followed."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{path}: cannot be used as this folder's lock ({reason}); choose another --out") from None


def _locked(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def list_names(folder: str) -> list[str]:
    """Return the sorted names of the files in a folder; none when it does not exist."""
    return _listed(folder, folders=False)


def list_folders(folder: str) -> list[str]:
    """Return the sorted names of the folders in a folder; none when it does not exist."""
    return _listed(folder, folders=True)


def list_all(folder: str) -> list[str]:
    """Return the sorted names of all entries of a folder; none when it does not exist. Raises InputError where it cannot be listed."""
    try:
        if is_uri(folder):
            return sorted([*list_names(folder), *list_folders(folder)])
        return sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    except OSError as error:
        reason = " ".join((error.strerror or str(error)).lower().split())
        raise InputError(f"{folder}: cannot be listed ({reason}); choose another --out") from None


def _listed(folder: str, folders: bool) -> list[str]:
    if is_uri(folder):
        from pyarrow import fs

        filesystem, inner = _filesystem(folder)
        wanted = fs.FileType.Directory if folders else fs.FileType.File
        found = filesystem.get_file_info(fs.FileSelector(inner, allow_not_found=True))
        return sorted(info.base_name for info in found if info.type == wanted)
    if not os.path.isdir(folder):
        return []
    return sorted(entry.name for entry in os.scandir(folder) if (entry.is_dir() if folders else entry.is_file()))


def remove_folder(path: str) -> None:
    """Delete an empty folder; one that is absent or not empty is left."""
    if is_uri(path):
        if not list_all(path):
            filesystem, inner = _filesystem(path)
            with contextlib.suppress(FileNotFoundError):
                filesystem.delete_dir(inner)
        return
    with contextlib.suppress(OSError):
        os.rmdir(path)


def remove_tree(path: str) -> None:
    """Delete a folder of this job with all its content; links in it are deleted, not followed."""
    if is_uri(path):
        filesystem, inner = _filesystem(path)
        with contextlib.suppress(OSError):
            filesystem.delete_dir(inner)
        return
    shutil.rmtree(path, ignore_errors=True)


FILES = Files(read_bytes, write_bytes, remove)
"""Access to files on this machine and at URIs, for `vos.files.written`."""
