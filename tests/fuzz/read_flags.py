"""Whole command lines, for every job."""

from __future__ import annotations

import dataclasses
import json
import math
import os
from pathlib import Path
from typing import Any

from numpy.random import Generator

from tests.fuzz.cases import Files, Reader
from tests.fuzz.read_configs import CONTROL, JOBS
from vos.config.command_line import parse_config
from vos.config.fields import leaves
from vos.config.presets import preset

VALUES = (
    *(
        "",
        " ",
        "0",
        "-1",
        "1",
        "2",
        "7",
        "1e400",
        "nan",
        "NaN",
        "inf",
        "-inf",
        "1e-400",
        "0x10",
        "1_000",
        "٣",
        "9" * 400,
        "9" * 5000,
    ),
    *(
        "true",
        "True",
        "None",
        "null",
        "a",
        "a b",
        "../x",
        "/",
        ".",
        "..",
        "~",
        "~nobody-here/x",
        "-",
        "--",
        "-x",
        "x" * 300,
        "x/" * 3000,
    ),
    *(
        "\x00",
        "a\x00b",
        "a\nb",
        "\x1b[2J",
        "\udcff",
        "\u202egnp",
        "é",
        "'",
        '"',
        "$(id)",
        "`id`",
        ";",
        "|",
        "*",
        "%s",
        "{",
        "[1, 2]",
    ),
    *(
        "s3://",
        "s3://b",
        "s3://b/k",
        "s3:///k",
        "s3://u:pLaNtEd@b/k",
        "http://x",
        "file:///",
        "file://x/y",
        "ftp://a",
        "://",
        "a://b",
        "models:/",
        "models:/x/1",
    ),
    *(
        "640x480",
        "0x0",
        "1x",
        "-1x-1",
        "99999999999x99999999999",
        "16x16",
        "3:a",
        ":",
        "-1:a",
        "9" * 30 + ":a",
        "1,2",
        "(1,)",
        "builtin",
        "smoke",
    ),
)


def flag_samples(folder: Path) -> dict[str, Files]:
    return {name: {"argv.json": b"[]", "job.txt": name.encode()} for name in JOBS}


def read_flags(folder: Path) -> Any:
    """The values of the flags that a command line names."""
    cls = JOBS[(folder / "job.txt").read_text()]
    argv = [
        bytes.fromhex(one).decode("utf-8", "surrogateescape") for one in json.loads((folder / "argv.json").read_bytes())
    ]
    os.environ["MOBILEVOS_HOME"] = str(folder)
    try:
        config = parse_config(cls, "fuzz", argv)
    except SystemExit as stop:
        if not stop.code:
            return "help"
        raise
    return [] if not argv else [_value_of(config, flag) for flag in argv if flag.startswith("--") and "=" not in flag]


def flags_by_others(folder: Path) -> Any:
    """What an accepted value must have become: its own text, as a number, a path or a string."""
    cls = JOBS[(folder / "job.txt").read_text()]
    argv = [
        bytes.fromhex(one).decode("utf-8", "surrogateescape") for one in json.loads((folder / "argv.json").read_bytes())
    ]
    if any(one in ("--help", "-h") for one in argv):
        return "help"
    hints = _flags(cls)
    marks = {name: mark for name, _, mark in leaves(preset(cls, "smoke"))}
    found: list[Any] = []
    for flag, text in zip(argv[::2], argv[1::2], strict=True):
        current = hints[flag]
        assert not CONTROL.search(text), "control characters"
        if isinstance(current, bool):
            raise ValueError("a switch takes no value")
        if isinstance(current, int):
            found.append(int(text))
        elif isinstance(current, float):
            found.append(float(text))
            assert math.isfinite(found[-1]), "not finite"
        elif (
            (mark := marks[flag.removeprefix("--").replace("-", "_")]).path
            and text not in mark.keywords
            and "://" not in text
            and not text.startswith("models:/")
        ):
            found.append(os.path.normpath(os.path.join(str(folder), os.path.expanduser(text))))
        else:
            found.append(text)
    return found


def _flags(cls: Any) -> dict[str, Any]:
    """--flag -> the preset's value, of everything that takes one value."""
    found: dict[str, Any] = {}

    def walk(config: Any, prefix: str) -> None:
        for field in dataclasses.fields(config):
            value = getattr(config, field.name)
            flag = f"{prefix}{field.name.replace('_', '-')}"
            if dataclasses.is_dataclass(value):
                walk(value, f"{flag}.")
            elif isinstance(value, int | float | str) and not isinstance(value, bool):
                found[flag] = value

    walk(preset(cls, "smoke"), "--")
    return {flag: value for flag, value in found.items() if flag not in ("--preset", "--config")}


def _value_of(config: Any, flag: str) -> Any:
    for name in flag.removeprefix("--").replace("-", "_").split("."):
        config = getattr(config, name)
    return config


def hostile_flags(rng: Generator, files: Files, corpus: list[Files]) -> Files:
    """One to three flags of the job with hostile values."""
    job = files["job.txt"]
    assert isinstance(job, bytes)
    flags = sorted(_flags(JOBS[job.decode()]))
    argv: list[str] = []
    for at in rng.choice(len(flags), int(rng.integers(1, 4)), replace=False):
        argv += [flags[int(at)], VALUES[int(rng.integers(len(VALUES)))]]
    return files | {"argv.json": json.dumps([one.encode("utf-8", "surrogateescape").hex() for one in argv]).encode()}


def hostile_words(rng: Generator, files: Files, corpus: list[Files]) -> Files:
    """Words that are no flags, flags without a value, the same flag twice, a hostile --config or --preset."""
    words = [
        *VALUES,
        "--out",
        "--config",
        "--preset",
        "--seed=1",
        "--no-such",
        "--out=",
        "--data.root",
        "--",
        "--debug",
        "--config=" + "x" * 5000,
    ]
    argv = [str(words[int(rng.integers(len(words)))]) for _ in range(int(rng.integers(1, 4)))]
    return files | {"argv.json": json.dumps([one.encode("utf-8", "surrogateescape").hex() for one in argv]).encode()}


def read_words(folder: Path) -> Any:
    """Whether such a line is accepted at all: no word is silently dropped, so what is accepted must be flags."""
    try:
        read_flags(folder)
    except AttributeError:
        if "--" in [bytes.fromhex(one).decode() for one in json.loads((folder / "argv.json").read_bytes())]:
            return "accepted"  # it only ends the flags
        raise AssertionError("a word that is no flag was accepted") from None
    return "accepted"


def words_by_others(folder: Path) -> Any:
    argv = [
        bytes.fromhex(one).decode("utf-8", "surrogateescape") for one in json.loads((folder / "argv.json").read_bytes())
    ]
    assert argv[0].startswith("--"), "the first word is no flag"
    return "accepted"


READERS = [
    Reader("command line", flag_samples, read_flags, flags_by_others, {"flags": hostile_flags}, 1.2),
    Reader("words", flag_samples, read_words, words_by_others, {"words": hostile_words}, 0.5),
]
