"""From `argv` to a configuration, and from an outcome to an exit code: 0 done, 2 bad input (one line), 1 our error.

A job that a signal ends exits with 128 + its number: 130 after Ctrl-C, 143 after SIGTERM, 129 when its terminal closes. It prints one line.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import sys
from collections.abc import Callable
from errno import EACCES, EDQUOT, EEXIST, EISDIR, ELOOP, ENAMETOOLONG, ENOENT, ENOSPC, ENOTDIR, EPERM, EROFS
from signal import SIGINT
from typing import Any, TypeVar

from vos.config import JobConfig, SegmentConfig
from vos.config.as_json import from_dict
from vos.config.fields import Mark, leaves, marked_fields
from vos.config.paths import absolute, check_address, check_number, check_path, check_secret, check_text, is_address
from vos.config.presets import preset
from vos.errors import InputError, printable
from vos.files.json_files import checked, read_json_file
from vos.files.seals import SEAL
from vos.redaction import redact_all, redacted_streams
from vos.stopping import kept_by, received, stoppable, stopped_line

Job = TypeVar("Job", bound=JobConfig)


SMOKE = "note: --preset smoke: a short run to check that everything works; its figures mean nothing for the method"


def run_job(cls: type[Job], description: str, job: Callable[[Job], None], argv: list[str] | None = None) -> int:
    """Parse `argv`, run `job` with the configuration and return the exit code. All printed text is redacted."""
    argv = sys.argv[1:] if argv is None else argv
    with redacted_streams(), stoppable():
        return _run_job(cls, description, job, argv)


def _run_job(cls: type[Job], description: str, job: Callable[[Job], None], argv: list[str]) -> int:
    try:
        config = parse_config(cls, description, argv)
        job(config)
        if config.preset == "smoke" and cls.smoke_is_less:
            print(SMOKE, file=sys.stderr)
    except SystemExit as stop:  # tyro's own after --help, or a job's verdict
        if (number := received()) and stop.code != 128 + number:  # Ray's handler, while Ray starts
            return _stopped(stop, number)
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt as stop:
        return _stopped(stop, received() or SIGINT)
    except Exception as error:
        if number := received():  # what the signal did to a library or another process
            return _stopped(error, number)
        cause = input_error(error)
        if cause is None or "--debug" in argv:
            raise
        print(f"error: {cause}", file=sys.stderr)
        return 2
    return 0


def _stopped(error: BaseException, number: int) -> int:
    """Print the line of a job that a signal stopped; returns its exit code."""
    try:
        print(stopped_line(number, kept_by(error)), file=sys.stderr, flush=True)
        sys.stdout.flush()
    except OSError:  # the terminal is gone; Python would complain at its end too, with another exit code
        for descriptor in (1, 2):
            os.dup2(os.open(os.devnull, os.O_WRONLY), descriptor)
    return 128 + number


# Errors of the operating system about a path or a full disk: the user can fix them if they name a file.
_PATH_ERRORS = frozenset(
    (EACCES, EPERM, ENOENT, EEXIST, ENOTDIR, EISDIR, EROFS, ENOSPC, EDQUOT, ENAMETOOLONG, ELOOP)  # fmt: skip
)


def input_error(error: BaseException | None) -> str | None:
    """Return the one-line message if an error is the user's, also if Ray wrapped it; None if it is an internal error."""
    seen: set[int] = set()
    queue = [error]
    while queue:
        current = queue.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        # Ray's copy of a worker's exception has the remote traceback as its text and the original exception as its cause.
        original = getattr(current, "cause", None)
        if isinstance(current, InputError) and not isinstance(original, BaseException):
            # Redacted again: this process has another environment than the worker.
            text = redact_all(str(current).rsplit("vos.errors.InputError: ", 1)[-1])
            return printable(" ".join(text.split()))
        if isinstance(current, OSError) and current.errno in _PATH_ERRORS and current.filename:
            reason = (current.strerror or "cannot be used").lower()
            text = f"{current.filename}: {reason}; check the path, its permissions and the space on the disk"
            return printable(redact_all(text))
        queue += [original, current.__cause__, None if current.__suppress_context__ else current.__context__]
        queue += list(getattr(current, "worker_failures", {}).values())
        queue += list(getattr(current, "exceptions", ()))
        queue.append(getattr(current, "controller_failure", None))
    return None


def parse_config(cls: type[Job], description: str, argv: list[str]) -> Job:
    """Read a job's configuration: the preset, then --config FILE, then DAVIS_ROOT, then the other flags.

    Raises InputError for an invalid value, SystemExit (tyro's) for --help.
    """
    for before, argument in zip(["", *argv], argv, strict=False):
        check_text(before if before.startswith("--") else "argument", argument)
    name, rest = _take_flag(argv, "--preset")
    config_file, rest = _take_flag(rest, "--config")
    home = os.environ.get("MOBILEVOS_HOME") or os.getcwd()
    saved = read_config_file(config_file, home) if config_file else {}
    default = preset(cls, name or saved.get("preset"))
    if config_file:
        default = from_dict(cls, saved, default, origin=config_file)
        default = dataclasses.replace(default, preset=name or default.preset)
    root = os.environ.get("DAVIS_ROOT", "")
    use_root = root and not default.data.root and not default.data.sources and default.data.kind == "auto"
    use_root = use_root and not any(one.partition("=")[0] == "--data.sources" for one in rest)
    if use_root:
        default = dataclasses.replace(default, data=dataclasses.replace(default.data, root=root))
    config = _parse_flags(cls, default, description, rest)
    _check_honoured(config, rest)
    if use_root and config.data.kind == "synthetic":
        config = dataclasses.replace(config, data=dataclasses.replace(config.data, root=""))
    return resolve_paths(config.completed(), home)


def _parse_flags(cls: type[Job], default: Job, description: str, argv: list[str]) -> Job:
    """Parse flags with tyro; its errors become one line instead of a box."""
    import tyro

    job = cls.__name__.removesuffix("Config").removeprefix("Fps").lower()
    printed = io.StringIO()
    # For jobs.segment: repeated flags add objects, and --no-masks is a flag already. Markers at the fields would always import tyro.
    text = f"{description.rstrip()}\n\nEvery job also takes --config FILE: a saved config.json, for example the one beside an output."
    markers = (tyro.conf.UseAppendAction, tyro.conf.FlagCreatePairsOff) if cls is SegmentConfig else ()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                cls, args=argv, default=default, description=text, prog=f"python -m jobs.{job}", config=markers
            )
    except BrokenPipeError:  # the reader of --help has seen enough: `… --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # or Python complains when it flushes at its end
        raise SystemExit(0) from None
    except SystemExit as stop:
        if not stop.code:
            raise
        cause: BaseException | None = stop
        while cause is not None and not isinstance(cause, InputError):
            cause = cause.__context__
        if isinstance(cause, InputError):
            raise cause from None
        lines = [line.strip("│╭╮╰╯─ ") for line in printed.getvalue().splitlines()]
        raise InputError("; ".join(line for line in lines if line)) from None


def _check_honoured(config: JobConfig, argv: list[str]) -> None:
    """Raise InputError for a given flag that has no effect in this configuration."""
    inert, known = config.inert(), {name for name, _, _ in leaves(config)}
    for argument in argv:
        flag = argument.partition("=")[0]
        *groups, name = flag.removeprefix("--").replace("-", "_").split(".")
        path = ".".join([*groups, name])
        if path not in known:  # --no-flip sets the field `flip`
            path = ".".join([*groups, name.removeprefix("no_")])
        for inert_name, advice in inert.items():
            if argument.startswith("--") and f"{path}.".startswith(f"{inert_name}."):
                raise InputError(f"{flag}: has no effect here: {advice}")


def read_config_file(path: str, home: str) -> dict[str, Any]:
    """Read a configuration saved as JSON; a relative path is relative to `home`. Raises InputError naming the file."""
    check_secret("--config", path)
    if is_address(path):
        raise InputError(f"--config {path}: only local files can be read; copy it and give the copy")
    path = absolute(path, home, "--config")
    advice = "name a JSON file such as a run's config.json"
    values = checked(read_json_file(path, advice), dict[str, Any], path, advice)
    return {name: value for name, value in values.items() if name != SEAL}  # unsealed: users may edit it


def resolve_paths(config: Any, home: str, prefix: str = "--") -> Any:
    """Return `config` with relative paths made absolute under `home`, so that they mean the same on every worker.

    A submitted job runs in a copy of the project; there the cluster sets MOBILEVOS_HOME to the folder of relative paths.
    URIs (`s3://…`) stay as they are. Raises InputError for invalid text, paths and addresses, and for addresses with a secret.
    """
    changes: dict[str, Any] = {}
    for name, value, mark in marked_fields(config):
        flag = f"{prefix}{name.replace('_', '-')}"
        if dataclasses.is_dataclass(value):
            changes[name] = resolve_paths(value, home, f"{flag}.")
            continue
        for one in value if isinstance(value, tuple) else (value,):
            check_number(flag, one)
            if isinstance(one, str):
                check_text(flag, one)
                if not mark.streamed:
                    check_secret(flag, one)
        if mark.path and isinstance(value, tuple):
            changes[name] = tuple(_resolved(flag, mark, one, home) for one in value)
        elif mark.path:
            changes[name] = _resolved(flag, mark, value, home)
    return dataclasses.replace(config, **changes)


def _resolved(flag: str, mark: Mark, value: Any, home: str) -> str:
    if value in mark.keywords:
        return value
    if mark.split is not None:
        whole = dataclasses.replace(mark, split=None)
        parts = enumerate(mark.split(value))
        return "".join(_resolved(flag, whole, one, home) if place % 2 and one else one for place, one in parts)
    if not is_address(value):
        value = absolute(value, home, flag)
        check_path(flag, value, mark.written)
    elif "://" in value and not mark.streamed:
        check_address(flag, value, mark.written)
    return value


def _take_flag(argv: list[str], flag: str) -> tuple[str | None, list[str]]:
    """Return the value of `--flag value` or `--flag=value`, and the other arguments. tyro needs this value for its defaults."""
    rest: list[str] = []
    value: str | None = None
    items = iter(argv)
    for item in items:
        if item == flag:
            value = next(items, None)
        elif item.startswith(f"{flag}="):
            value = item.split("=", 1)[1]
        else:
            rest.append(item)
            continue
        if not value:
            raise InputError(f"{flag}: give a value after it")
    return value, rest
