"""Changes of JSON texts: hostile values in the place of right ones, names, nesting, numbers; and what no JSON writer would write."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable
from typing import Any

from numpy.random import Generator

from tests.fuzz.byte_mutations import any_bytes, pick
from tests.fuzz.cases import Files, Mutation

RAW = "@raw@"
"""A string value with this head is written into the text without its quotes."""
HOSTILE: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 2**31, 2**63, -(2**63) - 1, 10**400, 0.0, -0.0, 1e308, 1e-320, 0.5),
    *(RAW + text for text in ("NaN", "Infinity", "-Infinity", "1e999", "-1e999", "01", "1_000", "0x10", "9" * 5000)),
    *(
        "",
        " ",
        ".",
        "..",
        "../x",
        "/etc/passwd",
        "a/b",
        "a\\b",
        "C:\\x",
        "~",
        "~root",
        "-",
        "--help",
        "%s%n",
        "{0}",
        "$HOME",
    ),
    *(
        "\x00",
        "a\x00b",
        "\n",
        "a\nb",
        "\x1b[31mred",
        "\x7f",
        "\u202egnp",
        "\ud800",
        "\u2028",
        "é" * 300,
        "x" * 5000,
        "x" * 200_000,
    ),
    *(
        "file:///etc/passwd",
        "s3://",
        "http://127.0.0.1:1/x",
        "models:/x/1",
        "runs:/x",
        "nan",
        "inf",
        "1e400",
        "true",
        "null",
    ),
    *([], {}, [[]], [None], [1, "a"], [1e400], {"a": {}}, {"": 0}, {"..": 1}, {"__class__": "x"}, [0] * 1000),
)


def change_value(rng: Generator, value: Any) -> Any:
    """One value of a tree replaced, dropped, doubled, moved or wrapped."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    if not places:
        return HOSTILE[int(rng.integers(len(HOSTILE)))]
    holder, key = places[int(rng.integers(len(places)))]
    action = int(rng.integers(10))
    hostile = HOSTILE[int(rng.integers(len(HOSTILE)))]
    if action < 4:
        holder[key] = hostile
    elif action == 4:
        del holder[key]
    elif action == 5:
        holder[key] = [holder[key]] if rng.random() < 0.5 else {"x": holder[key]}
    elif action == 6 and isinstance(holder, dict):
        holder[hostile if isinstance(hostile, str) and not hostile.startswith(RAW) else "new"] = holder[key]
    elif action == 7:
        other, name = places[int(rng.integers(len(places)))]
        holder[key] = copy.deepcopy(other[name])
    elif action == 8 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] = holder[key] + (1 if rng.random() < 0.5 else -1) * float(rng.choice([1, 0.5, 1e9]))
        holder[key] = int(holder[key]) if rng.random() < 0.5 else holder[key]
    elif isinstance(holder[key], str):
        holder[key] = str(holder[key]) + str(rng.choice([" ", "\n", "/..", "\x00", "0", "A"]))
    else:
        holder[key] = str(holder[key])
    return value


def change_text(rng: Generator, text: str) -> str:
    """What no JSON writer would write: repeated names, deep nesting, a byte order mark, comments, two documents."""
    action = int(rng.integers(9))
    if action == 0:
        deep = int(rng.choice([70, 1000, 100_000]))
        return text.replace(":", ": " + "[" * deep + "]" * deep + ' ,"z":', 1)
    if action == 1:
        return '{"a":' * 100_000
    if action == 2:
        return "\ufeff" + text
    if action == 3:
        return text + text
    if action == 4:
        return text.replace(",", ",,", 1)
    if action == 5:
        return text.replace("{", "{ /* x */", 1)
    if action == 6:
        return text.replace('"', "'")
    if action == 7:
        return text[: int(rng.integers(len(text) + 1))]
    lines = [line for line in text.splitlines() if '": ' in line or '":' in line]
    if not lines:
        return text
    line = lines[int(rng.integers(len(lines)))].strip().rstrip("{[,")
    return text.replace("{", "{" + (line if not line.endswith(":") else line + " 0") + ",", 1)


def written(value: Any, **settings: Any) -> str:
    """JSON with raw parts."""
    text = json.dumps(value, **settings)
    while f'"{RAW}' in text:
        at = text.index(f'"{RAW}')
        end = text.index('"', at + 1)
        text = text[:at] + text[at + 1 + len(RAW) : end] + text[end + 1 :]
    return text


def json_changes(chosen: Callable[[str], bool], reseal: Callable[[Any], str] | None = None) -> dict[str, Mutation]:
    """Mutations of the JSON files of a sample.

    reseal   writes a changed value with its digests made right again
    """

    def value(rng: Generator, files: Files, corpus: list[Files]) -> Files:
        name, tree = _tree(rng, files, chosen)
        return files | {name: _encoded(written(change_value(rng, tree), indent=1))} if name else files

    def many(rng: Generator, files: Files, corpus: list[Files]) -> Files:
        name, tree = _tree(rng, files, chosen)
        for _ in range(int(rng.integers(2, 5))):
            tree = change_value(rng, tree)
        return files | {name: _encoded(written(tree))} if name else files

    def text(rng: Generator, files: Files, corpus: list[Files]) -> Files:
        name, tree = _tree(rng, files, chosen)
        return files | {name: _encoded(change_text(rng, written(tree, indent=1)))} if name else files

    def resealed(rng: Generator, files: Files, corpus: list[Files]) -> Files:
        name, tree = _tree(rng, files, chosen)
        assert reseal is not None
        changed = change_value(rng, tree)
        return files | {name: _encoded(reseal(changed))} if name and isinstance(changed, dict) else files

    found: dict[str, Mutation] = {"json value": value, "json values": many, "json text": text}
    return found | ({"json resealed": resealed, "json resealed 2": resealed} if reseal else {})


def json_file_mutations(*endings: str) -> dict[str, Mutation]:
    """Everything for samples whose JSON files have these endings."""
    changes = json_changes(lambda name: name.endswith(endings))
    return {**any_bytes(), **changes, **{f"{name} 2": change for name, change in changes.items()}}


def strict(data: bytes) -> Any:
    """JSON as its definition has it, of 64-bit numbers and 64 levels."""

    def number(text: str) -> float:
        assert math.isfinite(float(text)), "infinite"
        return float(text)

    def integer(text: str) -> int:
        assert len(text) <= 20 and abs(int(text)) < 2**63, "beyond 64 bits"
        return int(text)

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len(dict(pairs)) == len(pairs), "a name twice"
        return dict(pairs)

    return json.loads(
        data.decode(), parse_float=number, parse_int=integer, parse_constant=number, object_pairs_hook=once
    )


def _tree(rng: Generator, files: Files, chosen: Callable[[str], bool]) -> tuple[str, Any]:
    name = pick(rng, files, lambda one: chosen(one) and isinstance(files[one], bytes))
    try:
        return name, json.loads(files[name] or b"") if name else None  # type: ignore[arg-type]
    except (ValueError, RecursionError):
        return "", None


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _places(value: Any) -> list[tuple[Any, Any]]:
    """(holder, key) of every value within."""
    if isinstance(value, dict):
        return [place for key in value for place in [(value, key), *_places(value[key])]]
    if isinstance(value, list):
        return [place for key in range(min(len(value), 50)) for place in [(value, key), *_places(value[key])]]
    return []
