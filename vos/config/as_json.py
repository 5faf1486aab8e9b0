"""Configurations as JSON: saved beside every output, compared before a folder is used again, and fingerprinted."""

from __future__ import annotations

import dataclasses
import json
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

from vos.errors import InputError

Config = TypeVar("Config")


def from_dict(cls: type[Config], values: dict[str, Any], default: Config, origin: str) -> Config:
    """Return `default` with the fields in `values` replaced.

    Raises InputError, naming `origin` (a file), for a field of a wrong type or an unknown name, fields of other jobs included.
    """
    hints = get_type_hints(cls)
    changes: dict[str, Any] = {}
    for name, value in values.items():
        if name not in hints:
            raise InputError(f"{origin}: unknown field '{name}' of {cls.__name__}; known: {', '.join(sorted(hints))}")
        current = getattr(default, name)
        if dataclasses.is_dataclass(current):
            if not isinstance(value, dict):
                raise InputError(
                    f"{origin}: field '{name}' holds {_shown(value)}; give an object with the fields of {name}"
                )
            changes[name] = from_dict(type(current), value, current, f"{origin}: {name}")  # type: ignore[arg-type]
        elif get_origin(hints[name]) is Literal and not any(
            type(value) is type(one) and value == one for one in get_args(hints[name])
        ):
            choices = ", ".join(map(str, get_args(hints[name])))
            raise InputError(f"{origin}: field '{name}' holds {_shown(value)}; it takes one of {choices}")
        elif isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
            changes[name] = _as_float(value, name, origin)
        elif isinstance(current, tuple) and isinstance(value, list) and _fits(value, get_args(hints[name])):
            changes[name] = tuple(
                _as_float(item, name, origin) if float in get_args(hints[name]) else item for item in value
            )
        elif type(value) is not type(current):
            raise InputError(
                f"{origin}: field '{name}' holds {_shown(value)}; it takes a {type(current).__name__} like {current!r}"
            )
        else:
            changes[name] = value
    try:
        return dataclasses.replace(default, **changes)  # type: ignore[type-var]
    except InputError as error:
        raise InputError(f"{origin}: {error}") from None


def _shown(value: Any) -> str:
    text = json.dumps(value, default=str)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _as_float(value: int, name: str, origin: str) -> float:
    try:
        return float(value)
    except OverflowError:
        raise InputError(f"{origin}: field '{name}' holds a number that is too large") from None


def _fits(items: list[Any], kinds: tuple[Any, ...]) -> bool:
    """Return whether a JSON list fits a `tuple[int, ...]`, `tuple[float, ...]` or `tuple[str, ...]`."""
    allowed = (int, float) if float in kinds else (str,) if str in kinds else (int,)
    return all(type(item) in allowed for item in items)
