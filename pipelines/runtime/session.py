"""Ray: join the cluster that a submitted job runs in, otherwise start our own on loopback, and stop only that."""

from __future__ import annotations

import contextlib
import ctypes
import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.runtime.ray_folders import private_token, session_folder
from vos.redaction import RedactedStream

AWS_CREDENTIALS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # names and values of malloc.h


@contextmanager
def ray_session(num_cpus: int) -> Iterator[None]:
    """A Ray session with at least `num_cpus` logical CPUs, for the time of a `with` block.

    Logical CPUs only count places: on few cores a pool of light actors beside a heavy one would otherwise starve (threads are set
    by each worker itself). Token authentication stays as Ray has it: on.
    """
    if not os.environ.get("RAY_JOB_ID"):
        # Ray reads it when it is imported. Its name is about other systems; what it decides is whether
        # 127.0.0.1 is kept as this node's address, so that every port of Ray is on loopback.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        private_token()
    import ray

    if ray.is_initialized():
        yield
        return
    _quiet()
    # Each job draws its own bar and prints its own result; Ray's narration stays in its log folder, its exceptions come up.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's banner, which its verbose=0 does not switch off
    with contextlib.ExitStack() as stack:
        joins = os.environ.get("RAY_JOB_ID") or os.environ.get("RAY_ADDRESS")
        folder = "" if joins else stack.enter_context(session_folder())
        stack.callback(ray.shutdown)
        with _native_stderr_closed():
            _connect(num_cpus, folder)
        yield


def _connect(num_cpus: int, folder: str) -> None:
    """Join the cluster that the environment names, or start a Ray in a folder of its own."""
    import ray

    if not folder:
        ray.init(logging_level=logging.ERROR)
        return
    # Ray Train asks the dashboard's state API, so the dashboard stays on (on loopback).
    ray.init(
        address="local",
        num_cpus=max(num_cpus, os.cpu_count() or 1),
        include_dashboard=True,
        dashboard_host="127.0.0.1",
        logging_level=logging.ERROR,
        log_to_driver=False,
        _temp_dir=folder,
    )


def unlogged_credentials() -> dict[str, str]:
    """This process's AWS credentials, for a trial's environment. Ray Tune would put them into the description of the trials' environment,
    which Ray writes into its logs: that is switched off here, and the caller passes them as an argument."""
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(AWS_CREDENTIALS)
    return {name: os.environ[name] for name in AWS_CREDENTIALS if name in os.environ}


def set_threads(count: int) -> None:
    """Threads of this process, for torch and OpenCV alike: on few cores, several processes of one thread each are the fastest."""
    import cv2
    import torch

    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let the C library keep large freed blocks: a network asks for the same ones at every step, and giving them back to the
    system costs page faults (a teacher's clip took 0.46 s with them and 0.32 s without, one thread). glibc only."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def _native_stderr_closed() -> Iterator[None]:
    """Drop what Ray's native code writes to file descriptor 2 while it starts (it announces its own log level); Python's errors pass."""
    kept, python_stderr = os.dup(2), sys.stderr
    sys.stderr = RedactedStream(os.fdopen(os.dup(2), "w", buffering=1))
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        sys.stderr.close()
        sys.stderr = python_stderr
        os.close(nothing)
        os.close(kept)


def _quiet() -> None:
    import ray.data
    import ray.train

    for name in ("ray", "ray.data", "ray.train", "ray.tune", "ray._private.authentication"):
        logging.getLogger(name).setLevel(logging.ERROR)
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.max_consecutive_actor_init_deaths = 3  # one killed while it loads its network is no reason to give up
