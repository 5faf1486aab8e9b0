"""Teacher caches: the manifest and the shards, as a training and `jobs.cache --verify` read them."""

from __future__ import annotations

import hashlib
import io
import json
import zlib
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.cache import schema
from pipelines.cache.build import blueprint
from pipelines.cache.manifest import read_manifest, write_manifest
from pipelines.cache.plan import plan_shards
from pipelines.cache.read import CachedClips
from pipelines.cache.teacher import Teacher
from pipelines.cache.verify import verify_cache
from tests.fuzz import parquet_files
from tests.fuzz.byte_mutations import any_bytes
from tests.fuzz.cases import Files, NotTellableError, Reader
from tests.fuzz.json_mutations import json_changes
from vos.config import CacheConfig, ClipConfig, DataConfig, FactorConfig
from vos.data.clips import checksum
from vos.files.canonical import to_dict

DATA = DataConfig(kind="synthetic", synthetic_videos=2, synthetic_frames=6, synthetic_height_px=48)
CONFIG = CacheConfig(
    draws=3,
    shard_draws=2,
    clip=ClipConfig(crop_px=32, max_skip_frames=2, max_objects=2, num_frames=3),
    samples=16,
    factor=FactorConfig(rank=4),
    data=DATA,
)
GRID, CELLS, QUERIES, SAMPLES, RANK, OBJECTS = 8, 64, 2, 16, 4, 2
TENSORS: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "sample_index": (np.uint16, (QUERIES, SAMPLES)),
    "sample_label": (np.uint8, (QUERIES, SAMPLES)),
    "factor": (np.int8, (QUERIES, RANK, SAMPLES)),
    "factor_scale": (np.float32, (QUERIES,)),
    "factor_error": (np.float32, (QUERIES,)),
    "logits": (np.int8, (QUERIES, OBJECTS, GRID, GRID)),
    "logit_scale": (np.float32, (QUERIES, OBJECTS)),
    "logit_error": (np.float32, (QUERIES,)),
    "boundary": (np.uint8, (QUERIES, CELLS // 8)),
}


def cache_samples(folder: Path) -> dict[str, Files]:
    """A cache whose clips are replayed, and one that stores them: by the real writer, without Ray."""
    found: dict[str, Files] = {}
    for frames in ("replay", "store"):
        config = replace(CONFIG, frames=frames, out=str(folder / frames))
        plan = blueprint(config)
        teacher = Teacher(config, plan.videos, plan.shapes, plan.recipe)
        receipts = [teacher(asdict(one))["receipt"] for one in plan_shards(config.draws, config.shard_draws)]
        write_manifest(config.out, plan.identity, to_dict(DATA), plan.teacher, receipts)
        places = sorted(path for path in Path(config.out).rglob("*") if path.is_file())
        found[frames] = {str(path.relative_to(config.out)): path.read_bytes() for path in places}
    return found


def read_cache(folder: Path) -> dict[str, Any]:
    """Every draw: its clip's checksum and its targets."""
    clips = CachedClips(str(folder), DATA)
    numbers = list(range(clips.num_draws))
    pairs = [clips.row_and_clip(number) for number in numbers]
    batch = clips.batch(numbers)
    targets = batch.targets
    assert targets is not None
    return {
        "crc": [checksum(clip) for _, clip in pairs],
        "draws": [row["draw"] for row, _ in pairs],
        "num_objects": batch.num_objects.tolist(),
        **{name: np.asarray(part) for name, part in targets._asdict().items()},
    }


def verify(folder: Path) -> str:
    verify_cache(replace(CacheConfig(), out=str(folder), verify_rows=0))
    return "intact"


def targets_by_others(folder: Path) -> dict[str, Any]:
    """By pyarrow and the documents alone. Raises for whatever breaks the documented rules."""
    rows = _lawful(folder)

    def stacked(name: str) -> np.ndarray:
        return np.stack([np.asarray(row[name]) for row in rows])

    factor = stacked("factor").astype(np.float32) * stacked("factor_scale")[:, :, None, None]
    logits = stacked("logits").astype(np.float32) * stacked("logit_scale")[:, :, :, None, None]
    return {
        "crc": [row["clip_crc32"] for row in rows],
        "draws": [row["draw"] for row in rows],
        "num_objects": [row["num_objects"] for row in rows],
        "sample_index": stacked("sample_index").astype(np.int64),
        "sample_label": stacked("sample_label").astype(np.int64),
        "factor": np.ascontiguousarray(factor.transpose(0, 1, 3, 2)),
        "object_logits": logits,
        "boundary": np.unpackbits(stacked("boundary"), axis=-1).reshape(-1, QUERIES, GRID, GRID).astype(np.float32),
    }


def _lawful(folder: Path) -> list[dict[str, Any]]:
    """The rows of a cache that keeps every documented rule. Raises AssertionError or what parsing raises."""
    manifest = manifest_by_others(folder)
    identity = manifest["identity"]
    rows: list[dict[str, Any]] = []
    for number, entry in enumerate(manifest["shards"]):
        assert entry["number"] == number and entry["file"] == f"shard-{number:06d}.parquet"
        data = (folder / "shards" / entry["file"]).read_bytes()
        assert entry["sha256"] == hashlib.sha256(data).hexdigest() and entry["bytes"] == len(data), (
            "not the listed file"
        )
        with pq.ParquetFile(io.BytesIO(data), page_checksum_verification=True) as file:
            assert file.metadata.num_row_groups == file.metadata.num_rows, "more than a row in a group"
            table = file.read()
        footer = pq.read_metadata(io.BytesIO(data)).metadata or {}
        assert footer[b"recipe"].decode() == manifest["recipe"] and footer[b"schema_version"] == b"2", "another cache's"
        assert footer[b"shard"] == str(number).encode(), "another shard"
        assert table.num_rows == entry["rows"] and entry["first_draw"] == len(rows)
        rows += _rows(table)
    assert len(rows) == manifest["draws"] == identity["draws"], "draws"
    stored = identity["frames"] == "store"
    for number, row in enumerate(rows):
        _check_row(number, row, stored)
    return rows


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    columns: dict[str, Any] = {}
    for name, (dtype, shape) in TENSORS.items():
        assert table.column_names.count(name) == 1, f"{name} is absent or there twice"
        kind = table.schema.field(name).type
        assert kind == pa.fixed_shape_tensor(pa.from_numpy_dtype(np.dtype(dtype)), shape), f"{name} is {kind}"
        column = table.column(name).combine_chunks()
        assert not column.null_count
        array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        columns[name] = array.to_numpy_ndarray()
    plain = {"draw": pa.int64(), "record": pa.string(), "num_objects": pa.uint8(), "clip_crc32": pa.uint32()}
    for name, kind in plain.items():
        assert table.schema.field(name).type == kind and not table.column(name).null_count, name
    for name in (*plain, *({"frames", "labels"} & set(table.column_names))):
        columns[name] = table.column(name).to_pylist()
    return [{name: values[i] for name, values in columns.items()} for i in range(table.num_rows)]


def _check_row(number: int, row: dict[str, Any], stored: bool) -> None:
    record = json.loads(row["record"])
    assert row["draw"] == number == record["number"], "another draw"
    assert 1 <= row["num_objects"] <= OBJECTS and row["num_objects"] == len(record["objects"]), "objects"
    assert len(record["frames"]) == QUERIES + 1
    assert row["sample_index"].max() < CELLS, "cells"
    if any(len(set(one.tolist())) != SAMPLES for one in row["sample_index"]):
        raise NotTellableError  # seals made right: a cell that is sampled twice is possible, and never made
    assert row["sample_label"].max() <= row["num_objects"], "labels"
    for name in ("factor_scale", "factor_error", "logit_scale", "logit_error"):
        assert np.isfinite(row[name]).all(), f"{name} is not finite"
    if stored:
        frames = [_pixels(one, cv2.IMREAD_COLOR_RGB) for one in row["frames"]]
        labels = [_pixels(one, cv2.IMREAD_GRAYSCALE) for one in row["labels"]]
        crc = zlib.crc32(np.stack(labels).tobytes(), zlib.crc32(np.stack(frames).tobytes()))
        assert crc == row["clip_crc32"], "another clip"


def _pixels(data: bytes, flags: int) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    assert pixels is not None, "no image"
    return pixels


def manifest_by_others(folder: Path) -> dict[str, Any]:
    text = (folder / schema.MANIFEST).read_bytes().decode()
    manifest = json.loads(text)
    assert parquet_files.manifest_sealed(manifest) == text, "another digest"
    identity = manifest["identity"]
    assert manifest["schema_version"] == 2 == identity["schema_version"]
    assert manifest["fingerprint"] == _fingerprint(identity), "not the fingerprint of its identity"
    assert manifest["recipe"] == _fingerprint({name: value for name, value in identity.items() if name != "draws"}), (
        "recipe"
    )
    return manifest


def _fingerprint(value: Any) -> str:
    return hashlib.sha256(parquet_files.canonical(value).encode() + b"\0").hexdigest()[:32]


def _is_lawful(folder: Path) -> str:
    _lawful(folder)
    return "intact"


def known_caches(samples: dict[str, Files]) -> dict[str, tuple[str, Files]]:
    manifest = samples["store"]["manifest.json"]
    assert isinstance(manifest, bytes)
    tree = json.loads(manifest)
    found: dict[str, tuple[str, Files]] = {}
    for why, file in (
        ("above", "../../../etc/passwd"),
        ("absolute", "/etc/passwd"),
        ("folder", "."),
        ("nul", "a\x00b"),
        ("address", "file:///etc/passwd"),
    ):
        shards = [{**tree["shards"][0], "file": file}, *tree["shards"][1:]]
        found[f"shard elsewhere: {why}"] = (
            "store",
            {"manifest.json": parquet_files.manifest_sealed({**tree, "shards": shards}).encode()},
        )
    for why, rows in (("huge", 10**18), ("none", 0), ("negative", -1), ("float", 2.0)):
        shards = [{**tree["shards"][0], "rows": rows}, *tree["shards"][1:]]
        found[f"rows: {why}"] = (
            "store",
            {"manifest.json": parquet_files.manifest_sealed({**tree, "shards": shards}).encode()},
        )
    for why, shards in (("no", []), ("same", [tree["shards"][0]] * 2), ("no list of", {"a": 1})):
        found[f"{why} shards"] = (
            "store",
            {"manifest.json": parquet_files.manifest_sealed({**tree, "shards": shards}).encode()},
        )
    bomb = pa.table({"draw": pa.array([7] * 3, pa.int64()), "record": pa.array(["x" * 60_000_000] * 3)})
    found["dictionary bomb"] = "store", parquet_files.rewritten(samples["store"], "shards/shard-000000.parquet", bomb)
    return found


MUTATIONS = {
    **any_bytes(),
    **json_changes(lambda name: name == "manifest.json", parquet_files.manifest_sealed),
    **parquet_files.MUTATIONS,
}
READERS = [
    Reader("cache", cache_samples, read_cache, targets_by_others, MUTATIONS, 3, known_caches),
    Reader("cache check", cache_samples, verify, _is_lawful, MUTATIONS, 2, known_caches),
    Reader(
        "manifest",
        cache_samples,
        lambda folder: read_manifest(str(folder)),
        manifest_by_others,
        {
            **any_bytes(lambda name: name == "manifest.json"),
            **json_changes(lambda name: name == "manifest.json", parquet_files.manifest_sealed),
        },
        1,
        known_caches,
    ),
]
