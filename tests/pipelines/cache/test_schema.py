"""Shards: rows in, bytes out, the same rows back, readable by plain pyarrow."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.cache import schema
from vos.config import CacheConfig, ClipConfig, FactorConfig

SHAPES = schema.Shapes(queries=2, samples=20, rank=5, objects=3, grid=9, factor="int8", logits="int8")
METADATA = {"recipe": "abc", "schema_version": "2"}


def rows(count: int, shapes: schema.Shapes = SHAPES) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    made = []
    for number in range(count):
        tensors = {
            name: (random.random(shape) * 100).astype(dtype) for name, (dtype, shape) in shapes.columns().items()
        }
        made.append(
            {
                "draw": 2**40 + number,
                "record": f'{{"é": {number}}}',
                "num_objects": 1 + number % 3,
                "clip_crc32": 2**32 - 1 - number,
                **tensors,
            }
        )
    return made


def read(data: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(data))


def assert_same_rows(found: list[dict[str, Any]], wanted: list[dict[str, Any]]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            np.testing.assert_array_equal(one[name], other[name])
            assert np.asarray(one[name]).dtype == np.asarray(other[name]).dtype or name not in SHAPES.columns()


@pytest.mark.parametrize("count", [1, schema.ROW_GROUP_ROWS, 2 * schema.ROW_GROUP_ROWS + 1])
def test_rows_survive_a_shard(count: int):
    assert_same_rows(schema.rows_of(read(schema.to_parquet(rows(count), SHAPES, METADATA))), rows(count))


def test_a_part_of_a_table_gives_its_own_rows():
    table = read(schema.to_parquet(rows(7), SHAPES, METADATA))
    assert_same_rows(schema.rows_of(table.slice(3, 2)), rows(7)[3:5])


def test_every_row_group_gives_the_rows_at_its_place():
    file = pq.ParquetFile(io.BytesIO(schema.to_parquet(rows(10), SHAPES, METADATA)))
    size = schema.ROW_GROUP_ROWS
    for group in range(file.num_row_groups):
        assert_same_rows(schema.rows_of(file.read_row_group(group)), rows(10)[group * size : (group + 1) * size])


def test_the_same_rows_give_the_same_bytes_and_other_rows_or_metadata_give_others():
    one, again = (schema.to_parquet(rows(3), SHAPES, METADATA) for _ in range(2))
    assert one == again
    changed = rows(3)
    changed[1]["factor"][0, 0, 0] += 1
    assert schema.to_parquet(changed, SHAPES, METADATA) != one
    assert schema.to_parquet(rows(3), SHAPES, METADATA | {"recipe": "abd"}) != one


def test_views_and_other_memory_layouts_give_the_same_bytes():
    turned = [
        {name: np.asfortranarray(value) if isinstance(value, np.ndarray) else value for name, value in row.items()}
        for row in rows(3)
    ]
    assert schema.to_parquet(turned, SHAPES, METADATA) == schema.to_parquet(rows(3), SHAPES, METADATA)


def test_plain_pyarrow_finds_standard_tensor_columns_of_the_documented_shapes():
    table = read(schema.to_parquet(rows(2), SHAPES, METADATA))
    for name, (dtype, shape) in SHAPES.columns().items():
        kind = table.schema.field(name).type
        assert kind.extension_name == "arrow.fixed_shape_tensor"
        assert tuple(kind.shape) == shape and kind.value_type == pa.from_numpy_dtype(np.dtype(dtype))
    assert table.schema.metadata[b"recipe"] == b"abc"
    assert {name for name in table.schema.names if name not in SHAPES.columns()} == {
        *("draw", "record", "num_objects", "clip_crc32")
    }


def test_a_tensor_of_another_shape_is_not_written():
    wrong = rows(2)
    for row in wrong:
        row["factor"] = row["factor"][:, :, :-1]
    with pytest.raises(AssertionError, match="factor"):
        schema.to_parquet(wrong, SHAPES, METADATA)


@pytest.mark.parametrize("crop_px", [32, 112, 384, 1024, 1040])
def test_every_cell_of_the_grid_has_an_index_that_its_column_can_hold(crop_px: int):
    shapes = schema.Shapes.of(CacheConfig(clip=ClipConfig(crop_px=crop_px)), 64)
    dtype, _ = shapes.columns()["sample_index"]
    largest = int(np.array(-1).astype(dtype))  # all bits set: the column is unsigned
    assert largest >= shapes.grid**2 - 1 and shapes.grid * schema.GRID_STRIDE == crop_px
    _, boundary = shapes.columns()["boundary"]
    assert boundary[1] == len(np.packbits(np.zeros(shapes.grid**2, bool)))


def test_no_more_pixels_are_sampled_than_there_are_and_no_more_columns_kept_than_there_are_features():
    config = CacheConfig(clip=ClipConfig(crop_px=32, max_objects=2), samples=1024, factor=FactorConfig(rank=64))
    shapes = schema.Shapes.of(config, feature_width=16)
    assert (shapes.samples, shapes.rank) == (64, 32)
    assert schema.Shapes.of(replace(config, samples=8), 16).rank == 8
    assert schema.Shapes.of(replace(config, factor=FactorConfig(rank=3)), 16).rank == 3
    assert schema.Shapes.of(replace(config, factor=FactorConfig(rank=0)), 16).rank == 32
    assert shapes.queries == config.clip.num_frames - 1


@pytest.mark.parametrize(("factor", "logits"), [("int8", "none"), ("fp16", "fp16"), ("fp32", "int8")])
def test_every_way_to_store_the_targets_comes_back_as_floats(factor: str, logits: str):
    shapes = replace(SHAPES, factor=factor, logits=logits)
    found = schema.rows_of(read(schema.to_parquet(rows(2, shapes), shapes, METADATA)))
    assert_same_rows(found, rows(2, shapes))
    rebuilt = schema.factor_of(found[0])
    assert rebuilt.dtype == np.float32 and rebuilt.shape == (2, 20, 5)
    scale = found[0].get("factor_scale", np.ones(2))
    np.testing.assert_allclose(rebuilt[1, 3, 2], found[0]["factor"][1, 2, 3].astype(np.float32) * scale[1], rtol=1e-6)
    assert ("logits" in found[0]) == (logits != "none")
    if logits != "none":
        assert schema.logits_of(found[0]).dtype == np.float32


def test_the_boundary_bits_come_back_as_the_mask():
    masks = np.random.default_rng(0).random((2, 9, 9)) < 0.3
    row = {"boundary": np.stack([np.packbits(mask.reshape(-1)) for mask in masks])}
    np.testing.assert_array_equal(schema.boundary_of(row, 9), masks)


# The seal.


@pytest.fixture(scope="module")
def shard() -> bytes:
    return schema.to_parquet(rows(3), SHAPES, METADATA)


def test_an_intact_shard_proves_itself(shard: bytes):
    assert schema.damage_of(shard) == ""
    assert schema.metadata_of(shard) == METADATA and schema.num_rows(shard) == 3


@given(place=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255))
def test_any_single_changed_byte_of_a_shard_is_noticed(shard: bytes, place: float, flip: int):
    changed = bytearray(shard)
    changed[int(place * len(changed))] ^= flip
    assert schema.damage_of(bytes(changed)) != ""


@pytest.mark.parametrize("keep", [0, 1, 12, 0.5, 0.999])
def test_a_shard_that_was_cut_short_is_noticed(shard: bytes, keep: float):
    assert schema.damage_of(shard[: int(keep * len(shard)) if keep < 1 else int(keep)]) != ""


def test_a_parquet_file_without_a_seal_is_no_shard():
    sink = io.BytesIO()
    pq.write_table(pa.table({"draw": [0]}), sink)
    assert schema.damage_of(sink.getvalue()) != ""


def test_the_bytes_of_the_columns_and_the_footer_are_the_file(shard: bytes):
    footer = int.from_bytes(shard[-8:-4], "little") + 12  # and the two magic words
    assert sum(schema.column_bytes(shard).values()) + footer == len(shard)


def test_the_grid_of_a_shard_is_the_grid_of_the_networks():
    from vos.distillation import clip_forward as segmentation

    assert schema.GRID_STRIDE == segmentation.GRID_STRIDE
