"""Results of the FPS benchmark: each system's times and memory, and ratios with their targets."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipelines.runtime.tables import table
from pipelines.studies.benchmarks.fps_systems import LOOP, Played, System
from vos.inference.graphs import NEEDED
from vos.published.bounds import Figure

MOBILENET = "mobilevos-mobilenetv2"


@dataclass
class Measured:
    """The measurements of one system, with one number of objects, on one protocol."""

    system: System
    about: dict[str, Any]
    objects: int
    protocol: str
    frame_s: list[float] = field(default_factory=list)
    graph_s: dict[str, float] = field(default_factory=dict)
    rss_mib: list[float] = field(default_factory=list)
    """Resident memory after each turn."""
    rss_at: list[int] = field(default_factory=list)
    """The frame number of each of `rss_mib`."""
    peak_mib: float = 0.0
    integrated: bool = False

    def add(self, played: Played) -> None:
        self.frame_s += played.frame_s
        for name, seconds in played.graph_s.items():
            self.graph_s[name] = self.graph_s.get(name, 0.0) + seconds
        self.rss_mib.append(played.rss_mib)
        self.rss_at.append(len(self.frame_s))
        self.peak_mib = max(self.peak_mib, played.peak_mib)

    @property
    def network(self) -> str:
        """The network, with @ and its working size where that is not the frames'."""
        return self.about["model"] + (f"@{self.system.size_px}" if self.system.size_px else "")

    @property
    def name(self) -> str:
        return f"{self.network.removeprefix('mobilevos-')} {self.about['runtime']} {self.about['precision']}"

    @property
    def fps(self) -> float:
        return len(self.frame_s) / sum(self.frame_s)

    @property
    def median_ms(self) -> float:
        return 1e3 * statistics.median(self.frame_s)

    @property
    def own_share(self) -> float:
        """Percent of the time that the engine spends outside its graphs."""
        return 100 * (1 - sum(self.graph_s.values()) / sum(self.frame_s))

    def row(self, threads: int) -> dict[str, Any]:
        parts = statistics.quantiles(self.frame_s, n=20) if len(self.frame_s) > 1 else self.frame_s * 19
        return {
            "system": self.network,
            "runtime": self.about["runtime"],
            "precision": self.about["precision"],
            "threads": threads,
            "objects": self.objects,
            "protocol": self.protocol,
            "fps": round(self.fps, 3),
            "ms_per_frame_median": round(self.median_ms, 2),
            "ms_per_frame_p5": round(1e3 * parts[0], 2),
            "ms_per_frame_p95": round(1e3 * parts[-1], 2),
            "rss_mib_peak": round(self.peak_mib, 1),
            "params": self.about["params"],
            "frames": len(self.frame_s),
            "how": "integrated over a grid of memory sizes" if self.integrated else "played in full",
        }


def system_table(measured: Sequence[Measured]) -> str:
    header = ["system", "runtime", "objects", "protocol", "FPS", "ms/frame", "5 to 95 %", "peak MiB", "params"]
    lines = []
    for one in measured:
        row = one.row(0)
        times = f"{row['ms_per_frame_median']:.1f}", f"{row['ms_per_frame_p5']:.0f} to {row['ms_per_frame_p95']:.0f}"
        size = f"{row['rss_mib_peak']:.0f}", f"{row['params'] / 1e6:.2f} M"
        runtime, protocol = f"{row['runtime']} {row['precision']}", row["protocol"] + "*" * one.integrated
        lines.append([row["system"], runtime, row["objects"], protocol, f"{row['fps']:.2f}", *times, *size])
    note = "* a growing memory, timed at the sizes that it would hold and integrated over the video; all others were played in full"
    return "\n".join([table(header, lines), *[note] * any(one.integrated for one in measured)])


def component_table(measured: Sequence[Measured]) -> str:
    """Return a table of the milliseconds a frame in each graph, and the engine's own share."""
    lines = []
    for one in measured:
        if one.graph_s and one.protocol == "short":
            spent = [sum(s for graph, s in one.graph_s.items() if graph.startswith(name)) for name in NEEDED]
            cells = [f"{1e3 * seconds / len(one.frame_s):.1f}" for seconds in spent]
            lines.append([one.system.label, one.objects, *cells, f"{one.own_share:.1f} %"])
    return table(["ms/frame, short", "objects", "query", "read + decode", "value", "engine's own"], lines)


def ratios(measured: Sequence[Measured], gflops: Sequence[float], macs: Mapping[str, float]) -> list[Figure]:
    """Return the comparisons that this run allows. They use median frames, since other load on the machine moves a mean more."""
    found = [*_against_stcn(measured), *_of_long_videos(measured), *_of_runtimes(measured, gflops, macs)]
    short = _of(measured, "short")
    for one in _of(measured, "short", 2):
        for single in [other for other in short if other.system == one.system]:
            if one.system.precision == "auto" and not one.system.growing:
                value = 100 * (one.median_ms / single.median_ms - 1)
                found.append(Figure(f"second object's extra cost, {one.name}", value, "<=", 45, unit=" %"))
    for one in short:
        if one.graph_s and one.about["model"].startswith(MOBILENET) and one.system.precision == "auto":
            found.append(Figure(f"engine beyond its graphs, {one.name}", one.own_share, "<=", 3, unit=" %"))
    for one in measured:
        if one.protocol == "soak":
            name = f"resident MiB, frame {one.rss_at[0]} -> {one.rss_at[-1]}, {one.name}"
            found.append(Figure(name, max(one.rss_mib[1:]) - one.rss_mib[0], "<=", 1))
    for name, count in macs.items():
        found.append(Figure(f"GMAC a frame, 1 object, {name}", count / 1e9))
        if "stcn" in macs and name.startswith(MOBILENET):
            found.append(Figure(f"GMAC, STCN / {name}", macs["stcn"] / count, unit="x"))
    return found


def _of(measured: Sequence[Measured], protocol: str, objects: int = 1, inside: bool = False) -> list[Measured]:
    """Return the systems that work at the size of the frames, or, with `inside`, at a smaller size of their own."""
    same = [one for one in measured if one.protocol == protocol and one.objects == objects]
    return [one for one in same if bool(one.system.size_px) == inside]


def _against_stcn(measured: Sequence[Measured]) -> Iterator[Figure]:
    for protocol, target in (("short", 25), ("long", 75)):
        stcn = [one for one in _of(measured, protocol) if one.system.growing]
        for inside in (False, True):
            same = _of(measured, protocol, inside=inside)
            students = [one for one in same if one.about["model"].startswith(MOBILENET)]
            if students and stcn:
                best = min(students, key=lambda one: one.median_ms)
                asked = ("", "") if inside else (">=", target)
                yield Figure(f"{best.name} / STCN, {protocol}", stcn[0].median_ms / best.median_ms, *asked, unit="x")


def _of_long_videos(measured: Sequence[Measured]) -> Iterator[Figure]:
    for one in _of(measured, "long"):
        for short in [short for short in _of(measured, "short") if short.system == one.system]:
            if not one.system.growing:
                yield Figure(f"long / short FPS, {one.name}", short.median_ms / one.median_ms, ">=", 0.99)


def _of_runtimes(measured: Sequence[Measured], gflops: Sequence[float], macs: Mapping[str, float]) -> Iterator[Figure]:
    """Compare a network's slow runtimes with its best fp32 one, and that one with the machine's GEMM peak."""
    main = [one for one in _of(measured, "short") if one.about["model"].startswith(MOBILENET)]
    slow = [one for one in main if one.about["runtime"] in ("eager", LOOP)]
    for one in slow:
        model, runtime = one.about["model"], one.about["runtime"]
        rivals = [other for other in main if other.about["model"] == model and other not in slow]
        rivals = [other for other in rivals if other.about["precision"] == "fp32"]
        if not rivals:
            continue
        best = min(rivals, key=lambda other: other.median_ms)
        yield Figure(f"{runtime} -> {best.name}, fp32", one.median_ms / best.median_ms, ">=", 2, unit="x")
        if runtime != LOOP:
            share = 100 * 2 * macs[model] / (best.median_ms / 1e3) / 1e9 / statistics.median(gflops)
            yield Figure(f"share of the fp32 GEMM peak, {best.name}", share, ">=", 70, unit=" %")
