"""What a field of a configuration is, declared where the field is.

A field without a mark decides the outcome of its job and is part of the run's identity. The marks are for the others: fields that only
say where, how fast or in what manner (`cosmetic`), and paths, whose content decides and not their name (`path(..., decides=False)`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

from vos.files.canonical import to_dict

_KEY = "mobilevos"


@dataclass(frozen=True)
class Mark:
    """What is known of a field."""

    decides: bool = True
    """It is part of the identity of a run."""
    path: bool = False
    """It holds a path, or a tuple of paths: made absolute, and checked before any work."""
    written: bool = False
    """The path is one that results go to."""
    streamed: bool = False
    """Its address is opened by ffmpeg, is not one of a store, and may hold a camera's password; it is never saved."""
    keywords: tuple[str, ...] = ("",)
    """Values that are names and not paths."""
    apart: tuple[str, ...] = ()
    """Of a group of fields: those that this job decides in another way."""


def cosmetic(default: Any) -> Any:
    """A field that changes how a result is made, and not the result."""
    return _marked(default, Mark(decides=False))


def path(
    default: Any = "",
    *,
    decides: bool = True,
    written: bool = False,
    streamed: bool = False,
    keywords: tuple[str, ...] = (),
) -> Any:
    """A path or a tuple of paths; the arguments are those of `Mark`."""
    return _marked(default, Mark(decides, True, written, streamed, ("", *keywords)))


def group(kind: type[Any], *, decides: bool = True, apart: tuple[str, ...] = ()) -> Any:
    """A nested configuration; the arguments are those of `Mark`."""
    return field(default_factory=kind, metadata={_KEY: Mark(decides=decides, apart=apart)})


def marked_fields(config: Any) -> Iterator[tuple[str, Any, Mark]]:
    """Name, value and mark of every field of a configuration."""
    for one in fields(config):
        yield one.name, getattr(config, one.name), one.metadata.get(_KEY, Mark())


def leaves(config: Any, prefix: str = "") -> Iterator[tuple[str, Any, Mark]]:
    """Dotted name, value and mark of every field of a configuration and of the groups in it."""
    for name, value, mark in marked_fields(config):
        if is_dataclass(value):
            yield from leaves(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value, mark


def identity(config: Any) -> dict[str, Any]:
    """The JSON form of all that decides a job's outcome: equal for two runs that have the same result."""
    saved, found = to_dict(config), {}
    for name, value, mark in marked_fields(config):
        if mark.decides and is_dataclass(value):
            found[name] = {key: one for key, one in identity(value).items() if key not in mark.apart}
        elif mark.decides:
            found[name] = saved[name]
    return found


def _marked(default: Any, mark: Mark) -> Any:
    return field(default=default, metadata={_KEY: mark})
