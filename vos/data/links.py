"""Links in a data set: they may not lead out of it, unless the user allows it. The root itself may be a link."""

from __future__ import annotations

import os

from vos.errors import InputError

OUTSIDE_LINKS = "MOBILEVOS_OUTSIDE_LINKS"
"""If this environment variable is 1, links may lead out of a data set."""


def check_inside(root: str, path: str) -> None:
    """Raise InputError if a link within the data set leads this path out of it."""
    if (fault := outside_fault(root, path)) is not None:
        raise fault


def check_folder_inside(root: str, folder: str) -> None:
    """Raise InputError if a folder of a data set, or a link in it, leads out of the data set."""
    for path in (folder, *links_in(folder)):
        check_inside(root, path)


def outside_fault(root: str, path: str) -> InputError | None:
    """Return the fault of a path that a link leads out of the data set; None if it is inside or may be outside."""
    inside = os.path.join(os.path.realpath(root), "")
    if os.path.join(os.path.realpath(path), "").startswith(inside) or os.environ.get(OUTSIDE_LINKS) == "1":
        return None
    return InputError(
        f"{path}: a link leads out of the data folder {root}; copy its target, give the target folder as --data.root, "
        f"or set {OUTSIDE_LINKS}=1 if you trust all link targets"
    )


def links_in(folder: str) -> list[str]:
    """List the links in a folder; none if there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.path for entry in entries if entry.is_symlink())
    except OSError:
        return []
