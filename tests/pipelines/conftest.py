"""One small teacher and one small cache, made by the real jobs, for every test that reads them."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from vos.config import CacheConfig, TrainConfig
from vos.config.presets import preset


@pytest.fixture(scope="session")
def cache_config(tmp_path_factory: pytest.TempPathFactory) -> CacheConfig:
    """A cache of 10 draws in shards of 4: the last shard is a short one."""
    return replace(preset(CacheConfig, "smoke"), draws=10, out=str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="session")
def cache(ray_cluster: None, cache_config: CacheConfig) -> str:
    """A finished cache, built by one worker."""
    from pipelines.cache.build import build_cache

    build_cache(cache_config)
    return cache_config.out


@pytest.fixture
def train_config(cache: str, tmp_path: Path) -> TrainConfig:
    """Four distillation steps from that cache."""
    base = preset(TrainConfig, "smoke")
    return replace(base, cache=cache, steps=4, checkpoint_every=2, out=str(tmp_path / "student"))


@pytest.fixture
def killed_when() -> Callable[[list[str], Callable[[], object]], None]:
    """Starts `python -m ARGUMENTS` and kills it with its children as soon as the condition holds."""

    def run(arguments: list[str], condition: Callable[[], object]) -> None:
        command = [sys.executable, "-m", *arguments]
        process = subprocess.Popen(
            command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while not condition():
            # A wait that spins would take one of two cores from what it waits for.
            with suppress(subprocess.TimeoutExpired):
                process.wait(0.02)
            assert process.poll() is None, f"{arguments[0]} ended before it could be killed"
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    return run
