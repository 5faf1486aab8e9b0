"""CPU time counts processes that have ended."""

import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.runtime.cpu_time import CpuMeter

BUSY = "import time\nwhile time.process_time() < 2: pass"


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="no /proc: only this process is measured")
def test_the_time_of_a_process_that_ended_is_counted():
    with CpuMeter() as meter:
        before = meter.seconds()
        subprocess.run([sys.executable, "-c", BUSY], check=True)
        assert 1 < meter.seconds() - before < 4
