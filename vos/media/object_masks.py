"""Masks that a user painted: what their values mean as objects."""

from __future__ import annotations

from collections.abc import Collection
from typing import NamedTuple

import numpy as np

from vos.errors import InputError
from vos.media.images import read_mask

VOID = 255
SOFT_VALUES = 20
"""So many values beside 255 are the grey edge of a drawing, not objects."""


class ObjectMask(NamedTuple):
    """labels (H, W) uint8, 0 is background; the objects' ids; and what was read otherwise than it stands there, or ""."""

    labels: np.ndarray
    ids: tuple[int, ...]
    note: str


def read_objects(path: str, known: Collection[int] = ()) -> ObjectMask:
    """The new objects of a palette or grey PNG. A mask of 0 and 255 is one object, under the first id that is free.

    known   ids of earlier masks: they are no new objects
    Raises InputError where the file is no mask or holds no new object.
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
        note = f"{path}: 255 beside other values is void, read as background"
    ids = tuple(value for value in values if value not in known)
    if not ids:
        found = f"only the objects {', '.join(map(str, values))}, which are known" if values else "no object"
        raise InputError(f"{path}: holds {found}; paint each new object with a value of its own, 1 to 254")
    return ObjectMask(labels, ids, note)
