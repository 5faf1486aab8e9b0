"""Build a teacher cache: plan -> teacher -> shards -> manifest. The teacher runs once, on Ray Data actors, and its outputs are stored.

One row of the Ray data set is one planned shard. An actor loads the teacher once, turns the shard's draws into rows and writes the whole
file (temporary name, fsync, rename); it returns only a small receipt. So a shard's bytes depend only on the plan, a killed job loses
only its unfinished shards, and a second run makes only the missing ones. The manifest, written last, makes the cache complete.
"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pipelines import storage, tracking
from pipelines.cache import schema
from pipelines.cache.manifest import read_manifest, write_manifest
from pipelines.cache.plan import ShardPlan, cache_identity, plan_shards, recipe_of
from pipelines.cache.teacher import Teacher, receipt, shard_metadata
from pipelines.runtime.actors import run_on_actors
from pipelines.runtime.models import load_model, weights_digest
from pipelines.runtime.output_folder import CONFIG, NOTHING, identity_of, mark, output_folder
from pipelines.runtime.progress import progress_bar
from pipelines.runtime.session import ray_session
from pipelines.runtime.sources import announce_sources, draws_of_sources, log_sources, source_metrics
from pipelines.runtime.videos import announce_check, index_videos, log_cache, log_videos
from vos.config import CacheConfig, fields
from vos.data.videos import Video
from vos.errors import InputError
from vos.files.canonical import differences, dumps, fingerprint, to_dict
from vos.files.written import WHATEVER, Written
from vos.stopping import keeping

CACHE, SHARDS = "cache", "shards"


@dataclass(frozen=True)
class CacheResult:
    """A finished cache, and the work that this run did."""

    fingerprint: str
    manifest: dict[str, Any]
    draws_made: int
    teacher_cpu_s: float
    """CPU seconds of the teacher actors in this run"""


@dataclass(frozen=True)
class Blueprint:
    """Everything that is known about a cache before a frame is decoded."""

    videos: list[Video]
    teacher: dict[str, Any]
    shapes: schema.Shapes
    identity: dict[str, Any]
    plans: list[ShardPlan]

    @property
    def recipe(self) -> str:
        return recipe_of(self.identity)


def blueprint(config: CacheConfig) -> Blueprint:
    """Index the videos, load the teacher and plan the shards. Raises InputError where the videos or the teacher cannot be used."""
    videos = index_videos(config.data, "train")
    model, info = load_model(config.teacher.checkpoint)
    shapes = schema.Shapes.of(config, model.decoder.pred.in_channels)
    teacher = {"model": info["model"], "weights": weights_digest(model)}
    identity = cache_identity(config, videos, teacher, dataclasses.asdict(shapes))
    # Converted to JSON and back, since it is compared with a file's content, in which tuples are lists.
    return Blueprint(videos, info, shapes, json.loads(dumps(identity)), plan_shards(config.draws, config.shard_draws))


def build_cache(config: CacheConfig) -> CacheResult:
    """Build a cache, resume an interrupted one, or extend one.

    Raises InputError for bad input and for a folder that holds another cache.
    """
    plan = blueprint(config)
    with output_folder(config, CACHE) as owned:
        _claim_folder(owned, config, plan.identity)
        folder = os.path.dirname(owned.path(f"{SHARDS}/-"))
        storage.make_folder(folder)
        _tidy(folder, plan.plans)
        receipts = {
            one.number: found for one in plan.plans if (found := _finished(folder, one, plan.recipe, plan.shapes))
        }
        missing = [one for one in plan.plans if one.number not in receipts]
        digest = fingerprint(plan.identity)
        if not missing and (manifest := _intact_manifest(config.out, digest)):
            return CacheResult(digest, manifest, 0, 0.0)
        sources = draws_of_sources(plan.videos, config.seed, config.draws)
        if missing:
            announce_check(config.data, plan.identity["data"])
        announce_sources(sources)
        _take_over(owned, missing)
        made, cpu_s = sum(one.num_draws for one in missing), 0.0
        with (
            keeping(lambda: _kept(folder, plan)),
            tracking.start_run("cache", f"cache-{digest[:8]}", config, {"cache.fingerprint": digest}) as run,
        ):
            began = time.monotonic()
            if missing:
                for done in _run_teacher(config, plan, missing):
                    receipts[done["receipt"]["number"]] = done["receipt"]
                    cpu_s += done["cpu_s"]
            ordered = [receipts[one.number] for one in plan.plans]
            manifest = write_manifest(config.out, plan.identity, to_dict(config.data), plan.teacher, ordered, sources)
            size = manifest["bytes"]
            run.log_metrics(
                {
                    "cache/draws": config.draws,
                    "cache/mib": size / 2**20,
                    "cache/kib_per_draw": size / 1024 / config.draws,
                    "cache/teacher_cpu_s": cpu_s,
                    "cache/wall_s": time.monotonic() - began,
                    **{f"cache/{name}": value for name, value in manifest["quantisation"].items()},
                    **source_metrics(sources),
                }
            )
            run.log_dict(manifest, schema.MANIFEST)
            log_videos(run, config.data, "train", plan.videos, "teacher")
            log_sources(run, config.data, "train", plan.videos, "teacher")
            log_cache(run, config.out, manifest, "made")
    return CacheResult(digest, manifest, made, cpu_s)


def _kept(folder: str, plan: Blueprint) -> str:
    """Return what a stopped job keeps."""
    made = len({one.file_name for one in plan.plans}.intersection(storage.list_names(folder)))
    return f"{made} of {len(plan.plans)} shards are kept in {folder}; run the same command again to continue"


def _claim_folder(folder: Written, config: CacheConfig, identity: dict[str, Any]) -> None:
    """Mark the folder before any work. Raises InputError where it holds a cache of another configuration."""
    old = identity_of(folder)
    if config.extend and old in (None, NOTHING):
        raise InputError(f"{config.out}: no cache to extend; omit --extend to build one")
    if old not in (None, NOTHING, identity) and not config.overwrite:
        changed = differences(old, identity)
        draws = old.get("draws")
        grown = set(old) == set(identity) and recipe_of(old) == recipe_of(identity) and isinstance(draws, int)
        grown = grown and draws < identity["draws"]
        if grown and not config.extend:
            raise InputError(
                f"{config.out}: holds a cache of {draws} draws; add --extend to extend it to {config.draws}"
            )
        if not grown:
            raise InputError(
                f"{config.out}: holds a cache of another configuration ({'; '.join(changed)}); choose another --out or delete it"
            )
    mark(folder, identity)
    # Without settings that may differ between runs, so that the same cache has the same files.
    folder.write_json(CONFIG, _lasting(config))


def _take_over(folder: Written, missing: list[ShardPlan]) -> None:
    """Record the manifest and the missing shards as this job's files. Raises InputError where unrelated files have their names."""
    names = [schema.MANIFEST, *(f"{SHARDS}/{one.file_name}" for one in missing)]
    folder.check(name for name in names if not folder.knows(name))
    folder.record(dict.fromkeys(names, WHATEVER))


def _lasting(config: CacheConfig) -> dict[str, Any]:
    values = fields.identity(config)
    teacher = {**values["teacher"], "checkpoint": config.teacher.checkpoint}
    return {**values, "preset": config.preset, "data": to_dict(config.data), "teacher": teacher}


def _tidy(folder: str, plans: list[ShardPlan]) -> None:
    """Remove the temporary files of killed writers; list unrelated files without touching them."""
    ours = {plan.file_name for plan in plans}
    unrelated = []
    for name in storage.list_names(folder):
        if re.fullmatch(r"shard-\d{6}\.parquet\.[0-9a-f]{32}\.tmp", name):
            storage.remove(storage.join(folder, name))
        elif name not in ours:
            unrelated.append(name)
    if unrelated:
        listed = ", ".join(unrelated[:5]) + (" …" if len(unrelated) > 5 else "")
        print(f"note: {folder}: unrelated files, not touched: {listed}", file=sys.stderr)


def _finished(folder: str, plan: ShardPlan, recipe: str, shapes: schema.Shapes) -> dict[str, Any] | None:
    """Return the receipt of a shard that an earlier run finished, None when it is absent, damaged or of another cache."""
    path = storage.join(folder, plan.file_name)
    try:
        data = storage.read_bytes(path)
    except FileNotFoundError:
        return None
    damage = schema.damage_of(data, shapes)
    if (
        not damage
        and schema.metadata_of(data) == shard_metadata(plan, recipe)
        and schema.num_rows(data) == plan.num_draws
    ):
        return receipt(plan, data)
    if damage:
        print(f"note: {path}: damaged ({damage}), rebuilt", file=sys.stderr)
    return None


def _intact_manifest(folder: str, digest: str) -> dict[str, Any] | None:
    try:
        manifest = read_manifest(folder)
    except InputError:
        return None
    return manifest if manifest["fingerprint"] == digest else None


def _run_teacher(config: CacheConfig, plan: Blueprint, missing: list[ShardPlan]) -> Iterator[dict[str, Any]]:
    """Yield the actors' answers for the missing shards, as they finish."""
    done = config.draws - sum(one.num_draws for one in missing)
    made_bytes = made_draws = 0
    with ray_session(num_cpus=2 * config.actors + 2), progress_bar("teacher", config.draws, "draw", done) as bar:
        arguments = {"config": config, "videos": plan.videos, "shapes": plan.shapes, "recipe": plan.recipe}
        items = [dataclasses.asdict(one) for one in missing]
        try:
            for answer in run_on_actors(items, Teacher, arguments, config.actors, config.teacher.gpus):
                made_bytes += answer["receipt"]["bytes"]
                made_draws += answer["receipt"]["rows"]
                bar.update(answer["receipt"]["rows"])
                yield answer
        except InputError as error:
            if os.strerror(errno.ENOSPC).lower() not in str(error):
                raise
            left = config.draws - done - made_draws
            needed = f"about {left * made_bytes / made_draws / 2**20:.0f} MiB" if made_draws else "some space"
            raise InputError(
                f"{config.out}: the disk is full: the {left} remaining draws need {needed} more; "
                f"finished shards stay valid: free space and run the same command again ({error})"
            ) from error
