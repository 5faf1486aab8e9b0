"""Measure frames per second by the field's protocol. All systems take turns in one run, so that ratios hold on a noisy machine.

*short* is the sequence itself, *long* is the sequence played ten times in a row. Batch 1, first frame and decoding excluded, after
warm-up. Constant-memory systems are played in full. A growing memory would take hours, so it is timed at a grid of its memory sizes and
integrated over the video.
"""

from __future__ import annotations

import json
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from pipelines.runtime.models import load_model
from pipelines.runtime.progress import progress_bar
from pipelines.runtime.videos import index_videos
from pipelines.studies.benchmarks.fps_plots import PLOTS, write_plots
from pipelines.studies.benchmarks.fps_results import Measured, component_table, ratios, system_table
from pipelines.studies.benchmarks.fps_systems import LOOP, System, Worker, workers, write_frames
from pipelines.studies.benchmarks.rows import figure_table, recorded
from vos.config import FpsBenchmarkConfig
from vos.config.benchmark_fps import SOAK_FROM
from vos.config.presets import DAVIS_SIZE_PX
from vos.data.transforms import resize_frame, resize_labels
from vos.errors import InputError
from vos.inference.export import example_tensors, run_graph
from vos.inference.graphs import NEEDED
from vos.inference.runtimes import bf16_is_faster
from vos.inference.whole_video import first_mask, segmented_span
from vos.models import build, names

MEMORY_EVERY = 5
MAIN = "mobilevos-mobilenetv2-noaspp"
"""The student that is measured on every runtime."""


@dataclass(frozen=True)
class Clip:
    """The decoded sequence.

    decode_ms  median time of reading and resizing a frame, which no other figure includes
    """

    name: str
    frames: np.ndarray
    labels: np.ndarray
    decode_ms: float


def measure_fps(config: FpsBenchmarkConfig) -> str:
    """Measure, write rows.json, series.json, table and plots, and log them to MLflow; returns the tables."""
    systems, sequence = _systems(config), _sequence(config)
    with recorded(config, "fps", ["series.json", "table.txt", *PLOTS]) as record:
        measured, gflops = _measure(config, systems, sequence)
        path = record.write_rows([one.row(config.threads) for one in measured])
        record.folder.write("series.json", json.dumps(_series(measured)).encode())
        found = ratios(measured, gflops, _macs(measured, config))
        tables = (system_table(measured), component_table(measured), figure_table(found))
        text = "\n\n".join((_protocol(config, sequence, gflops), *tables))
        table = record.folder.write("table.txt", f"{text}\n".encode())
        pictures = write_plots(measured, record.folder, config.evaluations)
        record.log(found, [path, table, *pictures], **_metrics(measured))
    return f"{text}\nrows   {path}\nplots  {config.out}"


def _systems(config: FpsBenchmarkConfig) -> list[System]:
    """Return the systems: STCN, the main student on every runtime, other networks in PyTorch and on the best one, exported folders."""
    slower = "fp32" if bf16_is_faster() else "bf16"
    sources = {name: name for name in names()}
    if config.checkpoint:
        sources[load_model(config.checkpoint)[0].name] = config.checkpoint
    runtimes = [(runtime, "fp32") for runtime in (LOOP, "eager", "compile", "onnxruntime")]
    played = [(MAIN, *one) for one in (*runtimes, ("openvino", slower), ("openvino", "auto"))]
    others = [name for name in names() if name not in ("stcn", MAIN)]
    played += [(name, *one) for name in others for one in (("eager", "fp32"), ("openvino", "auto"))]
    systems = [System(f"{name} {runtime} {kind}", sources[name], runtime, kind) for name, runtime, kind in played]
    systems.insert(0, System("stcn eager", "stcn", "eager", "fp32", growing=True))
    if min(config.height_px, config.width_px) > DAVIS_SIZE_PX:  # frames are never enlarged
        label = f"{MAIN}@{DAVIS_SIZE_PX} openvino auto"
        systems.insert(7, System(label, sources[MAIN], "openvino", "auto", size_px=DAVIS_SIZE_PX))
    for folder in config.exports:
        systems.append(System(f"{os.path.basename(folder.rstrip('/'))} openvino auto", folder, "openvino", "auto"))
    chosen = [one for one in systems if not config.systems or any(word in one.label for word in config.systems)]
    if not chosen:
        raise InputError(
            f"--systems {' '.join(config.systems)}: no such system; use one of {', '.join(one.label for one in systems)}"
        )
    if config.soak_frames and all(one.growing for one in chosen):
        raise InputError(
            f"--soak-frames {config.soak_frames} --systems {' '.join(config.systems)}: their memory grows; add a system of constant memory"
        )
    return chosen


def _sequence(config: FpsBenchmarkConfig) -> Clip:
    videos = {video.name: video for video in index_videos(config.data, "val")}
    if config.sequence and config.sequence not in videos:
        raise InputError(
            f"--sequence {config.sequence}: not in the validation split; use one of {', '.join(sorted(videos))}"
        )
    by_length = sorted(videos, key=lambda name: (videos[name].num_frames, name))
    video = videos[config.sequence or by_length[len(by_length) // 2]]
    size = (config.height_px, config.width_px)
    frames, times = [], []
    span = segmented_span(video, config.max_frames)
    for index in span:
        began = time.perf_counter()
        frames.append(resize_frame(video.frame(index), size))
        times.append(time.perf_counter() - began)
    if len(frames) < 2:
        raise InputError(f"--sequence {video.name}: has only one frame; name another")
    labels = resize_labels(first_mask(video, span.start), size)
    return Clip(video.name, np.stack(frames), labels, 1e3 * statistics.median(times))


def _objects(labels: np.ndarray, num_objects: int) -> np.ndarray:
    """Return labels with exactly `num_objects` objects 1, 2, …: the first ones of the mask.

    Where there are too few, the largest is divided at its median column, repeatedly.
    """
    found = [labels == one for one in np.unique(labels) if one][:num_objects]
    while len(found) < num_objects:
        found.sort(key=lambda mask: -int(mask.sum()))
        columns = np.arange(labels.shape[1])
        left = columns < np.median(np.nonzero(found[0])[1])
        found = [found[0] & left, found[0] & ~left, *found[1:]]
    result = np.zeros_like(labels)
    for index, mask in enumerate(found, 1):
        result[mask] = index
    return result


def _measure(config: FpsBenchmarkConfig, systems: list[System], sequence: Clip) -> tuple[list[Measured], list[float]]:
    measured: list[Measured] = []
    gflops: list[float] = []
    num_frames = {"short": len(sequence.frames) - 1, "long": len(sequence.frames) * config.long_repeats - 1}
    with tempfile.TemporaryDirectory() as folder:
        path = write_frames(sequence.frames, folder)
        with workers([System("gemm", "gemm", "eager", "fp32"), *systems], path, config.threads) as (gemm, *playing):
            gemm.ask("gflops", 2)  # warm-up
            for objects in config.objects:
                labels = _objects(sequence.labels, objects)
                present = [one for one in playing if objects == 1 or _ships(one.system)]
                abouts = _start(present, labels, f"{objects} object(s)")
                results = [
                    (worker, Measured(worker.system, about, objects, protocol))
                    for worker, about in zip(present, abouts, strict=True)
                    for protocol in (("short", "long") if _plays_long(worker.system, objects) else ("short",))
                ]
                gflops += _rounds(config, results, num_frames, gemm, f"{objects} object(s)")
                measured += [result for _, result in results]
    if config.soak_frames:
        measured += _soak(config, sequence, measured)
    return sorted(measured, key=lambda one: (one.objects, one.protocol != "short")), gflops


def _start(playing: Sequence[Worker], labels: np.ndarray, name: str) -> list[dict[str, Any]]:
    """Start two systems at a time; returns their descriptions.

    Writing and compiling graphs for the first time takes most of a minute on one core; no figure includes it.
    """

    def start(worker: Worker) -> dict[str, Any]:
        worker.ask("start", labels)
        return worker.ask("about")

    with ThreadPoolExecutor(2) as pool, progress_bar(f"{name}: start", len(playing), "system") as bar:
        abouts = []
        for about in pool.map(start, playing):
            abouts.append(about)
            bar.update()
    return abouts


def _ships(system: System) -> bool:
    """Return whether a system is measured with more than one object: STCN, and other networks on their best runtime only."""
    return system.growing or system.precision == "auto"


def _plays_long(system: System, objects: int) -> bool:
    """Return whether a system plays the long protocol. Teachers do not, since they only serve caches."""
    if system.label.startswith("teacher"):
        return False
    return _ships(system) and (objects == 1 or system.growing or MAIN in system.label)


def _rounds(
    config: FpsBenchmarkConfig,
    results: list[tuple[Worker, Measured]],
    num_frames: Mapping[str, int],
    gemm: Worker,
    name: str,
) -> list[float]:
    """Let every system play its share of every protocol in each round; returns the machine's GFLOP/s, measured before each round.

    So all systems run beside the same other load of the machine.
    """
    gflops: list[float] = []
    constant = [pair for pair in results if not pair[0].system.growing]
    growing = {worker.system.label: worker for worker, _ in results if worker.system.growing}
    grid = sorted({size for count in num_frames.values() for size in _memory_grid(count)})
    sweeps: dict[str, dict[int, list[dict[str, Any]]]] = {label: {} for label in growing}
    rounds = max(config.rounds, len(grid) if growing else 1)
    with progress_bar(name, rounds, "round") as bar:
        for done in range(rounds):
            gflops += gemm.ask("gflops", 3)
            num_memory = grid[done * len(grid) // rounds]
            for label, worker in growing.items():
                sweeps[label].setdefault(num_memory, []).append(worker.ask("at_memory", num_memory, 2))
            for worker, result in constant:
                share = -(-(num_frames[result.protocol] - len(result.frame_s)) // (rounds - done))
                if share:
                    result.add(worker.ask("play", share, result.protocol))
            bar.update()
    for worker, result in results:
        if worker.system.growing:
            sweep = sweeps[worker.system.label]
            sizes = _memory_grid(num_frames[result.protocol])
            _integrate(result, {size: sweep[size] for size in sizes}, num_frames[result.protocol])
    return gflops


def _memory_grid(num_frames: int) -> list[int]:
    """Return memory sizes from 1 to the size at the end of the video, doubling."""
    largest = _memory_of(num_frames)
    grid = [1]
    while grid[-1] < largest:
        grid.append(min(largest, 2 * grid[-1]))
    return grid


def _memory_of(frame: int) -> int:
    """Return the number of memory frames that frame `frame` (1, 2, …) reads: the first, and every fifth before it."""
    return (frame - 1) // MEMORY_EVERY + 1


def _integrate(result: Measured, sweep: dict[int, list[dict[str, Any]]], num_frames: int) -> None:
    """Fill in the seconds of every frame of the video, by linear interpolation between the timed memory sizes."""
    sizes = sorted(sweep)
    query = [statistics.median(s for one in sweep[size] for s in one["query_s"]) for size in sizes]
    value = statistics.median(one["value_s"] for size in sizes for one in sweep[size])
    frames = np.arange(1, num_frames + 1)
    seconds = np.interp([_memory_of(int(frame)) for frame in frames], sizes, query)
    seconds[frames % MEMORY_EVERY == 0] += value
    result.frame_s = [float(one) for one in seconds]
    result.rss_mib = [max(one["rss_mib"] for one in sweep[size]) for size in sizes]
    result.rss_at = [(size - 1) * MEMORY_EVERY + 1 for size in sizes]
    result.peak_mib = max(one["peak_mib"] for size in sizes for one in sweep[size])
    result.integrated = True


def _soak(config: FpsBenchmarkConfig, sequence: Clip, measured: list[Measured]) -> list[Measured]:
    """Play a long video on the fastest constant-memory system alone, and record resident memory from frame SOAK_FROM on."""
    constant = [one for one in measured if not one.system.growing and one.objects == min(config.objects)]
    fastest = min(constant, key=lambda one: (bool(one.system.size_px), one.median_ms))
    result = Measured(fastest.system, fastest.about, fastest.objects, "soak")
    with tempfile.TemporaryDirectory() as folder:
        path = write_frames(sequence.frames, folder)
        with (
            workers([fastest.system], path, config.threads) as (worker,),
            progress_bar("soak", config.soak_frames, "frame") as bar,
        ):
            worker.ask("start", _objects(sequence.labels, fastest.objects))
            for until in [SOAK_FROM, *range(1000, config.soak_frames, 1000), config.soak_frames]:
                if until > len(result.frame_s):
                    played = worker.ask("play", until - len(result.frame_s), "soak")
                    result.add(played)
                    bar.update(len(played.frame_s))
    return [result]


def _macs(measured: Iterable[Measured], config: FpsBenchmarkConfig) -> dict[str, float]:
    """Return multiply-accumulates of a frame by network, with one object and two memory frames, counted by PyTorch over a step's graphs.

    STCN encodes the value of every fifth frame only.
    """
    counts = {}
    for name in {one.about["model"] for one in measured}:
        model = build(name).eval()
        tensors = example_tensors(model, (config.height_px, config.width_px), 1)
        counts[name] = 0.0
        for graph in NEEDED:
            # The counter does not know the fused attention of CPUs.
            with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
                run_graph(graph, model, tensors)
            rarely = name == "stcn" and graph == "encode_value"
            counts[name] += counter.get_total_flops() / 2 / (MEMORY_EVERY if rarely else 1)
    return counts


def _protocol(config: FpsBenchmarkConfig, sequence: Clip, gflops: list[float]) -> str:
    protocol = (
        f"{sequence.name}, {len(sequence.frames)} frames of {config.width_px}x{config.height_px}; batch 1, {config.threads} thread(s), "
        f"first frame excluded, after warm-up, decoding excluded ({sequence.decode_ms:.1f} ms a frame); freed memory is kept (mallopt)"
    )
    peak = (
        f"this machine: {statistics.median(gflops):.0f} GFLOP/s (float32 GEMM of 2048, median of {len(gflops)} between the turns; "
        f"{min(gflops):.0f} to {max(gflops):.0f})"
    )
    return f"{protocol}\n{peak}"


def _series(measured: list[Measured]) -> list[dict[str, Any]]:
    return [asdict(one) | {"system": one.system.label, "fps": one.fps} for one in measured]


def _metrics(measured: list[Measured]) -> dict[str, float]:
    # MLflow's names must not contain blanks or @.
    labels = [one.system.label.replace(" ", "_").replace("@", "_at_") for one in measured]
    return {f"fps/{one.protocol}/{label}/{one.objects}": one.fps for one, label in zip(measured, labels, strict=True)}
