"""The command line and the table."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from tests.fuzz import campaign
from tests.fuzz.campaign import COLUMNS, ROOT, Tally

TITLES = ("own error", "other error", "accepted, right", "accepted, wrong", "no checksum", "slow", "large")
FOOT = """\
Right: equal to the unchanged sample, or to what other code reads from the changed files. No checksum: accepted, changed, and of a
format whose content proves nothing (JPEG, video, bare weights). Slow: above 2 s of processor time. Large: above 512 MiB."""


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--inputs", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--reader", action="append", help="only this one; may be repeated")
    parser.add_argument("--keep", type=Path, default=ROOT / "runs" / "fuzz", help="folder for inputs with a fault")
    options = parser.parse_args(argv)
    began = time.monotonic()
    tally = try_all(options.reader, options.inputs, options.seed, options.processes, options.keep)
    print(table(tally))
    print(
        f"{sum(one['inputs'] for one in tally.counts.values())} inputs, seed {options.seed}, {options.processes} processes, "
        f"{time.monotonic() - began:.0f} s ({sum(tally.cpu_s.values()):.0f} s of processor time in readers)"
    )
    for line in faults(tally):
        print(line)
    return 1 if tally.found else 0


def try_all(only: list[str] | None, inputs: int, seed: int, processes: int, keep: Path | None) -> Tally:
    """Make the samples, try every input."""
    from pipelines.runtime.progress import progress_bar
    from pipelines.runtime.session import set_threads
    from tests.fuzz.readers import READERS, make_samples

    set_threads(1)
    names = [name for name in READERS if not only or name in only]
    if unknown := sorted(set(only or ()) - set(names)):
        raise SystemExit(f"--reader {unknown[0]}: unknown; use one of {', '.join(READERS)}")
    root = campaign.folder()
    try:
        make_samples(root, names)
        requests = list(campaign.requests_of(names, inputs, seed, root))
        with progress_bar("fuzz", len(requests), "input") as bar:
            return campaign.run(requests, processes, root, lambda: bar.update(1), keep)
    finally:
        campaign.remove(root)


def table(tally: Tally) -> str:
    """One row a reader."""
    rows = [["reader", "inputs", *TITLES]]
    for name, counts in tally.counts.items():
        rows.append([name, *(f"{counts[column]:,}" for column in ("inputs", *COLUMNS))])
    total = [sum(counts[column] for counts in tally.counts.values()) for column in ("inputs", *COLUMNS)]
    rows.append(["all", *(f"{one:,}" for one in total)])
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([*lines, FOOT])


def faults(tally: Tally, most: int = 3) -> list[str]:
    """The first of each reader."""
    lines, shown = [], dict.fromkeys(tally.counts, 0)
    for fault in tally.found:
        shown[fault["reader"]] += 1
        if shown[fault["reader"]] <= most:
            which = fault.get("known") or fault.get("file") or f"seed {fault['seed']} number {fault['number']}"
            cost = f"{fault['cpu_s']:.1f} s, {fault['mib']:.0f} MiB"
            lines.append(
                f"{fault['reader']}: {', '.join(fault['faults'])}: {which} ({fault['mutation']} of {fault['sample']}; {cost}): "
                f"{fault['detail']}"
            )
            lines += [f"    kept as {fault['path']}"] if "path" in fault else []
    return lines


if __name__ == "__main__":
    sys.exit(main())
