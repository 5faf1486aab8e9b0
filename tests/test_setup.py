"""The set-up files agree with one another, and the cluster starts guarded and stops completely."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import tomllib
import uuid
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
TARGETS = [
    "setup",
    "demo",
    "teacher",
    "results",
    "test",
    "test-all",
    "lint",
    "docs",
    "lock",
    "audit",
    "bench",
    "ui",
    "clean",
    "cluster-up",
    "cluster-down",
    "help",
]


def project() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    """canonical name -> version: constraints.txt, and torch, whose release is in the Makefile."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8") + (ROOT / "Makefile").read_text(encoding="utf-8")
    found = re.findall(r"^(?:TORCH := )?([A-Za-z0-9][A-Za-z0-9._-]*)==(\S+)", text, re.MULTILINE)
    return {canonical(name): version for name, version in found}


def requirements() -> list[tuple[str, str]]:
    """(name, version specifiers) of every dependency in pyproject.toml, extras included."""
    table = project()["project"]
    lines = table["dependencies"] + [r for extra in table.get("optional-dependencies", {}).values() for r in extra]
    parsed = [re.fullmatch(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?\s*(.*)", line) for line in lines]
    return [(canonical(m.group(1)), m.group(2)) for m in parsed if m]


def release(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", version.partition("+")[0]))


def within(version: str, specifiers: str) -> bool:
    for operator, bound in re.findall(r"(>=|<)\s*([\d.]+)", specifiers):
        have, want = release(version), release(bound)
        if (operator == ">=" and have < want) or (operator == "<" and have >= want):
            return False
    return True


def make(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", *arguments]
    env = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")} | environment
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)


def test_every_dependency_is_pinned_within_its_bounds():
    pinned = pins()
    assert {
        name: pinned.get(name) for name, bounds in requirements() if not within(pinned.get(name, "0"), bounds)
    } == {}


def test_constraints_hold_no_local_version_and_no_path():
    assert [f"{name}=={version}" for name, version in pins().items() if not re.fullmatch(r"[0-9a-z.]+", version)] == []


def test_every_file_that_is_installed_has_its_digest_in_the_lock():
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8").replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    assert len(lines) > 100
    assert [line[:60] for line in lines if not re.match(r"\S+==\S+ .*--hash=sha256:[0-9a-f]{64}", line)] == []
    assert "--require-hashes --no-deps -r constraints.txt" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_sample_video_is_small_and_comes_with_its_attribution_in_every_wheel():
    folder = ROOT / "vos" / "inference" / "sample"
    files = [path for path in folder.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 1 << 20
    assert {path.suffix for path in files} == {".mp4", ".png", ".md"}
    patterns = project()["tool"]["setuptools"]["package-data"]["*"]
    assert all(any(path.match(pattern) for pattern in patterns) for path in files)
    attribution = (folder / "ATTRIBUTION.md").read_text(encoding="utf-8")
    assert "Blender Foundation" in attribution and "creativecommons.org/licenses/by/3.0/" in attribution


def test_the_project_is_apache_licensed_and_says_so():
    assert project()["project"]["license"] == "Apache-2.0 AND CC-BY-3.0"  # the second for the sample video alone
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert "Apache License" in text and "Version 2.0, January 2004" in text and "The MobileVOS on Ray authors" in text


def test_the_packages_that_are_installed_are_those_of_the_tree():
    assert project()["tool"]["setuptools"]["packages"]["find"]["include"] == ["jobs*", "pipelines*", "vos*"]
    assert all((ROOT / package / "__init__.py").is_file() for package in ("jobs", "pipelines", "vos"))


@pytest.mark.parametrize("target", TARGETS)
def test_make_has_the_promised_target_and_lists_it(target: str):
    assert re.search(rf"^  {target} +\S", make("help").stdout, re.MULTILINE)
    assert make("-n", target).returncode == 0


def test_continuous_integration_lints_then_tests():
    path = ROOT / ".ci" / "run"
    lines = path.read_text(encoding="utf-8").splitlines()
    assert os.access(path, os.X_OK) and "set -euo pipefail" in lines
    assert [line for line in lines if line.startswith("make ")] == ["make lint", "make test"]


@pytest.mark.parametrize(("in_git", "in_ray"), [(".venv/", ".venv/"), ("/runs/", "runs/")])
def test_neither_commits_nor_uploads_carry_what_is_heavy(in_git: str, in_ray: str):
    assert in_git in (ROOT / ".gitignore").read_text().splitlines()
    assert in_ray in (ROOT / ".rayignore").read_text().splitlines()


def test_records_of_the_results_are_not_taken_for_heavy_runs():
    assert "runs/" not in (ROOT / ".gitignore").read_text().splitlines(), "it would also hide docs/results/runs/"
    assert list((ROOT / "docs" / "results" / "runs").glob("*.json"))


# --- cluster/local_head.py ---


@pytest.fixture(scope="module")
def local_head() -> ModuleType:
    spec = importlib.util.spec_from_file_location("local_head", ROOT / "cluster" / "local_head.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("host", "family", "inside"),
    [
        ("127.0.0.1", socket.AF_INET, True),
        ("0.0.0.0", socket.AF_INET, False),
        ("::1", socket.AF_INET6, True),
        ("::", socket.AF_INET6, False),
    ],
)
def test_a_listening_socket_is_found_and_judged_by_its_address(local_head, host, family, inside):
    with socket.socket(family) as server:
        try:
            server.bind((host, 0))
        except OSError as error:
            pytest.skip(f"this machine has no {host}: {error}")
        server.listen()
        found = local_head.listeners([os.getpid()])
        assert (host, server.getsockname()[1]) in found
    assert local_head.is_loopback(host) is inside


def test_a_mapped_loopback_address_counts_as_loopback(local_head):
    assert local_head.is_loopback("::ffff:127.0.0.1") and not local_head.is_loopback("::ffff:10.0.0.1")


def test_only_processes_with_the_mark_belong_to_the_cluster(local_head):
    sleep = [sys.executable, "-c", "import time; time.sleep(60)"]
    mark = uuid.uuid4().hex  # another run of these tests may be on this machine
    ours = subprocess.Popen(sleep, env={**os.environ, local_head.MARK: mark}, start_new_session=True)
    other = subprocess.Popen(sleep, env={**os.environ, local_head.MARK: f"{mark} too"}, start_new_session=True)
    try:
        deadline = time.monotonic() + 20
        while ours.pid not in (found := local_head.cluster_processes(mark)) and time.monotonic() < deadline:
            time.sleep(0.05)  # until the child has its own environment
        assert set(found) == {ours.pid}
    finally:
        for process in (ours, other):
            process.kill()
            process.wait()
    assert local_head.cluster_processes(mark) == {}


def test_jobs_on_the_cluster_see_this_checkout_whatever_folder_they_run_in(local_head, monkeypatch):
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    env = local_head.head_environment("mark")
    assert env["MOBILEVOS_HOME"] == str(ROOT)
    assert env["MLFLOW_TRACKING_URI"] == f"sqlite:///{ROOT}/runs/mlflow.db"
    assert env["RAY_AUTH_MODE"] == "token" and "RAY_ADDRESS" not in env
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert local_head.head_environment("mark")["MLFLOW_TRACKING_URI"] == "http://127.0.0.1:5000"


def test_a_senseless_setting_and_a_taken_port_are_refused_in_one_line(tmp_path):
    def up(**settings: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "CLUSTER_DIR": str(tmp_path / "cluster"), **settings}
        command = [sys.executable, "cluster/local_head.py", "up"]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)

    many = up(CLUSTER_CPUS="many")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        taken = up(CLUSTER_DASHBOARD_PORT=str(server.getsockname()[1]))
    for done, word in ((many, "CLUSTER_CPUS=many"), (taken, "is taken")):
        assert done.returncode == 2 and word in done.stderr and len(done.stderr.splitlines()) == 1


def test_the_address_of_a_tracking_server_is_shown_without_its_password():
    env = {**os.environ, "MLFLOW_TRACKING_URI": "http://user:pLaNtEd@host.example:5000/x"}
    command = ["make", "-o", ".venv/.mobilevos-setup", "ui", f"PY={sys.executable}"]  # -o: no set-up from here
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "http://***@host.example:5000/x" in done.stdout, done.stderr
    assert "pLaNtEd" not in done.stdout + done.stderr


@pytest.mark.slow
def test_the_cluster_refuses_strangers_runs_a_job_and_reports_its_failure_and_stops_completely(local_head, tmp_path):
    port = local_head.free_port()
    env = {**os.environ, "CLUSTER_DIR": str(tmp_path / "cluster"), "CLUSTER_DASHBOARD_PORT": str(port)}
    env["MLFLOW_TRACKING_URI"] = "http://user:pLaNtEd@127.0.0.1:1/mlflow"
    env |= {"RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}", "RAY_AUTH_MODE": "token"}
    settings = local_head.Settings(state_dir=tmp_path / "cluster", dashboard_port=port, num_cpus=6, start_timeout_s=240)
    scratch_dir = settings.scratch_dir
    (tmp_path / "code").mkdir()

    def head(action: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "cluster/local_head.py", action]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)

    def submit(code: str, **changes: str) -> subprocess.CompletedProcess[str]:
        ray = [str(Path(sys.executable).parent / "ray"), "job", "submit", "--working-dir", str(tmp_path / "code")]
        command = [*ray, "--", "python", "-c", code]
        return subprocess.run(command, env={**env, **changes}, capture_output=True, text=True, check=False)

    try:
        up = head("up")
        assert up.returncode == 0, up.stderr
        assert "already up" in head("up").stderr
        assert "Missing authentication token" in submit("print(1)", RAY_AUTH_MODE="disabled").stderr
        said = submit('import os, sys; print("home", os.environ["MOBILEVOS_HOME"]); print("python", sys.prefix)').stdout
        assert f"home {ROOT}" in said and f"python {sys.prefix}" in said
        assert submit("raise SystemExit(3)").returncode != 0
        assert "tracking  http://***@127.0.0.1:1/mlflow" in up.stdout and "pLaNtEd" not in up.stdout + up.stderr
        files = [path for folder in (tmp_path, scratch_dir) for path in folder.rglob("*") if path.is_file()]
        assert len(files) > 10 and not [path for path in files if b"pLaNtEd" in path.read_bytes()]
    finally:
        down = head("down")
        shutil.rmtree(scratch_dir, ignore_errors=True)
    assert down.returncode == 0 and "stopped" in down.stdout
    assert "nothing to stop" in head("down").stdout
