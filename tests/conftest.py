"""Fixtures that the whole suite shares."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of golden numbers and data beside the project; a user's machine need not have it."""
    folder = ROOT.parent / "shared"
    if not folder.is_dir():
        pytest.skip(f"{folder} is absent: golden numbers and DAVIS data are not on this machine")
    return folder


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Two threads beside other busy processes are several times slower than one."""
    from pipelines.runtime.session import set_threads

    set_threads(1)


@pytest.fixture(scope="session", autouse=True)
def interruptible() -> None:
    """A suite that a script puts in the background begins with SIGINT ignored, and so would every process that a test interrupts."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def graph_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Graph files of the tests, written once for all of them, and not into the user's folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOBILEVOS_CACHE", str(tmp_path_factory.mktemp("graphs")))
        yield


@pytest.fixture(autouse=True)
def no_user_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own data set, cluster or tracking server must not reach the tests."""
    for name in ("DAVIS_ROOT", "MOBILEVOS_HOME", "RAY_ADDRESS", "RAY_JOB_ID"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An MLflow store of the test session's own (a new SQLite store takes seconds)."""
    folder = tmp_path_factory.mktemp("mlflow")
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{folder}/mlflow.db"
    yield os.environ["MLFLOW_TRACKING_URI"]
    if before is None:
        del os.environ["MLFLOW_TRACKING_URI"]
    else:
        os.environ["MLFLOW_TRACKING_URI"] = before


@pytest.fixture(scope="session")
def ray_cluster(store: str) -> Iterator[None]:
    """One Ray instance for the whole session: starting one takes seconds."""
    from pipelines.runtime.session import ray_session

    with ray_session(num_cpus=8):
        yield
