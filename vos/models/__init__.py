"""Models by name. All share the interface of `vos.models.interface.VOSModel`."""

from __future__ import annotations

from vos.errors import InputError
from vos.models.interface import Decoded, QueryFeatures, VOSModel
from vos.models.mobilevos import STUDENTS, Student
from vos.models.stcn import STCN

__all__ = ["Decoded", "QueryFeatures", "VOSModel", "build", "names"]


def names() -> tuple[str, ...]:
    """Every name `build` knows: the teacher first, then the students, then the two small models for laptops."""
    return ("stcn", *STUDENTS)


def build(name: str, preprocessing: str = "imagenet") -> VOSModel:
    """A freshly initialised model.

    name           one of `names()`
    preprocessing  the convention of the trunk weights that will be loaded: "imagenet", or "tensorflow" for MobileNetV2
                   weights trained on [-1, 1] with SAME padding. Frames are given ImageNet-normalised in either case.
    Raises InputError for an unknown name, or a convention that the trunk does not know.
    """
    if name not in names():
        raise InputError(f'model "{name}" is unknown; use one of {", ".join(names())}')
    model = STCN() if name == "stcn" else Student(name)
    model.set_preprocessing(preprocessing)
    return model
