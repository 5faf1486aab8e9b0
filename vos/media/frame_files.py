"""The frames of a folder: its image files in the order of the numbers in their names."""

from __future__ import annotations

import os
import re
from collections import Counter

from vos.errors import InputError
from vos.files.names import check_name

FRAME_ENDINGS = (".jpg", ".jpeg", ".png")


def image_files(folder: str) -> tuple[str, ...]:
    """List the frames of a folder in the order of their numbers. Raises InputError for two frames of one name or an invalid name."""
    files = sorted((file for file in entries(folder) if file.lower().endswith(FRAME_ENDINGS)), key=by_numbers)
    stems = [check_name(os.path.splitext(file)[0], folder) for file in files]
    if len(set(stems)) < len(stems):
        double = next(stem for stem, times in Counter(stems).items() if times > 1)
        raise InputError(f"{os.path.join(folder, double)}: two files for one frame; keep one of them")
    return tuple(files)


def entries(folder: str) -> list[str]:
    """List the names in a folder, sorted, without hidden ones; an empty list if there is no such folder."""
    try:
        return sorted(name for name in os.listdir(folder) if not name.startswith("."))
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise InputError(f"{folder}: cannot be read ({error.strerror}); check its permissions") from error


def by_numbers(file: str) -> list[int | str]:
    """Return a key that sorts names by the numbers in them: 9.png before 10.png."""
    # Splitting by a captured pattern alternates text and number, so only equal types are compared.
    return [int(part) if i % 2 else part for i, part in enumerate(re.split(r"([0-9]+)", file))]
