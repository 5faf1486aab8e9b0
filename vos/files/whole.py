"""Safe access to files: bounded reads of regular files, private folders, and writes that are complete or not made at all."""

from __future__ import annotations

import contextlib
import os
import stat
import uuid
from typing import BinaryIO

from vos.errors import InputError
from vos.files.limits import check_limit


def open_regular(path: str, advice: str = "name another file") -> BinaryIO:
    """Open a regular file for reading. A FIFO or device is refused, since reading it may block or never end.

    advice  how to fix it, the end of the error line
    Raises InputError if the file is absent, unreadable, or not a regular file.
    """
    try:
        # O_NONBLOCK: opening a FIFO would wait for its writer. It has no effect on a regular file.
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        raise InputError(f"{path}: the file does not exist; {advice}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        reason = (getattr(error, "strerror", None) or str(error)).lower()
        raise InputError(f"{path!r}: cannot be read ({reason}); {advice}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        kind = "a folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "a pipe, socket or device"
        os.close(descriptor)
        raise InputError(f"{path}: is {kind}, not a file; {advice}")
    return open(descriptor, "rb")


def read_regular(path: str, bound: str, advice: str = "name another file") -> bytes:
    """Return the bytes of a regular file of at most `vos.files.limits.limit(bound)` bytes. Raises InputError for any other file."""
    with open_regular(path, advice) as file:
        check_limit(bound, os.fstat(file.fileno()).st_size, path)
        try:
            return file.read()
        except OSError as error:
            raise InputError(f"{path}: cannot be read ({(error.strerror or str(error)).lower()}); {advice}") from None


def private_folder(path: str, close_open: bool = False) -> str:
    """Make a folder (and its parents) that only this user can enter, or check an existing one; return its path.

    For folders with predictable names whose content is executed or trusted. A folder that other accounts can write to is
    refused, because it may already hold their files.
    close_open  remove the others' access and use the folder anyway: for data that is not executed
    Raises InputError if it belongs to another user, is a link, is writable by others, or cannot be made.
    """
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with contextlib.suppress(FileExistsError):
            os.mkdir(path, 0o700)
        found = os.lstat(path)
        problem = "is not a folder of yours"
        if stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid():
            if close_open or not found.st_mode & 0o022:
                os.chmod(path, 0o700)
                return path
            problem = "other accounts can write there, so its files may not be yours"
    except OSError as error:
        problem = f"cannot be made private ({(error.strerror or str(error)).lower()})"
    raise InputError(f"{path}: {problem}; remove it, or set TMPDIR and MOBILEVOS_CACHE to folders of your own")


def code_cache(*names: str) -> str:
    """Return a private folder for graphs and compiled code, which are executed: $MOBILEVOS_CACHE, else one in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    path = private_folder(os.environ.get("MOBILEVOS_CACHE") or os.path.join(base, "mobilevos-ray"))
    for name in names:
        path = private_folder(os.path.join(path, name))
    return path


def inside(folder: str, name: str, origin: str) -> str:
    """Return the path of a file in a folder, for a name that was read from another file.

    origin  the file that holds the name, begins the error line
    Raises InputError for a name that contains a path, and for a link that leaves the folder.
    """
    path = os.path.join(folder, name)
    if name in ("", ".", "..") or os.path.basename(name) != name or "\0" in name or "\\" in name:
        raise InputError(f"{origin}: {name[:80]!r} is not the name of a file in its folder; copy the folder again")
    if os.path.realpath(path) != os.path.join(os.path.realpath(folder), name):
        raise InputError(f"{origin}: {name} is a link; replace it by the file itself")
    return path


def write_atomic(path: str, data: bytes, sync: bool = True) -> None:
    """Write a file under a temporary name beside it and rename it; missing folders are made.

    sync   flush to the disk before the rename, so that the file is complete after a power cut too; without it only a kill is
           covered, which is enough for thousands of masks that can be made again

    A reader sees the old file or the new one. Raises InputError if it cannot be written.
    """
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            if os.path.exists(temporary):
                os.remove(temporary)
    except OSError as error:
        reason = (error.strerror or "no reason given").lower()
        raise InputError(f"{path}: cannot be written ({reason}); choose another --out or free the folder") from error
