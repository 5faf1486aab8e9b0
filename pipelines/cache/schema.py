"""The schema of a shard of the teacher cache. The only file that names a Parquet column.

One row is one clip draw. `Q` is the number of query frames (the clip without its first), `N` of sampled pixels, `r` the factor's rank,
`O` the largest number of objects of a clip, `h w` the grid of stride 4. Tensors are standard `arrow.fixed_shape_tensor` columns, which
plain pyarrow reads; other readers see lists.

| column | type | shape | unit and meaning |
|---|---|---|---|
| draw | int64 | | number of the clip draw |
| record | string | | the draw itself (video, frames, objects, augmentation, context frames) as JSON |
| num_objects | uint8 | | objects of this clip, 1 to O |
| clip_crc32 | uint32 | | CRC-32 of the clip's bytes, frames (T, H, W, 3) then labels (T, H, W): a replayed clip must have it |
| sample_index | uint16 or uint32 | Q, N | cells of the grid, y * w + x, in nested order: boundary first, any prefix is a smaller density |
| sample_label | uint8 | Q, N | object at the cell, 0 is background |
| factor | int8, float16 or float32 | Q, r, N | Z_tᵀ, C_t = Z_t Z_tᵀ; columns of Z_t by falling singular value; int8 times factor_scale |
| factor_scale | float32 | Q | only with int8 |
| factor_error | float32 | Q | ‖C_t - Ĉ_t‖ / ‖C_t‖ (Frobenius) of what is stored, from rank and rounding together |
| logits | int8 or float16 | Q, O, h, w | the teacher's logit of each object, within ±16.2; absent objects are 0; int8 times logit_scale |
| logit_scale | float32 | Q, O | only with int8 |
| logit_error | float32 | Q | largest rounding error of a logit |
| boundary | uint8 | Q, ceil(h * w / 8) | boundary mask on the grid, packed bits, first cell in the highest bit |
| frames | list of binary | T | the clip's frames as JPEG; only with --frames store |
| labels | list of binary | T | the clip's labels as PNG; only with --frames store |

A shard holds its own digest: the footer's `sha256` entry is that of the whole file with this entry filled with zeros.
"""

from __future__ import annotations

import hashlib
import io
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.cache.parquet_layout import Layout, read_layout
from vos.config import CacheConfig
from vos.config.cache import GRID_STRIDE
from vos.distillation.encoding import dequantise

VERSION = 2
MANIFEST = "manifest.json"
ROW_GROUP_ROWS = 1  # a batch takes single draws in random order, so each row must be readable alone
ERROR_COLUMNS = ("factor_error", "logit_error")
PLAIN = ("draw", "record", "num_objects", "clip_crc32")
PICTURES = ("frames", "labels")
BYTES_OF_TEXT = 64 * 2**10
"""Largest record of a row; a draw is about 600 bytes."""
SEAL = b"sha256"
_BLANK = b"0" * 64
READ_ERRORS = (pa.ArrowException, OSError, ValueError, KeyError, IndexError)


@dataclass(frozen=True)
class Shapes:
    """Shape and dtype of every tensor column at one configuration."""

    queries: int
    samples: int
    rank: int
    objects: int
    grid: int
    factor: str
    logits: str

    @classmethod
    def of(cls, config: CacheConfig, feature_width: int) -> Shapes:
        """Return the shapes of a configuration.

        feature_width  channels of the teacher's features of one object, before the classifier
        """
        clip = config.clip
        grid = clip.crop_px // GRID_STRIDE
        samples = min(config.samples, grid * grid)
        widest = min(samples, feature_width * clip.max_objects)
        rank = min(config.factor.rank or widest, widest)
        return cls(clip.num_frames - 1, samples, rank, clip.max_objects, grid, config.factor.dtype, config.logits)

    def columns(self) -> dict[str, tuple[type[np.generic], tuple[int, ...]]]:
        queries, cells = self.queries, self.grid * self.grid
        dtypes = {"int8": np.int8, "fp16": np.float16, "fp32": np.float32}
        table: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
            "sample_index": (np.uint16 if cells <= 2**16 else np.uint32, (queries, self.samples)),
            "sample_label": (np.uint8, (queries, self.samples)),
            "factor": (dtypes[self.factor], (queries, self.rank, self.samples)),
            "factor_error": (np.float32, (queries,)),
            "boundary": (np.uint8, (queries, (cells + 7) // 8)),
        }
        if self.factor == "int8":
            table["factor_scale"] = (np.float32, (queries,))
        if self.logits != "none":
            table["logits"] = (dtypes[self.logits], (queries, self.objects, self.grid, self.grid))
            table["logit_error"] = (np.float32, (queries,))
        if self.logits == "int8":
            table["logit_scale"] = (np.float32, (queries, self.objects))
        return table


def to_parquet(rows: list[dict[str, Any]], shapes: Shapes, metadata: dict[str, str]) -> bytes:
    """Return the bytes of one sealed shard; the same rows always give the same bytes."""
    arrays: dict[str, pa.Array] = {
        "draw": pa.array([row["draw"] for row in rows], pa.int64()),
        "record": pa.array([row["record"] for row in rows], pa.string()),
        "num_objects": pa.array([row["num_objects"] for row in rows], pa.uint8()),
        "clip_crc32": pa.array([row["clip_crc32"] for row in rows], pa.uint32()),
    }
    for name, (dtype, shape) in shapes.columns().items():
        stacked = np.stack([row[name] for row in rows]).astype(dtype, copy=False)
        assert stacked.shape[1:] == shape, f"{name}: {stacked.shape[1:]} is not {shape}"
        arrays[name] = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(stacked))
    for name in ("frames", "labels"):
        if name in rows[0]:
            arrays[name] = pa.array([row[name] for row in rows], pa.list_(pa.binary()))
    table = pa.table(arrays).replace_schema_metadata(metadata)
    sink = io.BytesIO()
    # Sampled cells are nearly all different, so a dictionary would be as long as the data. Byte columns have few values.
    bytelike = [name for name in ("sample_label", "factor", "logits", "boundary") if name in arrays]
    settings: dict[str, Any] = {
        "use_dictionary": [f"{name}.list.element" for name in bytelike],
        "column_encoding": {"sample_index.list.element": "DELTA_BINARY_PACKED"},
    }
    with pq.ParquetWriter(
        sink,
        table.schema,
        compression="zstd",
        compression_level=3,
        write_page_checksum=True,
        write_statistics=False,
        **settings,
    ) as writer:
        writer.write_table(table, row_group_size=ROW_GROUP_ROWS)
        writer.add_key_value_metadata({SEAL.decode(): _BLANK.decode()})
    return _sealed(sink.getvalue())


def _sealed(data: bytes) -> bytes:
    return data.replace(_seal_entry(_BLANK), _seal_entry(hashlib.sha256(data).hexdigest().encode()))


def _seal_entry(value: bytes) -> bytes:
    # Thrift writes key and value one after the other, each preceded by its type and length.
    return SEAL + b"\x18\x40" + value


def damage_of(data: bytes, shapes: Shapes | None = None) -> str:
    """Return what is wrong with the bytes of a shard, "" when none has changed.

    shapes  expected columns; a file that declares others, or more than they hold, counts as damaged before memory is allocated for it
    """
    try:
        if problem := _layout_problem(read_layout(data), shapes):
            return problem
        file = pq.ParquetFile(pa.BufferReader(data))
        if shapes is not None and (problem := _types_problem(file.schema_arrow, shapes)):
            return problem
        seal = (file.metadata.metadata or {})[SEAL]
    except READ_ERRORS as error:
        return " ".join(str(error).split()) or "no footer"
    digest = hashlib.sha256(data.replace(_seal_entry(seal), _seal_entry(_BLANK))).hexdigest()
    return "" if digest.encode() == seal else "its checksum does not match"


def _layout_problem(layout: Layout, shapes: Shapes | None) -> str:
    """Return how a shard's declared columns and sizes differ from these shapes, "" where they do not."""
    for rows, _ in layout.groups:
        if not 1 <= rows <= ROW_GROUP_ROWS:
            return f"a row group declares {rows:,} rows"
    if shapes is None:
        return ""
    tensors = shapes.columns()
    names = [chunk.name for chunk in layout.groups[0][1]] if layout.groups else []
    stored = [name for name in PICTURES if name in names]
    wanted = [*PLAIN, *tensors, *stored]
    elements = [part for name in wanted for part in ((name,) if name in PLAIN else (name, "list", "element"))]
    if sorted(layout.elements) != sorted(elements) or stored not in ([], list(PICTURES)):
        return f"its columns are {', '.join(names)[:200] or 'none'}, not those of this cache"
    sides = shapes.grid * GRID_STRIDE
    for rows, chunks in layout.groups:
        if [chunk.name for chunk in chunks] != names or set(names) != set(wanted) or len(names) != len(wanted):
            return "its row groups have different columns"
        for chunk in chunks:
            if chunk.name in tensors:
                values = rows * math.prod(tensors[chunk.name][1])
                most = 16 * values + 4096  # a value's bytes, a dictionary beside them, levels
            elif chunk.name in PICTURES:
                values = rows * (shapes.queries + 1)
                most = values * (8 * sides**2 + 4096)
            else:
                values, most = rows, rows * BYTES_OF_TEXT
            if chunk.values != values:
                return f"column {chunk.name} declares {chunk.values:,} values instead of {values:,}"
            if chunk.decoded_bytes > most:
                return f"column {chunk.name} declares {chunk.decoded_bytes:,} bytes, more than its limit of {most:,}"
    return ""


def _types_problem(schema: pa.Schema, shapes: Shapes) -> str:
    kinds = {"draw": pa.int64(), "record": pa.string(), "num_objects": pa.uint8(), "clip_crc32": pa.uint32()}
    for name, (dtype, shape) in shapes.columns().items():
        kinds[name] = pa.fixed_shape_tensor(pa.from_numpy_dtype(np.dtype(dtype)), shape)
    for field in schema:
        if field.name in PICTURES:
            right = pa.types.is_list(field.type) and field.type.value_type == pa.binary()
        else:
            right = field.type == kinds[field.name]
        if not right:
            return f"column {field.name} is {str(field.type)[:100]}, not {kinds.get(field.name, 'a list of files')}"
    return ""


def metadata_of(data: bytes) -> dict[str, str]:
    """Return the metadata that `to_parquet` was given."""
    entries = pq.read_schema(pa.BufferReader(data)).metadata or {}
    return {name.decode(): value.decode() for name, value in entries.items() if name != SEAL}


def num_rows(data: bytes) -> int:
    return pq.ParquetFile(pa.BufferReader(data)).metadata.num_rows


def column_bytes(data: bytes) -> dict[str, int]:
    """Return the compressed bytes of each column of a shard; the rest of the file is its footer."""
    metadata = pq.ParquetFile(pa.BufferReader(data)).metadata
    sizes: dict[str, int] = {}
    for group in range(metadata.num_row_groups):
        for position in range(metadata.num_columns):
            chunk = metadata.row_group(group).column(position)
            name = chunk.path_in_schema.split(".")[0]
            sizes[name] = sizes.get(name, 0) + chunk.total_compressed_size
    return sizes


def read_rows(source: Any, groups: list[int], columns: tuple[str, ...] | None = None) -> list[dict[str, Any]]:
    """Return the rows of some row groups, or of all for an empty list, as dicts of NumPy arrays and scalars.

    Raises pyarrow's errors and OSError for a damaged page or file.
    """
    # Decompression does not detect most flipped bits; the checksum of each page does.
    with pq.ParquetFile(source, page_checksum_verification=True) as file:
        table = file.read_row_groups(
            groups or list(range(file.metadata.num_row_groups)), columns=list(columns) if columns else None
        )
    return rows_of(table)


def rows_of(table: pa.Table) -> list[dict[str, Any]]:
    """Return rows as dicts of NumPy arrays and scalars, the inverse of `to_parquet`."""
    columns: dict[str, Any] = {}
    for field in table.schema:
        column = table.column(field.name).combine_chunks()
        if isinstance(field.type, pa.FixedShapeTensorType):
            chunk = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
            columns[field.name] = chunk.to_numpy_ndarray()
        else:
            columns[field.name] = column.to_pylist()
    return [{name: values[i] for name, values in columns.items()} for i in range(table.num_rows)]


def factor_of(row: dict[str, Any]) -> np.ndarray:
    """Return Z_t of every query frame, (Q, N, r) float32, whatever its stored type."""
    stored = row["factor"]
    if "factor_scale" in row:
        stored = dequantise(stored, row["factor_scale"], (1, 2))
    return np.ascontiguousarray(stored.astype(np.float32, copy=False).transpose(0, 2, 1))


def logits_of(row: dict[str, Any]) -> np.ndarray:
    """Return the teacher's object logits, (Q, O, h, w) float32; O is 0 where none are stored."""
    if "logits" not in row:
        return np.empty((len(row["boundary"]), 0, 0, 0), np.float32)
    if "logit_scale" in row:
        return dequantise(row["logits"], row["logit_scale"], (2, 3))
    return row["logits"].astype(np.float32)


def boundary_of(row: dict[str, Any], grid: int) -> np.ndarray:
    """Return the boundary mask of every query frame, (Q, h, w) bool."""
    cells = np.unpackbits(row["boundary"], axis=-1, count=grid * grid)
    return cells.reshape(len(cells), grid, grid).astype(bool)
