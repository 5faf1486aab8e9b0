"""What other accounts of the machine can read or enter of an ordinary job's Ray: nothing."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.runtime.ray_folders import private_token, session_folder
from vos.errors import InputError
from vos.files.whole import code_cache, private_folder

NOBODY = 65534


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def mode(path: Path | str) -> int:
    return stat.S_IMODE(os.lstat(path).st_mode)


@pytest.fixture
def open_umask():
    before = os.umask(0)
    yield
    os.umask(before)


def as_nobody(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run Python code as the account `nobody`."""
    if os.getuid():
        pytest.skip("acting as another account needs root")
    return subprocess.run(
        ["/usr/bin/python3", "-c", code, *arguments],
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
        cwd="/",
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_token_is_made_private_before_ray_looks_for_one(home: Path, open_umask: None) -> None:
    private_token()
    path = home / ".ray" / "auth_token"
    token = path.read_text()
    assert mode(path) == 0o600 and len(token) == 64
    private_token()
    assert path.read_text() == token, "a token that is there stays"
    assert sorted(one.name for one in path.parent.iterdir()) == ["auth_token"]


def test_a_token_that_others_can_read_or_replace_is_closed(home: Path, open_umask: None) -> None:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir(mode=0o777)
    path.write_text("a" * 64)
    private_token()
    assert mode(path) == 0o600 and path.read_text() == "a" * 64 and not mode(path.parent) & 0o022


def test_an_empty_token_is_replaced(home: Path) -> None:
    path = home / ".ray" / "auth_token"
    path.parent.mkdir()
    path.touch()
    private_token()
    assert mode(path) == 0o600 and len(path.read_text()) == 64
    assert sorted(one.name for one in path.parent.iterdir()) == ["auth_token"]


def test_a_token_of_the_users_own_place_is_closed_too(
    home: Path, open_umask: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / "my-token"
    path.write_text("b" * 64)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(path))
    private_token()
    assert mode(path) == 0o600 and not (home / ".ray").exists()
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(home / "absent"))
    with pytest.raises(InputError, match="RAY_AUTH_TOKEN_PATH"):
        private_token()


def test_a_token_of_somebody_else_or_no_file_is_refused(home: Path) -> None:
    folder = home / ".ray"
    folder.mkdir()
    os.mkfifo(folder / "auth_token")
    with pytest.raises(InputError, match="not a file that you own"):
        private_token()
    if not os.getuid():
        (folder / "auth_token").unlink()
        (folder / "auth_token").write_text("c" * 64)
        os.chown(folder / "auth_token", NOBODY, NOBODY)
        with pytest.raises(InputError, match="not a file that you own"):
            private_token()


def test_a_sessions_folder_is_private_and_gone_afterwards_and_so_is_what_a_kill_left() -> None:
    with session_folder() as folder:
        assert mode(folder) == mode(os.path.dirname(folder)) == 0o700
        with session_folder() as other:
            assert os.path.isdir(folder) and other != folder, "two at once leave each other alone"
    assert not os.path.exists(folder)
    code = (
        "import os\nfrom pipelines.runtime import ray_folders as r\n"
        "with r.session_folder() as f:\n    print(f, flush=True)\n    os.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stdout.strip()
    assert os.path.isdir(killed)
    with session_folder():
        assert not os.path.exists(killed)


def test_a_neighbour_who_took_the_name_first_keeps_nobody_from_working(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = Path("/tmp") / f"r{os.getpid()}"[:5]
    short.mkdir()
    try:
        monkeypatch.setenv("RAY_TMPDIR", str(short))
        (short / f"mobilevos-ray-{os.getuid()}").symlink_to(tmp_path)
        with session_folder() as folder:
            assert os.path.dirname(folder) == str(short) and mode(folder) == 0o700
        assert not list(tmp_path.iterdir())
    finally:
        (short / f"mobilevos-ray-{os.getuid()}").unlink()
        short.rmdir()


def test_the_path_of_rays_longest_socket_fits() -> None:
    with session_folder() as folder:
        path = f"{folder}/session_2026-11-27_21-30-11_123456_4194304/sockets/plasma_store.1"
        with socket.socket(socket.AF_UNIX) as one:
            os.makedirs(os.path.dirname(path))
            one.bind(path)


@pytest.mark.parametrize("kind", ["link", "file", "others"])
def test_a_folder_that_somebody_else_prepared_is_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "prepared"
    if kind == "link":
        (tmp_path / "elsewhere").mkdir()
        path.symlink_to(tmp_path / "elsewhere")
    elif kind == "file":
        path.touch()
    elif os.getuid():
        pytest.skip("a folder of another account needs root")
    else:
        path.mkdir(mode=0o777)
        os.chown(path, NOBODY, NOBODY)
    with pytest.raises(InputError, match="not a folder of yours"):
        private_folder(str(path))


@pytest.mark.parametrize("bits", [0o770, 0o707, 0o777, 0o1777])
def test_a_folder_that_others_could_write_to_is_refused_with_what_it_holds(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "cache"
    path.mkdir()
    (path / "planted.py").write_text("")
    path.chmod(bits)
    with pytest.raises(InputError, match="other accounts can write there") as raised:
        private_folder(str(path))
    assert "\n" not in str(raised.value) and mode(path) == bits, "refused, and left as it was"


def test_a_folder_that_others_could_only_read_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    path.mkdir(mode=0o755)
    assert private_folder(str(path)) == str(path) and mode(path) == 0o700


def test_compiled_code_is_kept_where_nobody_else_can_put_any(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, open_umask: None
) -> None:
    from vos.files.compiled_code import CACHES, keep_compiled_code_private

    monkeypatch.setenv("MOBILEVOS_CACHE", str(tmp_path / "cache"))
    for variable in CACHES:
        monkeypatch.delenv(variable, raising=False)
    keep_compiled_code_private()
    for variable, name in CACHES.items():
        assert os.environ[variable] == str(tmp_path / "cache" / name) == code_cache(name)
        assert mode(os.environ[variable]) == 0o700
    (tmp_path / "planted").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "planted")
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path / "link"))
    with pytest.raises(InputError, match="not a folder of yours"):
        keep_compiled_code_private()


def test_nobody_reads_the_token_enters_the_session_or_gets_a_job_past_it(ray_cluster: None) -> None:
    """A Ray session of ours is up; another account knows all its addresses."""
    import ray

    node = ray._private.worker._global_node  # pyright: ignore
    session, token = node.get_session_dir_path(), os.path.expanduser("~/.ray/auth_token")
    code = (
        "import os, sys\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        os.listdir(path) if path.endswith('/') else open(path).read()\n"
        "        print('entered', path)\n"
        "    except OSError as error:\n"
        "        print('refused', error.strerror)\n"
    )
    done = as_nobody(code, f"{session}/", f"{os.path.dirname(session)}/", token)
    assert done.stdout.splitlines() == ["refused Permission denied"] * 3, done.stdout + done.stderr
    code = (
        "import sys, urllib.request, urllib.error\n"
        'body = b\'{"entrypoint": "id"}\'\n'
        "request = urllib.request.Request(sys.argv[1], body, {'Content-Type': 'application/json'})\n"
        "try:\n"
        "    print(urllib.request.urlopen(request, timeout=20).status)\n"
        "except urllib.error.HTTPError as error:\n"
        "    print(error.code)\n"
    )
    done = as_nobody(code, f"http://{ray.worker.get_dashboard_url()}/api/jobs/")  # pyright: ignore[reportAttributeAccessIssue]
    assert done.stdout.strip() in ("401", "403"), done.stdout + done.stderr
