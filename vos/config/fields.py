"""Marks of configuration fields, declared with the field.

A field without a mark decides the result of its job and is part of the run's identity. Marks are for the others: fields that only set
the place, the speed or the way of working (`cosmetic`), and paths whose content decides, not their name (`path(..., decides=False)`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from vos.files.canonical import to_dict

_KEY = "mobilevos"


@dataclass(frozen=True)
class Mark:
    """Properties of a field."""

    decides: bool = True
    """It is part of the identity of a run."""
    path: bool = False
    """It holds a path or a tuple of paths, which are made absolute and checked before any work."""
    written: bool = False
    """Results are written to the path."""
    streamed: bool = False
    """Its address is opened by ffmpeg, not by a store, and may hold a camera's password; it is never saved."""
    keywords: tuple[str, ...] = ("",)
    """Values that are names and not paths."""
    apart: tuple[str, ...] = ()
    """Fields of a group that are left out of the identity, because this job sets them in another way."""
    split: Callable[[str], tuple[str, ...]] | None = None
    """Splits a value in which paths are only parts; every second part is one, or empty."""
    later: bool = False
    """It was added after folders were made without it: its default is left out of the identity, so that these stay valid."""


def cosmetic(default: Any) -> Any:
    """Declare a field that does not change the result of a job."""
    return _marked(default, Mark(decides=False))


def later(default: Any) -> Any:
    """Declare a field that folders made before do not know; at its default they keep their identity."""
    return _marked(default, Mark(later=True))


def path(
    default: Any = "",
    *,
    decides: bool = True,
    written: bool = False,
    streamed: bool = False,
    keywords: tuple[str, ...] = (),
    split: Callable[[str], tuple[str, ...]] | None = None,
    later: bool = False,
) -> Any:
    """Declare a path or a tuple of paths; the arguments are those of `Mark`."""
    return _marked(default, Mark(decides, True, written, streamed, ("", *keywords), split=split, later=later))


def group(kind: type[Any], *, decides: bool = True, apart: tuple[str, ...] = ()) -> Any:
    """Declare a nested configuration; the arguments are those of `Mark`."""
    return field(default_factory=kind, metadata={_KEY: Mark(decides=decides, apart=apart)})


def marked_fields(config: Any) -> Iterator[tuple[str, Any, Mark]]:
    """Yield name, value and mark of every field of a configuration."""
    for one in fields(config):
        yield one.name, getattr(config, one.name), one.metadata.get(_KEY, Mark())


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Mark]]:
    """Yield dotted name, value and mark of every field of a configuration and its groups."""
    for name, value, mark in marked_fields(config):
        if is_dataclass(value):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, mark


def identity(config: Any) -> dict[str, Any]:
    """Return the JSON form of all fields that decide a job's result; two runs with equal identity have equal results."""
    saved, found = to_dict(config), {}
    defaults = {one.name: one.default for one in fields(config)}
    for name, value, mark in marked_fields(config):
        if mark.later and value == defaults[name]:
            continue
        if mark.decides and is_dataclass(value):
            found[name] = {key: one for key, one in identity(value).items() if key not in mark.apart}
        elif mark.decides:
            found[name] = saved[name]
    return found


def _marked(default: Any, mark: Mark) -> Any:
    return field(default=default, metadata={_KEY: mark})
