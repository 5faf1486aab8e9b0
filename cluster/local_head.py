"""Start and stop one Ray head that only this machine can reach: `make cluster-up`, `make cluster-down`.

Choices and their costs:
- Every port of the head is on loopback. `ray start --node-ip-address=127.0.0.1` is not enough: Ray replaces a loopback
  address by the machine's own, and its control store then listens on every interface. Ray stays on loopback when its
  switch for systems without cluster support is set (services.get_node_ip_address). It is set here, and the listening
  sockets are checked afterwards. Cost: no second machine can join this head.
- `ray stop` ends every Ray on the machine, also those of tests and other users. Instead, this head and its processes
  carry a mark in their environment, and only their sessions are stopped. Cost: Linux only (/proc).
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import http.client
import ipaddress
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from pipelines.runtime.ray_folders import private_token
from vos.errors import InputError
from vos.files.json_files import checked, read_json_file
from vos.files.whole import private_folder
from vos.redaction import redact_all, without_secret

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent
MARK = "MOBILEVOS_HEAD"
LISTEN = "0A"  # the state of a listening socket in /proc/net/tcp


class HeadError(Exception):
    """An error for the user, in one line: what is wrong and how to fix it."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings from the environment."""

    state_dir: Path
    dashboard_port: int
    num_cpus: int
    start_timeout_s: float

    @classmethod
    def read(cls) -> Settings:
        def number(name: str, default: int) -> int:
            text = os.environ.get(name) or str(default)
            if not text.isdigit() or int(text) < 1:
                raise HeadError(f"{name}={text}: not a whole number of at least 1; set one or unset {name}")
            return int(text)

        return cls(
            state_dir=Path(os.environ.get("CLUSTER_DIR") or ROOT / "runs" / "cluster").absolute(),
            dashboard_port=number("CLUSTER_DASHBOARD_PORT", 8265),
            # Ray Data, Train and Tune hold logical CPUs at the same time; with fewer than 6, stages wait for each other forever.
            num_cpus=number("CLUSTER_CPUS", max(6, os.cpu_count() or 1)),
            start_timeout_s=number("CLUSTER_TIMEOUT_S", 240),
        )

    @property
    def record(self) -> Path:
        return self.state_dir / "head.json"

    @property
    def log(self) -> Path:
        return self.state_dir / "head.log"

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def scratch_dir(self) -> Path:
        """Folder of Ray's sessions.

        It is short, since a socket's path holds at most 107 bytes, and private, since Ray's own folders are readable by
        everybody. It is not Ray's default, so that a plain `ray.init()` elsewhere does not join this head.
        """
        name = hashlib.sha256(os.fsencode(self.state_dir)).hexdigest()[:8]
        return Path("/tmp") / f"mobilevos-{os.getuid()}-{name}"


# --- processes and sockets, read from /proc ---


def cluster_processes(mark: str, sessions: frozenset[int] = frozenset()) -> dict[int, int]:
    """Return {process id: session id} of the processes with the mark, and of all others in their sessions and in `sessions`.

    The mark alone would miss processes that overwrite their environment with a title. The head leads its own session, and
    no process can enter a session from outside, so no unrelated process is found.
    """
    wanted = f"{MARK}={mark}".encode()
    session_of, marked = {}, set()
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        # A process may end while it is read, and another user's cannot be read; neither belongs to this head.
        with contextlib.suppress(OSError):
            state, _, _, session = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if state != "Z":
                session_of[int(folder.name)] = int(session)
                if wanted in (folder / "environ").read_bytes().split(b"\0"):
                    marked.add(int(session))
    return {pid: session for pid, session in session_of.items() if session in marked | sessions}


def parse_address(text: str) -> tuple[str, int]:
    """Return ("127.0.0.1", 8080) for `0100007F:1F90` of /proc/net/tcp, or for its 32-digit form of tcp6."""
    digits, _, port = text.partition(":")
    words = [bytes.fromhex(digits[i : i + 8]) for i in range(0, len(digits), 8)]
    packed = b"".join(word[::-1] if sys.byteorder == "little" else word for word in words)
    family = socket.AF_INET if len(packed) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, packed), int(port, 16)


def is_loopback(host: str) -> bool:
    address = ipaddress.ip_address(host)
    mapped = getattr(address, "ipv4_mapped", None)  # Ray's C++ side listens on ::ffff:127.0.0.1
    return (mapped or address).is_loopback


def listeners(pids: Iterable[int]) -> set[tuple[str, int]]:
    """Return (host, port) of every TCP socket on which one of the processes listens."""
    sockets = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for entry in Path(f"/proc/{pid}/fd").iterdir():
                with contextlib.suppress(OSError):
                    sockets.add(os.readlink(entry))
    found = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):  # tcp6 is absent where IPv6 is switched off
            for line in Path(table).read_text().splitlines()[1:]:
                fields = line.split()
                if fields[3] == LISTEN and f"socket:[{fields[9]}]" in sockets:
                    found.add(parse_address(fields[1]))
    return found


def http_status(port: int, path: str) -> int | None:
    """Return the status of a GET without a token, or None without an answer."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


# --- up ---


def head_environment(mark: str) -> dict[str, str]:
    """Return the environment of the head and of every job on it."""
    env = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS", "PYTHONHOME")}
    # A job runs in an uploaded copy of the code: relative paths and the MLflow store must not land in that copy.
    tracking = env.get("MLFLOW_TRACKING_URI") or "sqlite:///runs/mlflow.db"
    if tracking.startswith("sqlite:///") and not tracking.startswith("sqlite:////"):
        tracking = f"sqlite:///{ROOT / tracking.removeprefix('sqlite:///')}"
    env.update(
        {
            MARK: mark,
            "MOBILEVOS_HOME": str(ROOT),
            "MLFLOW_TRACKING_URI": tracking,
            "PATH": f"{BIN}{os.pathsep}{env.get('PATH', os.defpath)}",
            "VIRTUAL_ENV": str(BIN.parent),
            "RAY_AUTH_MODE": "token",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # see the module's first choice
            "RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S": "0",  # a single node cannot move its work, so do not wait 30 s
            # A stopped job needs some seconds for its checkpoint and its run in MLflow; Ray's default is 3 s.
            "RAY_JOB_STOP_WAIT_TIME_S": env.get("RAY_JOB_STOP_WAIT_TIME_S", "12"),
            "RAY_USAGE_STATS_ENABLED": env.get("RAY_USAGE_STATS_ENABLED", "0"),
        }
    )
    return env


def prepare_scratch(folder: Path) -> Path:
    """Return an empty folder for Ray inside one that only this user can enter."""
    private_folder(str(folder))
    shutil.rmtree(folder / "ray", ignore_errors=True)  # the sessions of the last head
    return folder / "ray"


def up(settings: Settings) -> None:
    if any(character.isspace() for character in str(BIN)):
        raise HeadError(
            f"Ray cannot start from a path with spaces ({BIN}): move the checkout, then run make setup there"
        )
    if record := read_record(settings):
        if cluster_processes(record["mark"]):
            raise HeadError(
                f"a cluster is already up (process {record['pid']}, {record['url']}): "
                "use it, or stop it first with make cluster-down"
            )
        settings.record.unlink()
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", settings.dashboard_port)) == 0:
            raise HeadError(
                f"port {settings.dashboard_port} on 127.0.0.1 is taken, perhaps by another Ray on this machine: "
                f"choose one, for example make cluster-up CLUSTER_DASHBOARD_PORT={settings.dashboard_port + 1}"
            )
    mark = uuid.uuid4().hex
    env = head_environment(mark)
    private_token()
    temp_dir = prepare_scratch(settings.scratch_dir)
    # fmt: off
    command = [
        str(BIN / "ray"), "start", "--head", "--block", "--log-color=false",
        f"--num-cpus={settings.num_cpus}", f"--temp-dir={temp_dir}",
        # Only the dashboard's port must be known. The others are free ports, so that a Redis on 6379 or a second Ray
        # on 10001 and 52365 does not conflict.
        f"--port={free_port()}", f"--ray-client-server-port={free_port()}", "--dashboard-agent-listen-port=0",
        "--dashboard-host=127.0.0.1", f"--dashboard-port={settings.dashboard_port}",
    ]
    # fmt: on
    with open(settings.log, "wb") as log:
        head = subprocess.Popen(
            command, env=env, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    settings.record.write_text(json.dumps({"pid": head.pid, "mark": mark, "url": settings.url}) + "\n")
    try:
        wait_until_ready(settings, head, temp_dir)
        outside = sorted(address for address in listeners(cluster_processes(mark)) if not is_loopback(address[0]))
        if outside:
            where = ", ".join(f"{host}:{port}" for host, port in outside)
            raise HeadError(
                f"Ray listens beyond this machine ({where}) and was stopped; install the Ray of constraints.txt: make setup"
            )
    except BaseException:
        stop(settings, head.pid, mark)
        raise
    print(
        f"Ray is up at {settings.url}: process {head.pid}, {settings.num_cpus} logical CPUs, token required, "
        "every port on loopback\n"
        f"logs      {settings.log} and {temp_dir}/session_latest/logs\n"
        f"tracking  {without_secret(env['MLFLOW_TRACKING_URI'])}\n\n"
        "next, from this folder:\n"
        f"  export RAY_AUTH_MODE=token RAY_API_SERVER_ADDRESS={settings.url}\n"
        "  .venv/bin/ray job submit --working-dir . -- python -m jobs.cache --preset smoke --out runs/cache\n"
        "stop it with: make cluster-down"
    )


def wait_until_ready(settings: Settings, head: subprocess.Popen[bytes], temp_dir: Path) -> None:
    """Wait until the dashboard refuses a request without a token (so it is up and protected) and its agent can take jobs."""
    deadline, ready_since = time.monotonic() + settings.start_timeout_s, None
    print(f"starting Ray (usually 10 to 30 s, at most {settings.start_timeout_s:.0f}) ...", flush=True)
    while time.monotonic() < deadline:
        if head.poll() is not None:
            tail = "\n".join(settings.log.read_text(errors="replace").splitlines()[-15:])
            raise HeadError(f"ray start ended with exit code {head.returncode}; the end of {settings.log}:\n{tail}")
        status = http_status(settings.dashboard_port, "/api/version")
        if status == 200:
            raise HeadError(
                "the dashboard answers without a token, so it was stopped: RAY_AUTH_MODE=token had no effect; run make setup"
            )
        ports = [
            int(p.read_text())
            for p in temp_dir.glob("session_latest/dashboard_agent_listen_port_*")
            if p.stat().st_size
        ]
        if status == 401 and any(http_status(port, "/api/local_raylet_healthz") == 200 for port in ports):
            ready_since = ready_since or time.monotonic()
            # `ray start` checks once a second whether one of its processes has died, and then ends all of them.
            if time.monotonic() - ready_since > 2:
                return
        time.sleep(0.3)
    raise HeadError(
        f"Ray was not ready after {settings.start_timeout_s:.0f} s and was stopped; see {settings.log}, "
        "and on a busy machine wait longer with CLUSTER_TIMEOUT_S=600"
    )


# --- down ---


class Record(TypedDict):
    """The content of head.json."""

    pid: int
    mark: str
    url: str


def read_record(settings: Settings) -> Record | None:
    if not os.path.lexists(settings.record):
        return None
    advice = "stop Ray by hand, then remove that file"
    path = str(settings.record)
    try:
        return checked(read_json_file(path, advice), Record, path, advice)
    except InputError as error:
        raise HeadError(str(error)) from None


def stop(settings: Settings, head_pid: int, mark: str) -> int:
    """Ask the head to end, then end its remaining processes; returns how many there were."""
    running = cluster_processes(mark)
    sessions = frozenset(running.values())
    if head_pid in running:  # else the id may now belong to an unrelated process
        os.kill(head_pid, signal.SIGTERM)
        wait_for_end(mark, sessions, 30)
    for final in (signal.SIGTERM, signal.SIGKILL):
        for pid in cluster_processes(mark, sessions):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, final)
        wait_for_end(mark, sessions, 5)
    if left := cluster_processes(mark, sessions):
        raise HeadError(f"these processes of the cluster did not end: {sorted(left)}")
    settings.record.unlink(missing_ok=True)
    return len(running)


def wait_for_end(mark: str, sessions: frozenset[int], patience_s: float) -> None:
    deadline = time.monotonic() + patience_s
    while cluster_processes(mark, sessions) and time.monotonic() < deadline:
        time.sleep(0.2)


def down(settings: Settings) -> None:
    record = read_record(settings)
    if record is None:
        print("no cluster of this checkout is up: nothing to stop")
        return
    count = stop(settings, record["pid"], record["mark"])
    print(f"stopped the cluster at {record['url']} ({count} processes)" if count else "the cluster had ended already")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("up", "down"))
    action = {"up": up, "down": down}[parser.parse_args().action]
    try:
        settings = Settings.read()
        settings.state_dir.mkdir(parents=True, exist_ok=True)
        with open(settings.state_dir / "lock", "w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise HeadError("another make cluster-up or cluster-down is running here: wait for it") from None
            action(settings)
    except (HeadError, InputError, OSError) as error:
        print(f"cluster: {redact_all(str(error))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("cluster: interrupted; what was started has been stopped", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
