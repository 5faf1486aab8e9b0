"""What is known of the installed packages: advisories, from a copy of an OSV database on this machine, and licences.

    python -m tests.audit --database /path/to/advisories     YAML or JSON files of the OSV format, as in PyPA's advisory database
    python -m tests.audit --licences docs/licences.md        write the list of licences

Nothing is asked of the network. Exit code 0: looked, and nothing is known; 1: advisories; 3: could not look.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from packaging.version import InvalidVersion, Version

COULD_NOT_LOOK = 3
COPYLEFT = {
    "av": "the wheel carries FFmpeg (LGPL-3.0-or-later) with libx264 and libx265 (GPL-2.0-or-later); jobs.segment writes its overlays with "
    "libx264, or with MPEG-4 where that is absent. Loaded at run time, not distributed with this project",
    "certifi": "MPL-2.0: root certificates for HTTPS of mlflow and boto3; used unchanged",
    "hypothesis": "MPL-2.0: tests only",
    "tqdm": "MPL-2.0 and MIT: progress bars; used unchanged",
}
"""Packages with copyleft parts, and why they are here."""


def installed() -> dict[str, str]:
    """canonical name -> version of every installed distribution, ours left out."""
    found = {canonical(one.metadata["Name"]): one.version for one in metadata.distributions()}
    return {name: version for name, version in sorted(found.items()) if name != "mobilevos-ray"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def advisories(database: Path) -> Iterator[dict[str, Any]]:
    """Every advisory of a folder in OSV's format; files that are none are passed over."""
    for path in sorted(database.rglob("*")):
        if path.suffix not in (".json", ".yaml", ".yml"):
            continue
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
        if isinstance(found, dict) and "affected" in found and "withdrawn" not in found:
            yield found


def hits(advisory: dict[str, Any], packages: dict[str, str]) -> Iterator[str]:
    """Installed packages, `name version`, that an advisory is about."""
    for affected in advisory["affected"]:
        package = affected.get("package", {})
        name = canonical(package.get("name", ""))
        if package.get("ecosystem") == "PyPI" and name in packages and is_affected(affected, packages[name]):
            yield f"{name} {packages[name]}"


def is_affected(affected: dict[str, Any], version: str) -> bool:
    """Whether a version is listed, or lies between `introduced` and `fixed` (or `last_affected`) of a range."""
    if version in affected.get("versions", ()):
        return True
    here = Version(version)
    for one in affected.get("ranges", ()):
        if one.get("type") != "ECOSYSTEM":
            continue
        inside = False
        for event in one["events"]:
            try:
                if "introduced" in event:
                    inside |= event["introduced"] == "0" or here >= Version(event["introduced"])
                elif ("fixed" in event and here >= Version(event["fixed"])) or (
                    "last_affected" in event and here > Version(event["last_affected"])
                ):
                    inside = False
            except InvalidVersion:
                continue  # listed in `versions`, or not at all
        if inside:
            return True
    return False


def audit(database: str) -> int:
    packages = installed()
    folder = Path(database)
    if not database or not folder.is_dir():
        what = f"{database} is no folder" if database else "no database was named"
        print(
            f"could not look for advisories of {len(packages)} packages: {what}; give ADVISORY_DB=FOLDER, a checkout of "
            "github.com/pypa/advisory-database or an unpacked export of osv.dev for PyPI"
        )
        return COULD_NOT_LOOK
    every = list(advisories(folder))
    if not every:
        print(f"could not look: {database} holds no advisories in OSV's format")
        return COULD_NOT_LOOK
    newest = max(str(advisory.get("modified", "")) for advisory in every)[:10]
    known = sorted(
        {(hit, advisory["id"], advisory.get("summary", "")) for advisory in every for hit in hits(advisory, packages)}
    )
    for hit, number, summary in known:
        print(f"{hit:32} {number:24} {summary[:80]}")
    print(
        f"{len(known)} known for {len(packages)} packages; {len(every)} advisories, the newest of {newest or 'no date'}"
    )
    return 1 if known else 0


def licence(name: str) -> str:
    """What a distribution says of its licence: the SPDX expression, else its classifiers, else the first line of the field."""
    about = metadata.metadata(name)
    if expression := about.get_all("License-Expression"):
        return expression[0]
    classifiers = [one.split(" :: ")[-1] for one in about.get_all("Classifier") or [] if one.startswith("License")]
    return "; ".join(classifiers) or ((about.get_all("License") or [""])[0].splitlines() or ["not said"])[0][:60]


def licences() -> str:
    """A Markdown page."""
    rows = [f"| {name} | {version} | {licence(name)} |" for name, version in installed().items()]
    reasons = [f"- **{name}**: {reason}." for name, reason in COPYLEFT.items()]
    return "\n".join(
        [
            "# Licences of what is installed",
            "",
            "Written by `python -m tests.audit --licences docs/licences.md`. This project is Apache-2.0 and distributes none of",
            "these packages; `make setup` installs them from a package index.",
            "",
            "## Copyleft parts, and why they are here",
            *reasons,
            "",
            "| package | version | licence |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--database", default=os.environ.get("ADVISORY_DB", ""), help="folder of advisories in OSV's format"
    )
    parser.add_argument("--licences", default="", help="write the list of licences to this file, and look for nothing")
    chosen = parser.parse_args()
    if chosen.licences:
        Path(chosen.licences).write_text(licences(), encoding="utf-8")
        return 0
    began = time.monotonic()
    code = audit(chosen.database)
    print(f"licences: docs/licences.md; {time.monotonic() - began:.1f} s")
    return code


if __name__ == "__main__":
    sys.exit(main())
