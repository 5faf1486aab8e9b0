"""The queue, over real processes: order, failures that stop nobody, kills that leave nothing running."""

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines import tracking
from pipelines.studies.davis.queue import Command, Queue, Spent, Task, running
from vos.config import TrainConfig
from vos.config.presets import preset
from vos.files.canonical import dumps

ROOT = Path(__file__).resolve().parents[4]


class Site:
    """Tasks of one small Python program each; notes what was concluded, in order."""

    def __init__(self, folder: Path, workers: int = 2) -> None:
        self.folder, self.concluded = folder, list[str]()
        self.spent: dict[str, Mapping[str, Spent]] = {}
        self.queue = Queue(str(folder), workers, os.environ, str(ROOT))

    def task(self, name: str, *programs: str, needs: tuple[str, ...] = (), after: tuple[str, ...] = ()) -> Task:
        commands = [Command(f"part {i}", (sys.executable, "-c", program)) for i, program in enumerate(programs)]

        def conclude(spent: Mapping[str, Spent]) -> None:
            self.concluded.append(name)
            self.spent[name] = spent

        return Task(name, lambda: commands, conclude, needs, after, 1.0)


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def appends(path: Path, word: str) -> str:
    return f"open({str(path)!r}, 'a').write({word!r} + chr(10))"


def test_a_task_waits_for_what_it_needs_and_its_commands_follow_one_another(site: Site, tmp_path: Path):
    out = tmp_path / "out.txt"
    tasks = [
        site.task("last", appends(out, "last"), needs=("middle",)),
        site.task("middle", appends(out, "middle 1"), appends(out, "middle 2"), needs=("first",)),
        site.task("first", appends(out, "first")),
    ]
    outcome = site.queue.run(tasks)
    assert out.read_text().split("\n")[:-1] == ["first", "middle 1", "middle 2", "last"]
    assert outcome.finished == site.concluded == ["first", "middle", "last"]
    assert not outcome.failed and not outcome.blocked
    assert list(site.spent["middle"]) == ["part 0", "part 1"]


def test_a_failed_task_is_named_with_its_last_line_and_stops_only_those_that_need_it(site: Site, tmp_path: Path):
    program = "print('all is well'); print('error: the disk is on fire', flush=True); raise SystemExit(2)"
    tasks = [
        site.task("bad", program),
        site.task("needs bad", "pass", needs=("bad",)),
        site.task("needs that", "pass", needs=("needs bad",)),
        site.task("after bad", "pass", after=("bad", "needs that")),
        site.task("good", "pass"),
    ]
    outcome = site.queue.run(tasks)
    assert sorted(outcome.finished) == ["after bad", "good"]
    assert outcome.failed == {"bad": "error: the disk is on fire (exit code 2)"}
    assert outcome.blocked == {"needs bad": "needs bad", "needs that": "needs needs bad"}
    assert (tmp_path / "logs/bad.failed").read_text().startswith("error: the disk is on fire")
    assert "all is well" in (tmp_path / "logs/bad.log").read_text()
    # Silent, it is not blamed with the words of the time before.
    again = Site(tmp_path)
    assert again.queue.run([again.task("bad", "raise SystemExit(3)")]).failed == {"bad": "nothing said (exit code 3)"}
    # Mended, it is no longer called failed.
    again = Site(tmp_path)
    assert again.queue.run([again.task("bad", "pass")]).finished == ["bad"]
    assert not (tmp_path / "logs/bad.failed").exists()


def test_a_task_whose_beginning_or_end_fails_is_a_failed_task_and_one_with_nothing_to_run_is_concluded(site: Site):
    def refuse(*_: object) -> None:
        raise ValueError("no such folder")

    nothing = site.task("nothing to run")
    bad_start, bad_end = site.task("start", "pass"), site.task("end", "pass")
    bad_start.commands, bad_end.conclude = refuse, refuse  # type: ignore[assignment]
    outcome = site.queue.run([bad_start, bad_end, nothing, site.task("other", "pass")])
    assert sorted(outcome.finished) == ["nothing to run", "other"]
    assert outcome.failed == dict.fromkeys(("start", "end"), "ValueError: no such folder")


def test_processor_time_is_that_of_all_threads_of_the_child(site: Site):
    work = """
        import threading, time
        def spin():
            while time.thread_time() < 0.3: pass
        threads = [threading.Thread(target=spin) for _ in range(2)]
        [one.start() for one in threads]; [one.join() for one in threads]
    """
    site.queue.run([site.task("spin", textwrap.dedent(work)), site.task("idle", "pass")])
    spin, idle = (site.spent[name]["part 0"].cpu_s for name in ("spin", "idle"))
    assert spin - idle > 0.5


def test_no_more_run_at_once_than_there_are_workers(tmp_path: Path):
    """Each of four looks for the others' marks while its own is there."""
    marks, seen = tmp_path / "marks", tmp_path / "seen.txt"
    marks.mkdir()
    program = f"""
        import os
        mine = os.path.join({str(marks)!r}, str(os.getpid()))
        open(mine, "w").close()
        for _ in range(200): most = len(os.listdir({str(marks)!r}))
        open({str(seen)!r}, "a").write(f"{{most}}\\n")
        os.remove(mine)
    """
    site = Site(tmp_path / "queue", workers=1)
    site.queue.run([site.task(f"task {i}", textwrap.dedent(program)) for i in range(4)])
    assert seen.read_text().split() == ["1"] * 4


HOST = """
import os, sys
sys.path.insert(0, {root!r})
from pipelines.studies.davis.queue import Command, Queue, Task
child = "import time; print('here', flush=True); open({pid!r}, 'w').write(str(__import__('os').getpid())); time.sleep(600)"
task = Task("long", lambda: [Command("sleep", (sys.executable, "-c", child))], lambda spent: None)
try:
    Queue({folder!r}, 1, os.environ, {root!r}).run([task])
except KeyboardInterrupt:
    raise SystemExit(130)
"""


@pytest.mark.parametrize(
    ("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -signal.SIGKILL)]
)
def test_when_the_queue_ends_its_children_end(sent: signal.Signals, code: int, tmp_path: Path):
    pid_file = tmp_path / "pid"
    program = HOST.format(root=str(ROOT), folder=str(tmp_path / "queue"), pid=str(pid_file))
    host = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL, start_new_session=True)
    while not (pid_file.exists() and pid_file.read_text() and running(str(tmp_path / "queue")) == ["long"]):
        with suppress(subprocess.TimeoutExpired):
            host.wait(0.02)
        assert host.poll() is None, "the queue ended before its child began"
    child = int(pid_file.read_text())
    host.send_signal(sent)
    assert host.wait(60) == code
    handle = os.pidfd_open(child) if _exists(child) else None
    if handle is not None:  # killed from behind: the system told the child, which may need a moment
        import select

        assert select.select([handle], [], [], 60)[0], "the child is still there"


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_real_training_runs_in_the_queue(store: str, tmp_path: Path):
    """From the built configuration to a finished folder, by the command line of the job."""
    from pipelines.studies.davis.records import of_training

    job = replace(preset(TrainConfig, "smoke"), here=True, steps=3, out=str(tmp_path / "student"))
    path = tmp_path / "job.json"
    path.write_text(dumps(job))
    command = Command("train", (sys.executable, "-m", "jobs.train", "--config", str(path)))
    spent: dict[str, Spent] = {}
    task = Task("train", lambda: [command], lambda found: spent.update(found))
    environment = os.environ | {"MLFLOW_TRACKING_URI": store}
    outcome = Queue(str(tmp_path / "queue"), 1, environment, str(ROOT)).run([task])
    assert outcome.failed == {} and outcome.finished == ["train"]
    record = of_training(job.out)
    assert record["steps"] == 3 and record["trunk_weights"] is None
    assert record["commit"] == tracking.commit(), "40 digits, or that there is no history"
    assert 0 < record["cpu_s"] < spent["train"].cpu_s
