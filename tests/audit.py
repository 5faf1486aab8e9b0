"""What is known of the installed packages: advisories, from a copy of an OSV database on this machine, and licences.

    python -m tests.audit --database /path/to/advisories     a folder or zip of YAML or JSON files of the OSV format, as in PyPA's database
    python -m tests.audit --licences docs/licences.md        write the list of licences

Nothing is asked of the network. Exit code 0: looked, and nothing is known; 1: advisories; 3: could not look, or not at every file
(`make audit` ends with make's own 2 for both).
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
import zipfile
import zlib
from collections.abc import Iterator
from datetime import date
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml
from packaging.version import InvalidVersion, Version

COULD_NOT_LOOK = 3
SUFFIXES = (".json", ".yaml", ".yml")
MAX_BYTES = 16 << 20
OLD_DAYS = 30
FIXED, INTRODUCED, LAST_AFFECTED = range(3)
"""Kinds of a range's bounds, in the order that they count at one version: fixed and introduced again is affected."""
KINDS = {"introduced": INTRODUCED, "fixed": FIXED, "last_affected": LAST_AFFECTED}
COPYLEFT = {
    "av": "BSD-3-Clause itself; the wheel carries FFmpeg, which calls itself LGPL-3.0-or-later but is built with libx264 and libx265 "
    "(GPL-2.0-or-later): whoever passes the wheel on, in an image for instance, passes on GPL code. jobs.segment writes its overlays with "
    "libx264, or with MPEG-4 where that is absent. Loaded at run time, not distributed with this project",
    "certifi": "MPL-2.0: root certificates for HTTPS of mlflow and boto3; used unchanged",
    "hypothesis": "MPL-2.0: tests only",
    "opencv-python-headless": "Apache-2.0 itself; the wheel carries FFmpeg (LGPL-2.1-or-later); used for images only, unchanged",
    "pathspec": "MPL-2.0: file patterns of mkdocs, for `make docs` only; used unchanged",
    "tqdm": "MPL-2.0 and MIT: progress bars; used unchanged",
}
"""Packages with copyleft parts, and why they are here."""


def installed() -> dict[str, str]:
    """canonical name -> version of every installed distribution, ours left out."""
    found = {canonical(one.metadata["Name"]): one.version for one in metadata.distributions()}
    return {name: version for name, version in sorted(found.items()) if name != "mobilevos-ray"}


def canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def texts(database: Path) -> Iterator[tuple[str, bytes]]:
    """(name, content) of every JSON or YAML file of a folder, or of a zip such as osv.dev's all.zip; nothing is unpacked to the disk."""
    if database.is_dir():
        for path in sorted(database.rglob("*")):
            if path.suffix in SUFFIXES and path.is_file():
                yield str(path), path.read_bytes()[: MAX_BYTES + 1]
    else:
        with zipfile.ZipFile(database) as archive:
            for name in sorted(archive.namelist()):
                if Path(name).suffix in SUFFIXES:
                    with archive.open(name) as file:
                        yield f"{database}/{name}", file.read(MAX_BYTES + 1)


def advisory(name: str, text: bytes) -> dict[str, Any] | None:
    """An advisory of the ecosystem PyPI that stands; None for every other file. Raises ValueError where it cannot be read."""
    if len(text) > MAX_BYTES:
        raise ValueError("too large")
    try:
        found = json.loads(text) if name.endswith(".json") else yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        raise ValueError(str(error)) from error
    if not isinstance(found, dict) or "affected" not in found or found.get("withdrawn"):
        return None
    about = [one for one in found["affected"] if ecosystem(one) == "PyPI"]
    return {"id": str(found["id"]), **found, "affected": about} if about else None


def ecosystem(affected: dict[str, Any]) -> str:
    return str(affected.get("package", {}).get("ecosystem", "")).partition(":")[0]


def hits(advisory: dict[str, Any], packages: dict[str, str]) -> list[str]:
    """Installed packages, `name version`, that an advisory is about."""
    names = [(canonical(affected["package"]["name"]), affected) for affected in advisory["affected"]]
    return [f"{name} {packages[name]}" for name, one in names if name in packages and is_affected(one, packages[name])]


def is_affected(affected: dict[str, Any], version: str) -> bool:
    """Whether a version is listed, or lies between `introduced` and `fixed` (or `last_affected`) of a range.

    A build's local part (2.13.0+cpu) counts as its release; a version that cannot be compared counts as affected.
    """
    here = parsed(version)
    listed = affected.get("versions") or ()
    if version in listed or (here is not None and here in map(parsed, listed)):
        return True
    for one in affected.get("ranges") or ():
        if one.get("type") == "GIT":
            continue
        if here is None:
            return True
        inside = False
        for bound, kind in sorted(bounds(one["events"])):
            if kind == INTRODUCED:
                inside |= here >= bound
            elif (here >= bound) if kind == FIXED else (here > bound):
                inside = False
        if inside:
            return True
    return False


def bounds(events: list[dict[str, str]]) -> Iterator[tuple[Version, int]]:
    """(version, kind) of a range's events, which OSV gives in any order. What is no version is left out: it is listed, or not at all."""
    for event in events:
        for name, kind in KINDS.items():
            if name in event and (bound := parsed("0.dev0" if event[name] == "0" else event[name])) is not None:
                yield bound, kind


def parsed(version: str) -> Version | None:
    """A version without its local part; None for what is none."""
    try:
        return Version(Version(version).public)
    except InvalidVersion:
        return None


def audit(database: str) -> int:
    packages = installed()
    could_not = f"could not look for advisories of {len(packages)} packages"
    advice = "give ADVISORY_DB=PATH, a checkout of github.com/pypa/advisory-database or osv.dev's export for PyPI, unpacked or as its zip"
    path = Path(database)
    if not database or not (path.is_dir() or zipfile.is_zipfile(path)):
        print(
            f"{could_not}: {f'{database} is no folder and no zip' if database else 'no database was named'}; {advice}"
        )
        return COULD_NOT_LOOK
    count, newest, unreadable = 0, "", []
    known: set[tuple[str, str, str]] = set()
    try:
        for name, text in texts(path):
            try:
                if (found := advisory(name, text)) is None:
                    continue
                known |= {(hit, found["id"], str(found.get("summary", ""))) for hit in hits(found, packages)}
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                unreadable.append(f"{name} ({type(error).__name__})")
                continue
            count, newest = count + 1, max(newest, str(found.get("modified", ""))[:10])
    except (OSError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError) as error:
        unreadable.append(f"{database} ({error})")
    for hit, number, summary in sorted(known):
        print(f"{hit:32} {number:24} {summary[:80]}")
    if not count:
        print(f"{could_not}: {database} holds no readable advisory for PyPI in OSV's format; {advice}")
        return COULD_NOT_LOOK
    print(f"{len(known)} known for {len(packages)} packages; {count} advisories for PyPI, the newest {age(newest)}")
    if unreadable:
        print(f"could not look at {len(unreadable)} files, the first {unreadable[0]}; get the database again")
    return 1 if known else COULD_NOT_LOOK if unreadable else 0


def age(newest: str) -> str:
    """When a database was last changed, and what that is worth."""
    try:
        days = (date.today() - date.fromisoformat(newest)).days
    except ValueError:
        return "of no date: how old it is cannot be told"
    return f"of {newest}" + (f", {days} days old: what became known since is not in it" if days > OLD_DAYS else "")


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
            "Written by `python -m tests.audit --licences docs/licences.md`. The code of this project is Apache-2.0.",
            "It distributes none of these packages; `make setup` installs them from a package index.",
            "",
            "## What the repository holds under another licence",
            "- **vos/inference/sample/**: an excerpt of Big Buck Bunny, © 2008 Blender Foundation, CC BY 3.0, and a mask",
            "  drawn over it ([attribution](../vos/inference/sample/ATTRIBUTION.md)). `docs/sample.jpg` is made from it, so it has",
            "  the same licence.",
            "- **weights of `builtin_student*` and `builtin_davis_teacher`** in `vos/models/`: made from DAVIS, which is for research,",
            "  non-commercial use, with attribution; each folder's README.md says so.",
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
        "--database", default=os.environ.get("ADVISORY_DB", ""), help="folder or zip of advisories in OSV's format"
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
