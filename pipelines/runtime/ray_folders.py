"""Keep Ray's token and session folders private to their user.

Ray writes a new token with the umask's permissions and makes its session folders readable by every account of the machine. Another
account could read the token and submit a job that runs as the user. So the token is made here before Ray looks for one, and each
session uses a folder that only its user can enter.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator

from vos.errors import InputError
from vos.files.whole import private_folder

LONGEST_PARENT = 10
"""Characters of the temporary folder's path: Ray's longest socket path in a session's folder below it must fit in 107 bytes."""
PREFIX = "mobilevos-ray"
LOCK = "lock"


def private_token() -> None:
    """Make Ray's token, or restrict an existing one to this user.

    A token given by value (RAY_AUTH_TOKEN) is left to the user. Raises InputError where the file belongs to another account.
    """
    if os.environ.get("RAY_AUTH_TOKEN"):
        return
    given = os.environ.get("RAY_AUTH_TOKEN_PATH")
    path = given or os.path.join(os.path.expanduser("~"), ".ray", "auth_token")
    try:
        if not given:
            _make_token(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.getuid():
                raise InputError(
                    f"{path}: Ray's token is not a file that you own; remove it, or name another with RAY_AUTH_TOKEN_PATH"
                )
            if found.st_mode & 0o077:
                os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(
            f"{path}: Ray's token cannot be made or kept private ({reason}); name another with RAY_AUTH_TOKEN_PATH"
        ) from None


def _make_token(path: str) -> None:
    """Write a new token unless there is one; if two processes start at once, only one writes."""
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    found = os.stat(folder)
    if found.st_uid != os.getuid():
        raise InputError(
            f"{folder}: Ray's folder belongs to another account; remove it, or name a token with RAY_AUTH_TOKEN_PATH"
        )
    if found.st_mode & 0o022:  # who can write there can replace the token
        os.chmod(folder, stat.S_IMODE(found.st_mode) & ~0o022)
    if os.path.exists(path) and os.path.getsize(path):
        return
    # Written under another name first, so that a process that starts at the same time reads all of it or nothing.
    temporary = os.path.join(folder, f".auth_token.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
    try:
        if os.path.isfile(path) and not os.path.getsize(path):  # Ray takes an empty file for no token
            os.replace(temporary, path)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


@contextlib.contextmanager
def session_folder() -> Iterator[str]:
    """Make a private folder for one Ray session, removed at the end; folders that killed sessions left are removed too."""
    parent = next(
        (one for one in (os.environ.get("RAY_TMPDIR"), tempfile.gettempdir()) if one and len(one) <= LONGEST_PARENT),
        "/tmp",
    )
    try:
        base = private_folder(os.path.join(parent, f"{PREFIX}-{os.getuid()}"))
        _remove_left(base)
        folder = tempfile.mkdtemp(dir=base, prefix="")
    except InputError:  # another account made it first; this user must still be able to work
        folder = tempfile.mkdtemp(dir=parent, prefix=f"{PREFIX}-")
    with open(os.path.join(folder, LOCK), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_left(base: str) -> None:
    """Remove the folders of sessions whose process has ended, which released its lock."""
    for name in os.listdir(base):
        folder = os.path.join(base, name)
        try:
            with open(os.path.join(folder, LOCK), "r+", encoding="ascii") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # in use, or just being made
