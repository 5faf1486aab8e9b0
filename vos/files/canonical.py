"""Canonical JSON: the same value always gives the same text and the same digest, on every machine and without secrets."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from vos.redaction import redact_values


def to_dict(config: Any) -> dict[str, Any]:
    """The JSON form of a configuration, nested like its flags, without secrets."""
    return redact_values(dataclasses.asdict(config))


def dumps(config: Any) -> str:
    """Canonical JSON without secrets: the same configuration always gives the same text."""
    values = to_dict(config) if dataclasses.is_dataclass(config) else redact_values(config)
    return json.dumps(values, indent=1, sort_keys=True) + "\n"


def fingerprint(*parts: Any) -> str:
    """Digest (32 hex digits) of configurations, dicts and strings, equal on every machine."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else dumps(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Fields that differ between two JSON configurations, as `name: old -> new`."""
    lines: list[str] = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name, "absent"), new.get(name, "absent")
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{name}.")
        elif before != after:
            lines.append(f"{prefix}{name}: {before} -> {after}")
    return lines
