"""Whole files: complete, or as they were before."""

from __future__ import annotations

import os
import uuid

from vos.errors import InputError


def write_atomic(path: str, data: bytes, sync: bool = True) -> None:
    """Write a file under a temporary name beside it and rename it; folders are made.

    sync   force it to the disk first, so that a power cut leaves no half either; without, only a kill is survived, which
           is enough for masks that can be made again and of which there are thousands

    A reader sees the old file or the new one. Raises InputError if it cannot be written.
    """
    temporary = f"{path}.{uuid.uuid4().hex}.tmp"
    try:
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        try:
            with open(temporary, "wb") as file:
                file.write(data)
                if sync:
                    file.flush()
                    os.fsync(file.fileno())
            os.replace(temporary, path)
        finally:
            if os.path.exists(temporary):
                os.remove(temporary)
    except OSError as error:
        reason = (error.strerror or "no reason given").lower()
        raise InputError(f"{path}: cannot be written ({reason}); choose another --out or free the folder") from error
