"""Shards: rows in, bytes out, the same rows back, readable by plain pyarrow."""

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines import schema
from vos.config import ClipConfig, TargetConfig

SHAPES = schema.Shapes(queries=2, samples=20, rank=5, objects=3, grid=9)
METADATA = {"fingerprint": "abc", "schema_version": "1"}


def rows(count: int, shapes: schema.Shapes = SHAPES) -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    made = []
    for number in range(count):
        tensors = {
            name: (random.random(shape) * 100).astype(dtype) for name, (dtype, shape) in shapes.columns().items()
        }
        made.append({"draw": 2**40 + number, "record": f'{{"é": {number}}}', "num_objects": 1 + number % 3, **tensors})
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
    assert schema.to_parquet(rows(3), SHAPES, METADATA | {"fingerprint": "abd"}) != one


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
    assert table.schema.metadata[b"fingerprint"] == b"abc"
    assert {name for name in table.schema.names if name not in SHAPES.columns()} == {"draw", "record", "num_objects"}


def test_a_tensor_of_another_shape_is_not_written():
    wrong = rows(2)
    for row in wrong:
        row["factor"] = row["factor"][:, :, :-1]
    with pytest.raises(AssertionError, match="factor"):
        schema.to_parquet(wrong, SHAPES, METADATA)


@pytest.mark.parametrize("crop_px", [32, 112, 384, 1024, 1040])
def test_every_cell_of_the_grid_has_an_index_that_its_column_can_hold(crop_px: int):
    shapes = schema.Shapes.of(ClipConfig(crop_px=crop_px), TargetConfig(), 64)
    dtype, _ = shapes.columns()["sample_index"]
    largest = int(np.array(-1).astype(dtype))  # all bits set: the column is unsigned
    assert largest >= shapes.grid**2 - 1 and shapes.grid * schema.GRID_STRIDE == crop_px
    _, boundary = shapes.columns()["boundary"]
    assert boundary[1] == len(np.packbits(np.zeros(shapes.grid**2, bool)))


def test_no_more_pixels_are_sampled_than_there_are_and_no_more_columns_kept_than_there_are_features():
    clip, target = ClipConfig(crop_px=32, max_objects=2), TargetConfig(samples=1024, factor_rank=64)
    shapes = schema.Shapes.of(clip, target, feature_width=16)
    assert (shapes.samples, shapes.rank) == (64, 32)
    assert schema.Shapes.of(clip, replace(target, samples=8), 16).rank == 8
    assert schema.Shapes.of(clip, replace(target, factor_rank=3), 16).rank == 3
    assert shapes.queries == clip.num_frames - 1


def test_the_grid_of_a_shard_is_the_grid_of_the_networks():
    from vos import segmentation

    assert schema.GRID_STRIDE == segmentation.GRID_STRIDE
