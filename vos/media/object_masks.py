"""Masks painted by a user: the object ids that their values stand for."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from vos.errors import InputError
from vos.media.mask_values import IDS, shades_of, void_stands_apart
from vos.media.palette import read_indices

VOID = 255
_AS_STORED = "if its values are ids as they are, give --mask-values stored"
WITHOUT_BACKGROUND = (
    "no pixel is background (0), so objects would fill the frame; save the mask with 0 around its objects, or give "
    "--mask-values stored if this is right"
)


class ObjectMask(NamedTuple):
    """labels (H, W) uint8, 0 is background; the ids of the new objects; a note on what is not as it is stored, or ""."""

    labels: np.ndarray
    ids: tuple[int, ...]
    note: str


def read_objects(path: str, known: Collection[int] = (), as_stored: bool = False) -> ObjectMask:
    """Read the new objects of a palette or grey PNG. A mask of 0 and 255, or of one object with soft edges, is one object.

    known      ids of earlier masks, which are not new
    as_stored  take every value as an id, and a mask without background as it is; 255 beside other values is void all the same
    Raises InputError if the file is not a mask, holds no new object, or if it is unclear what its values stand for.
    """
    notes: list[str] = []
    labels = read_indices(path, tell=notes.append, as_stored=as_stored)
    values = [int(value) for value in np.unique(labels) if value]
    shades = IDS if as_stored else shades_of(labels)
    if shades.problem:
        raise InputError(
            f"{path}: {shades.problem}; save one object as 0 and 255 only (threshold it), several as 1, 2, …, or, "
            f"{_AS_STORED}"
        )
    if values == [VOID] or shades.threshold:
        free = next(number for number in range(1, VOID + 1) if number not in known)
        least = shades.threshold or VOID
        labels = np.where(labels >= least, free, 0).astype(np.uint8)
        read = f"values from {least} on are object {free}, lower ones background"
        notes.append(
            f"{path}: soft edges ({len(values)} values): {read}; {_AS_STORED}"
            if shades.threshold
            else f"{path}: 0 and 255 only, read as object {free}"
        )
        values = [free]
    elif VOID in values:
        if labels.all() and not as_stored:
            raise InputError(f"{path}: {WITHOUT_BACKGROUND}")
        if void_stands_apart(labels, VOID) and not as_stored:
            raise InputError(
                f"{path}: 255 beside other values is void, but here it is an area of its own; give an object another value "
                "(1 to 254), or, if it is void, --mask-values stored"
            )
        labels = np.where(labels == VOID, 0, labels).astype(np.uint8)
        values.remove(VOID)
        notes.append(f"{path}: 255 beside other values is void and read as background")
    ids = tuple(value for value in values if value not in known)
    if not ids:
        found = f"only the objects {', '.join(map(str, values))}, which are known" if values else "no object"
        raise InputError(f"{path}: holds {found}; paint each new object with a value of its own, 1 to 254")
    return ObjectMask(labels, ids, "; ".join([*notes[:1], *(one.removeprefix(f"{path}: ") for one in notes[1:])]))
