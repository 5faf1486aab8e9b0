"""Sealed JSON: readable, and believed only unchanged, for the run that it was written for."""

import json
from typing import TypedDict

import pytest

from vos.errors import InputError
from vos.files.seals import sealed, unsealed


class Result(TypedDict):
    run_id: str
    metrics: dict[str, float]


VALUES: Result = {"run_id": "abc", "metrics": {"j": 0.1, "not a number": float("nan")}}


def read(data: bytes, of: str | None = "one", job: str = "train") -> Result:
    return unsealed(data, Result, "result.json", job, of, "delete it")


def test_what_was_sealed_comes_back_without_its_seal_and_the_file_is_plain_json():
    data = sealed(VALUES, "train", "one")
    found = read(data)
    assert found.keys() == VALUES.keys() and found["metrics"]["j"] == 0.1
    assert json.loads(data)["run_id"] == "abc"


def test_spaces_and_the_order_of_names_do_not_matter():
    values = json.loads(sealed(VALUES, "train", "one"))
    assert read(json.dumps(dict(reversed(values.items()))).encode())["run_id"] == "abc"


def edited(**changes: object) -> bytes:
    return json.dumps({**json.loads(sealed(VALUES, "train", "one")), **changes}).encode()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not JSON"),
        (sealed(VALUES, "train", "one")[:-20], "not JSON"),
        (b"[1]", "instead of an object"),
        (b"7", "instead of an object"),
        (b"[" * 5000, "nested deeper"),
        (b'{"run_id": ' + b"1" * 400 + b"}", "does not fit 64 bits"),
        (json.dumps(VALUES).encode(), "has no seal.*earlier version"),
        (edited(run_id="other"), "was changed after it was written"),
        (edited(more=1), "was changed after it was written"),
        (edited(seal="abc"), "instead of an object"),
        (edited(seal={"job": "train", "of": "one"}), "lacks 'sha256'"),
        (edited(seal={"job": "train", "of": "one", "sha256": 7}), "instead of a string"),
        (sealed(VALUES, "train", "two"), "belongs to another run .fingerprint two, this one's is one"),
        (sealed(VALUES, "tune", "one"), "written by jobs.tune, not by jobs.train"),
        (sealed({"run_id": 7, "metrics": {}}, "train", "one"), "'run_id' holds 7 instead of a string"),
        (sealed({"run_id": "a"}, "train", "one"), "lacks 'metrics'"),
    ],
)
def test_anything_else_is_refused_in_one_line_with_the_file_and_the_repair(data: bytes, said: str):
    with pytest.raises(InputError, match=said) as refusal:
        read(data)
    line = str(refusal.value)
    assert line.startswith("result.json") and line.endswith("delete it") and "\n" not in line
