"""Values of flags that cannot be: every number and text of every job, one line and exit code 2 before any work."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from vos.config import (
    BenchmarkConfig,
    CacheConfig,
    CheckConfig,
    DemoConfig,
    EvaluateConfig,
    ExportConfig,
    FpsBenchmarkConfig,
    ReportConfig,
    SegmentConfig,
    TrainConfig,
    TuneConfig,
    VerifyConfig,
)
from vos.config.command_line import run_job

JOBS = [
    *(BenchmarkConfig, CacheConfig, DemoConfig, EvaluateConfig, ExportConfig, FpsBenchmarkConfig, ReportConfig),
    *(CheckConfig, SegmentConfig, TrainConfig, TuneConfig, VerifyConfig),
]


def fields(config: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            yield from fields(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", value


def code_of(cls: type, argv: list[str], capfd: pytest.CaptureFixture[str]) -> int:
    """The exit code of a job that does nothing; what is refused is refused in one printable line."""
    capfd.readouterr()
    code = run_job(cls, "", lambda config: None, argv)
    said = capfd.readouterr()
    assert said.out == "" and (code, said.err.count("\n")) in ((0, 0), (2, 1)), (argv, said)
    assert said.err.rstrip("\n").isprintable()
    return code


@pytest.mark.parametrize("cls", JOBS, ids=lambda cls: cls.__name__)
def test_numbers_that_no_flag_takes_are_refused_by_flags_and_by_configuration_files(
    cls: type, capfd: pytest.CaptureFixture[str], tmp_path: Path
):
    path = tmp_path / "config.json"
    for name, value in fields(cls()):
        if isinstance(value, bool) or not isinstance(value, int | float):
            continue
        for text in ("1" + "0" * 40, "-" + "9" * 30, "nan", "inf", "1e400", "", "0x10"):
            flag = f"--{name.replace('_', '-')}={text}"
            assert code_of(cls, [flag], capfd) == 2, flag
        for text in ("NaN", "Infinity", "1e400", "1" + "0" * 400, "9" * 25, '"1"', "null", "[]", "{}", "true"):
            inner = f'"{name.rpartition(".")[2]}": {text}'
            for group in reversed(name.split(".")[:-1]):
                inner = f'"{group}": {{{inner}}}'
            path.write_text(f"{{{inner}}}")
            assert code_of(cls, ["--config", str(path)], capfd) == 2, (name, text)


@pytest.mark.parametrize(
    ("cls", "flag", "value"),
    [
        (CacheConfig, "--data.synthetic-videos", "2000000"),
        (CacheConfig, "--data.synthetic-frames", "0"),
        (CacheConfig, "--clip.rotate-deg", "-1"),
        (CacheConfig, "--clip.scale-max", "1000"),
        (TrainConfig, "--optimiser.weight-decay", "-1"),
        (TrainConfig, "--optimiser.warmup-steps", "-1"),
        (EvaluateConfig, "--memory.every", "0"),
        (BenchmarkConfig, "--crop-px", "50"),
        (DemoConfig, "--steps", "0"),
    ],
)
def test_numbers_out_of_a_fields_own_range_are_refused(
    cls: type, flag: str, value: str, capfd: pytest.CaptureFixture[str]
):
    assert code_of(cls, [flag, value], capfd) == 2


@pytest.mark.parametrize("cls", JOBS, ids=lambda cls: cls.__name__)
def test_names_that_no_file_or_terminal_takes_are_refused(cls: type, capfd: pytest.CaptureFixture[str]):
    for name, value in fields(cls()):
        if not isinstance(value, str):
            continue
        for text in ("a\x1b]0;x\x07.mp4", "a\nb.mp4", "\udcff.mp4", "a\0b.mp4", "a\x9bb.mp4", "\x7f.mp4"):
            assert code_of(cls, [f"--{name.replace('_', '-')}={text}"], capfd) == 2, (name, text)


@pytest.mark.parametrize(
    "path",
    [
        *(
            "s3://",
            "s3:///x",
            "file://",
            "file:///",
            "file://relative",
            "foo://bar",
            "s3://bucket?x=%zz",
            "://",
            "://x",
        ),
        *("s3://bucket/%", "s3://bucket?x", "s3://bucket/" + "k" * 2000, "http://host/x", "mock://x", "s3://a b/c"),
        *("~nobody-of-this-name/x", "x" * 250, "x/" * 2200, "é" * 120, "s3://bucket#x"),
    ],
)
@pytest.mark.parametrize("flag", ["--out", "--csv"])
def test_places_that_cannot_be_written_are_found_before_any_work(
    path: str, flag: str, capfd: pytest.CaptureFixture[str]
):
    assert code_of(EvaluateConfig, [flag, path], capfd) == 2


@pytest.mark.parametrize(
    "path", ["s3://bucket/x?region=eu&endpoint_override=127.0.0.1:9000", "file:///tmp/x", "x" * 180]
)
def test_places_that_can_be_written_are_taken(path: str, capfd: pytest.CaptureFixture[str]):
    assert code_of(EvaluateConfig, ["--out", path], capfd) == 0


@pytest.mark.parametrize(
    "text",
    [
        *("", "null", "5", "[]", '"x"', "{", "{}x", "\ufeff\ufeff{}", '{"seed": 1, "seed": 2}', "[" * 100_000),
        *(
            '{"data": 5}',
            '{"data": {"root": 5}}',
            '{"data": {"x": 1}}',
            '{"out": null}',
            '{"preset": 1}',
            '{"preset": []}',
        ),
        *(
            '{"loss": []}',
            '{"clip": {"skip_curriculum": [1.5]}}',
            '{"clip": {"skip_curriculum": [[1]]}}',
            '{"debug": 1}',
        ),
        *('{"out": "\\ud800"}', '{"out": "a\\u0000b"}', '{"__class__": {}}', '{"seed": true}', '{"workers": 1.0}'),
    ],
)
def test_a_configuration_file_of_any_content_is_one_line(text: str, capfd: pytest.CaptureFixture[str], tmp_path: Path):
    (tmp_path / "config.json").write_text(text)
    assert code_of(TrainConfig, ["--config", str(tmp_path / "config.json")], capfd) == 2
    (tmp_path / "config.json").write_bytes(b"\xff\xfe" + text.encode())
    assert code_of(TrainConfig, ["--config", str(tmp_path / "config.json")], capfd) == 2
    assert json.dumps(text)


@pytest.mark.parametrize("name", ["", "turbo", "SMOKE", "\x1b[2J", "\udcff", "a" * 10_000, "../smoke", "null"])
@pytest.mark.parametrize("cls", JOBS, ids=lambda cls: cls.__name__)
def test_a_preset_of_any_name_is_one_line(name: str, cls: type, capfd: pytest.CaptureFixture[str]):
    assert code_of(cls, [f"--preset={name}"], capfd) in ((0, 2) if name == "" else (2,))
