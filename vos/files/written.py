"""Record of the files that this project wrote into a folder: only these are replaced or deleted.

    FOLDER/.written   lines of `sha256  name`, as sha256sum prints them; a name is relative to the folder

A line is appended before its file is written, so a file stays ours if the process is killed in between. A file is ours while its digest
is on one of its lines. Any other file, and one that the user edited, is refused by name unless --overwrite was given. If `.written` is
lost, our files count as the user's; the reverse cannot happen.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote, urlsplit

from vos.errors import InputError
from vos.files.seals import is_sealed, sealed, unsealed
from vos.files.whole import write_atomic

LEDGER = ".written"
WHATEVER = "0" * 64
"""Stands for a digest: the file of this name is ours whatever its bytes; it carries its own check or needs none."""
Kind = TypeVar("Kind")
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def _read_local(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _remove_local(path: str) -> None:
    with suppress(FileNotFoundError):
        os.remove(path)


def check_new_or_own(folder: str, overwrite: bool) -> None:
    """Raise InputError for a local folder that holds files but none written by this project."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    if names and LEDGER not in names and not overwrite:
        listed = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        raise InputError(
            f"{folder}: holds files that this job did not write ({listed}); choose another --out or give --overwrite"
        )


@dataclass(frozen=True)
class Files:
    """Functions that read, write (whole) and remove files: on this machine, or at a URI too."""

    read: Callable[[str], bytes] = _read_local
    """raises FileNotFoundError"""
    write: Callable[[str, bytes, bool], None] = write_atomic
    remove: Callable[[str], None] = _remove_local


@dataclass
class Written:
    """The files that this project wrote into a folder, and the only way to write more of them.

    root       the folder
    job        the job that owns the folder; its sealed files (`vos.files.seals`) need no line
    of         fingerprint of the run that its sealed files belong to
    overwrite  replace files that are not ours too, and treat sealed files that fail their check as absent
    """

    root: str
    job: str
    of: str = ""
    overwrite: bool = False
    files: Files = field(default_factory=Files)
    _digests: dict[str, set[str]] | None = None

    def __post_init__(self) -> None:
        if self.root.startswith("file://"):  # a local folder: links are checked there too
            self.root = unquote(urlsplit(self.root).path)

    def path(self, name: str) -> str:
        """Return the path of a file. Raises InputError for a name that leads out of the folder, by itself or through a link."""
        parts = name.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise InputError(f"{name!r}: not the name of a file below {self.root}; rename its source")
        if "://" not in self.root:
            for count in range(1, len(parts)):
                folder = os.path.join(self.root, *parts[:count])
                if os.path.islink(folder):
                    raise InputError(
                        f"{folder}: is a link to elsewhere, which is not written to; remove it or choose another --out"
                    )
        return f"{self.root.rstrip('/')}/{name}"

    def knows(self, name: str) -> bool:
        """Return whether a file of this name was ever written here, even if it changed since."""
        return name in self._lines()

    def knows_below(self, place: str) -> bool:
        """Return whether any file below the subfolder `place` was ever written here."""
        return any(name.startswith(f"{place}/") for name in self._lines())

    def owns(self, name: str) -> bool:
        """Return whether the file may be replaced: it is absent, or ours and unchanged."""
        path = self.path(name)
        if "://" not in path:
            if not os.path.lexists(path):
                return True
            if os.path.islink(path) or not os.path.isfile(path):
                return False
        try:
            data = self.files.read(path)
        except FileNotFoundError:
            return True
        digest = hashlib.sha256(data).hexdigest()
        if digest in self._lines().get(name, ()) or (name.endswith(".json") and is_sealed(data, self.job)):
            return True
        self._digests = None  # another process of this job may have written it meanwhile
        return digest in self._lines().get(name, ())

    def check(self, names: Iterable[str]) -> None:
        """Raise InputError if any of these files exist and are not ours; the error names them."""
        if self.overwrite:
            return
        foreign = [name for name in names if not self.owns(name)]
        if foreign:
            listed = ", ".join(foreign[:3]) + (f" and {len(foreign) - 3} more" if len(foreign) > 3 else "")
            raise InputError(
                f"{self.root}: {listed} would be replaced and was not written by this job, or was changed since; "
                "move it away, choose another --out, or give --overwrite"
            )

    def write(self, name: str, data: bytes, sync: bool = True, proven: bool = False) -> str:
        """Write a whole file; return its path.

        sync    as in `vos.files.whole.write_atomic`
        proven  an existing file of this name is known to be ours, damaged or not
        Raises InputError if it would replace a file that is not ours.
        """
        if not proven:
            self.check([name])
        self.record({name: hashlib.sha256(data).hexdigest()})
        path = self.path(name)
        self.files.write(path, data, sync)
        return path

    def write_json(self, name: str, values: Mapping[str, Any]) -> str:
        """Write a small sealed file, which records its run and a digest of its content; return its path."""
        self.check([name])
        path = self.path(name)
        self.files.write(path, sealed(values, self.job, self.of), True)
        return path

    def read_json(self, name: str, kind: type[Kind], repair: str) -> Kind | None:
        """Return the content that `write_json` wrote, None if there is no file.

        Raises InputError if it is damaged, was changed, or belongs to another run. With `overwrite` it then counts as absent.
        """
        path = self.path(name)
        try:
            data = self.files.read(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = " ".join((error.strerror or str(error)).lower().split())
            raise InputError(f"{path}: cannot be read ({reason}); {repair}") from None
        try:
            return unsealed(data, kind, path, self.job, self.of, repair)
        except InputError:
            if self.overwrite:
                return None
            raise

    def remove(self, name: str) -> bool:
        """Delete a file if it is ours; return whether it is absent afterwards."""
        if not (self.overwrite or self.owns(name)):
            return False
        self.files.remove(self.path(name))
        return True

    def record(self, digests: Mapping[str, str]) -> None:
        """Record files of these names and SHA-256 as ours, before they are written."""
        if "://" in self.root:  # the ledger is rewritten whole there: read what other processes of this job added
            self._digests = None
        lines = self._lines()
        new = {name: digest for name, digest in digests.items() if digest not in lines.get(name, ())}
        if not new:
            return
        for name, digest in new.items():
            lines.setdefault(name, set()).add(digest)
        ledger, wanted = self.path(LEDGER), self.path(next(iter(new)))  # errors name the file that the user asked for
        if "://" in ledger:
            text = "".join(f"{digest}  {name}\n" for name, found in sorted(lines.items()) for digest in sorted(found))
            try:
                self.files.write(ledger, text.encode(errors="surrogateescape"), True)
            except InputError as error:
                raise InputError(str(error).replace(ledger, wanted, 1)) from error
            return
        try:
            os.makedirs(self.root or ".", exist_ok=True)
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
            with open(os.open(ledger, flags, 0o644), "a+b") as file:
                torn = file.seek(0, os.SEEK_END) and os.pread(file.fileno(), 1, file.tell() - 1) != b"\n"
                text = "\n" * torn + "".join(f"{digest}  {name}\n" for name, digest in new.items())
                file.write(text.encode(errors="surrogateescape"))
        except OSError as error:
            reason = (error.strerror or "no reason given").lower()
            raise InputError(
                f"{wanted}: cannot be written ({reason}); choose another --out or free the folder"
            ) from None

    def _lines(self) -> dict[str, set[str]]:
        if self._digests is None:
            self._digests = {}
            ledger, text = self.path(LEDGER), ""
            if "://" in ledger or os.path.isfile(ledger):
                with suppress(FileNotFoundError):
                    text = self.files.read(ledger).decode("utf-8", "surrogateescape")
            for line in text.split("\n"):
                if match := _LINE.fullmatch(line):
                    self._digests.setdefault(match[2], set()).add(match[1])
        return self._digests
