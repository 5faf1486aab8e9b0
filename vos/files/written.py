"""Which files of a folder this project wrote: only those are replaced or deleted, anything else there is the user's.

    FOLDER/.written   lines of `sha256  name`, as sha256sum prints them; a name is relative to the folder

A line is appended before its file is written, so a kill in between makes no file of ours a foreign one. A file is ours while its bytes are
those of one of its lines: what the user put there, or edited, is refused by its name, unless --overwrite was given. A lost `.written` makes
files foreign, never the other way round.
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
"""In place of a digest: a name that is ours to write, and whose bytes prove themselves, or need not."""
Kind = TypeVar("Kind")
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


def _read_local(path: str) -> bytes:
    with open(path, "rb") as file:
        return file.read()


def _remove_local(path: str) -> None:
    with suppress(FileNotFoundError):
        os.remove(path)


def check_new_or_own(folder: str, overwrite: bool) -> None:
    """Raise InputError for a local folder that holds files, and in which nothing was ever written by this project."""
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    if names and LEDGER not in names and not overwrite:
        listed = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        raise InputError(
            f"{folder}: holds files that this job did not write ({listed}); choose another --out or give --overwrite"
        )


@dataclass(frozen=True)
class Files:
    """How files are read, written whole and removed: on this machine, or at a URI too."""

    read: Callable[[str], bytes] = _read_local
    """raises FileNotFoundError"""
    write: Callable[[str, bytes, bool], None] = write_atomic
    remove: Callable[[str], None] = _remove_local


@dataclass
class Written:
    """The files that were written into a folder, and the only way to write further ones.

    root       the folder
    job        whose folder it is; its sealed files (`vos.files.seals`) need no line
    of         fingerprint of the identity that its sealed files belong to
    overwrite  replace files that are not ours too, and take what cannot be believed for absent
    """

    root: str
    job: str
    of: str = ""
    overwrite: bool = False
    files: Files = field(default_factory=Files)
    _digests: dict[str, set[str]] | None = None

    def __post_init__(self) -> None:
        if self.root.startswith("file://"):  # links are looked for there too
            self.root = unquote(urlsplit(self.root).path)

    def path(self, name: str) -> str:
        """Where a file is. Raises InputError for a name that leads out of the folder, itself or by a link on the way."""
        parts = name.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in parts):
            raise InputError(f"{name!r}: no name of a file below {self.root}; rename what it comes from")
        if "://" not in self.root:
            for count in range(1, len(parts)):
                folder = os.path.join(self.root, *parts[:count])
                if os.path.islink(folder):
                    raise InputError(
                        f"{folder}: is a link to elsewhere, where nothing is written; remove it or choose another --out"
                    )
        return f"{self.root.rstrip('/')}/{name}"

    def knows(self, name: str) -> bool:
        """Whether a file of this name was ever written here, changed or not since."""
        return name in self._lines()

    def knows_below(self, place: str) -> bool:
        """Whether any file below a folder of this one was ever written here."""
        return any(name.startswith(f"{place}/") for name in self._lines())

    def owns(self, name: str) -> bool:
        """Whether there is no such file, or one that is ours as it is."""
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
        """Raise InputError, naming them, where some of these files are there and not ours."""
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
        """Write a whole file; returns its path.

        sync    as in `vos.files.whole.write_atomic`
        proven  what stands under this name is known to be ours, damaged or not
        Raises InputError where it would replace what is not ours.
        """
        if not proven:
            self.check([name])
        self.record({name: hashlib.sha256(data).hexdigest()})
        path = self.path(name)
        self.files.write(path, data, sync)
        return path

    def write_json(self, name: str, values: Mapping[str, Any]) -> str:
        """Write a small file that proves itself: what it is of, and that it is unchanged; returns its path."""
        self.check([name])
        path = self.path(name)
        self.files.write(path, sealed(values, self.job, self.of), True)
        return path

    def read_json(self, name: str, kind: type[Kind], repair: str) -> Kind | None:
        """What `write_json` wrote, None where there is none.

        Raises InputError where it is damaged, was changed, or is another run's; with `overwrite` it is then taken for absent.
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
        """Delete a file if it is ours; returns whether there is none afterwards."""
        if not (self.overwrite or self.owns(name)):
            return False
        self.files.remove(self.path(name))
        return True

    def record(self, digests: Mapping[str, str]) -> None:
        """Say that files of these names and SHA-256 are ours, before they are written."""
        if "://" in self.root:  # it is rewritten whole: with what another process of this job has added
            self._digests = None
        lines = self._lines()
        new = {name: digest for name, digest in digests.items() if digest not in lines.get(name, ())}
        if not new:
            return
        for name, digest in new.items():
            lines.setdefault(name, set()).add(digest)
        ledger, wanted = self.path(LEDGER), self.path(next(iter(new)))  # the user asked for the latter
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
