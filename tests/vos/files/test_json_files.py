"""The reader of JSON: what it refuses, and where it says the fault is."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict

import pytest

from vos.errors import InputError
from vos.files.json_files import MAX_DEPTH, checked, parse_json, read_json_file
from vos.files.limits import LIMITS, variable

ADVICE = "copy it again"


class Record(TypedDict):
    run_id: str
    metrics: dict[str, float]
    steps: NotRequired[list[int]]
    size: NotRequired[tuple[int, int]]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested deeper"),
        ("[" * 1_000_000, "nested deeper"),
        ('{"a":' * 100_000, "nested deeper"),
        ("1" + "0" * 400, "64 bits"),
        ("-1" + "0" * 5000, "64 bits"),
        ("[1e400]", "too large"),
        ("NaN", "not a JSON number"),
        ("[-Infinity]", "not a JSON number"),
        ('{"a": 1, "a": 2}', "occurs twice"),
        ("", "Expecting value"),
        ('{"a": ', "Expecting value"),
        (b"\xff\xfe", "not UTF-8"),
        (r'{"a": "\ud800"}', "a surrogate"),
        (r'["\udc00x"]', "a surrogate"),
    ],
)
def test_what_is_no_plain_json_is_refused_in_one_line_with_file_and_repair(text: str | bytes, reason: str) -> None:
    with pytest.raises(InputError) as refused:
        parse_json(text, "FILE", ADVICE)
    message = str(refused.value)
    assert message.startswith("FILE: not JSON") and reason in message and message.endswith(ADVICE)
    assert "\n" not in message and len(message) < 250


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("[" * MAX_DEPTH + "]" * MAX_DEPTH, None),
        (f'"{"[" * 1000}"', "[" * 1000),
        (r'["\"[[[", 1]', ['"[[[', 1]),
        (str(-(2**63) + 1), -(2**63) + 1),
        ("[1.5, true, null]", [1.5, True, None]),
        (r'"\ud83d\ude00"', "\U0001f600"),
    ],
)
def test_plain_json_is_read_as_it_is(text: str, value: Any) -> None:
    found = parse_json(text, "FILE", ADVICE)
    assert value is None or found == value


@pytest.mark.parametrize(
    ("value", "place"),
    [
        ([], "instead of an object"),
        ({"metrics": {}}, "lacks 'run_id'"),
        ({"run_id": 3, "metrics": {}}, "'run_id' holds 3 instead of a string"),
        ({"run_id": "a", "metrics": {"j": "x"}}, "'metrics.j' holds"),
        ({"run_id": "a", "metrics": {}, "steps": [1, True]}, "'steps[1]' holds true"),
        ({"run_id": "a", "metrics": {}, "steps": 5}, "instead of a list"),
        ({"run_id": "a", "metrics": {}, "size": [1]}, "has 1 items instead of 2"),
    ],
)
def test_a_value_of_another_type_is_refused_by_its_place(value: Any, place: str) -> None:
    with pytest.raises(InputError, match="FILE: ") as refused:
        checked(value, Record, "FILE", ADVICE)
    assert place in str(refused.value)


def test_a_value_of_its_type_is_handed_on() -> None:
    record = {"run_id": "a", "metrics": {"j": 1, "f": 0.5}, "steps": [1], "size": [3, 4], "more": None}
    assert checked(record, Record, "FILE", ADVICE) is record
    assert checked("a", Literal["a", "b"], "FILE", ADVICE) == "a"  # type: ignore[arg-type]


def test_what_is_no_regular_file_is_refused_and_never_waited_for(tmp_path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, "/dev/zero", tmp_path / "absent", "a\0b"):
        with pytest.raises(InputError, match=ADVICE):
            read_json_file(str(path), ADVICE)


def test_a_file_above_the_bound_is_refused_before_it_is_read(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "large.json").write_text("[" + "1," * 100 + "1]")
    monkeypatch.setenv("MOBILEVOS_MAX_JSON_BYTES", "100")
    with pytest.raises(InputError, match="MOBILEVOS_MAX_JSON_BYTES"):
        read_json_file(str(tmp_path / "large.json"), ADVICE)
    monkeypatch.setenv("MOBILEVOS_MAX_JSON_BYTES", "many")
    with pytest.raises(InputError, match="positive integer"):
        read_json_file(str(tmp_path / "large.json"), ADVICE)


def test_every_bound_and_its_default_stands_in_the_documentation() -> None:
    page = (Path(__file__).parents[3] / "docs" / "trust.md").read_text(encoding="utf-8")
    for name, bound in LIMITS.items():
        sizes = {2**20: "MiB", 2**30: "GiB"}
        shown = [f"{bound.default:,}", *(f"{bound.default // size} {unit}" for size, unit in sizes.items())]
        assert any(f"`{variable(name)}` | {text}" in page for text in shown), name
