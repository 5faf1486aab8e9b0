"""An MLflow store that was killed while it was made, that is no store, and runs whose process is gone."""

from __future__ import annotations

import contextlib
import http.server
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import tracking
from pipelines.tracking import owner, sqlite_store
from pipelines.tracking import store as stores
from tests.conftest import ROOT
from vos.config import CacheConfig
from vos.config.presets import preset
from vos.errors import MOST_LETTERS, InputError

CONFIG = preset(CacheConfig, "smoke")
CONNECT = "from pipelines.tracking import store; import mlflow; print('go', flush=True); store.connect(writing=True)"
RUN = """
import sys, time
from pipelines import tracking
from vos.config import CacheConfig
from vos.config.presets import preset
with tracking.start_run("testing", sys.argv[1], preset(CacheConfig, "smoke")) as run:
    print(run.run_id, flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def process(code: str, *argv: str) -> Iterator[subprocess.Popen[str]]:
    one = subprocess.Popen(
        [sys.executable, "-c", code, *argv], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        yield one
    finally:
        one.kill()
        one.communicate()


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MOBILEVOS_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty store as MLflow makes it."""
    path = tmp_path_factory.mktemp("whole") / "mlflow.db"
    sqlite_store.prepare(f"sqlite:///{path}")
    return path


@pytest.fixture
def uri(home: Path, whole: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copy(whole, home / "mlflow.db")
    return home / "mlflow.db"


def version(path: Path) -> str:
    with sqlite3.connect(path) as store:
        return store.execute("SELECT version_num FROM alembic_version").fetchone()[0]


def half_made(path: Path, revision: str) -> None:
    """A store that MLflow was killed over: its first tables, and its migrations up to a revision."""
    from alembic import command
    from mlflow.store.db.utils import _get_alembic_config, create_sqlalchemy_engine_with_retry
    from mlflow.store.tracking.dbmodels.initial_models import Base as InitialBase

    engine = create_sqlalchemy_engine_with_retry(f"sqlite:///{path}")
    InitialBase.metadata.create_all(engine)
    if revision:
        command.upgrade(_get_alembic_config(f"sqlite:///{path}"), revision)
    engine.dispose()


@pytest.mark.parametrize("moment", ["tables only", "midway", "a table too many", "no byte"])
def test_a_half_made_store_that_holds_nothing_is_made_again(moment: str, home: Path, whole: Path):
    path = home / "mlflow.db"
    if moment == "no byte":
        path.touch()
    else:
        half_made(path, "" if moment == "tables only" else "90e64c465722")
    if moment == "a table too many":  # of a migration that was cut before its version was written
        with sqlite3.connect(path) as store:
            store.execute("CREATE TABLE logged_models (model_id VARCHAR)")
    with tracking.start_run("testing", "after", CONFIG) as run:
        pass
    assert version(path) == version(whole)
    with sqlite3.connect(path) as store:
        assert store.execute("SELECT run_uuid, status FROM runs").fetchall() == [(run.run_id, "FINISHED")]
    assert sorted(os.listdir(home)) == ["mlartifacts", "mlflow.db"]


def test_an_older_store_with_runs_is_kept_and_the_command_that_upgrades_it_is_named(home: Path):
    path = home / "mlflow.db"
    half_made(path, "90e64c465722")
    with sqlite3.connect(path) as store:
        store.execute("INSERT INTO experiments (experiment_id, name) VALUES (1, 'mine')")
    before = path.read_bytes()
    with pytest.raises(InputError, match=f"older MLflow.*python -m mlflow db upgrade sqlite:///{path}"):
        stores.connect()
    assert path.read_bytes() == before


def test_a_job_killed_while_it_makes_the_store_leaves_none_and_the_next_one_makes_it(home: Path, whole: Path):
    with process(CONNECT) as first:
        assert first.stdout is not None and first.stdout.readline()
        while not (made := list(home.glob(".mlflow.db.*.making"))):
            assert first.poll() is None
            time.sleep(0.005)
        first.send_signal(signal.SIGKILL)
        first.wait()
    assert made and not (home / "mlflow.db").exists()
    stores.connect(writing=True)
    assert os.listdir(home) == ["mlflow.db"] and version(home / "mlflow.db") == version(whole)


def test_jobs_that_make_the_store_at_the_same_moment_all_use_it(home: Path, whole: Path):
    half_made(home / "mlflow.db", "90e64c465722")
    with process(CONNECT) as one, process(CONNECT) as other:
        assert [one.wait(60), other.wait(60)] == [0, 0]
    assert os.listdir(home) == ["mlflow.db"] and version(home / "mlflow.db") == version(whole)


def changed(path: Path, statement: str) -> None:
    with sqlite3.connect(path) as store:
        store.execute(statement)


SPOILED: dict[str, tuple[Any, str]] = {
    "newer": (lambda path: changed(path, "UPDATE alembic_version SET version_num = 'f00f00f00f00'"), "newer MLflow"),
    "text": (lambda path: path.write_text("runs of last week"), "no SQLite database"),
    "cut": (lambda path: os.truncate(path, 8192), "damaged"),
    "noise": (lambda path: path.write_bytes(b"SQLite format 3\0" + b"\xff" * 9000), "damaged"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "is a folder"),
    "of another program": (
        lambda path: (path.unlink(), changed(path, "CREATE TABLE songs (name)")),
        "not one of MLflow",
    ),
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_file_that_is_no_store_is_refused_in_one_line_without_sql_and_left_as_it_is(name: str, uri: Path):
    spoil, words = SPOILED[name]
    spoil(uri)
    before = uri.read_bytes() if uri.is_file() else b""
    with pytest.raises(InputError, match=words) as refused, tracking.start_run("testing", "never", CONFIG):
        pass
    text = str(refused.value)
    assert str(uri) in text and "SELECT" not in text and "SQL:" not in text and len(text) < MOST_LETTERS - 100
    assert (uri.read_bytes() if uri.is_file() else b"") == before


@pytest.mark.slow
def test_a_store_that_another_program_locks_is_named(uri: Path):
    with contextlib.closing(sqlite3.connect(uri, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(InputError, match="another program has locked"), tracking.start_run("testing", "x", CONFIG):
            pass


@pytest.mark.parametrize(
    ("code", "body", "words"),
    [
        (200, b"<html>hello</html>", "no MLflow server"),
        (200, b"{}", "no MLflow server"),
        (404, b"<html>none</html>", "no MLflow server"),
        (401, b"", "MLFLOW_TRACKING_USERNAME"),
    ],
)
def test_what_is_no_mlflow_server_is_refused_in_one_line(
    code: int, body: bytes, words: str, home: Path, monkeypatch: pytest.MonkeyPatch
):
    class Server(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{server.server_port}")
        with pytest.raises(InputError, match=words) as refused, tracking.start_run("testing", "never", CONFIG):
            pass
        server.shutdown()
    assert "<html>" not in str(refused.value)


def test_the_next_job_closes_the_runs_of_killed_processes_and_no_others(uri: Path, capfd: pytest.CaptureFixture[str]):
    client = stores.connect()
    with process(RUN, "killed") as killed, process(RUN, "alive") as alive:
        assert killed.stdout is not None and alive.stdout is not None and alive.stdin is not None
        ids = {"killed": killed.stdout.readline().strip(), "alive": alive.stdout.readline().strip()}
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        experiment = client.get_run(ids["alive"]).info.experiment_id
        ids["foreign"] = client.create_run(experiment, run_name="of another program").info.run_id
        with tracking.start_run("testing", "next", CONFIG):
            pass
        assert {name: client.get_run(run_id).info.status for name, run_id in ids.items()} == {
            "killed": "KILLED",
            "alive": "RUNNING",
            "foreign": "RUNNING",
        }
        alive.communicate("end")
        assert client.get_run(ids["alive"]).info.status == "FINISHED"
    assert "closed as KILLED, because their processes are gone: killed\n" in capfd.readouterr().err


HERE = owner.Owner(boot="b", host="h", machine="m", pid=os.getpid(), pids="n", started="0")
MINUTE = 60


@pytest.mark.parametrize(
    ("changes", "silent_s", "dead"),
    [
        ({}, 0, True),  # this number belongs to a process that started at another time
        ({"pids": "of a container"}, 10 * MINUTE, False),
        ({"pids": "of a container"}, 24 * 60 * MINUTE, True),
        ({"boot": "earlier"}, 10 * MINUTE, True),
        ({"boot": "of a machine with the same name"}, 1 * MINUTE, False),
        ({"boot": "other", "machine": "other"}, 60 * MINUTE, False),
        ({"boot": "other", "machine": "other"}, 24 * 60 * MINUTE, True),
        ({"boot": "other", "machine": ""}, 60 * MINUTE, False),
    ],
)
def test_a_run_counts_as_dead_only_where_its_process_is_provably_gone(
    changes: dict[str, str], silent_s: int, dead: bool
):
    from vos.files.canonical import dumps

    tags = {owner.OWNER: dumps({**HERE, **changes}), owner.ALIVE: "1000000"}
    assert owner.is_dead(tags, HERE, now=1000000 + silent_s) is dead


@pytest.mark.parametrize("tags", [{}, {"owner": "someone"}, {"owner": "{}", "alive": "0"}, {"alive": "0"}])
def test_a_run_whose_tags_say_nothing_is_never_dead(tags: dict[str, str]):
    assert not owner.is_dead(tags, HERE)
