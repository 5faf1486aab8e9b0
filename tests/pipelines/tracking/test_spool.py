"""A tracking server that does not answer stops nothing, and nothing that was said is lost."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines import tracking
from pipelines.tracking import spool
from vos.config import CacheConfig
from vos.models import build
from vos.models.checkpoint import save_checkpoint

CONFIG = CacheConfig(seed=3)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that nobody listens on, and that no process of another test can take."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, store: str, silent_port: int) -> Path:
    """A project folder of the test's own, whose tracking server nobody has started."""
    monkeypatch.setenv("MOBILEVOS_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent_port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    return tmp_path


def waiting(home: Path) -> list[str]:
    return sorted(path.name for path in (home / "runs/mlflow-spool").iterdir())


def send_here(home: Path) -> None:
    """What the message of a run that waits for another store offers: another server has taken that one's place."""
    for path in (home / "runs/mlflow-spool").glob("*/head.json"):
        head = json.loads(path.read_text())
        del head["store"]
        times = path.stat()
        path.write_text(json.dumps(head))
        os.utime(path, (times.st_atime, times.st_mtime))


def client_of(store: str) -> Any:
    import mlflow

    return mlflow.MlflowClient(tracking_uri=store, registry_uri=store)


def say_everything(run: tracking.Run, folder: Path) -> None:
    """One of each kind of word."""
    picture = folder / "picture.txt"
    picture.write_text("drawn")
    save_checkpoint(str(folder / "student"), build("mobilevos-tiny"), {"step": 1})
    for step in range(50):
        run.log_metrics({"train/total": float(step)}, step)
    run.set_tags({"fps.hardware": "one core"})
    run.log_artifact(str(picture), "pictures")
    run.log_dataset("teacher-cache", "f" * 32, "/runs/cache", {"rows": 24}, "training")
    run.register("spooled-model", str(folder / "student"), "1 step")
    picture.unlink()  # what is spooled is a copy


def check_everything(client: Any, run_id: str, status: str = "FINISHED") -> None:
    run = client.get_run(run_id)
    assert run.info.status == status
    history = client.get_metric_history(run_id, "train/total")
    assert sorted((metric.step, metric.value) for metric in history) == [(step, float(step)) for step in range(50)]
    assert run.data.params["seed"] == "3" and run.data.tags["fps.hardware"] == "one core"
    assert Path(client.download_artifacts(run_id, "pictures/picture.txt")).read_text() == "drawn"
    assert run.inputs.dataset_inputs[0].dataset.digest == "f" * 32
    versions = client.search_model_versions("name = 'spooled-model'")
    assert len([version for version in versions if version.run_id == run_id]) == 1


def test_a_run_whose_server_is_away_is_kept_on_disk_said_once_and_replayed_by_the_next_run(
    home: Path, store: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    with tracking.start_run("testing", "away", CONFIG) as run:
        say_everything(run, home)
    said = [line for line in capfd.readouterr().err.splitlines() if "queued" in line]
    assert len(said) == 2 and "does not answer" in said[0] and "is queued in" in said[1]
    assert waiting(home) == [run.run_id]

    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    send_here(home)
    with tracking.start_run("testing", "next", CONFIG):
        pass
    assert waiting(home) == []
    client = client_of(store)
    real = spool.run_id_of(client, run.run_id)
    assert real is not None
    check_everything(client, real)


def test_a_child_finds_its_parent_and_an_addition_its_run_when_all_of_them_waited(
    home: Path, store: str, monkeypatch: pytest.MonkeyPatch
):
    with tracking.start_run("testing", "parent", CONFIG) as parent:
        with tracking.start_run("testing", "child", CONFIG, {"mlflow.parentRunId": parent.run_id}) as child:
            pass
        tracking.existing_run(child.run_id).log_metrics({"val/j_and_f": 0.5})
    os.utime(home / "runs/mlflow-spool" / child.run_id / "head.json", (0, 0))  # a coarse clock may put the child first
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    send_here(home)
    tracking.existing_run(child.run_id).log_metrics({"val/j": 0.25})
    client = client_of(store)
    parent_id, child_id = spool.run_id_of(client, parent.run_id), spool.run_id_of(client, child.run_id)
    assert parent_id and child_id and waiting(home) == []
    found = client.get_run(child_id)
    assert found.data.tags["mlflow.parentRunId"] == parent_id
    assert found.data.metrics == {"val/j_and_f": 0.5, "val/j": 0.25}


def test_a_run_that_another_process_still_writes_is_left_alone_and_a_killed_ones_is_replayed_whole(
    home: Path, store: str, monkeypatch: pytest.MonkeyPatch
):
    code = (
        "import sys\nfrom pipelines import tracking\nfrom vos.config import CacheConfig\n"
        "with tracking.start_run('testing', 'other', CacheConfig()) as run:\n"
        "    run.log_metrics({'a': 1.0})\n    print(run.run_id, flush=True)\n    sys.stdin.read()\n"
    )
    other = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert other.stdout is not None
    name = other.stdout.readline().strip()
    try:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
        client = client_of(store)
        spool.replay(client)
        assert waiting(home) == [name]
    finally:
        other.kill()
        other.communicate()
    with (home / "runs/mlflow-spool" / name / "events.jsonl").open("a") as file:
        file.write('{"op": "metr')  # the line that the kill cut
    send_here(home)
    spool.replay(client)
    real = spool.run_id_of(client, name)
    assert real is not None and client.get_run(real).data.metrics == {"a": 1.0} and waiting(home) == []


def test_a_run_waits_for_the_store_that_did_not_answer_and_a_job_of_another_store_says_so(
    home: Path, store: str, silent_port: int, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://someone:secret@127.0.0.1:{silent_port}/mlflow")
    with tracking.start_run("testing", "away", CONFIG) as run:
        run.log_metrics({"before": 1.0})
    meant = os.environ["MLFLOW_TRACKING_URI"].replace("someone:secret@", "")
    capfd.readouterr()

    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    with tracking.start_run("testing", "next", CONFIG):
        pass
    said = [line for line in capfd.readouterr().err.splitlines() if "queued" in line]
    assert len(said) == 1 and f"1 of the runs in {home}" in said[0] and f"MLFLOW_TRACKING_URI={meant} " in said[0]
    assert waiting(home) == [run.run_id] and spool.run_id_of(client_of(store), run.run_id) is None
    assert not any("secret" in path.read_text() for path in (home / "runs").rglob("head.json"))


def test_words_of_a_run_that_another_process_writes_wait_beside_it_whatever_the_projects_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    home = tmp_path / "my.project"
    monkeypatch.setenv("MOBILEVOS_HOME", str(home))
    spools = [spool.Spool("spooled-abc", {"key": "abc"}) for _ in range(3)]
    assert waiting(home) == ["spooled-abc", "spooled-abc.2", "spooled-abc.3"]
    assert [path.name for path in tmp_path.iterdir()] == ["my.project"]
    for one in spools:
        one.close()


def test_two_jobs_at_once_on_sqlite_lose_nothing(store: str, tmp_path: Path):
    code = (
        "import sys\nfrom pipelines import tracking\nfrom vos.config import CacheConfig\n"
        "with tracking.start_run('testing', 'busy', CacheConfig()) as run:\n"
        "    print(run.run_id, flush=True)\n"
        "    for step in range(100):\n"
        "        run.log_metrics({'train/total': float(step), 'train/kd': 0.5, 'train/lr': 0.1}, step)\n"
    )
    jobs = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    runs = [job.communicate()[0].strip() for job in jobs]
    assert [job.returncode for job in jobs] == [0, 0]
    client = client_of(store)
    for run_id in runs:
        assert client.get_run(run_id).info.status == "FINISHED"
        for name in ("train/total", "train/kd", "train/lr"):
            assert {metric.step for metric in client.get_metric_history(run_id, name)} == set(range(100))


class Server:
    """A real `mlflow server` that can be killed and started again on the same port and store."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder

    def start(self) -> None:
        where = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", "1"]
        stores = ["--backend-store-uri", f"sqlite:///{self._folder}/server.db"]
        stores += ["--artifacts-destination", f"{self._folder}/artifacts"]
        self._process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", "server", *where, *stores],
            env={**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        assert self._process.stderr is not None
        said = []
        for line in self._process.stderr:
            said.append(line)
            if "running on http" in line:
                break
        else:
            pytest.fail("".join(said))
        with urllib.request.urlopen(f"{self.uri}/health") as answer:
            assert answer.read() == b"OK"

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()


@pytest.mark.slow
def test_a_server_killed_in_mid_run_and_started_again_has_heard_every_word(
    home: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
):
    server = Server(home)
    server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri)
    try:
        with tracking.start_run("testing", "interrupted", CONFIG) as run:
            run.log_metrics({"before": 1.0})
            assert not run.spooled
            server.kill()
            say_everything(run, home)
            assert run.spooled
            server.start()
        check_everything(client_of(server.uri), run.run_id)
        said = [line for line in capfd.readouterr().err.splitlines() if "queued" in line]
        assert len(said) == 2 and "does not answer" in said[0] and "was sent to the server" in said[1]
        assert waiting(home) == []
    finally:
        server.kill()
