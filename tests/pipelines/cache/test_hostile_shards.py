"""Shards that somebody made to harm: whoever writes a file writes its digest too, so no number in it is believed."""

import copy
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.cache import schema
from pipelines.cache.manifest import read_manifest, sealed
from pipelines.cache.parquet_layout import read_layout
from pipelines.cache.plan import recipe_of
from pipelines.cache.read import CachedClips
from tests.pipelines.cache.test_read import DATA, NUM_DRAWS, SHAPES, identity_of, row, shard, write_cache, write_shard
from vos.errors import InputError
from vos.files.canonical import fingerprint


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_cache(tmp_path_factory.mktemp("template") / "cache")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    """Those of the first shard."""
    return [row(number) for number in range(6)]


@pytest.fixture
def cache(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "cache"))


@pytest.fixture(scope="module")
def honest() -> bytes:
    return schema.to_parquet([row(0)], SHAPES, {"recipe": "r"})


def resealed(table: pa.Table, **options: Any) -> bytes:
    """A shard with a right digest, whatever is in it."""
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, table.schema, compression="zstd", write_statistics=False, **options) as writer:
        writer.write_table(table, row_group_size=1)
        writer.add_key_value_metadata({schema.SEAL.decode(): schema._BLANK.decode()})
    return schema._sealed(sink.getvalue())


def with_column(name: str, column: pa.Array) -> pa.Table:
    table = pq.read_table(io.BytesIO(schema.to_parquet([row(0)], SHAPES, {"recipe": recipe_of(identity_of())})))
    return table.set_column(table.schema.get_field_index(name), name, column)


def repeated(value: Any, count: int, kind: pa.DataType) -> pa.Array:
    """One row with a list of equal values: a few bytes on the disk."""
    values = pa.repeat(pa.scalar(value, kind), count)
    return pa.ListArray.from_arrays(pa.array([0, count], pa.int32()), values)


@pytest.mark.parametrize(
    ("name", "column"),
    [
        ("factor", repeated(1, 2**22, pa.int8())),
        ("sample_index", repeated(1, 2**22, pa.uint16())),
        ("factor", pa.array([[b"x" * 2**20] * 1000], pa.list_(pa.binary()))),
        ("record", pa.array(["x" * 2**23], pa.string())),
        ("factor_scale", repeated(0.5, 3, pa.float32())),
        ("draw", pa.array([0.5], pa.float64())),
        ("record", pa.array([{"a": 1}], pa.struct([("a", pa.int64())]))),
        ("num_objects", pa.array([[[[1]]]], pa.list_(pa.list_(pa.list_(pa.uint8()))))),
    ],
    ids=[
        "run lengths",
        "deltas",
        "a dictionary",
        "a long text",
        "more values",
        "a type",
        "a structure",
        "nested lists",
    ],
)
def test_a_column_that_announces_more_than_its_shape_is_refused_before_memory_is_taken(
    name: str, column: pa.Array, cache: Path
):
    data = resealed(with_column(name, column))
    assert len(data) < 2**20
    shard(cache).write_bytes(data)
    before = pa.total_allocated_bytes()
    with pytest.raises(InputError, match="shard-000000.parquet: damaged") as refusal:
        CachedClips(str(cache), DATA).batch([0])
    assert "\n" not in str(refusal.value) and pa.total_allocated_bytes() - before < 2**22


def test_a_page_that_announces_more_than_its_column_holds_is_refused(honest: bytes):
    """The size in a page's header is what pyarrow takes memory for; nothing else in the file need be wrong."""
    group = pq.ParquetFile(io.BytesIO(honest)).metadata.row_group(0)
    chunk = next(group.column(i) for i in range(group.num_columns) if "factor." in group.column(i).path_in_schema)
    data = bytearray(honest)
    start = chunk.data_page_offset
    assert data[start : start + 3] == bytes([0x15, 0x00, 0x15]) and data[start + 3] >= 128, "the second field is a size"
    data[start + 3 : start + 5] = bytes([0xFE, 0x7F])  # 8191 bytes, in as many digits
    assert "declares" in schema.damage_of(bytes(data), SHAPES)


@pytest.mark.parametrize("name", ["ray.data.arrow_tensor_v2", "ray.data.arrow_pickled_object", "somebody.else"])
def test_no_extension_type_but_ours_is_looked_up(name: str, tmp_path: Path):
    """pyarrow calls whoever registered a type as it opens the file, and Ray's types may hold pickles."""

    class Evil:
        def __reduce__(self) -> tuple[Any, tuple[str]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    about = {b"ARROW:extension:name": name.encode(), b"ARROW:extension:metadata": pickle.dumps(Evil(), 0)}
    field = pa.field("a", pa.list_(pa.int64()), metadata=about)
    data = resealed(pa.table([pa.array([[1]])], schema=pa.schema([field])))
    assert name in schema.damage_of(data) and list(tmp_path.iterdir()) == []


@settings(max_examples=150, deadline=2000)
@given(st.data())
def test_any_change_of_a_footer_is_told_or_harmless(honest: bytes, data: st.DataObject):
    """Also where the digest was made anew."""
    changed = bytearray(honest)
    begin = len(honest) - 8 - int.from_bytes(honest[-8:-4], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(begin, len(honest) - 1) | st.integers(0, len(honest) - 1))
        changed[place] = data.draw(st.integers(0, 255))
    before = pa.total_allocated_bytes()
    assert isinstance(schema.damage_of(bytes(changed), SHAPES), str)
    assert pa.total_allocated_bytes() - before < 2**24


def test_the_layout_of_an_honest_shard_is_what_pyarrow_says(honest: bytes):
    layout, file = read_layout(honest), pq.ParquetFile(io.BytesIO(honest))
    group = file.metadata.row_group(0)
    found = [(chunk.name, chunk.values) for chunk in layout.groups[0][1]]
    chunks = [group.column(i) for i in range(group.num_columns)]
    assert found == [(chunk.path_in_schema.split(".")[0], chunk.num_values) for chunk in chunks]
    assert schema.damage_of(honest, SHAPES) == ""


def changed_record(**values: Any) -> Callable[[dict[str, Any]], None]:
    def change(one: dict[str, Any]) -> None:
        one["record"] = json.dumps({**json.loads(one["record"]), **values})

    return change


def put(name: str, place: tuple[int, ...], value: float) -> Callable[[dict[str, Any]], None]:
    return lambda one: one[name].__setitem__(place, value)


AUGMENTATION = {"affine": [1.0, 0.0, 0.0, 0.0, 1.0, 0.0], "gain": [1.0] * 3, "offset": [0.0] * 3}
PASTE = {"video": "x", "first": 0, "direction": 1, "object_id": 1, "augmentation": AUGMENTATION, "behind": True}


@pytest.mark.parametrize(
    "change",
    [
        put("sample_index", (0, 0), 64),
        put("sample_label", (1, 0), 200),
        put("factor_scale", (0,), np.nan),
        put("logit_scale", (0, 1), np.inf),
        lambda one: one.update(record="{"),
        lambda one: one.update(record="[" * 60_000),
        lambda one: one.update(record="null"),
        lambda one: one.update(num_objects=255),
        changed_record(number=1),
        changed_record(number=10**30),
        changed_record(number=1.5),
        changed_record(video=None),
        changed_record(video="../../etc"),
        changed_record(frames=[0, 1, 10**9]),
        changed_record(frames=[0, -1, 1]),
        changed_record(frames=[0]),
        changed_record(frames="abc"),
        changed_record(objects=[]),
        changed_record(objects=[0]),
        changed_record(objects=[1, 1]),
        changed_record(objects=[300]),
        changed_record(objects=list(range(1, 200))),
        changed_record(context=[10**12]),
        changed_record(augmentation={}),
        changed_record(augmentation={**AUGMENTATION, "affine": [1, 0, 1e300, 0, 1, 0]}),
        changed_record(augmentation={**AUGMENTATION, "affine": [0, 0, 0, 0, 0, 0]}),
        changed_record(augmentation={**AUGMENTATION, "affine": [900, 0, 0, 0, 900, 0]}),
        changed_record(augmentation={**AUGMENTATION, "affine": [1, 0]}),
        changed_record(augmentation={**AUGMENTATION, "gain": [float("nan")] * 3}),
        changed_record(augmentation={**AUGMENTATION, "gain": [1e30] * 3}),
        changed_record(paste=PASTE),
        changed_record(paste={**PASTE, "labelled": False}),
        changed_record(paste={**PASTE, "labelled": False, "direction": 7}),
        changed_record(paste={**PASTE, "labelled": False, "object_id": 10**6}),
        changed_record(paste=5),
    ],
)
@pytest.mark.parametrize("with_targets", [True, False])
def test_a_row_that_no_teacher_writes_is_one_line_that_names_shard_and_row(
    change: Callable[[dict[str, Any]], None], with_targets: bool, cache: Path, rows: list[dict[str, Any]]
):
    honest, rows = rows[2], copy.deepcopy(rows)
    change(rows[2])
    write_shard(shard(cache), rows)
    source = CachedClips(str(cache), DATA, with_targets)
    assert source.batch([1]).draws == [1]
    if not with_targets and json.loads(honest["record"]) == _record(rows[2]) and rows[2]["num_objects"] < 9:
        return  # a column of the teacher's, which is not read
    with pytest.raises(InputError) as refusal:
        source.batch([2])
    assert f"{shard(cache)}: draw 2" in str(refusal.value) and "\n" not in str(refusal.value)


def _record(one: dict[str, Any]) -> Any:
    try:
        return json.loads(one["record"])
    except (ValueError, RecursionError):
        return None


@pytest.mark.parametrize("name", ["frames", "labels"])
@pytest.mark.parametrize("number", [0, 1, 2, 4])
def test_stored_frames_are_one_file_for_each_frame(name: str, number: int, tmp_path: Path):
    cache = write_cache(tmp_path / "cache", stored=True)
    rows = [row(one, stored=True) for one in range(6)]
    rows[2][name] = (rows[2][name] * 2)[:number]
    write_shard(shard(cache), rows, recipe_of(identity_of(stored=True)))
    with pytest.raises(InputError, match="shard-000000.parquet"):
        CachedClips(str(cache), DATA).batch([2])


def edited(cache: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a manifest and seal it again as its writer would, fingerprints included."""
    manifest = read_manifest(str(cache))
    change(manifest)
    if isinstance(manifest.get("identity"), dict):
        right = {"fingerprint": fingerprint(manifest["identity"]), "recipe": recipe_of(manifest["identity"])}
        manifest |= {name: value for name, value in right.items() if name in manifest}
    (cache / schema.MANIFEST).write_bytes(sealed(manifest))


def in_shard(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda manifest: manifest["shards"][0].update(values)


def in_shapes(**values: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda manifest: manifest["identity"]["shapes"].update(values)


@pytest.mark.parametrize(
    "change",
    [
        *(
            in_shard(file=file)
            for file in ("../x", "/etc/passwd", "a/b", "..", "", "s3://b/x", "shard-000001.parquet", "a\0b", None, 5)
        ),
        *(in_shard(rows=rows) for rows in (0, -1, 5, 10**18, 1.5, "6", None)),
        *(in_shard(first_draw=first) for first in (-1, 1, True, 2**62)),
        *(in_shard(sha256=digest) for digest in ("", "x" * 64, None)),
        *(in_shapes(grid=grid) for grid in (0, -8, 9, 10**9, "8")),
        *(in_shapes(samples=samples) for samples in (0, 1, 65, 2**40)),
        *(in_shapes(rank=rank) for rank in (0, -1, 13, 2**40)),
        *(in_shapes(factor=factor) for factor in ("int4", 8, None)),
        in_shapes(queries=3),
        in_shapes(objects=200),
        in_shapes(logits="none"),
        lambda manifest: manifest.update(shards=[]),
        lambda manifest: manifest.update(shards={}),
        lambda manifest: manifest["shards"].pop(),
        lambda manifest: manifest["shards"].reverse(),
        lambda manifest: manifest.update(draws=NUM_DRAWS + 1),
        lambda manifest: manifest["identity"].update(clip=5),
        lambda manifest: manifest["identity"].update(clip={"crop_px": -32}),
        lambda manifest: manifest["identity"].update(frames="both"),
        lambda manifest: manifest.update(identity=[]),
        lambda manifest: manifest.update(data=None),
        *(lambda manifest, name=name: manifest.pop(name) for name in ("identity", "shards", "data", "recipe", "draws")),
        *(lambda manifest, name=name: manifest["identity"].pop(name) for name in ("clip", "shapes", "data", "frames")),
        *(lambda manifest, name=name: manifest["shards"][0].pop(name) for name in ("file", "rows", "sha256")),
    ],
)
def test_a_manifest_with_a_right_digest_and_absurd_content_is_refused(
    change: Callable[[dict[str, Any]], Any], cache: Path
):
    edited(cache, change)
    with pytest.raises(InputError, match=schema.MANIFEST) as refusal:
        read_manifest(str(cache))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("what", ["a shard", "the folder of the shards"])
def test_a_link_that_leads_out_of_a_cache_is_refused(what: str, cache: Path, tmp_path: Path):
    path = shard(cache) if what == "a shard" else cache / "shards"
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(InputError, match="link to another place"):
        CachedClips(str(cache), DATA).batch([0])


def test_a_cache_whose_own_folder_is_a_link_is_read(cache: Path, tmp_path: Path):
    (tmp_path / "link").symlink_to(cache)
    assert CachedClips(str(tmp_path / "link"), DATA).batch([0]).draws == [0]


def test_a_shard_that_is_a_pipe_is_refused_at_once(cache: Path):
    shard(cache).unlink()
    os.mkfifo(shard(cache))
    with pytest.raises(InputError, match="pipe"):
        CachedClips(str(cache), DATA).batch([0])


def test_a_shard_that_changes_after_it_was_proven_is_proven_again(cache: Path):
    source = CachedClips(str(cache), DATA)
    source.batch([0])
    shard(cache).write_bytes(resealed(with_column("factor", repeated(1, 2**22, pa.int8()))))
    with pytest.raises(InputError, match="damaged"):
        source.batch([1])
