"""Canonical JSON without secrets: equal values give equal text and equal digests on every machine."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from typing import Any

from vos.redaction import redact_values


def to_dict(config: Any) -> dict[str, Any]:
    """Return the JSON form of a configuration, nested like its flags, without secrets."""
    return redact_values(dataclasses.asdict(config))


def dumps(config: Any) -> str:
    """Return canonical JSON without secrets: equal configurations give equal text."""
    values = to_dict(config) if dataclasses.is_dataclass(config) else redact_values(config)
    return json.dumps(values, indent=1, sort_keys=True) + "\n"


def fingerprint(*parts: Any) -> str:
    """Return a digest (32 hex digits) of configurations, dicts and strings, equal on every machine."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part.encode() if isinstance(part, str) else dumps(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """List the fields that differ between two JSON configurations, as `name: old -> new`."""
    lines: list[str] = []
    for name in sorted(old.keys() | new.keys()):
        before, after = old.get(name, "absent"), new.get(name, "absent")
        if isinstance(before, dict) and isinstance(after, dict):
            lines += differences(before, after, f"{prefix}{name}.")
        elif before != after:
            lines.append(f"{prefix}{name}: {before} -> {after}")
    return lines
