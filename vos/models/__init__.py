"""Models by name. All share the interface of `vos.models.interface.VOSModel`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from vos.errors import InputError
from vos.models.interface import Decoded, QueryFeatures, VOSModel
from vos.models.mobilevos import DESIGNS, MobileVOS
from vos.models.stcn import STCN

__all__ = ["Decoded", "QueryFeatures", "VOSModel", "build", "names"]

MODELS: dict[str, Callable[[], VOSModel]] = {"stcn": STCN, **{name: partial(MobileVOS, name) for name in DESIGNS}}
"""Architectures, freshly initialised, by name."""


def names() -> tuple[str, ...]:
    """Every name `build` knows: STCN, then the MobileVOS family (students, and teachers of its kind)."""
    return tuple(MODELS)


def build(name: str, preprocessing: str = "imagenet") -> VOSModel:
    """A freshly initialised model.

    name           one of `names()`
    preprocessing  the convention of the trunk weights that will be loaded: "imagenet", or "tensorflow" for MobileNetV2
                   weights trained on [-1, 1] with SAME padding. Frames are given ImageNet-normalised in either case.
    Raises InputError for an unknown name, or a convention that the trunk does not know.
    """
    if name not in MODELS:
        raise InputError(f'model "{name}" is unknown; use one of {", ".join(names())}')
    model = MODELS[name]()
    model.set_preprocessing(preprocessing)
    return model
