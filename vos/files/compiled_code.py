"""Where torch.compile keeps what it compiled: code and pickles that are run when they are found, so nobody else may put them there."""

from __future__ import annotations

import os

from vos.files.whole import code_cache, private_folder

CACHES = {"TORCHINDUCTOR_CACHE_DIR": "inductor", "TRITON_CACHE_DIR": "triton"}
"""PyTorch's variable -> our folder. Its default is a folder in /tmp with a name that everybody can guess and make."""


def keep_compiled_code_private() -> None:
    """Call before torch.compile, in every process that compiles. Raises InputError where a folder named by the user is not theirs alone."""
    for variable, name in CACHES.items():
        given = os.environ.get(variable)
        os.environ[variable] = private_folder(given) if given else code_cache(name)
