"""Measuring frames per second."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vos.config.base import BUILTINS, JobConfig, Preset
from vos.config.fields import cosmetic, path
from vos.errors import InputError

SOAK_FROM = 100
"""Frame whose resident memory is the baseline of --soak-frames."""


@dataclass(frozen=True, kw_only=True)
class FpsBenchmarkConfig(JobConfig):
    """Measure frames per second and memory of every network by the field's protocol; all systems take turns in one run."""

    preset: Preset = cosmetic("paper")
    """Named configuration that the other flags change: smoke (seconds), demo and paper (480p, a quarter of an hour on 2 cores)."""
    out: str = path("runs/benchmark-fps", decides=False, written=True)
    """Folder of rows.json, the table, the plots and series.json."""
    threads: int = 2
    """Threads of each system; one system runs at a time."""
    sequence: str = ""
    """Sequence of the validation split (empty: the one of median length)."""
    width_px: int = 854
    """Frames are resized to this width ..."""
    height_px: int = 480
    """... and this height before anything is timed."""
    max_frames: int = 0
    """Only the first so many frames (0 = all)."""
    objects: tuple[int, ...] = (1, 2)
    """Numbers of objects; if the first mask has fewer, its last object is cut in two."""
    long_repeats: int = 10
    """The long protocol plays the sequence this many times in a row."""
    systems: tuple[str, ...] = ()
    """Only systems whose label contains one of these words, such as: stcn mobilenetv2 openvino (default: all)."""
    checkpoint: str = path(keywords=BUILTINS)
    """Folder of a trained MobileVOS student, used instead of random weights (speed does not depend on them)."""
    exports: tuple[str, ...] = path(())
    """Folders of jobs.export --to onnx, timed as further systems (int8, for example)."""
    evaluations: tuple[str, ...] = path(())
    """Folders of jobs.evaluate; their J&F is plotted against the speed measured here."""
    rounds: int = 12
    """Rounds in which all systems take turns; each system plays an equal share of its frames per round."""
    soak_frames: int = 0
    """Also play this many frames (more than 100) on the fastest system and compare its resident memory with that at frame 100
    (0 = off)."""
    json: str = path(decides=False, written=True)
    """File for the rows (default: rows.json in --out)."""

    def inert(self) -> Mapping[str, str]:
        return dict.fromkeys(("seed", "workers"), "one system runs at a time, nothing is random; leave it out")

    def __post_init__(self) -> None:
        super().__post_init__()
        if (
            min(self.width_px, self.height_px) < 64
            or not self.objects
            or min(self.objects) < 1
            or max(self.objects) > 8
        ):
            raise InputError(
                f"--width-px {self.width_px} --height-px {self.height_px} --objects {self.objects}: use 64 or more, and 1 to 8"
            )
        if (
            self.long_repeats < 1
            or self.rounds < 1
            or self.max_frames == 1
            or self.max_frames < 0
            or 0 < self.soak_frames <= SOAK_FROM
            or self.soak_frames < 0
        ):
            raise InputError(
                f"--long-repeats {self.long_repeats} --rounds {self.rounds} --max-frames {self.max_frames} "
                f"--soak-frames {self.soak_frames}: use 1 or more, 1 or more, 0 or 2 and more, 0 or more than {SOAK_FROM}"
            )
