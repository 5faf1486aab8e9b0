"""The FPS benchmark's tables: systems, components, and the ratios beside what they should be."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.runtime.tables import table
from pipelines.studies.benchmarks.fps_measured import Measured
from pipelines.studies.benchmarks.fps_systems import LOOP
from vos.inference.graphs import NEEDED

MOBILENET = "mobilevos-mobilenetv2"


@dataclass(frozen=True)
class Ratio:
    """One comparison. `met` None: no target is stated."""

    name: str
    value: float
    unit: str
    target: str
    met: bool | None

    @property
    def slug(self) -> str:
        return "".join(char if char.isalnum() else "_" for char in self.name.lower()).strip("_")


def system_table(rows: Sequence[Mapping[str, Any]]) -> str:
    header = ["system", "runtime", "objects", "protocol", "FPS", "ms/frame", "5 to 95 %", "peak MiB", "params"]
    lines = [
        [
            row["system"],
            f"{row['runtime']} {row['precision']}",
            row["objects"],
            row["protocol"] + ("*" if row["how"].startswith("integrated") else ""),
            f"{row['fps']:.2f}",
            f"{row['ms_per_frame_median']:.1f}",
            f"{row['ms_per_frame_p5']:.0f} to {row['ms_per_frame_p95']:.0f}",
            f"{row['rss_mib_peak']:.0f}",
            f"{row['params'] / 1e6:.2f} M",
        ]
        for row in rows
    ]
    note = "* a growing memory, timed at the sizes that it would hold and integrated over the video; all others were played in full"
    return table(header, lines) + (f"\n{note}" if any("*" in line[3] for line in lines) else "")


def component_table(measured: Sequence[Measured]) -> str:
    """Milliseconds a frame in each graph, and the engine's own share."""
    lines = []
    for one in measured:
        if one.graph_s and one.protocol == "short":
            count, whole = len(one.frame_s), sum(one.frame_s)
            own = 100 * (whole - sum(one.graph_s.values())) / whole
            spent = [sum(s for graph, s in one.graph_s.items() if graph.startswith(name)) for name in NEEDED]
            cells = [f"{1e3 * seconds / count:.1f}" for seconds in spent]
            lines.append([one.system.label, one.objects, *cells, f"{own:.1f} %"])
    return table(["ms/frame, short", "objects", "query", "read + decode", "value", "engine's own"], lines)


def ratio_table(found: Sequence[Ratio]) -> str:
    verdict = {True: "reached", False: "below target", None: ""}
    return table(
        ["figure", "reached", "target", ""],
        [[one.name, f"{one.value:.3g}{one.unit}", one.target, verdict[one.met]] for one in found],
    )


def ratios(measured: Sequence[Measured], gflops: Sequence[float], macs: Mapping[str, float]) -> list[Ratio]:
    """The comparisons that this run allows, of median frames: a neighbour's minute is in a mean, but in few medians."""
    found: list[Ratio] = []

    def of(protocol: str, objects: int = 1, inside: bool = False) -> list[Measured]:
        """Systems that work at the size of the frames, or, `inside`, at a smaller one of their own."""
        same = (one for one in measured if one.protocol == protocol and one.objects == objects)
        return [one for one in same if bool(one.system.size_px) == inside]

    for protocol, target in (("short", 25), ("long", 75)):
        stcn = [one for one in of(protocol) if one.system.growing]
        for inside in (False, True):
            students = [one for one in of(protocol, inside=inside) if one.about["model"].startswith(MOBILENET)]
            if students and stcn:
                best = min(students, key=lambda one: one.median_ms)
                value = stcn[0].median_ms / best.median_ms
                verdict = ("", None) if inside else (f">= {target}x", value >= target)
                found.append(Ratio(f"{_name(best)} / STCN, {protocol}", value, "x", *verdict))
    for one in of("long"):
        same = [short for short in of("short") if short.system == one.system]
        if same and not one.system.growing:
            value = one.median_ms and same[0].median_ms / one.median_ms
            found.append(Ratio(f"long / short FPS, {_name(one)}", value, "", ">= 0.99", value >= 0.99))
    main = [one for one in of("short") if one.about["model"].startswith(MOBILENET)]
    eager = [one for one in main if one.about["runtime"] in ("eager", LOOP)]
    for one in eager:
        rivals = [
            other
            for other in main
            if other.about["model"] == one.about["model"]
            and other.about["precision"] == "fp32"
            and other.about["runtime"] not in ("eager", LOOP)
        ]
        if rivals:
            best = min(rivals, key=lambda other: other.median_ms)
            value = one.median_ms / best.median_ms
            found.append(Ratio(f"{one.about['runtime']} -> {_name(best)}, fp32", value, "x", ">= 2x", value >= 2))
            if one.about["runtime"] == LOOP:
                continue
            share = 100 * 2 * macs[best.about["model"]] / (best.median_ms / 1e3) / 1e9 / statistics.median(gflops)
            found.append(Ratio(f"share of the fp32 GEMM peak, {_name(best)}", share, " %", ">= 70 %", share >= 70))
    for one in of("short", 2):
        same = [other for other in of("short") if other.system == one.system]
        if same and not one.system.growing and one.system.precision == "auto":
            value = 100 * (one.median_ms / same[0].median_ms - 1)
            found.append(Ratio(f"second object's extra cost, {_name(one)}", value, " %", "<= 45 %", value <= 45))
    for one in of("short"):
        if one.graph_s and one.about["model"].startswith(MOBILENET) and one.system.precision == "auto":
            whole = sum(one.frame_s)
            value = 100 * (whole - sum(one.graph_s.values())) / whole
            found.append(Ratio(f"engine beyond its graphs, {_name(one)}", value, " %", "<= 3 %", value <= 3))
    for one in measured:
        if one.protocol == "soak":
            growth = max(one.rss_mib[1:]) - one.rss_mib[0]
            name = f"resident MiB, frame {one.rss_at[0]} -> {one.rss_at[-1]}, {_name(one)}"
            found.append(Ratio(name, growth, "", "<= 1", growth <= 1))
    for name, count in macs.items():
        found.append(Ratio(f"GMAC a frame, 1 object, {name}", count / 1e9, "", "", None))
        if "stcn" in macs and name.startswith(MOBILENET):
            found.append(Ratio(f"GMAC, STCN / {name}", macs["stcn"] / count, "x", "", None))
    return found


def _name(one: Measured) -> str:
    return f"{one.name.removeprefix('mobilevos-')} {one.about['runtime']} {one.about['precision']}"
