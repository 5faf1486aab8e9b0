"""What the FPS benchmark keeps of a system while the turns go on."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import Any

from pipelines.studies.benchmarks.fps_systems import Played, System


@dataclass
class Measured:
    """What is known of one system with so many objects on one protocol."""

    system: System
    about: dict[str, Any]
    objects: int
    protocol: str
    frame_s: list[float] = field(default_factory=list)
    graph_s: dict[str, float] = field(default_factory=dict)
    rss_mib: list[float] = field(default_factory=list)
    """Resident memory after each turn."""
    rss_at: list[int] = field(default_factory=list)
    """The frame of each of these."""
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
    def name(self) -> str:
        """The network, and @ its working size where that is not the frames'."""
        return self.about["model"] + (f"@{self.system.size_px}" if self.system.size_px else "")

    @property
    def fps(self) -> float:
        return len(self.frame_s) / sum(self.frame_s)

    @property
    def median_ms(self) -> float:
        return 1e3 * statistics.median(self.frame_s)

    def row(self, threads: int) -> dict[str, Any]:
        quartiles = statistics.quantiles(self.frame_s, n=20) if len(self.frame_s) > 1 else self.frame_s * 19
        return {
            "system": self.name,
            "runtime": self.about["runtime"],
            "precision": self.about["precision"],
            "threads": threads,
            "objects": self.objects,
            "protocol": self.protocol,
            "fps": round(self.fps, 3),
            "ms_per_frame_median": round(self.median_ms, 2),
            "ms_per_frame_p5": round(1e3 * quartiles[0], 2),
            "ms_per_frame_p95": round(1e3 * quartiles[-1], 2),
            "rss_mib_peak": round(self.peak_mib, 1),
            "params": self.about["params"],
            "frames": len(self.frame_s),
            "how": "integrated over a grid of memory sizes" if self.integrated else "played in full",
        }
