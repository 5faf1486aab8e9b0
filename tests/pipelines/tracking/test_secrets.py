"""Secrets are planted in everything that a job is given, the jobs run, and then they are looked for everywhere."""

import os
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import boto3
import pytest
from moto.server import ThreadedMotoServer

ROOT = Path(__file__).resolve().parents[3]
PASSWORD, KEY, TOKEN = "pLaNtEdPaSsWoRd", "pLaNtEd/SeCrEt+KeY", "pLaNtEdToKeN"
SECRETS = (PASSWORD, KEY, TOKEN, PASSWORD.encode().hex())
OUT = "s3://team/caches/one"


@pytest.fixture
def planted(tmp_path: Path) -> Iterator[dict[str, str]]:
    """An environment with secrets in it: an object store and a tracking server that does not answer."""
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    keys = {"AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE", "AWS_SECRET_ACCESS_KEY": KEY, "AWS_SESSION_TOKEN": TOKEN}
    boto3.client(
        "s3",
        endpoint_url=f"http://{host}:{port}",
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    ).create_bucket(Bucket="team")
    with socket.socket() as probe:  # bound, never listening: refused at once
        probe.bind(("127.0.0.1", 0))
        yield {
            **os.environ,
            **keys,
            "AWS_ENDPOINT_URL": f"http://{host}:{port}",
            "AWS_DEFAULT_REGION": "us-east-1",
            "MOBILEVOS_HOME": str(tmp_path / "home"),
            "TMPDIR": str(tmp_path / "tmp"),
            "RAY_TMPDIR": _short(tmp_path),
            "MLFLOW_TRACKING_URI": f"http://user:{PASSWORD}@127.0.0.1:{probe.getsockname()[1]}/mlflow",
        }
    server.stop()


def _short(tmp_path: Path) -> str:
    """A name for Ray's folder: the paths of its sockets hold 107 bytes at most."""
    (tmp_path / "home").mkdir()
    (tmp_path / "tmp").mkdir()
    link = Path("/tmp") / f"mv-{os.getpid()}-{time.monotonic_ns() % 10**9}"
    (tmp_path / "ray").mkdir()
    link.symlink_to(tmp_path / "ray")
    return str(link)


def job(environment: dict[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, "-m", *argv], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    for secret in SECRETS:
        assert secret not in done.stdout + done.stderr, (argv, secret, done.stdout, done.stderr)
    return done


def assert_nowhere(folder: Path) -> int:
    """No file below the folder holds a secret; returns how many there were."""
    count = 0
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            count += 1
            data = path.read_bytes()
            for secret in SECRETS:
                assert secret.encode() not in data, f"{path}: {secret}"
    return count


def logs(environment: dict[str, str]) -> Path:
    folder = Path(environment["RAY_TMPDIR"])
    real = folder.resolve()
    folder.unlink()
    return real


@pytest.mark.slow
def test_a_cache_and_a_training_at_an_object_store_leave_no_secret_anywhere(planted: dict[str, str], tmp_path: Path):
    done = job(planted, "jobs.cache", "--preset", "smoke", "--draws", "4", "--out", OUT, "--workers", "2")
    assert done.returncode == 0, done.stderr
    assert "does not answer" in done.stderr and "127.0.0.1" in done.stderr
    train = ("jobs.train", "--preset", "smoke", "--cache", OUT, "--steps", "2", "--batch", "2", "--workers", "2")
    done = job(planted, *train, "--out", str(tmp_path / "home" / "student"))
    assert done.returncode == 0, done.stderr
    spooled = [path for path in (tmp_path / "home/runs/mlflow-spool").iterdir()]
    assert len(spooled) == 2 and all(path.parent.stat().st_mode & 0o077 == 0 for path in spooled)
    client = boto3.client(
        "s3",
        endpoint_url=planted["AWS_ENDPOINT_URL"],
        region_name="us-east-1",
        aws_access_key_id="a",
        aws_secret_access_key="b",
    )
    for item in client.list_objects_v2(Bucket="team")["Contents"]:
        client.download_file("team", item["Key"], str(tmp_path / "home" / item["Key"].replace("/", "_")))
    assert_nowhere(logs(planted))
    assert assert_nowhere(tmp_path) > 20


@pytest.fixture
def tracking_server(tmp_path: Path) -> Iterator[str]:
    """A real MLflow server of an SQLite store; its address with a user and a password in it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    command += [
        "--backend-store-uri",
        f"sqlite:///{tmp_path}/mlflow.db",
        "--artifacts-destination",
        str(tmp_path / "art"),
    ]
    environment = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with open(tmp_path / "server.log", "wb") as log:
        server = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1).close()
                break
            except OSError:
                assert server.poll() is None, (tmp_path / "server.log").read_text()
                time.sleep(0.2)
        yield f"http://user:{PASSWORD}@127.0.0.1:{port}"
    finally:
        os.killpg(server.pid, 15)
        server.wait()


@pytest.mark.slow
def test_a_search_and_an_evaluation_on_a_server_with_a_password_leave_no_secret_anywhere(
    planted: dict[str, str], tracking_server: str, tmp_path: Path
):
    planted["MLFLOW_TRACKING_URI"] = tracking_server
    cache, out = str(tmp_path / "home/cache"), str(tmp_path / "home/tune")
    assert job(planted, "jobs.cache", "--preset", "smoke", "--draws", "4", "--out", cache).returncode == 0
    tune = ("jobs.tune", "--preset", "smoke", "--cache", cache, "--trials", "2", "--train.steps", "2", "--rungs", "1")
    done = job(planted, *tune, "--train.batch", "2", "--out", out)
    assert done.returncode == 0, done.stderr
    done = job(
        planted, "jobs.evaluate", "--preset", "smoke", "--register", "--checkpoint", "builtin-student", "--out",
        str(tmp_path / "home/evaluation"),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(tmp_path / "mlflow.db") as base:
        assert base.execute("select count(*) from runs").fetchone()[0] >= 5
    assert_nowhere(logs(planted))
    assert assert_nowhere(tmp_path) > 50


@pytest.mark.parametrize(
    "argv",
    [
        ("jobs.segment", f"rtsp://user:{PASSWORD}@127.0.0.1:1/camera", "--first-mask", "MASK", "--out", "OUT/a.mp4"),
        ("jobs.evaluate", "--checkpoint", "models:/nobody/7", "--out", "OUT/evaluation"),
    ],
    ids=["a camera", "a registry"],
)
def test_what_fails_later_shows_no_secret_either(argv: tuple[str, ...], planted: dict[str, str], tmp_path: Path):
    mask = str(ROOT / "tests" / "absent.png")
    done = job(planted, *(one.replace("OUT", str(tmp_path)).replace("MASK", mask) for one in argv))
    assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
    logs(planted)
    assert_nowhere(tmp_path)
