"""The frames of a folder: its image files in the order of the numbers in their names."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Collection
from typing import NamedTuple

from vos.errors import InputError
from vos.files.names import check_name

FRAME_ENDINGS = (".jpg", ".jpeg", ".png")
OTHER_PICTURES = (
    *(
        ".avif",
        ".bmp",
        ".dib",
        ".gif",
        ".heic",
        ".heif",
        ".j2k",
        ".jfif",
        ".jp2",
        ".jpe",
        ".jxl",
        ".svg",
        ".tif",
        ".tiff",
        ".webp",
    ),
    *(".dpx", ".exr", ".hdr", ".pbm", ".pgm", ".pnm", ".ppm", ".psd", ".tga", ".xcf"),
    *(".arw", ".cr2", ".cr3", ".dng", ".nef", ".raw"),
)
"""Endings of pictures that are not read."""
SYSTEM_FILES = frozenset(
    ("__macosx", "@eadir", "$recycle.bin", "system volume information", "lost+found", "thumbs.db", "desktop.ini")
)
"""Names, in lower case, that operating systems add to folders and archives; hidden files are ignored too."""


class FrameFolder(NamedTuple):
    """files: the frames, in order; others: pictures of other kinds that are not frames of this series."""

    files: tuple[str, ...]
    others: tuple[str, ...]

    def note(self, folder: str) -> str:
        """Return a line about pictures that are not read, or ""."""
        if not self.others:
            return ""
        return f"{folder}: not read, neither JPEG nor PNG: {_some(self.others)}"


def image_files(folder: str) -> tuple[str, ...]:
    """List the frames of a folder in the order of their numbers. Raises InputError as `list_frames` does."""
    return list_frames(folder).files


def list_frames(folder: str, masks: Collection[str] = ()) -> FrameFolder:
    """List the frames of a folder in the order of their numbers, and its other pictures. Folders in it are no frames.

    masks   paths of files that are no frames, wherever they are and however they are spelled
    Raises InputError for two frames of one name, an invalid name, or a picture of another kind that continues the series of frames:
    without it, frames would be missing.
    """
    names = entries(folder)
    pictures = [name for name in names if name.lower().endswith((*FRAME_ENDINGS, *OTHER_PICTURES))]
    folders, links = _folders(folder) if pictures else (set(), set())
    pictures = [name for name in pictures if name not in folders]
    excluded = {key for path in masks if (key := _identity(path))}
    if excluded:
        pictures = [name for name in pictures if _identity(os.path.join(folder, name)) not in excluded]
    files = sorted((name for name in pictures if name.lower().endswith(FRAME_ENDINGS)), key=by_numbers)
    stems = [check_name(os.path.splitext(file)[0], folder) for file in files]
    if len(set(stems)) < len(stems):
        double = next(stem for stem, times in Counter(stems).items() if times > 1)
        raise InputError(
            f"{os.path.join(folder, double)}: two files for one frame; keep one of them, and masks in a folder of their own"
        )
    files = [name for name in files if name not in links]
    others = tuple(name for name in pictures if name not in links and not name.lower().endswith(FRAME_ENDINGS))
    known = {os.path.splitext(file)[0] for file in files}
    series = {_text(stem) for stem in known if re.search("[0-9]", stem)}
    lost = [name for name in others if (stem := os.path.splitext(name)[0]) not in known and _text(stem) in series]
    if lost:
        raise InputError(
            f"{folder}: {_some(lost)} belong to the frames but are neither JPEG nor PNG; convert them, or move them away"
        )
    return FrameFolder(tuple(files), others)


def no_frames(folder: str) -> str:
    """Return what a folder without frames holds instead, for an error line: other pictures, or folders with frames; "" if neither."""
    names = entries(folder)
    others = [name for name in names if name.lower().endswith(OTHER_PICTURES)]
    if others:
        return f"it holds {_some(others)}, which are neither JPEG nor PNG: convert them"
    inside = [os.path.join(folder, name) for name in sorted(set().union(*_folders(folder))) if name in names]
    inside = [path for path in inside if any(name.lower().endswith(FRAME_ENDINGS) for name in entries(path))]
    return f"there are frames in {_some(inside)}: give one of these folders" if inside else ""


def entries(folder: str) -> list[str]:
    """List the names in a folder, sorted, without hidden ones and `SYSTEM_FILES`; an empty list if there is no such folder."""
    try:
        return sorted(
            name for name in os.listdir(folder) if not name.startswith(".") and name.lower() not in SYSTEM_FILES
        )
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from error


def same_text(name: str) -> str:
    """Return the form of a name in which equal looking ones are equal: macOS writes é as two characters, others as one."""
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def in_folder(folder: str, name: str) -> str:
    """Return the path of an entry of a folder, by the name as it is stored there, which may differ from `name` as in `same_text`."""
    path = os.path.join(folder, name)
    if name.isascii() or os.path.lexists(path):
        return path
    return next((os.path.join(folder, one) for one in entries(folder) if same_text(one) == same_text(name)), path)


def _folders(folder: str) -> tuple[set[str], set[str]]:
    """Return the names of the folders in a folder, and of the links to folders."""
    with os.scandir(folder) as found:
        named = [(one.name, one.is_symlink()) for one in found if one.is_dir()]
    return {name for name, is_link in named if not is_link}, {name for name, is_link in named if is_link}


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except (OSError, ValueError):
        return None
    return found.st_dev, found.st_ino


def _some(names: Collection[str]) -> str:
    shown = sorted(names, key=by_numbers)[:3]
    return ", ".join(shown) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _text(stem: str) -> str:
    return re.sub("[0-9]+", "0", stem)


def by_numbers(file: str) -> list[int | str]:
    """Return a key that sorts names by the numbers in them: 9.png before 10.png."""
    # Splitting by a captured pattern alternates text and number, so only equal types are compared.
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", file))]
