"""From arguments to a configuration and an exit code: who wins over whom, which paths move, what an error looks like."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vos.config import (
    CacheConfig,
    EvaluateConfig,
    JobConfig,
    ReportConfig,
    ScoreConfig,
    SegmentConfig,
    TrainConfig,
    TuneConfig,
)
from vos.config.command_line import input_error, parse_config, resolve_paths, run_job
from vos.config.fields import leaves
from vos.config.presets import PRESETS, preset
from vos.errors import InputError
from vos.files.canonical import dumps, to_dict

ROOT = Path(__file__).resolve().parents[3]
MESSAGE = "masks/00001.png: not an image; replace it"


def parse(*argv: str) -> TrainConfig:
    return parse_config(TrainConfig, "Train.", list(argv))


def run(job: Callable[[TrainConfig], None], *argv: str) -> int:
    return run_job(TrainConfig, "Train.", job, list(argv))


def nothing(config: TrainConfig) -> None:
    pass


def raiser(error: BaseException) -> Callable[[TrainConfig], None]:
    def job(config: TrainConfig) -> None:
        raise error

    return job


@pytest.fixture
def saved(tmp_path: Path) -> Callable[[Any], str]:
    """A function that writes a value as JSON and returns the file's path."""

    def save(values: Any) -> str:
        path = tmp_path / "config.json"
        path.write_text(values if isinstance(values, str) else json.dumps(values), encoding="utf-8")
        return str(path)

    return save


# Who decides a value: the preset, then --config, then the flag.


@pytest.mark.parametrize("argv", [("--preset", "demo"), ("--preset=demo",), ("--seed", "0", "--preset", "demo")])
def test_the_preset_decides_the_defaults(argv: tuple[str, ...], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("MOBILEVOS_HOME", str(tmp_path))
    assert parse(*argv) == resolve_paths(preset(TrainConfig, "demo"), str(tmp_path))


def test_a_flag_changes_its_field_and_no_other():
    values, changed = to_dict(parse("--preset", "demo")), to_dict(parse("--preset", "demo", "--optimiser.lr", "0.25"))
    assert changed["optimiser"].pop("lr") == 0.25 != values["optimiser"].pop("lr")
    assert changed == values


def test_a_configuration_file_wins_over_the_preset_and_a_flag_over_both(saved: Callable[[Any], str]):
    path = saved({"steps": 77, "loss": {"w": 0.5, "kd": 3.0}})
    config = parse("--preset", "demo", "--config", path, "--optimiser.lr", "0.25")
    demo = preset(TrainConfig, "demo")
    assert (config.steps, config.loss.kd, config.optimiser.lr) == (77, 3.0, 0.25)
    assert (config.batch, config.clip) == (demo.batch, demo.clip)


def test_a_configuration_file_that_names_a_preset_starts_from_it(saved: Callable[[Any], str]):
    config = parse("--config", saved({"preset": "demo", "seed": 5}))
    assert config.clip == preset(TrainConfig, "demo").clip and (config.preset, config.seed) == ("demo", 5)


def test_the_preset_flag_wins_over_the_preset_of_a_configuration_file(saved: Callable[[Any], str]):
    config = parse("--config", saved({"preset": "smoke", "seed": 5}), "--preset", "demo")
    assert config.clip == preset(TrainConfig, "demo").clip and (config.preset, config.seed) == ("demo", 5)


@pytest.mark.parametrize("cls", [TrainConfig, CacheConfig, EvaluateConfig, TuneConfig])
def test_the_saved_configuration_of_a_run_gives_that_run_again(cls: type, saved: Callable[[Any], str]):
    config = parse_config(cls, "", ["--preset", "demo", "--out", "there", "--data.synthetic-videos", "5"])
    assert parse_config(cls, "", ["--config", saved(dumps(config))]) == config


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{not json", "not JSON"),
        ("[1, 2]", "instead of an object"),
        ('{"stepps": 3}', "stepps"),
        ('{"preset": "turbo"}', "turbo"),
        ('{"preset": ["smoke"]}', "preset"),
    ],
)
def test_a_bad_configuration_file_is_refused_in_one_line(text: str, said: str, saved: Callable[[Any], str]):
    with pytest.raises(InputError) as refusal:
        parse("--config", saved(text))
    assert said in str(refusal.value) and "\n" not in str(refusal.value)


def test_a_missing_configuration_file_is_named(tmp_path: Path):
    with pytest.raises(InputError, match="absent.json"):
        parse("--config", str(tmp_path / "absent.json"))
    with pytest.raises(InputError, match="--config"):
        parse("--config")


def test_a_relative_configuration_file_is_meant_from_mobilevos_home_like_any_other_path(
    saved: Callable[[Any], str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    name = os.path.basename(saved({"steps": 77}))
    elsewhere = tmp_path / "upload"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("MOBILEVOS_HOME", str(tmp_path))
    assert parse("--config", name).steps == 77
    with pytest.raises(InputError, match=f"{tmp_path}/absent.json: the file does not exist"):
        parse("--config", "absent.json")
    monkeypatch.delenv("MOBILEVOS_HOME")
    assert parse("--config", f"../{name}").steps == 77


@pytest.mark.parametrize("address", ["s3://bucket/tune/best.json", "file:///tmp/best.json", "models:/student/3"])
def test_a_configuration_file_at_a_uri_is_refused_in_one_line_that_says_to_copy_it(address: str):
    with pytest.raises(InputError, match=f"--config {address}: .*copy it") as refusal:
        parse("--config", address)
    assert "\n" not in str(refusal.value)


# Where the videos are.


def test_davis_root_is_the_data_root_when_none_is_given(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("DAVIS_ROOT", str(tmp_path))
    assert parse().data.root == str(tmp_path)


@pytest.mark.parametrize("by", ["flag", "file"])
def test_a_given_data_root_wins_over_davis_root(by: str, monkeypatch: pytest.MonkeyPatch, saved: Callable[[Any], str]):
    monkeypatch.setenv("DAVIS_ROOT", "/elsewhere")
    argv = ("--data.root", "/mine") if by == "flag" else ("--config", saved({"data": {"root": "/mine"}}))
    assert parse(*argv).data.root == "/mine"


@pytest.mark.parametrize("by", ["flag", "file"])
def test_synthetic_video_is_synthetic_also_with_davis_root(
    by: str, monkeypatch: pytest.MonkeyPatch, saved: Callable[[Any], str]
):
    monkeypatch.setenv("DAVIS_ROOT", "/elsewhere")
    argv = ("--data.kind", "synthetic") if by == "flag" else ("--config", saved({"data": {"kind": "synthetic"}}))
    assert (
        parse(*argv).data.root == ""
    )  # pipelines/studies/demo.py, among others, asks the root whether the videos are real


# Which paths move.


def test_relative_paths_are_meant_from_mobilevos_home_else_from_the_working_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.chdir(tmp_path)
    assert parse("--out", "a/../b").out == str(tmp_path / "b")
    monkeypatch.setenv("MOBILEVOS_HOME", "/srv/project")
    config = parse("--out", "runs/x", "--cache", "./cache", "--init", "/absolute", "--data.root", "../data")
    assert (config.out, config.cache, config.init) == ("/srv/project/runs/x", "/srv/project/cache", "/absolute")
    assert config.data.root == "/srv/data"


def test_folders_of_sources_and_lists_of_names_are_paths(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MOBILEVOS_HOME", "/srv/project")
    given = ["davis2016@lists/a.txt=DAVIS:0.5", "davis2017@val=DAVIS", "stills=/data/stills:0.2", "synthetic=:0.1"]
    found = parse_config(TrainConfig, "", ["--data.sources", *given]).data
    assert found.sources == (
        "davis2016@/srv/project/lists/a.txt=/srv/project/DAVIS:0.5",
        "davis2017@val=/srv/project/DAVIS",
        "stills=/data/stills:0.2",
        "synthetic=:0.1",
    )
    assert [one.split for one in found.mixture] == ["/srv/project/lists/a.txt", "val", "", ""]


def test_the_folders_of_a_report_follow_its_protocol_and_preset(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MOBILEVOS_HOME", "/srv")

    def folders(*argv: str) -> tuple[str, str]:
        config = parse_config(ReportConfig, "", list(argv))
        return config.out, config.docs

    assert folders() == ("/srv/runs/unseen", "/srv/docs/unseen")
    assert folders("--protocol", "validation") == ("/srv/runs/results", "/srv/docs/results")
    assert folders("--preset", "smoke", "--out", "here") == ("/srv/here", "/srv/here/unseen")
    assert folders("--docs", "x/y") == ("/srv/runs/unseen", "/srv/x/y")


def test_a_tilde_is_the_users_home(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HOME", "/srv/somebody")
    assert parse("--out", "~/runs").out == "/srv/somebody/runs"


def test_paths_of_nested_configurations_move_too(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MOBILEVOS_HOME", "/srv/project")
    tune = parse_config(TuneConfig, "", ["--train.init", "start"])
    assert tune.train.init == "/srv/project/start"
    cache = parse_config(CacheConfig, "", ["--teacher.checkpoint", "runs/teacher"])
    assert cache.teacher.checkpoint == "/srv/project/runs/teacher"


@pytest.mark.parametrize("uri", ["s3://bucket/x", "s3://bucket//x/../y/", "file:///tmp/x", "gs://b/c"])
def test_a_uri_is_left_as_it_is(uri: str):
    config = parse("--out", uri, "--cache", uri)
    assert (config.out, config.cache) == (uri, uri)


@pytest.mark.parametrize("word", ["builtin", "copy"])
def test_words_in_place_of_a_checkpoint_are_no_paths(word: str):
    assert parse_config(EvaluateConfig, "", ["--checkpoint", word]).checkpoint == word


def test_what_stands_for_standard_input_is_no_path():
    config = parse_config(SegmentConfig, "", ["--video=-", "--pipe-size", "64x48"])
    assert (config.video, config.first_mask, config.masks) == ("-", "", "")


def test_a_flag_that_may_be_repeated_keeps_every_value_also_through_a_saved_configuration(tmp_path: Path):
    config = parse_config(SegmentConfig, "", ["--add", "3:a.png", "--add", "9:b.png", "--no-masks"])
    assert (config.add, config.no_masks, config.threads) == (("3:a.png", "9:b.png"), True, 0)
    (tmp_path / "config.json").write_text(dumps(config))
    assert parse_config(SegmentConfig, "", ["--config", str(tmp_path / "config.json")]) == config


def test_an_empty_path_stays_empty():
    assert parse().cache == parse().init == ""


@pytest.mark.parametrize("cls", PRESETS)
def test_every_path_is_resolved_and_no_other_text(cls: type[JobConfig], tmp_path: Path):
    marks = {name: (value, mark) for name, value, mark in leaves(cls()) if "." not in name and isinstance(value, str)}
    paths: dict[str, Any] = {name: "some/where.mp4" for name, (_, mark) in marks.items() if mark.path}
    found = resolve_paths(replace(cls(), **paths), str(tmp_path))
    for name, (value, mark) in marks.items():
        assert getattr(found, name) == (str(tmp_path / "some/where.mp4") if mark.path else value), name


# Flags without an effect.


@pytest.mark.parametrize(
    ("job", "argv", "advice"),
    [
        (TuneConfig, ["--train.seed", "7"], "--seed"),
        (TuneConfig, ["--train.threads=4"], "--threads"),
        (TuneConfig, ["--train.workers", "2"], "--workers"),
        (TuneConfig, ["--train.cache", "X"], "--cache"),
        (TuneConfig, ["--train.data.root", "X"], "--data"),
        (TuneConfig, ["--train.out", "X"], "--out"),
        (TuneConfig, ["--train.validation.every", "3"], "--rungs"),
        (TuneConfig, ["--train.loss.w", "0.5"], "--space.w"),
        (TuneConfig, ["--train.clip.crop-px", "64"], "the cache decides"),
        (TrainConfig, ["--cache", "X", "--clip.crop-px", "64"], "the cache decides"),
        (TrainConfig, ["--cache", "X", "--clip.no-flip"], "the cache decides"),
        (TrainConfig, ["--loss.kd", "2"], "--cache"),
        (TrainConfig, ["--validation.videos", "2"], "--validation.every"),
        (CacheConfig, ["--verify-rows", "2"], "--verify"),
        (CacheConfig, ["--verify", "--draws", "2"], "--verify"),
        (EvaluateConfig, ["--runtime", "eager", "--memory.top-k", "5"], "--runtime"),
        (ScoreConfig, ["--gt", "X", "--pred", "Y", "--data.root", "Z"], "leave it out"),
        (SegmentConfig, ["--data.root", "X"], "leave it out"),
        (SegmentConfig, ["--no-masks", "--masks", "X"], "--no-masks"),
    ],
)
def test_a_flag_that_the_job_cannot_honour_is_refused_with_what_to_do(job: type, argv: list[str], advice: str):
    with pytest.raises(InputError, match="has no effect here") as refusal:
        parse_config(job, "", argv)
    said = str(refusal.value)
    assert advice in said and "\n" not in said and said.split(":")[0] in " ".join(argv)


def test_a_value_that_is_not_searched_can_be_fixed():
    config = parse_config(TuneConfig, "", ["--space.w", "--train.loss.w", "0.5"])
    assert "w" not in config.space.ranges() and config.train.loss.w == 0.5


@pytest.mark.parametrize("cls", PRESETS)
@pytest.mark.parametrize("name", ["smoke", "paper"])
def test_what_has_no_effect_is_named_by_a_field_of_the_job(cls: type[JobConfig], name: str):
    config = preset(cls, name)
    known = {found for found, _, _ in leaves(config)}
    for field in config.inert():
        assert any(f"{one}.".startswith(f"{field}.") for one in known), field


def test_a_run_of_the_preset_smoke_says_so(capfd: pytest.CaptureFixture[str]):
    assert run(nothing, "--preset", "smoke") == 0 and "--preset smoke" in capfd.readouterr().err
    assert run(nothing) == 0 and capfd.readouterr().err == ""


# Exit codes.


def test_a_job_that_returns_exits_with_0_and_got_the_parsed_configuration():
    got = []
    assert run(got.append, "--steps", "9") == 0
    assert got[0].steps == 9


def test_bad_input_exits_with_2_and_one_line_without_traceback(capfd: pytest.CaptureFixture[str]):
    assert run(raiser(InputError(MESSAGE))) == 2
    assert capfd.readouterr() == ("", f"error: {MESSAGE}\n")


def test_debug_shows_the_traceback_of_bad_input():
    with pytest.raises(InputError):
        run(raiser(InputError(MESSAGE)), "--debug")


def test_an_error_of_ours_is_raised_with_its_traceback():
    with pytest.raises(ZeroDivisionError):
        run(raiser(ZeroDivisionError()))


def test_an_interruption_exits_with_130_and_says_how_to_continue(capfd: pytest.CaptureFixture[str]):
    assert run(raiser(KeyboardInterrupt())) == 130
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "again" in said


@pytest.mark.parametrize(
    "argv", [("--bogus", "3"), ("--steps", "abc"), ("--role", "wizard"), ("--preset", "turbo"), ("--preset",)]
)
def test_a_flag_that_cannot_be_read_exits_with_2_and_says_which(
    argv: tuple[str, ...], capfd: pytest.CaptureFixture[str]
):
    assert run(nothing, *argv) == 2
    assert argv[0] in capfd.readouterr().err


def test_a_flag_with_an_impossible_value_exits_with_2_and_one_line(capfd: pytest.CaptureFixture[str]):
    assert run(nothing, "--clip.crop-px", "50") == 2
    said = capfd.readouterr().err
    assert said == "error: --clip.crop-px 50: the encoders have stride 16; use 48\n"


def test_help_exits_with_0_and_shows_the_presets_own_defaults(capfd: pytest.CaptureFixture[str]):
    assert run(nothing, "--preset", "paper", "--help") == 0
    assert str(preset(TrainConfig, "paper").steps) in capfd.readouterr().out


@pytest.mark.parametrize("bytes_read", [0, 6])
def test_help_whose_reader_has_seen_enough_ends_quietly(bytes_read: int):
    reader, writer = os.pipe()
    command = [sys.executable, "-m", "jobs.tune", "--help"]
    with subprocess.Popen(command, cwd=ROOT, stdout=writer, stderr=subprocess.PIPE, text=True) as job:
        os.close(writer)
        assert os.read(reader, bytes_read) == b"usage:"[:bytes_read]
        os.close(reader)
        assert job.communicate()[1] == ""


def test_a_damaged_message_never_reaches_a_second_line(capfd: pytest.CaptureFixture[str]):
    """Libraries put line breaks into the reasons that our messages quote."""
    assert run(raiser(InputError("cache/shard.parquet: damaged (first\nsecond); make it again"))) == 2
    said = capfd.readouterr().err
    assert said.count("\n") == 1 and "cache/shard.parquet" in said and "make it again" in said


# Finding the user's part in an error that something else wrapped.


def chained() -> Exception:
    try:
        try:
            raise InputError(MESSAGE)
        except InputError as cause:
            raise RuntimeError("a worker failed") from cause
    except RuntimeError as error:
        return error


def in_context() -> Exception:
    def clean_up() -> None:
        raise RuntimeError("while cleaning up")

    try:
        try:
            raise InputError(MESSAGE)
        finally:
            clean_up()
    except RuntimeError as error:
        return error


class CopyOfRay(InputError):
    """What Ray raises in the driver for a worker's error: of its class too, with the remote traceback as its text."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __str__(self) -> str:
        return self._text


def with_attribute(name: str, value: Any) -> Exception:
    error = RuntimeError("wrapped")
    setattr(error, name, value)
    return error


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(InputError(MESSAGE), id="itself"),
        pytest.param(chained(), id="raise from"),
        pytest.param(in_context(), id="context"),
        pytest.param(with_attribute("cause", InputError(MESSAGE)), id="cause of a RayTaskError"),
        pytest.param(with_attribute("worker_failures", {0: InputError(MESSAGE)}), id="worker failures of Ray Train"),
        pytest.param(with_attribute("controller_failure", InputError(MESSAGE)), id="controller failure of Ray Train"),
        pytest.param(with_attribute("worker_failures", {1: with_attribute("cause", chained())}), id="several deep"),
        pytest.param(ExceptionGroup("two", [ValueError("other"), InputError(MESSAGE)]), id="exception group"),
        pytest.param(
            CopyOfRay(f"\x1b[36mray::Worker()\x1b[39m\n  File x.py\nvos.errors.InputError: {MESSAGE}\n"),
            id="Ray's copy with a remote traceback",
        ),
    ],
)
def test_bad_input_is_found_in_an_error_that_wraps_it(error: Exception, capfd: pytest.CaptureFixture[str]):
    assert run(raiser(error)) == 2
    assert capfd.readouterr().err == f"error: {MESSAGE}\n"


def test_an_error_of_ours_is_not_blamed_on_the_user():
    assert input_error(RuntimeError("bug")) is None
    assert input_error(ExceptionGroup("bugs", [ValueError("bug"), KeyError("bug")])) is None
    assert input_error(OSError(5, "Input/output error", "file")) is None


def test_a_context_that_was_put_aside_is_not_blamed_on_the_user():
    try:
        try:
            raise InputError(MESSAGE)
        except InputError:
            raise RuntimeError("bug") from None
    except RuntimeError as error:
        assert input_error(error) is None


def test_a_circle_of_causes_ends():
    first, second = RuntimeError("a"), RuntimeError("b")
    first.__cause__, second.__cause__ = second, first
    assert input_error(first) is None


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(13, "Permission denied", "/root/x"),
        FileNotFoundError(2, "No such file or directory", "/root/x"),
        IsADirectoryError(21, "Is a directory", "/root/x"),
        NotADirectoryError(20, "Not a directory", "/root/x"),
        FileExistsError(17, "File exists", "/root/x"),
        OSError(28, "No space left on device", "/root/x"),
        OSError(30, "Read-only file system", "/root/x"),
    ],
    ids=lambda error: type(error).__name__ + str(error.errno),
)
def test_a_path_that_cannot_be_used_is_the_users_part_and_named(error: OSError, capfd: pytest.CaptureFixture[str]):
    assert run(raiser(error)) == 2
    said = capfd.readouterr().err
    assert said.startswith("error: /root/x") and said.count("\n") == 1
