"""Parts of a results page that every protocol has: tables, the runs without a record, and the sheet of sequences."""

from __future__ import annotations

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from pipelines.studies.protocols.planned import Planned
from pipelines.studies.protocols.records import Record

SHEET = "sequences.csv"


def spread(values: Sequence[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.1f}"
    return f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"


def markdown(header: Sequence[Any], rows: Sequence[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def sequence_names(records: Mapping[str, Record]) -> list[str]:
    """Return the names of all scored sequences."""
    return sorted({row["sequence"] for record in records.values() for row in record.get("sequences", ())})


def missing(plan: list[Planned], records: Mapping[str, Record], unused: list[str]) -> str:
    """Return the page's section on the runs without a record, and on the records that do not count."""
    missing: dict[str, list[str]] = {}
    for one in plan:
        if one.name not in records:
            missing.setdefault(one.family, []).append(one.name.removeprefix(f"{one.family}-"))
    lines = [
        f"- `{family}`" + (f": {', '.join(seeds)}" if seeds != [family] else "") for family, seeds in missing.items()
    ]
    text = "\n".join(["## Not run", *(lines or ["Nothing: every run of the plan has its record."])])
    if unused:
        named = ", ".join(f"`{one}`" for one in unused)
        text += f"\n\nRecords that do not count, because the plan asks for another configuration now: {named}."
    return text


def sheet(records: Mapping[str, Record]) -> str:
    """Return J&F, J and F of every sequence and run, as CSV."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["run", "sequence", "j_and_f", "j", "f", "frames"])
    for name, record in records.items():
        for row in record.get("sequences", ()):
            writer.writerow([name, *(row[key] for key in ("sequence", "j_and_f", "j", "f", "frames"))])
    return text.getvalue()
