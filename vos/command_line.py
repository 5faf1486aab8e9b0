"""From `argv` to a configuration, and from an outcome to an exit code: 0 done, 2 bad input (one line), 130 interrupted, 1 our fault."""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from vos.config import BUILTIN_TEACHER, JobConfig
from vos.config_json import from_dict
from vos.errors import InputError
from vos.presets import preset

Job = TypeVar("Job", bound=JobConfig)
PATH_FIELDS = frozenset({"root", "out", "cache", "checkpoint", "init", "trunk_weights", "gt", "pred", "csv"})
PATH_KEYWORDS = frozenset({"", BUILTIN_TEACHER, "copy"})


def run_job(cls: type[Job], description: str, job: Callable[[Job], None], argv: list[str] | None = None) -> int:
    """Parse `argv`, run `job` with the configuration and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    debug = "--debug" in argv
    try:
        job(parse_config(cls, description, argv))
    except SystemExit as stop:  # tyro's own: --help, an unknown flag
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        print("interrupted: what was finished is kept; run the same command again to continue", file=sys.stderr)
        return 130
    except Exception as error:
        cause = input_error(error)
        if cause is None or debug:
            raise
        print(f"error: {cause}", file=sys.stderr)
        return 2
    return 0


def input_error(error: BaseException | None) -> str | None:
    """The user's part in an error, also where Ray wrapped it on its way from a worker; None when it is ours."""
    seen: set[int] = set()
    queue = [error]
    while queue:
        current = queue.pop(0)
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        if isinstance(current, InputError):
            # Ray's copy of a worker's exception carries the remote traceback in its text; the message is its last line.
            return str(current).strip().splitlines()[-1].removeprefix("vos.errors.InputError: ")
        if (
            isinstance(current, PermissionError | FileNotFoundError | IsADirectoryError | NotADirectoryError)
            and current.filename
        ):
            return f"{current.filename}: {(current.strerror or 'cannot be used').lower()}; check the path and its permissions"
        if isinstance(current, OSError) and current.errno == 28:
            return (
                f"{current.filename or 'output'}: no space left on the device; free some and run the same command again"
            )
        queue += [current.__cause__, current.__context__, getattr(current, "cause", None)]
        queue += list(getattr(current, "worker_failures", {}).values())
        queue.append(getattr(current, "controller_failure", None))
    return None


def parse_config(cls: type[Job], description: str, argv: list[str]) -> Job:
    """Read a job's configuration: the preset, then --config FILE, then DAVIS_ROOT, then the other flags.

    Raises InputError for a value that cannot be, SystemExit (tyro's) for --help and unknown flags.
    """
    import tyro

    name, rest = _take_flag(argv, "--preset")
    config_file, rest = _take_flag(rest, "--config")
    saved = read_config_file(config_file) if config_file else {}
    default = preset(cls, name or saved.get("preset"))
    if config_file:
        default = from_dict(cls, saved, default, origin=config_file)
    root = os.environ.get("DAVIS_ROOT", "")
    if root and not default.data.root and default.data.kind == "auto":
        default = dataclasses.replace(default, data=dataclasses.replace(default.data, root=root))
    job = cls.__name__.removesuffix("Config").lower()
    config = tyro.cli(cls, args=rest, default=default, description=description, prog=f"python -m jobs.{job}")
    return resolve_paths(config, os.environ.get("MOBILEVOS_HOME") or os.getcwd())


def read_config_file(path: str) -> dict[str, Any]:
    """A configuration saved as JSON. Raises InputError naming the file."""
    try:
        with open(path, encoding="utf-8") as file:
            values = json.load(file)
    except OSError as error:
        raise InputError(
            f"--config {path}: {(error.strerror or 'unreadable').lower()}; name a JSON file such as a run's config.json"
        ) from None
    except ValueError as error:
        raise InputError(f"--config {path}: not JSON ({error}); name a run's config.json") from None
    if not isinstance(values, dict):
        raise InputError(f"--config {path}: holds no JSON object; name a run's config.json")
    return values


def resolve_paths(config: Any, home: str) -> Any:
    """`config` with its relative paths made absolute under `home`, so that they mean the same on every worker.

    A submitted job runs in a copy of the project: there the cluster sets MOBILEVOS_HOME to the folder that relative paths mean.
    URIs (`s3://…`) stay as they are.
    """
    changes: dict[str, Any] = {}
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if dataclasses.is_dataclass(value):
            changes[field.name] = resolve_paths(value, home)
        elif field.name in PATH_FIELDS and value not in PATH_KEYWORDS and "://" not in value:
            changes[field.name] = os.path.normpath(os.path.join(home, os.path.expanduser(value)))
    return dataclasses.replace(config, **changes)


def _take_flag(argv: list[str], flag: str) -> tuple[str | None, list[str]]:
    """The value of `--flag value` or `--flag=value`, and the other arguments: it decides the defaults that tyro then shows."""
    rest: list[str] = []
    value: str | None = None
    items = iter(argv)
    for item in items:
        if item == flag:
            value = next(items, None)
            if value is None:
                raise InputError(f"{flag}: give a value after it")
        elif item.startswith(f"{flag}="):
            value = item.split("=", 1)[1]
        else:
            rest.append(item)
    return value, rest
