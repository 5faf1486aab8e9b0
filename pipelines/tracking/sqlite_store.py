"""Make MLflow's SQLite store whole or not at all, and say in one line why an existing file cannot be used.

MLflow makes a store by some sixty migrations, which take seconds; a process that is killed meanwhile leaves a file that no later job can
use. A store is therefore made under another name in the same folder, and renamed when it is whole. A half-made file of an earlier release,
or of MLflow itself, is replaced if it provably holds nothing and no other process goes on making it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import sqlite3
import time
import urllib.parse
import uuid
from collections.abc import Iterator
from contextlib import closing, contextmanager

from vos.errors import InputError
from vos.printed import JOB, command

SCHEME = "sqlite:///"
HEADER = b"SQLite format 3\0"
WAIT_S = 10.0
"""How long to wait for another program that writes to the store."""
MAKER_S = 3.0
"""A half-made store that is open elsewhere and has not changed for this time is made by nobody."""
OTHERS = "set MLFLOW_TRACKING_URI to another store"
_BESIDE = ("-journal", "-wal", "-shm")
_OWN = {"alembic_version"}
MLFLOW_TABLES = {"experiments", "runs", *_OWN}
_DEFAULTS = {"experiments": "name <> 'Default'", "workspaces": "name <> 'default'"}
"""Tables in which an empty store has a row, and what its other rows are."""


def path_of(uri: str) -> str:
    """Return the file of an SQLite store."""
    return uri.removeprefix(SCHEME).partition("?")[0]


def prepare(uri: str) -> None:
    """Make the store where there is none, and again where a half-made one holds nothing.

    MLflow must not open a half-made store before this: it would go on with it in place.
    Raises InputError, with what is wrong and how to repair it, where the file cannot be used or made.
    """
    path = path_of(uri)
    if _is_new(path):
        _make(path)
        return
    try:
        with closing(_opened(path, WAIT_S)) as store:
            version = _version(store)
            if version == _revisions()[1]:
                return
            empty = _is_empty(store)
            tables = _tables(store)
    except sqlite3.Error as error:
        raise _refused(path, error) from error
    known, head = _revisions()
    if version and version not in known:
        import mlflow

        raise InputError(
            f"{path}: this MLflow store was made by a newer MLflow than {mlflow.__version__}, which is installed here (schema {version}); "
            f"install that MLflow, or {OTHERS}"
        )
    if not tables & MLFLOW_TABLES and tables:  # MLflow would add its own to them
        raise InputError(f"{path}: is an SQLite database, but not one of MLflow; {OTHERS}")
    if empty:
        _make(path, replace=True)
    elif not version:
        raise InputError(
            f"{path}: this MLflow store has lost the version of its schema; restore a copy of it, or {OTHERS}"
        )
    else:
        assert version != head
        upgrade = command(*JOB, "mlflow", "db", "upgrade", f"{SCHEME}{path}")
        raise InputError(
            f"{path}: this MLflow store was made by an older MLflow (schema {version}); copy the file, then run: {upgrade}"
        )


def check_writable(uri: str) -> None:
    """Raise InputError where a run cannot be written to the store: it is read-only, or locked by another program for long."""
    path = path_of(uri)
    try:
        with closing(_opened(path, WAIT_S)) as store:
            store.execute("BEGIN IMMEDIATE")
            store.execute("ROLLBACK")
    except sqlite3.Error as error:
        raise _refused(path, error) from error
    folder = os.path.dirname(path) or "."
    if not os.access(folder, os.W_OK):  # SQLite writes its journal there
        raise InputError(f"{folder}: is read-only, but the MLflow store in it needs to be written; {OTHERS}")


def _is_new(path: str) -> bool:
    """Return whether there is no store yet; an empty file is none. Raises InputError for what can be no store."""
    if os.path.isdir(path):
        raise InputError(f"{path}: is a folder, not an MLflow store; {OTHERS}")
    if not os.path.lexists(path):
        return True
    try:
        with open(path, "rb") as file:
            head = file.read(len(HEADER))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{path}: this MLflow store cannot be read ({reason}); {OTHERS}") from None
    if head and head != HEADER:
        raise InputError(f"{path}: is not an MLflow store (no SQLite database); move it away, or {OTHERS}")
    return not head


def _opened(path: str, wait_s: float) -> sqlite3.Connection:
    address = urllib.parse.quote(os.path.abspath(path), errors="surrogateescape")
    return sqlite3.connect(f"file:{address}?mode=rw", uri=True, timeout=wait_s, isolation_level=None)


def _version(store: sqlite3.Connection) -> str:
    """Return the version of the store's schema, "" without one."""
    versions = store.execute("SELECT version_num FROM alembic_version").fetchall() if _OWN & _tables(store) else []
    return str(versions[0][0]) if versions else ""


def _is_empty(store: sqlite3.Connection) -> bool:
    return not any(
        store.execute(f'SELECT 1 FROM "{name}" WHERE {_others(store, name)} LIMIT 1').fetchone()
        for name in _tables(store) - _OWN
    )


def _tables(store: sqlite3.Connection) -> set[str]:
    return {name for (name,) in store.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _others(store: sqlite3.Connection, table: str) -> str:
    columns = {row[1] for row in store.execute(f'PRAGMA table_info("{table}")')}
    return _DEFAULTS[table] if table in _DEFAULTS and "name" in columns else "1"


def _refused(path: str, error: sqlite3.Error) -> InputError:
    """Return what SQLite's refusal means for the user."""
    text = str(error).lower()
    if "locked" in text or "busy" in text:
        return InputError(
            f"{path}: another program has locked this MLflow store; end it and run the command again, or {OTHERS}"
        )
    if "readonly" in text or "unable to open" in text:
        return InputError(f"{path}: this MLflow store is read-only; change its permissions, or {OTHERS}")
    if "full" in text:
        return InputError(f"{path}: the disk is full; free space and run the command again")
    return InputError(f"{path}: this MLflow store is damaged; restore a copy of it, or move it away to start a new one")


def _revisions() -> tuple[set[str], str]:
    """Return the schemas that the installed MLflow knows, and the one that it uses."""
    from alembic.script import ScriptDirectory
    from mlflow.store.db.utils import _get_alembic_config

    scripts = ScriptDirectory.from_config(_get_alembic_config(db_url=""))
    return {script.revision for script in scripts.walk_revisions()}, scripts.get_current_head() or ""


def _make(path: str, replace: bool = False) -> None:
    """Make a store under another name and rename it. Another job that does the same at this moment is waited for.

    replace  whether the file there is half-made and empty; looked at again, because that job may have replaced it
    """
    from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine_with_retry

    folder, name = os.path.split(path)
    try:
        os.makedirs(folder or ".", exist_ok=True)
        with _alone(folder or "."):
            _remove_left(folder, name)
            if replace:
                _wait_for_maker(path)
                with closing(_opened(path, WAIT_S)) as store:
                    if _version(store) == _revisions()[1] or not _is_empty(store):
                        return
            elif not _is_new(path):
                return
            made = os.path.join(folder, f".{name}.{uuid.uuid4().hex}.making")
            try:
                engine = create_sqlalchemy_engine_with_retry(f"{SCHEME}{made}")
                _initialize_tables(engine)
                engine.dispose()
                with open(made, "rb") as file:
                    os.fsync(file.fileno())
                for ending in _BESIDE:  # a journal without its database would be applied to the new one
                    _remove(path + ending)
                os.replace(made, path)
            finally:
                for ending in ("", *_BESIDE):
                    _remove(made + ending)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise InputError(f"{path}: the MLflow store cannot be made ({reason}); {OTHERS}") from None


@contextmanager
def _alone(folder: str) -> Iterator[None]:
    """Hold the folder's lock, which ends with this process. File systems without locks are used without."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _remove_left(folder: str, name: str) -> None:
    """Remove what killed jobs left of stores that they were making."""
    own = re.compile(rf"\.{re.escape(name)}\.[0-9a-f]{{32}}\.making({'|'.join(_BESIDE)})?")
    for other in os.listdir(folder or "."):
        if own.fullmatch(other):
            _remove(os.path.join(folder, other))


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def _wait_for_maker(path: str) -> None:
    """Wait while another process, for example `mlflow ui`, is making the store: it has the file open and changes it."""
    changed, seen = time.monotonic(), os.stat(path)
    while time.monotonic() < changed + MAKER_S and _user_of(path):
        time.sleep(0.1)
        if (now := os.stat(path)).st_mtime_ns != seen.st_mtime_ns:
            changed, seen = time.monotonic(), now


def _user_of(path: str) -> str:
    """Return the number of another process of this user that has the file open, "" where there is none (Linux)."""
    wanted = os.stat(path)
    for pid in filter(str.isdigit, os.listdir("/proc") if os.path.isdir("/proc") else ()):
        with contextlib.suppress(OSError):
            for descriptor in os.scandir(f"/proc/{pid}/fd") if int(pid) != os.getpid() else ():
                with contextlib.suppress(OSError):
                    if os.path.samestat(os.stat(descriptor.path), wanted):
                        return pid
    return ""
