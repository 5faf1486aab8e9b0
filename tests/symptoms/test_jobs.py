"""A job that a signal stops: what is finished is kept, one line, 128 + the signal's number, the run KILLED, nothing left running."""

from __future__ import annotations

import json
import os
import shlex
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pandas
import pytest

from tests.chaos.processes import Command
from vos.printed import command

SEED = ["--preset", "smoke", "--seed", "0"]
TEACHER = ["jobs.train", "--preset", "smoke", "--role", "teacher", "--model", "teacher-small", "--steps", "100000"]
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
SOON_S = 10.0


class Stopped:
    """A job that was stopped when `begun` held: its exit code, its lines on standard error and its runs in MLflow."""

    def __init__(
        self, argv: list[str], home: Path, begun: Callable[[], object], *sent: signal.Signals, group: bool = False
    ) -> None:
        log = home / "log"
        job = Command(argv, {"MOBILEVOS_HOME": str(home), "MLFLOW_TRACKING_URI": ""}, log)
        while not begun():
            assert job.alive(), job.said()
            time.sleep(0.02)
        began = time.monotonic()
        for one in sent:
            (os.killpg if group else os.kill)(job.process.pid, one)
            if one != sent[-1]:
                time.sleep(0.6)
        self.code = job.process.wait(60)
        self.seconds = time.monotonic() - began
        while (left := job.tree()) and time.monotonic() - began < SOON_S:
            time.sleep(0.05)
        self.left = sorted(left.values())
        lines = log.read_text(errors="replace").replace("\r", "\n").splitlines()
        # Left out: bars, and notes on the data.
        self.said = [line for line in lines if line.strip() and "|" not in line and not line.startswith("data  ")]
        self.runs = runs_of(home)

    def check(self, code: int) -> str:
        """Assert what holds for every job; returns its one line."""
        assert self.code == code, self.said
        assert len(self.said) == 1 and self.said[0].startswith("interrupted"), self.said
        assert self.left == [] and self.seconds < SOON_S
        assert self.runs and set(self.runs.values()) <= {"KILLED", "FINISHED"} and "KILLED" in self.runs.values()
        return self.said[0]


def runs_of(home: Path) -> dict[str, str]:
    with sqlite3.connect(home / "runs" / "mlflow.db") as store:
        return dict(store.execute("SELECT run_uuid, status FROM runs"))


def checkpoints(home: Path) -> Callable[[], list[Path]]:
    return lambda: list(home.glob("out/checkpoints/*/state.json"))


def step_of(home: Path) -> int:
    return max(json.loads(path.read_text())["step"] for path in home.glob("out/checkpoints/*/model.json"))


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_training_in_one_process_saves_the_step_at_which_it_is_stopped(sent: signal.Signals, tmp_path: Path):
    argv = [*TEACHER, "--here", "--workers", "1", "--checkpoint-every", "3", "--out", "out"]
    line = Stopped(argv, tmp_path, checkpoints(tmp_path), sent).check(CODES[sent])
    assert f"the checkpoint of step {step_of(tmp_path)} of 100000 is kept in {tmp_path}/out" in line
    assert "run the same command again" in line


def test_a_stopped_cache_keeps_its_shards_continues_and_prints_commands_that_can_be_copied(tmp_path: Path):
    home = tmp_path / "it's 50% #1 für $HOME"
    home.mkdir()
    argv = ["jobs.cache", *SEED, "--draws", "60", "--out", "out"]
    shards = home / "out" / "shards"
    line = Stopped(argv, home, lambda: shards.is_dir() and list(shards.glob("*.parquet")), signal.SIGTERM).check(143)
    kept = {path.name: path.stat().st_mtime_ns for path in shards.glob("*.parquet")}
    assert f"{len(kept)} of 15 shards are kept in {shards}" in line and 0 < len(kept) < 15

    again = Command(argv, {"MOBILEVOS_HOME": str(home), "MLFLOW_TRACKING_URI": ""}, home / "log")
    assert again.process.wait(120) == 0, again.said()
    assert {name: (shards / name).stat().st_mtime_ns for name in kept} == kept
    said = {line.split()[0]: line for line in again.said().splitlines() if line.strip()}
    assert in_a_shell(said["next"].partition("next")[2])[-3:] == [f"{home}/out", "--out", "runs/student"]
    assert "(" in said["tables"]
    folder = in_a_shell(said["tables"].partition("tables")[2].partition("  (")[0])
    assert len(pandas.read_parquet(folder[0])) == 60


def in_a_shell(text: str) -> list[str]:
    """The words of a printed command as /bin/sh passes them to a program."""
    script = f"show() {{ printf '%s\\0' \"$@\"; }}; show {text.strip()}"
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True, cwd="/")
    return done.stdout.decode().split("\0")[:-1]


@pytest.mark.parametrize(
    "path",
    [
        "/a b",
        "/a#b",
        "/50%",
        "/für/ü",
        "/it's",
        '/say "no"',
        "/$HOME",
        "/`id`",
        "/a;b&c|d",
        "/*",
        "/~x",
        "-x",
        "/a\\b",
        "",
    ],
)
def test_a_printed_command_has_the_same_words_in_a_shell(path: str):
    words = ["python", "-m", "jobs.train", "--cache", path, "--out", "runs/x"]
    assert in_a_shell(command(*words)) == words == shlex.split(command(*words))


def test_a_word_that_no_terminal_shows_is_printed_on_one_line_and_read_back_by_bash():
    words = ["a\nb", "\x1b[31m", "it's \\ \t"]
    text = command(*words)
    assert text.isprintable()
    done = subprocess.run(["bash", "-c", f"printf '%s\\0' {text}"], capture_output=True, check=True)
    assert done.stdout.decode().split("\0")[:-1] == words


@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_training_on_two_workers_is_stopped_by_the_same_rule(sent: signal.Signals, group: bool, tmp_path: Path):
    argv = [*TEACHER, "--workers", "2", "--batch", "4", "--checkpoint-every", "5", "--out", "out"]
    line = Stopped(argv, tmp_path, checkpoints(tmp_path), sent, group=group).check(CODES[sent])
    assert f"the checkpoint of step {step_of(tmp_path)} of" in line


@pytest.mark.slow
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_the_trials_of_a_stopped_search_are_closed_and_it_continues(sent: signal.Signals, tmp_path: Path):
    home = {"MOBILEVOS_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": ""}
    made = Command(["jobs.cache", *SEED, "--out", "cache"], home, tmp_path / "log")
    assert made.process.wait(120) == 0, made.said()
    argv = ["jobs.tune", *SEED, "--cache", "cache", "--train.steps", "400", "--rungs", "20", "--trials", "2"]
    argv += ["--out", "out"]
    stopped = Stopped(argv, tmp_path, lambda: list(tmp_path.glob("out/trials/*/trial.json")), sent)
    assert "0 of 2 trials are done" in stopped.check(CODES[sent])
    assert sorted(stopped.runs.values()).count("KILLED") >= 2  # the search and a trial
    records = [json.loads(path.read_text())["status"] for path in tmp_path.glob("out/trials/*/trial.json")]
    assert set(records) == {"interrupted"}


@pytest.mark.slow
def test_a_second_signal_ends_a_job_at_once(tmp_path: Path):
    argv = ["jobs.cache", *SEED, "--draws", "400", "--out", "out"]
    begun = lambda: list(tmp_path.glob("out/shards/*.parquet"))  # noqa: E731
    stopped = Stopped(argv, tmp_path, begun, signal.SIGINT, signal.SIGINT)
    assert stopped.code in (130, -signal.SIGINT) and stopped.left == [] and stopped.seconds < 5


@pytest.mark.slow
def test_a_job_that_its_terminal_left_with_nohup_goes_on(tmp_path: Path):
    argv = [*TEACHER, "--here", "--workers", "1", "--checkpoint-every", "3", "--out", "out"]
    ignored = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stopped = Stopped(argv, tmp_path, checkpoints(tmp_path), signal.SIGHUP, signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, ignored)
    stopped.check(143)
