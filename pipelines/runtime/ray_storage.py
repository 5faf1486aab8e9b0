"""Give Ray Train and Tune a new storage folder for each session, so that they never read an earlier session's files.

Ray unpickles the files in its storage (`tuner.pkl`, searcher states, strings in `experiment_state-*.json`), which runs any code that a
downloaded folder holds. A killed training or search is therefore resumed from this project's JSON alone. The folder is below --out,
because all nodes of a cluster must reach it.
"""

from __future__ import annotations

import os
import re
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines import storage
from vos.errors import InputError
from vos.files.written import WHATEVER, Written

RAY = "ray"
_SESSION = re.compile(r"[0-9a-f]{32}")


@contextmanager
def ray_storage(folder: Written) -> Iterator[str]:
    """Make a private folder below OUT/ray, deleted at the end; folders that killed sessions of this job left are deleted first."""
    parent = os.path.dirname(folder.path(f"{RAY}/-"))
    for name in storage.list_folders(parent):
        if _SESSION.fullmatch(name) and folder.knows(f"{RAY}/{name}"):
            storage.remove_tree(folder.path(f"{RAY}/{name}"))
    name = f"{RAY}/{uuid.uuid4().hex}"
    path = folder.path(name)
    folder.record({name: WHATEVER})
    if not storage.is_uri(path):
        try:
            os.makedirs(parent, exist_ok=True)
            os.mkdir(path, 0o700)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise InputError(f"{path}: cannot be made ({reason}); choose another --out") from None
    try:
        yield path
    finally:
        storage.remove_tree(path)
        storage.remove_folder(parent)
