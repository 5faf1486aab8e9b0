"""Write and read the manifest: the list that makes a cache complete, what it was made from, and its own digest.

It is written last, in one piece. `identity` is everything that decides the bytes. `recipe` is the identity's fingerprint without the
number of draws; every shard records it. `fingerprint` is that of the whole cache, which trainings and searches record.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import sys
from collections.abc import Sequence
from typing import Any, Literal, NotRequired, TypedDict, cast

from pipelines import storage
from pipelines.cache import schema
from pipelines.cache.plan import ShardPlan, recipe_of
from pipelines.runtime.sources import SourceDraws
from pipelines.runtime.videos import index_videos
from vos.config import ClipConfig, DataConfig
from vos.config.as_json import from_dict
from vos.data.contents import same_videos
from vos.data.videos import Video
from vos.errors import InputError
from vos.files.canonical import dumps, fingerprint
from vos.files.json_files import checked, parse_json
from vos.files.limits import check_limit
from vos.printed import JOB, command

DIGEST = "sha256"
RUN_AGAIN = "run jobs.cache again with the same flags"


def write_manifest(
    folder: str,
    identity: dict[str, Any],
    data: dict[str, Any],
    teacher: dict[str, Any],
    receipts: list[dict[str, Any]],
    sources: Sequence[SourceDraws] = (),
) -> dict[str, Any]:
    """Write and return the manifest, which makes the cache complete.

    data      where the videos were
    receipts  of all shards, in order
    sources   of a mixture, with their draws; the manifest of a single data set has no such entry
    """
    columns: dict[str, int] = {}
    for receipt in receipts:
        for name, size in receipt["columns"].items():
            columns[name] = columns.get(name, 0) + size
    rows = sum(receipt["rows"] for receipt in receipts)
    manifest = {
        "schema_version": schema.VERSION,
        "fingerprint": fingerprint(identity),
        "recipe": recipe_of(identity),
        "identity": identity,
        "data": data,
        "teacher": teacher,
        "draws": rows,
        "bytes": sum(receipt["bytes"] for receipt in receipts),
        "column_bytes": columns,
        "quantisation": {
            "factor_error_mean": sum(receipt["factor_error_mean"] * receipt["rows"] for receipt in receipts) / rows,
            "factor_error_max": max(receipt["factor_error_max"] for receipt in receipts),
            "logit_error_max": max(receipt["logit_error_max"] for receipt in receipts),
        },
        "shards": [{name: value for name, value in receipt.items() if name != "columns"} for receipt in receipts],
    }
    if sources:
        manifest["sources"] = list(sources)
    text = sealed(manifest)
    path = storage.join(folder, schema.MANIFEST)
    storage.write_bytes(path, text)
    return parse_json(text, path, RUN_AGAIN)


def sealed(manifest: dict[str, Any]) -> bytes:
    """Return the text of a manifest, with its digest included."""
    return dumps(manifest | {DIGEST: _digest(manifest)}).encode()


def read_manifest(folder: str) -> dict[str, Any]:
    """Return the manifest of a finished cache. Raises InputError when it is absent, of another version, or any byte has changed."""
    path = storage.join(folder, schema.MANIFEST)
    try:
        text = storage.read_bytes(path)
    except FileNotFoundError:
        raise InputError(
            f"{path}: this teacher cache is absent or unfinished; build or resume it: "
            + command(*JOB, "jobs.cache", "--out", folder)
        ) from None
    manifest: Any = None
    with contextlib.suppress(InputError):
        manifest = parse_json(text, path, RUN_AGAIN)
    manifest = manifest if isinstance(manifest, dict) else {}
    inner = manifest.get("identity")
    version = manifest.get("schema_version") or (inner.get("schema_version") if isinstance(inner, dict) else None)
    version = schema.VERSION if version is None else version
    if isinstance(version, int) and version > schema.VERSION:
        raise InputError(
            f"{path}: schema version {version} is newer than this program, which reads {schema.VERSION}; update the program"
        )
    if version != schema.VERSION:
        raise InputError(
            f"{path}: schema version {version}, this program reads {schema.VERSION}; rebuild the cache with this version"
        )
    # The text itself is compared, not only its content, so that no byte can have changed.
    if manifest.get(DIGEST) != _digest(manifest) or dumps(manifest).encode() != text:
        raise InputError(
            f"{path}: not a cache manifest, or damaged (its checksum does not match); "
            f"{RUN_AGAIN}: finished shards are kept"
        )
    # The digest proves that nothing changed, not who wrote it.
    _check_content(checked(manifest, _Manifest, path, RUN_AGAIN), path)
    return manifest


class _Shard(TypedDict):
    number: int
    file: str
    first_draw: int
    rows: int
    bytes: int
    sha256: str


class _Identity(TypedDict):
    schema_version: int
    data: str
    draws: int
    seed: int
    clip: dict[str, Any]
    shapes: dict[str, int | str]
    teacher: dict[str, Any]
    logits: Literal["none", "int8", "fp16"]
    frames: Literal["replay", "store"]


class _Manifest(TypedDict):
    """The entries that readers of a manifest use; it holds more."""

    schema_version: int
    fingerprint: str
    recipe: str
    identity: _Identity
    data: dict[str, Any]
    teacher: dict[str, Any]
    draws: int
    bytes: int
    column_bytes: dict[str, int]
    quantisation: dict[str, float]
    shards: list[_Shard]
    sources: NotRequired[list[SourceDraws]]


def _check_content(manifest: _Manifest, path: str) -> None:
    """Raise InputError for a manifest whose parts do not agree, or whose shards do not cover every draw once."""
    identity, shards = cast("dict[str, Any]", manifest["identity"]), manifest["shards"]
    problem, first = "", 0
    if manifest["fingerprint"] != fingerprint(identity) or manifest["recipe"] != recipe_of(identity):
        problem = "its fingerprint belongs to another identity"
    for number, shard in enumerate(shards):
        plan = ShardPlan(number, first, shard["rows"])
        if (shard["file"], shard["first_draw"], shard["number"]) != (plan.file_name, first, number) or shard[
            "rows"
        ] < 1:
            problem = f"shard {number} is not '{plan.file_name}' with draws from {first}"
            break
        if shard["bytes"] < 1 or not re.fullmatch(r"[0-9a-f]{64}", shard["sha256"]):
            problem = f"the size or digest of {plan.file_name} is not valid"
            break
        first += shard["rows"]
    if not problem and not first == identity["draws"] == manifest["draws"] > 0:
        problem = f"its shards hold {first} draws instead of {identity['draws']}"
    sources = manifest.get("sources", [])
    if sources and (first != sum(one["draws"] for one in sources) or min(one["videos"] for one in sources) < 1):
        problem = problem or f"the draws of its sources are not the {first} in its shards"
    if problem:
        raise InputError(f"{path}: {problem}; {RUN_AGAIN}")
    shapes_of({"identity": identity}, path)


def shapes_of(manifest: dict[str, Any], path: str) -> schema.Shapes:
    """Return the shapes of a cache's columns. Raises InputError, naming `path`, where they do not fit its clips."""
    identity = manifest["identity"]
    clip = from_dict(ClipConfig, identity["clip"], ClipConfig(), path)
    found = checked(identity["shapes"], _Shapes, path, RUN_AGAIN)
    shapes = schema.Shapes(**{name: found[name] for name in _Shapes.__annotations__})
    cells = shapes.grid**2
    if (
        (shapes.queries, shapes.objects, shapes.grid)
        != (clip.num_frames - 1, clip.max_objects, clip.crop_px // schema.GRID_STRIDE)
        or not 2 <= shapes.samples <= cells
        or not 1 <= shapes.rank <= shapes.samples
        or shapes.logits != identity["logits"]
    ):
        raise InputError(f"{path}: its shapes do not fit its clips; {RUN_AGAIN}")
    check_limit("shard_bytes", shapes.queries * (shapes.rank * shapes.samples + shapes.objects * cells) * 4, path)
    return shapes


class _Shapes(TypedDict):
    queries: int
    samples: int
    rank: int
    objects: int
    grid: int
    factor: Literal["int8", "fp16", "fp32"]
    logits: Literal["none", "int8", "fp16"]


def shard_path(folder: str, file: str) -> str:
    """Return a shard's path. Raises InputError where it, or the folder of the shards, is a link out of the cache."""
    path = storage.join(folder, "shards", file)
    if not storage.is_uri(path):
        root = os.path.realpath(folder)
        if os.path.realpath(path) != os.path.join(root, "shards", file):
            raise InputError(f"{path}: is a link to another place; copy the cache with the linked files")
    return path


def _digest(manifest: dict[str, Any]) -> str:
    content = {name: value for name, value in manifest.items() if name != DIGEST}
    return hashlib.sha256(dumps(content).encode()).hexdigest()


def data_of_cache(folder: str, manifest: dict[str, Any], data: DataConfig) -> tuple[DataConfig, list[Video]]:
    """Return the data set that a cache was made from, and its videos.

    This is `data` if it holds those videos, else the data set in the manifest. So no --data flag is repeated after jobs.cache; where the
    videos have moved, --data.root is enough. Raises InputError when neither holds those videos.
    """
    recorded = from_dict(DataConfig, manifest["data"], DataConfig(), f"{folder}/{schema.MANIFEST}")
    given = " ".join(data.sources) or data.root
    for candidate in (data, recorded):
        if candidate is recorded and data.fold and _learnt_from(data) != _learnt_from(recorded):
            raise InputError(
                f"--data.fold {data.fold}: {folder} was made from {_learnt_from(recorded)}, not from {_learnt_from(data)}; "
                "leave it out, or build a cache with it"
            )
        try:
            videos = index_videos(candidate, "train")
        except InputError:
            if candidate is recorded:
                raise
            continue
        if same_videos(videos, manifest["identity"]["data"]):
            if candidate is recorded and given not in ("", recorded.root, " ".join(recorded.sources)):
                print(
                    f"note: {folder} was not made from {given}; the videos recorded in the cache are used",
                    file=sys.stderr,
                )
            return candidate, videos
    place = " ".join(recorded.sources) or recorded.root or "the synthetic data set"
    raise InputError(
        f"{folder}: the videos in {place} are no longer those that this cache was made from; "
        f"give --data.{'sources' if recorded.sources else 'root'} of the unchanged ones, or rebuild the cache"
    )


def _learnt_from(data: DataConfig) -> str:
    return f"all but fold {data.fold} of {data.fold_videos} videos" if data.fold else "all training videos"
