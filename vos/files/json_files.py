"""The only reader of JSON files: it limits their size and checks types.

Python's own reader accepts NaN, integers of any length, infinite floats and repeated names, of which it silently keeps the last one.
Deep nesting ends in a RecursionError. Here each of these raises an error of one line that names the file.
"""

from __future__ import annotations

import json
import math
import re
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, is_typeddict

from vos.errors import InputError
from vos.files.whole import read_regular

MAX_DEPTH = 64
MAX_INTEGER = 2**63 - 1
Kind = TypeVar("Kind")
_HALF = re.compile(r"\\u[dD][89a-fA-F]|[\ud800-\udfff]")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"?|[\[\]{}]', re.DOTALL)
"""A string (even an unterminated one), or a bracket."""


def read_json_file(path: str, advice: str) -> Any:
    """Read a JSON file on this machine and return its value.

    advice  how to fix it, the end of the error line: "copy the checkpoint again"
    Raises InputError if the file is absent, not a regular file, too large, or refused by `parse_json`.
    """
    return parse_json(read_regular(path, "json_bytes", advice), path, advice)


def parse_json(data: bytes | str, origin: str, advice: str, finite: bool = True) -> Any:
    """Return the value of a JSON text in UTF-8, which may begin with a byte order mark.

    origin  the file, named in errors
    finite  refuse NaN and infinities; False only for this project's own files whose numbers may be NaN or infinite
    Raises InputError for text that is not JSON, nesting deeper than 64, a repeated name, or a number beyond 64 bits.
    """
    try:
        text = data if isinstance(data, str) else data.decode("utf-8-sig")
        _check_depth(text)
        value = json.loads(
            text,
            object_pairs_hook=_object,
            parse_int=_integer,
            parse_float=_number if finite else float,
            parse_constant=_no_constant if finite else float,
        )
        if _HALF.search(text):  # a surrogate; encoding fails if it has no partner
            json.dumps(value, ensure_ascii=False).encode()
        return value
    except UnicodeEncodeError:
        raise InputError(f"{origin}: not JSON (a surrogate without its pair); {advice}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{origin}: not JSON (not UTF-8 at byte {error.start}); {advice}") from None
    except ValueError as error:
        raise InputError(f"{origin}: not JSON ({_first_line(error)}); {advice}") from None


def checked(value: Any, kind: type[Kind], origin: str, advice: str) -> Kind:
    """Return `value` after checking its type: `dict[str, Any]`, `list[int]`, `str | None`, a Literal, or a TypedDict.

    An integer is accepted where a float is asked for. A TypedDict's required names must be present; other names are ignored.
    Raises InputError that names the file and the place within it.
    """
    problem = _misfit(value, kind, "")
    if problem:
        raise InputError(f"{origin}: {problem}; {advice}")
    return value


def built(value: Any, kind: type[Kind], origin: str, advice: str) -> Kind:
    """Build a dataclass from the JSON object of its fields; fields with a default may be absent, other names are ignored.

    Raises InputError that names the file and the place within it.
    """
    checked(value, kind, origin, advice)
    return kind(**{field.name: value[field.name] for field in fields(kind) if field.name in value})  # type: ignore[arg-type]


def _misfit(value: Any, kind: Any, place: str) -> str:
    """Describe why a value does not have the type `kind`; "" if it has."""
    origin, arguments = get_origin(kind), get_args(kind)
    if kind is Any or kind is object:
        return ""
    if origin in (typing.Required, typing.NotRequired, typing.Annotated):
        return _misfit(value, arguments[0], place)
    if origin in (Union, types.UnionType):
        return "" if any(not _misfit(value, one, place) for one in arguments) else _wrong(value, _name(kind), place)
    if origin is Literal:
        return (
            ""
            if any(type(value) is type(one) and value == one for one in arguments)
            else _wrong(value, _name(kind), place)
        )
    if is_typeddict(kind) or is_dataclass(kind):
        return _misfit_fields(value, kind, place)
    if origin in (list, tuple):
        return _misfit_items(value, kind, place)
    if origin in (dict, Mapping):
        if not isinstance(value, dict):
            return _wrong(value, "an object", place)
        return next(filter(None, (_misfit(item, arguments[1], f"{place}.{name}") for name, item in value.items())), "")
    if kind is float:
        right = isinstance(value, int | float) and not isinstance(value, bool)
    elif kind is int:
        right = isinstance(value, int) and not isinstance(value, bool)
    else:
        right = value is None if kind in (None, type(None)) else isinstance(value, kind)
    return "" if right else _wrong(value, _name(kind), place)


def _misfit_fields(value: Any, kind: Any, place: str) -> str:
    if not isinstance(value, dict):
        return _wrong(value, "an object", place)
    for name, one in _hints(kind).items():
        if name in value:
            if problem := _misfit(value[name], one, f"{place}.{name}"):
                return problem
        elif _is_required(kind, name, one):
            return f"{_where(place)}lacks '{name}'"
    return ""


@lru_cache(maxsize=256)
def _hints(kind: Any) -> dict[str, Any]:
    """Return the types of the fields of a TypedDict or dataclass. Cached: a list may hold a million of them."""
    return typing.get_type_hints(kind, include_extras=True)


def _is_required(kind: Any, name: str, hint: Any) -> bool:
    if is_typeddict(kind):
        return kind.__total__ and get_origin(hint) is not typing.NotRequired
    field = next(field for field in fields(kind) if field.name == name)
    return field.default is MISSING and field.default_factory is MISSING


def _misfit_items(value: Any, kind: Any, place: str) -> str:
    arguments = get_args(kind)
    if not isinstance(value, list):
        return _wrong(value, "a list", place)
    fixed = get_origin(kind) is tuple and (len(arguments) != 2 or arguments[1] is not Ellipsis)
    if fixed and len(value) != len(arguments):
        return f"{_where(place)}has {len(value)} items instead of {len(arguments)}"
    kinds = arguments if fixed else (arguments[0],) * len(value)
    pairs = zip(value, kinds, strict=True)
    return next(filter(None, (_misfit(item, one, f"{place}[{i}]") for i, (item, one) in enumerate(pairs))), "")


def _wrong(value: Any, wanted: str, place: str) -> str:
    shown = json.dumps(value)
    return f"{_where(place)}holds {shown if len(shown) <= 40 else shown[:37] + '...'} instead of {wanted}"


def _where(place: str) -> str:
    return f"'{place.lstrip('.')[:80]}' " if place else ""


def _name(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if get_origin(kind) in (Union, types.UnionType):
        return " or ".join(map(_name, get_args(kind)))
    names = {
        str: "a string",
        int: "an integer",
        float: "a number",
        bool: "true or false",
        type(None): "null",
        dict: "an object",
        list: "a list",
    }
    return names.get(get_origin(kind) or kind, str(kind))


def _check_depth(text: str) -> None:
    """Refuse deep nesting before the parser recurses into it. Brackets within strings are not counted."""
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    depth, i, end = 0, 0, len(text)
    while i < end:
        match = _TOKEN.search(text, i)
        if match is None:
            return
        i = match.end()
        character = match.group()
        if character[0] == '"':
            continue
        depth += 1 if character in "[{" else -1
        if depth > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in values if names.count(name) > 1)
        raise ValueError(f"the name '{twice[:40]}' occurs twice")
    return values


def _integer(text: str) -> int:
    if len(text) > 20 or abs(number := int(text)) > MAX_INTEGER:
        raise ValueError(f"the integer {text[:20]}... does not fit 64 bits")
    return number


def _number(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"the number {text[:20]} is too large")
    return number


def _no_constant(text: str) -> float:
    raise ValueError(f"{text} is not a JSON number")


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:120]
