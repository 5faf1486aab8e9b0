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
    """Return all names that `build` accepts: STCN, then the MobileVOS family (students, and teachers of the same design)."""
    return tuple(MODELS)


def build(name: str, preprocessing: str = "imagenet") -> VOSModel:
    """Return a freshly initialised model.

    name           one of `names()`
    preprocessing  convention of the trunk weights that will be loaded: "imagenet", or "tensorflow" for MobileNetV2
                   weights trained on [-1, 1] with SAME padding. Frames are ImageNet-normalised in either case.
    Raises InputError for an unknown name or a convention that the trunk does not support.
    """
    if name not in MODELS:
        raise InputError(f'model "{name}" is unknown; use one of {", ".join(names())}')
    model = MODELS[name]()
    model.set_preprocessing(preprocessing)
    return model
