"""The queue, over real processes: order, failures that stop nobody, kills that leave nothing running."""

import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.studies.davis.plan import plan
from pipelines.studies.protocols.planned import Planned
from pipelines.studies.protocols.queue import log_of, state_of, work_off

ROOT = Path(__file__).resolve().parents[4]
ANY = plan("smoke")[0]
GOOD, FIRE = "pass", "print('all is well'); print('error: the disk is on fire', flush=True); raise SystemExit(2)"


def planned(name: str, *needs: str) -> Planned:
    return replace(ANY, name=name, needs=needs)


def worked_off(folder: Path, programs: dict[Planned, str], workers: int = 2) -> dict[str, str]:
    """Each run is a small Python program."""
    of = {one.name: program for one, program in programs.items()}
    return work_off(list(programs), lambda one: [sys.executable, "-c", of[one.name]], workers, str(folder))


def test_a_run_waits_for_what_it_needs(tmp_path: Path):
    out = tmp_path / "out.txt"
    runs = [planned("last", "middle"), planned("middle", "first"), planned("first")]
    programs = {one: f"open({str(out)!r}, 'a').write('{one.name} ')" for one in runs}
    assert worked_off(tmp_path, programs) == {}
    assert out.read_text().split() == ["first", "middle", "last"]


def test_a_failed_run_is_named_with_its_last_line_and_stops_only_those_that_need_it(tmp_path: Path):
    programs = {
        planned("bad"): FIRE,
        planned("needs bad", "bad"): GOOD,
        planned("needs that", "needs bad"): GOOD,
        planned("good"): "print('good')",
    }
    reason = "error: the disk is on fire (exit code 2)"
    assert worked_off(tmp_path, programs) == {"bad": reason, "needs bad": "needs bad", "needs that": "needs needs bad"}
    assert state_of(str(tmp_path), "bad") == ("failed", "error: the disk is on fire")
    assert Path(log_of(str(tmp_path), "good")).read_text() == "good\n"
    assert state_of(str(tmp_path), "needs bad") == ("waiting", "")
    # Silent, it is not blamed with the words of the time before.
    again = worked_off(tmp_path, {planned("bad"): "raise SystemExit(3)"})
    assert again == {"bad": "no output (exit code 3)"}


def test_no_more_run_at_once_than_there_are_workers(tmp_path: Path):
    """Each of four looks for the others' marks while its own is there."""
    marks, seen = tmp_path / "marks", tmp_path / "seen.txt"
    marks.mkdir()
    program = f"""if True:
        import os
        mine = os.path.join({str(marks)!r}, str(os.getpid()))
        open(mine, "w").close()
        for _ in range(200): most = len(os.listdir({str(marks)!r}))
        open({str(seen)!r}, "a").write(f"{{most}}\\n")
        os.remove(mine)
    """
    assert worked_off(tmp_path, {planned(f"run {i}"): program for i in range(4)}, workers=1) == {}
    assert seen.read_text().split() == ["1"] * 4


HOST = """
import sys
sys.path.insert(0, {root!r})
from tests.pipelines.studies.protocols.test_queue import Path, planned, worked_off
child = "import os, time; open({pid!r}, 'w').write(str(os.getpid())); print('here', flush=True); time.sleep(600)"
try:
    worked_off(Path({folder!r}), {{planned("long"): child}}, 1)
except KeyboardInterrupt:
    raise SystemExit(130)
"""


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_when_the_queue_ends_its_processes_end_and_until_then_they_are_called_running(
    sent: signal.Signals, code: int, tmp_path: Path
):
    pid_file = tmp_path / "pid"
    program = HOST.format(root=str(ROOT), folder=str(tmp_path), pid=str(pid_file))
    host = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL, start_new_session=True)
    log = Path(log_of(str(tmp_path), "long"))
    while not (log.exists() and "here" in log.read_text()):
        time.sleep(0.02)
        assert host.poll() is None, "the queue ended before its process began"
    assert state_of(str(tmp_path), "long") == ("running", "")
    handle = os.pidfd_open(int(pid_file.read_text()))
    host.send_signal(sent)
    assert host.wait(60) == code
    assert select.select([handle], [], [], 60)[0], (
        "the process is still there"
    )  # killed from behind, it may need a moment
    assert state_of(str(tmp_path), "long")[0] == "failed"
