"""Masks painted by a user: the object ids that their values stand for."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from vos.errors import InputError
from vos.media.images import read_mask

VOID = 255
SOFT_VALUES = 20
"""More values than this, with 255 among them, are soft edges and not objects."""


class ObjectMask(NamedTuple):
    """labels (H, W) uint8, 0 is background; the ids of the new objects; a note on values that were changed, or ""."""

    labels: np.ndarray
    ids: tuple[int, ...]
    note: str


def read_objects(path: str, known: Collection[int] = ()) -> ObjectMask:
    """Read the new objects of a palette or grey PNG. A mask of 0 and 255 is one object, under the first free id.

    known   ids of earlier masks, which are not new
    Raises InputError if the file is not a mask or holds no new object.
    """
    labels = read_mask(path)
    values = [int(value) for value in np.unique(labels) if value]
    note = ""
    if values == [VOID]:
        free = next(number for number in range(1, VOID + 1) if number not in known)
        labels = np.where(labels == VOID, free, 0).astype(np.uint8)
        values, note = [free], f"{path}: 0 and 255 only, read as object {free}"
    elif VOID in values:
        if len(values) > SOFT_VALUES:
            raise InputError(
                f"{path}: {len(values)} grey values up to 255 look like soft edges; save it as 0 and 255 only"
            )
        labels = np.where(labels == VOID, 0, labels).astype(np.uint8)
        values.remove(VOID)
        note = f"{path}: 255 beside other values is void and read as background"
    ids = tuple(value for value in values if value not in known)
    if not ids:
        found = f"only the objects {', '.join(map(str, values))}, which are known" if values else "no object"
        raise InputError(f"{path}: holds {found}; paint each new object with a value of its own, 1 to 254")
    return ObjectMask(labels, ids, note)
