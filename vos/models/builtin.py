"""The networks included in the package, by name."""

from __future__ import annotations

import os

from vos.config.base import BUILTIN_DAVIS_TEACHER, BUILTIN_STUDENTS, BUILTIN_TEACHER
from vos.models.checkpoint import load_checkpoint
from vos.models.interface import VOSModel

_HERE = os.path.dirname(os.path.abspath(__file__))
BUILTIN = {
    BUILTIN_TEACHER: os.path.join(_HERE, "builtin_teacher"),
    BUILTIN_DAVIS_TEACHER: os.path.join(_HERE, "builtin_davis_teacher"),
    **{name: os.path.join(_HERE, name.replace("-", "_")) for name in BUILTIN_STUDENTS.values()},
}
"""Name -> folder."""


def load(name: str) -> VOSModel:
    """Load a network in eval mode, ready for `vos.Engine`.

    name  builtin-student, builtin-student-mobilenetv2, builtin-davis, builtin; a folder of jobs.train; a .safetensors file with its
          model.json beside it; or an official STCN file (.pth)
    Raises InputError if it is missing or damaged.
    """
    return load_checkpoint(BUILTIN.get(name, name))[0]
