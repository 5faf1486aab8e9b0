"""The manifest: the list that makes a cache complete, what it was made from, and a digest of itself.

Written last and whole. `identity` is everything that decides the bytes; `recipe` is its fingerprint without the number of draws, and stands
in every shard; `fingerprint` is that of the whole cache, which trainings and searches name.
"""

from __future__ import annotations

import hashlib
import json
import sys
from typing import Any

from pipelines import schema, storage
from pipelines.plan import index_videos, recipe_of
from vos.config import DataConfig
from vos.config_json import dumps, fingerprint, from_dict
from vos.contents import same_videos
from vos.datasets import Video
from vos.errors import InputError

DIGEST = "sha256"


def write_manifest(
    folder: str, identity: dict[str, Any], data: dict[str, Any], teacher: dict[str, Any], receipts: list[dict[str, Any]]
) -> dict[str, Any]:
    """Make the cache complete: `receipts` of all shards in order, `data` where the videos were."""
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
    text = sealed(manifest)
    storage.write_bytes(storage.join(folder, schema.MANIFEST), text)
    return json.loads(text)


def sealed(manifest: dict[str, Any]) -> bytes:
    """The text of a manifest, with its own digest in it."""
    return dumps(manifest | {DIGEST: _digest(manifest)}).encode()


def read_manifest(folder: str) -> dict[str, Any]:
    """The manifest of a finished cache. Raises InputError when it is absent, changed by a single byte, or of another version."""
    path = storage.join(folder, schema.MANIFEST)
    try:
        text = storage.read_bytes(path)
    except FileNotFoundError:
        raise InputError(
            f"{path}: this teacher cache is absent or unfinished; build or resume it: python -m jobs.cache --out {folder}"
        ) from None
    try:
        manifest = json.loads(text)
        version = manifest.get("schema_version") or manifest["identity"]["schema_version"]
    except (ValueError, KeyError, TypeError, AttributeError):
        manifest, version = {}, schema.VERSION
    if isinstance(version, int) and version > schema.VERSION:
        raise InputError(
            f"{path}: schema version {version} is newer than this program, which reads {schema.VERSION}; update the program"
        )
    if version != schema.VERSION:
        raise InputError(
            f"{path}: schema version {version}, this program reads {schema.VERSION}; make the cache again with this version"
        )
    # The text must be the one that was written, not only mean the same: then no byte of it has changed.
    if manifest.get(DIGEST) != _digest(manifest) or dumps(manifest).encode() != text:
        raise InputError(
            f"{path}: not a cache manifest, or damaged (its checksum does not match); "
            "run jobs.cache again with the same flags: finished shards are kept"
        )
    return manifest


def _digest(manifest: dict[str, Any]) -> str:
    content = {name: value for name, value in manifest.items() if name != DIGEST}
    return hashlib.sha256(dumps(content).encode()).hexdigest()


def data_of_cache(folder: str, manifest: dict[str, Any], data: DataConfig) -> tuple[DataConfig, list[Video]]:
    """The data set that a cache was made from, and its videos: `data` if it is that one, else what the manifest names.

    So no --data flag has to be repeated after jobs.cache, and one is enough where the videos have moved.
    Raises InputError when neither holds those videos.
    """
    recorded = from_dict(DataConfig, manifest["data"], DataConfig(), f"{folder}/{schema.MANIFEST}")
    for candidate in (data, recorded):
        try:
            videos = index_videos(candidate, "train")
        except InputError:
            if candidate is recorded:
                raise
            continue
        if same_videos(videos, manifest["identity"]["data"]):
            if candidate is recorded and data.root:
                print(f"note: {folder} was not made from {data.root}: its own videos are used", file=sys.stderr)
            return candidate, videos
    raise InputError(
        f"{folder}: the videos in {recorded.root or 'the synthetic data set'} are no longer those that this cache was made from; "
        "give --data.root of the unchanged ones, or make the cache again"
    )
