"""Join the Ray cluster that a submitted job runs in; otherwise start a Ray on loopback, and stop only that one."""

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
from vos.stopping import take_signals, unwound

AWS_CREDENTIALS = {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SECURITY_TOKEN", "AWS_SESSION_TOKEN"}
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # names and values of malloc.h


@contextmanager
def ray_session(num_cpus: int) -> Iterator[None]:
    """Open a Ray session with at least `num_cpus` logical CPUs for a `with` block.

    Logical CPUs only count scheduling slots: with one per core, light actors beside a heavy one would starve on few cores. Each worker
    sets its threads itself. Token authentication keeps Ray's default: on.
    """
    if not os.environ.get("RAY_JOB_ID"):
        # Ray reads it on import. Despite its name it decides whether 127.0.0.1 stays this node's address,
        # and so whether every port of Ray is on loopback.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        private_token()
    import ray

    if ray.is_initialized():
        yield
        return
    _quiet()
    # Each job draws its own bar and prints its own result; Ray's messages stay in its log folder, its exceptions are raised.
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's banner, which verbose=0 does not switch off
    with contextlib.ExitStack() as stack:
        joins = os.environ.get("RAY_JOB_ID") or os.environ.get("RAY_ADDRESS")
        folder = "" if joins else stack.enter_context(session_folder())
        stack.callback(ray.shutdown)
        with _native_stderr_closed():
            _connect(num_cpus, folder)
            take_signals()  # Ray's own handler of SIGTERM aborts this process with a native stack trace
        with unwound():
            yield


def _connect(num_cpus: int, folder: str) -> None:
    """Join the cluster that the environment names, or start a Ray in `folder`."""
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
    """Return this process's AWS credentials, for the caller to pass to a trial as an argument.

    Ray Tune would add them to the trials' runtime environment, which Ray writes into its logs; this is switched off here.
    """
    from ray.tune.execution import class_cache

    class_cache.ENV_VARS_TO_PROPAGATE.difference_update(AWS_CREDENTIALS)
    return {name: os.environ[name] for name in AWS_CREDENTIALS if name in os.environ}


def set_threads(count: int) -> None:
    """Set the threads of this process for torch and OpenCV; on few cores, several processes of one thread each are fastest."""
    import cv2
    import torch

    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    _keep_freed_memory()


def _keep_freed_memory() -> None:
    """Let the C library keep large freed blocks (glibc only).

    A network allocates the same blocks at every step; returning them to the system costs page faults. A teacher's clip took 0.46 s
    with them and 0.32 s without, with one thread.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


@contextmanager
def _native_stderr_closed() -> Iterator[None]:
    """Drop what Ray's native code writes to file descriptor 2 while it starts (its log level); Python's errors are kept."""
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
    context.max_consecutive_actor_init_deaths = 3  # one killed while it loads its network is replaced
