"""What Ray leaves on the disk and what other accounts of the machine can do with it: its token, and the folder of a session.

Ray writes a new token with the permissions of the umask and makes its session folders open to everybody: a neighbour could read the
token and submit a job that runs as the user. So the token is made here before Ray looks for one, and each session of ours lives in a
folder that only its user can enter.
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
"""Characters of the temporary folder: with a session's own name the path of Ray's longest socket below it must fit in 107 bytes."""
PREFIX = "mobilevos-ray"
LOCK = "lock"


def private_token() -> None:
    """Make Ray's token, or make sure that only this user can read the one that is there.

    A token given by value (RAY_AUTH_TOKEN) is the user's to keep. Raises InputError where the file is somebody else's.
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
                    f"{path}: Ray's token is not a file of yours; remove it, or name another with RAY_AUTH_TOKEN_PATH"
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
    """Write a new token unless there is one; of two processes that begin at once, one writes."""
    folder = os.path.dirname(path)
    os.makedirs(folder, mode=0o700, exist_ok=True)
    found = os.stat(folder)
    if found.st_uid != os.getuid():
        raise InputError(f"{folder}: Ray's folder is not yours; remove it, or name a token with RAY_AUTH_TOKEN_PATH")
    if found.st_mode & 0o022:  # who can write there can replace the token
        os.chmod(folder, stat.S_IMODE(found.st_mode) & ~0o022)
    if os.path.exists(path) and os.path.getsize(path):
        return
    # Whole under another name first: whoever begins at the same time reads all of it or nothing.
    temporary = os.path.join(folder, f".auth_token.{secrets.token_hex(8)}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with open(descriptor, "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
    try:
        if os.path.isfile(path) and not os.path.getsize(path):  # no token for Ray, and in the way of one
            os.replace(temporary, path)
        else:
            with contextlib.suppress(FileExistsError):
                os.link(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.remove(temporary)


@contextlib.contextmanager
def session_folder() -> Iterator[str]:
    """A new private folder for one Ray session, removed at the end; what killed sessions of this user left is removed too."""
    parent = next(
        (one for one in (os.environ.get("RAY_TMPDIR"), tempfile.gettempdir()) if one and len(one) <= LONGEST_PARENT),
        "/tmp",
    )
    try:
        base = private_folder(os.path.join(parent, f"{PREFIX}-{os.getuid()}"))
        _remove_left(base)
        folder = tempfile.mkdtemp(dir=base, prefix="")
    except InputError:  # somebody else made it first, which must not keep this user from working
        folder = tempfile.mkdtemp(dir=parent, prefix=f"{PREFIX}-")
    with open(os.path.join(folder, LOCK), "w", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _remove_left(base: str) -> None:
    """Remove the folders of sessions whose process is gone: its lock is free then."""
    for name in os.listdir(base):
        folder = os.path.join(base, name)
        try:
            with open(os.path.join(folder, LOCK), "r+", encoding="ascii") as lock:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
        except OSError:
            continue  # in use, or just being made
