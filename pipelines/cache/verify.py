"""Verify a finished cache: every byte of every file, every row, and a few rows by running the teacher again."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import torch

from pipelines import storage
from pipelines.cache import schema
from pipelines.cache.build import CACHE
from pipelines.cache.manifest import RUN_AGAIN, data_of_cache, read_manifest, shapes_of, shard_path
from pipelines.cache.row_checks import ADVICE, check_clip, check_row
from pipelines.cache.teacher import Teacher
from pipelines.runtime.models import load_model, weights_digest
from pipelines.runtime.output_folder import CONFIG, existing
from pipelines.runtime.progress import progress_bar
from vos.config import CacheConfig
from vos.config.as_json import from_dict
from vos.data.clips import checksum, decode_clip
from vos.data.videos import Video
from vos.distillation.representation import relative_correlation_error
from vos.errors import InputError


@dataclass(frozen=True)
class Recomputed:
    """A stored row compared with the teacher's current outputs."""

    draw: int
    correlation_error: float
    """largest over the query frames, ‖C - Ĉ‖ / ‖C‖ between the stored factor and the recomputed exact one"""
    logit_error: float
    problem: str


def verify_cache(config: CacheConfig) -> str:
    """Check the cache in --out; returns the report, one finding a line.

    Raises InputError, naming every damaged file, where a check fails, and when the cache is absent or unfinished.
    """
    manifest = read_manifest(config.out)
    lines = [f"ok      {schema.MANIFEST}: {manifest['draws']} draws, fingerprint {manifest['fingerprint'][:12]}"]
    problems: list[str] = []
    with progress_bar("verify", manifest["draws"], "draw") as bar:
        for entry in manifest["shards"]:
            path = shard_path(config.out, entry["file"])
            if problem := shard_problem(path, entry, manifest):
                problems.append(f"{path}: {problem}")
            bar.update(entry["rows"])
    intact = len(manifest["shards"]) - len(problems)
    lines.append(
        f"{'ok    ' if not problems else 'FAILED'}  {intact} of {len(manifest['shards'])} shards: checksums, schema, rows"
    )
    if config.verify_rows and not problems:
        for row in _recompute(config, manifest):
            verdict = "FAILED" if row.problem else "ok    "
            lines.append(
                f"{verdict}  draw {row.draw} recomputed: correlations differ by {100 * row.correlation_error:.2f} %, "
                f"logits by {row.logit_error:.3f} {row.problem}".rstrip()
            )
            problems += [f"draw {row.draw}: {row.problem}"] if row.problem else []
    text = "\n".join(lines)
    if problems:
        print(text)
        raise InputError(
            f"{config.out}: {len(problems)} problems: {'; '.join(problems)}; run jobs.cache again with the same flags to repair it"
        )
    return text


def shard_problem(path: str, entry: dict[str, Any], manifest: dict[str, Any]) -> str:
    """Return what is wrong with one shard, "" when nothing is. Checks its bytes, columns, draws and rows."""
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError:
        return "missing"
    shapes = shapes_of(manifest, schema.MANIFEST)
    if damage := schema.damage_of(data, shapes):
        return f"damaged ({damage})"
    if hashlib.sha256(data).hexdigest() != entry["sha256"]:
        return "intact, but not the file that the manifest lists"
    try:
        rows = schema.read_rows(pa.BufferReader(data), [])
    except schema.READ_ERRORS as error:
        return f"damaged ({' '.join(str(error).split())})"
    wanted_draws = list(range(entry["first_draw"], entry["first_draw"] + entry["rows"]))
    if [row["draw"] for row in rows] != wanted_draws:
        return f"draws {[row['draw'] for row in rows]} instead of {wanted_draws[0]} to {wanted_draws[-1]}"
    return next((problem for row in rows if (problem := _row_problem(row, shapes))), "")


def _row_problem(row: dict[str, Any], shapes: schema.Shapes) -> str:
    origin = f"draw {row['draw']}"
    try:
        draw = check_row(row, shapes, origin)
        if "frames" in row:
            clip = decode_clip(row["frames"], row["labels"], origin)
            check_clip(clip, draw, shapes, origin)
            if checksum(clip) != row["clip_crc32"]:
                return f"{origin}: its stored frames are not the clip that the teacher saw"
    except InputError as error:
        return str(error).removesuffix(f"; {ADVICE}")
    if not all(len(np.unique(one)) == shapes.samples for one in row["sample_index"]):
        return f"{origin}: a cell is sampled twice"
    return ""


def _recompute(config: CacheConfig, manifest: dict[str, Any]) -> Iterator[Recomputed]:
    """Yield a few random rows, recomputed by the teacher and compared."""
    made, videos = made_by(config, manifest)
    exact = replace(made, factor=replace(made.factor, rank=0, dtype="fp32"))
    teacher = teacher_of(
        exact, videos, manifest, "name it with --teacher.checkpoint, or skip the rows with --verify-rows 0"
    )
    rows = min(config.verify_rows, manifest["draws"])
    for number in sorted(np.random.default_rng(config.seed).choice(manifest["draws"], rows, replace=False).tolist()):
        entry = next(one for one in reversed(manifest["shards"]) if one["first_draw"] <= number)
        path = shard_path(config.out, entry["file"])
        stored = schema.read_rows(pa.BufferReader(storage.read_bytes(path)), [])[number - entry["first_draw"]]
        yield _compared(stored, teacher.row(teacher.work(number)))


def teacher_of(config: CacheConfig, videos: list[Video], manifest: dict[str, Any], remedy: str) -> Teacher:
    """Return the teacher of a finished cache, set up by `config`. Raises InputError, with `remedy`, where its checkpoint holds another."""
    model, _ = load_model(config.teacher.checkpoint)
    if weights_digest(model) != manifest["identity"]["teacher"]["weights"]:
        raise InputError(f"{config.teacher.checkpoint}: not the teacher of {config.out}; {remedy}")
    shapes = schema.Shapes.of(config, model.decoder.pred.in_channels)
    return Teacher(config, videos, shapes, manifest["recipe"])


def made_by(config: CacheConfig, manifest: dict[str, Any]) -> tuple[CacheConfig, list[Video]]:
    """Return the cache's configuration, with --data.root and --teacher.checkpoint replaced where given, and its videos."""
    path, repair = storage.join(config.out, CONFIG), RUN_AGAIN
    saved = existing(config.out, CACHE).read_json(CONFIG, dict[str, Any], repair)
    if saved is None:
        raise InputError(f"{path}: does not exist; {repair}")
    made = from_dict(CacheConfig, saved, CacheConfig(), path)
    data, videos = data_of_cache(config.out, manifest, config.data)
    checkpoint = config.teacher.checkpoint
    teacher = replace(
        made.teacher,
        checkpoint=checkpoint if checkpoint != CacheConfig().teacher.checkpoint else made.teacher.checkpoint,
    )
    return replace(made, out=config.out, data=data, teacher=teacher), videos


def _compared(stored: dict[str, Any], today: dict[str, Any]) -> Recomputed:
    pairs = zip(schema.factor_of(today), schema.factor_of(stored), strict=True)
    # The exact factor's rows have unit length, so as features they have the same correlations.
    errors = [
        relative_correlation_error(torch.from_numpy(a), torch.from_numpy(b)) if a.any() else 0.0 for a, b in pairs
    ]
    logits = np.abs(schema.logits_of(today) - schema.logits_of(stored)).max(initial=0.0)
    problem = ""
    if today["clip_crc32"] != stored["clip_crc32"]:
        problem = "the videos' frames are not those that the teacher saw"
    elif not np.array_equal(today["sample_index"], stored["sample_index"]):
        problem = "other pixels are sampled"
    elif max(errors) > stored["factor_error"].max() + 0.01 or logits > 0.1:
        problem = "the teacher's outputs have changed"
    return Recomputed(stored["draw"], max(errors), float(logits), problem)
