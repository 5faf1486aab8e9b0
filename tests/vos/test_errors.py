"""What reaches a terminal is one line of printable characters, whatever names it quotes."""

import pickle

import pytest

from vos.errors import InputError, NotFiniteError, printable

NAMES = {
    "ordinary": "clip 07 ä 日本 🎬.mp4",
    "escape sequence": "\x1b]0;owned\x07\x1b[2Jclip",
    "line ends": "a\nb\rc\x85d\u2028e",
    "not UTF-8": b"clip\xff\xfe.mp4".decode("utf-8", "surrogateescape"),
    "turned around": "clip\u202e4pm.exe",
    "C1 control": "\x9b31mred",
    "NUL and delete": "a\0b\x7f",
}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
@pytest.mark.parametrize("kind", [InputError, NotFiniteError])
def test_an_error_is_one_printable_line_and_survives_a_pickle(kind: type[InputError], name: str):
    error = kind(f"{name}: is no video; give another")
    assert str(error).isprintable() and str(error).encode("utf-8")
    assert str(pickle.loads(pickle.dumps(error))) == str(error) == printable(str(error))


def test_ordinary_names_stay_as_they_are_and_different_names_stay_different():
    assert printable(NAMES["ordinary"]) == NAMES["ordinary"]
    assert len({printable(name) for name in NAMES.values()}) == len(NAMES)
    assert printable("a\nb\x1b\udcff") == r"a\nb\x1b\udcff"


@pytest.mark.parametrize("length", [10, 579, 580, 581, 5000, 3_000_000])
def test_a_long_message_loses_its_middle_and_keeps_the_file_and_the_repair(length: int):
    text = str(InputError("/data/a.json: holds '" + "\x00" * (length - 40) + "x" * length + "'; give it a number"))
    assert len(text) < 600 and text.startswith("/data/a.json: holds '") and text.endswith("'; give it a number")
    assert str(InputError(text)) == text
