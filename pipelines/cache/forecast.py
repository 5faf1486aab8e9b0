"""Forecast a cache's size and time from a short measurement on real draws, and compare the forecast with the finished cache."""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from pipelines import storage
from pipelines.cache import schema
from pipelines.cache.build import CACHE, SHARDS, Blueprint, CacheResult, blueprint
from pipelines.cache.plan import ShardPlan
from pipelines.cache.teacher import Teacher, shard_metadata
from pipelines.runtime.output_folder import NOTHING, identity_of, mark, output_folder
from pipelines.runtime.progress import progress_bar
from pipelines.runtime.sources import announce_sources, draws_of_sources
from pipelines.runtime.tables import table
from vos.config import CacheConfig
from vos.errors import InputError
from vos.files.json_files import built
from vos.files.written import Written
from vos.printed import JOB, command, quoted

PLAN_FILE = "plan.json"
CALIBRATION_S = 20.0
LEAST_DRAWS = 2
EPOCHS, TRIALS = 50, 16
"""Assumptions of the comparison with an online teacher: passes over the draws in each trial, and trials of a search."""


@dataclass(frozen=True)
class CachePlan:
    """A forecast for one recipe and number of draws."""

    recipe: str
    draws: int
    shards: int
    sampled_draws: int
    bytes: int
    column_bytes: dict[str, int]
    """of the whole cache; `footer` is what Parquet adds to the columns"""
    teacher_cpu_s: float
    teacher_wall_s: float
    factor_error_mean: float
    factor_error_max: float
    logit_error_max: float


def plan_cache(config: CacheConfig) -> tuple[CachePlan, str]:
    """Run the teacher for about 20 seconds on draws spread over the whole cache; returns the forecast and its text.

    Writes only `plan.json` into --out. Raises InputError wherever building the cache would.
    """
    design = blueprint(config)
    announce_sources(draws_of_sources(design.videos, config.seed, config.draws))
    with output_folder(config, CACHE) as folder:
        folder.check([PLAN_FILE])
        if identity_of(folder) is None:
            mark(folder, NOTHING)
        return _planned(folder, config, design)


def _planned(folder: Written, config: CacheConfig, design: Blueprint) -> tuple[CachePlan, str]:
    teacher = Teacher(config, design.videos, design.shapes, design.recipe)
    numbers = _spread(config.draws)
    schema.to_parquet([teacher.row(teacher.work(0))], design.shapes, {})  # the first time is slower
    rows, cpu_s, wall_s = [], time.process_time(), time.monotonic()
    most = min(config.draws, 10_000)
    with progress_bar("measuring", most, "draw") as bar:
        for work in teacher.read_ahead(itertools.islice(numbers, most)):
            rows.append(teacher.row(work))
            if len(rows) % config.shard_draws == 0:  # writing is a part of the cost, as in the job
                schema.to_parquet(rows[-config.shard_draws :], design.shapes, {})
            bar.update()
            if len(rows) >= LEAST_DRAWS and time.monotonic() - wall_s > CALIBRATION_S:
                break
    cpu_s, wall_s = time.process_time() - cpu_s, time.monotonic() - wall_s
    plan = _extrapolated(config, design, rows, cpu_s, wall_s)
    folder.of = ""  # of no identity yet: the plan records its recipe
    folder.write_json(PLAN_FILE, asdict(plan))
    return plan, _text(config, design, plan)


def _spread(draws: int) -> Iterator[int]:
    """Yield each number below `draws` once; any first few are spread evenly over all (golden section)."""
    golden = (int(i * 0.6180339887498949 % 1 * draws) for i in range(4 * draws))
    return iter(dict.fromkeys(itertools.chain(golden, range(draws))))


def _extrapolated(
    config: CacheConfig, design: Blueprint, rows: list[dict[str, Any]], cpu_s: float, wall_s: float
) -> CachePlan:
    columns: dict[str, float] = {}
    for row in rows:
        for name, size in schema.column_bytes(schema.to_parquet([row], design.shapes, {})).items():
            columns[name] = columns.get(name, 0) + size * config.draws / len(rows)

    def footer(plan: ShardPlan) -> int:
        data = schema.to_parquet(
            list(itertools.islice(itertools.cycle(rows), plan.num_draws)),
            design.shapes,
            shard_metadata(plan, design.recipe),
        )
        return len(data) - sum(schema.column_bytes(data).values())

    first, last = design.plans[0], design.plans[-1]
    columns["footer"] = footer(first) * (len(design.plans) - 1) + footer(last)
    errors = np.stack([row["factor_error"] for row in rows])
    return CachePlan(
        recipe=design.recipe,
        draws=config.draws,
        shards=len(design.plans),
        sampled_draws=len(rows),
        bytes=round(sum(columns.values())),
        column_bytes={name: round(size) for name, size in columns.items()},
        teacher_cpu_s=cpu_s * config.draws / len(rows),
        teacher_wall_s=wall_s * config.draws / len(rows),
        factor_error_mean=float(errors.mean()),
        factor_error_max=float(errors.max()),
        logit_error_max=max((float(row["logit_error"].max()) for row in rows if "logit_error" in row), default=0.0),
    )


def _text(config: CacheConfig, design: Blueprint, plan: CachePlan) -> str:
    largest = sorted(plan.column_bytes.items(), key=lambda item: -item[1])
    by_column = table(
        ["column", "KiB/draw", "share"],
        [[name, f"{size / plan.draws / 1024:.2f}", f"{100 * size / plan.bytes:.1f} %"] for name, size in largest],
    )
    counts = sorted({1, 2, 4, 8, config.actors})
    times = ", ".join(f"{duration(plan.teacher_wall_s / count)} on {count}" for count in counts)
    shapes = design.shapes
    cells, correlations = shapes.grid**2, shapes.samples**2
    others = [
        ("this cache", plan.bytes / plan.draws),
        ("logits alone, fp16", shapes.queries * shapes.objects * cells * 2),
        ("correlations of the sampled pixels, N x N, fp16", shapes.queries * correlations * 2),
        ("correlations of the whole grid, fp16", shapes.queries * cells**2 * 2),
    ]
    comparison = table(
        ["what to store", "KiB/draw", "all draws", "ratio"],
        [
            [name, f"{size / 1024:.1f}", amount(size * plan.draws), f"{size / others[0][1]:.1f}x"]
            for name, size in others
        ],
    )
    online = plan.teacher_wall_s * EPOCHS * TRIALS
    return "\n".join(
        [
            f"plan      {plan.draws} draws in {plan.shards} shards, {amount(plan.bytes)}, {plan.bytes / plan.draws / 1024:.1f} KiB/draw"
            f"  (measured on {plan.sampled_draws} draws)",
            f"errors    correlations {100 * plan.factor_error_mean:.2f} % mean, {100 * plan.factor_error_max:.2f} % worst (Frobenius);"
            f" logits {plan.logit_error_max:.3f} worst",
            f"teacher   {duration(plan.teacher_cpu_s)} of CPU; {times} workers with a core each (estimate, without Ray's start)",
            f"online    {EPOCHS} epochs x {TRIALS} trials would run this teacher for {duration(online)}; the cache runs it once",
            "",
            by_column,
            "",
            comparison,
        ]
    )


def summary(config: CacheConfig, result: CacheResult) -> str:
    """Return the job's printed result: the cache, its forecast where there was one, and the next command."""
    manifest = result.manifest
    compared = plan_and_truth(config, result)
    size = f"{manifest['draws']} draws in {len(manifest['shards'])} shards, {manifest['bytes'] / 2**20:.1f} MiB"
    lines = [
        f"cache  {config.out}  ({size})",
        f"spent  {result.teacher_cpu_s:.1f} CPU-seconds of the teacher on {result.draws_made} new draws",
        f"tables {quoted(storage.join(config.out, SHARDS))}  (Parquet: pandas, polars and DuckDB read this folder, not its parent)",
        f"next   {command(*JOB, 'jobs.train', '--preset', config.preset, '--cache', config.out, '--out', 'runs/student')}",
    ]
    return "\n".join([f"{compared}\n", *lines] if compared else lines)


def plan_and_truth(config: CacheConfig, result: CacheResult) -> str:
    """Return a table of the forecast and the measured result, "" where this cache had no forecast."""
    folder, repair = Written(config.out, CACHE, files=storage.FILES), "delete it, or plan again"
    try:
        saved = folder.read_json(PLAN_FILE, dict[str, Any], repair)
        plan = None if saved is None else built(saved, CachePlan, folder.path(PLAN_FILE), repair)
    except InputError as error:  # the cache itself is finished
        print(f"note: {error}", file=sys.stderr)
        return ""
    if plan is None:
        return ""
    manifest = result.manifest
    if (plan.recipe, plan.draws) != (manifest["recipe"], manifest["draws"]):
        return ""
    columns = manifest["column_bytes"]
    truth = {"bytes": manifest["bytes"], **columns, "footer": manifest["bytes"] - sum(columns.values())}
    planned = {"bytes": plan.bytes, **{name: size for name, size in plan.column_bytes.items() if name in truth}}
    rows = [
        [name, amount(planned[name]), amount(truth[name]), _deviation(planned[name], truth[name])] for name in planned
    ]
    if result.draws_made == plan.draws:
        cpu_s = result.teacher_cpu_s
        rows.append(
            ["teacher CPU", duration(plan.teacher_cpu_s), duration(cpu_s), _deviation(plan.teacher_cpu_s, cpu_s)]
        )
    return table(["", "planned", "true", "deviation"], rows)


def _deviation(planned: float, true: float) -> str:
    return f"{100 * (planned - true) / true:+.1f} %" if true else "-"


def amount(size: float) -> str:
    """Return a number of bytes with its unit."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} TiB"


def duration(seconds: float) -> str:
    """Return a number of seconds with its unit."""
    if seconds < 120:
        return f"{seconds:.1f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.1f} min" if minutes < 120 else f"{hours:.1f} h" if hours < 72 else f"{hours / 24:.1f} days"
