"""What a shard of the teacher cache holds. The only file that names a Parquet column.

One row is one clip draw. `Q` query frames (the clip without its first), `N` sampled pixels, `r` the factor's rank, `O` the most objects of
a clip, `h w` the grid of stride 4. Tensors are standard `arrow.fixed_shape_tensor` columns, so plain pyarrow reads them.

| column | type | shape | meaning |
|---|---|---|---|
| draw | int64 | | number of the clip draw |
| record | string | | the draw itself (video, frames, objects, augmentation) as JSON |
| num_objects | uint8 | | objects of this clip, 1 to O |
| sample_index | uint16 | Q, N | cells of the grid, y * w + x, in nested order: boundary first, any prefix is a smaller density |
| sample_label | uint8 | Q, N | object at the cell, 0 is background |
| factor | float16 | Q, N, r | Z_t with C_t = Z_t Z_tᵀ, rows of unit length up to rounding and rank |
| logits | float16 | Q, O, h, w | the teacher's logit of each object; absent objects are 0 |
| boundary | uint8 | Q, ceil(h * w / 8) | boundary mask on the grid, packed bits, first cell in the highest bit |
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vos.config import ClipConfig, TargetConfig

VERSION = 1
GRID_STRIDE = 4
MANIFEST = "manifest.json"
ROW_GROUP_ROWS = 4  # a batch touches few rows of a shard: small groups keep a random read small


@dataclass(frozen=True)
class Shapes:
    """Shape and dtype of every tensor column at one configuration."""

    queries: int
    samples: int
    rank: int
    objects: int
    grid: int

    @classmethod
    def of(cls, clip: ClipConfig, target: TargetConfig, feature_width: int) -> Shapes:
        """`feature_width`: width of the teacher's features of one object, before the classifier."""
        grid = clip.crop_px // GRID_STRIDE
        samples = min(target.samples, grid * grid)
        rank = min(target.factor_rank, samples, feature_width * clip.max_objects)
        return cls(clip.num_frames - 1, samples, rank, clip.max_objects, grid)

    def columns(self) -> dict[str, tuple[type[np.generic], tuple[int, ...]]]:
        queries, cells = self.queries, self.grid * self.grid
        return {
            "sample_index": (np.uint16 if cells <= 2**16 else np.uint32, (queries, self.samples)),
            "sample_label": (np.uint8, (queries, self.samples)),
            "factor": (np.float16, (queries, self.samples, self.rank)),
            "logits": (np.float16, (queries, self.objects, self.grid, self.grid)),
            "boundary": (np.uint8, (queries, (cells + 7) // 8)),
        }


def to_parquet(rows: list[dict[str, Any]], shapes: Shapes, metadata: dict[str, str]) -> bytes:
    """The bytes of one shard; the same rows always give the same bytes."""
    arrays: dict[str, pa.Array] = {
        "draw": pa.array([row["draw"] for row in rows], pa.int64()),
        "record": pa.array([row["record"] for row in rows], pa.string()),
        "num_objects": pa.array([row["num_objects"] for row in rows], pa.uint8()),
    }
    for name, (dtype, shape) in shapes.columns().items():
        stacked = np.stack([row[name] for row in rows]).astype(dtype, copy=False)
        assert stacked.shape[1:] == shape, f"{name}: {stacked.shape[1:]} is not {shape}"
        arrays[name] = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(stacked))
    table = pa.table(arrays).replace_schema_metadata(metadata)
    sink = io.BytesIO()
    pq.write_table(
        table, sink, compression="zstd", compression_level=3, row_group_size=ROW_GROUP_ROWS, write_page_checksum=True
    )
    return sink.getvalue()


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Rows as dicts of NumPy arrays and scalars, the inverse of `to_parquet`."""
    columns: dict[str, Any] = {}
    for field in table.schema:
        column = table.column(field.name).combine_chunks()
        if isinstance(field.type, pa.FixedShapeTensorType):
            chunk = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
            columns[field.name] = chunk.to_numpy_ndarray()
        else:
            columns[field.name] = column.to_pylist()
    return [{name: values[i] for name, values in columns.items()} for i in range(table.num_rows)]
