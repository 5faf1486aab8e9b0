"""Shards written again: other values, columns, rows or metadata, with every digest made right."""

from __future__ import annotations

import hashlib
import io
import json
import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.random import Generator

from tests.fuzz.byte_mutations import pick
from tests.fuzz.cases import Files
from tests.fuzz.json_mutations import HOSTILE, change_value, written

MANIFEST = "manifest.json"


def sealed_again(data: bytes) -> bytes:
    """A shard with the digest in its footer made right; bytes without one as they are."""
    match = re.search(rb"sha256\x18\x40([0-9a-f]{64})", data)
    if not match:
        return data
    blank = data[: match.start(1)] + b"0" * 64 + data[match.end(1) :]
    return blank.replace(b"0" * 64, hashlib.sha256(blank).hexdigest().encode(), 1)


def canonical(value: Any) -> str:
    """The JSON text that the project writes."""
    return written(value, indent=1, sort_keys=True) + "\n"


def manifest_sealed(manifest: Any) -> str:
    """A manifest's text with its own digest made right."""
    content = {name: value for name, value in manifest.items() if name != "sha256"}
    try:
        digest = hashlib.sha256(canonical(content).encode("utf-8", "surrogatepass")).hexdigest()
        return canonical({**content, "sha256": digest})
    except TypeError:
        return json.dumps(content)


def listed_again(files: Files) -> Files:
    """The manifest with the shards' digests and sizes as they are now."""
    try:
        manifest = json.loads(files[MANIFEST])  # type: ignore[arg-type]
        for entry in manifest["shards"]:
            data = files[f"shards/{entry['file']}"]
            entry["sha256"], entry["bytes"] = hashlib.sha256(data).hexdigest(), len(data)  # type: ignore[arg-type]
        return files | {MANIFEST: manifest_sealed(manifest).encode()}
    except (ValueError, KeyError, TypeError):
        return files


def shard_of(rng: Generator, files: Files) -> tuple[str, pa.Table | None]:
    name = pick(rng, files, lambda one: one.endswith(".parquet") and isinstance(files[one], bytes))
    try:
        return name, pq.read_table(io.BytesIO(files[name])) if name else None  # type: ignore[arg-type]
    except (pa.ArrowException, OSError):
        return name, None


def rewritten(files: Files, name: str, table: pa.Table, **settings: Any) -> Files:
    """A shard written by plain pyarrow, sealed, and listed."""
    sink = io.BytesIO()
    options: dict[str, Any] = {
        "compression": "zstd",
        "row_group_size": 1,
        "write_page_checksum": True,
        "write_statistics": False,
        **settings,
    }
    metadata = {key: value for key, value in (table.schema.metadata or {}).items() if key != b"sha256"}
    rows = options.pop("row_group_size")
    try:
        with pq.ParquetWriter(sink, table.schema.with_metadata(metadata), **options) as writer:
            writer.write_table(table.replace_schema_metadata(metadata), row_group_size=rows)
            writer.add_key_value_metadata({"sha256": "0" * 64})
    except (pa.ArrowException, OSError, ValueError):
        return files
    return listed_again(files | {name: sealed_again(sink.getvalue())})


def change_cell(rng: Generator, files: Files, corpus: list[Files]) -> Files:
    """One value of one column."""
    name, table = shard_of(rng, files)
    if table is None or not table.num_rows:
        return files
    field = table.schema.field(int(rng.integers(table.num_columns)))
    row = int(rng.integers(table.num_rows))
    column = table.column(field.name).combine_chunks()
    if isinstance(field.type, pa.FixedShapeTensorType):
        array = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
        values = array.to_numpy_ndarray().copy()
        flat = values.reshape(len(values), -1)
        kind = np.finfo(flat.dtype) if flat.dtype.kind == "f" else np.iinfo(flat.dtype)
        choices = [kind.max, kind.min, 0] + (
            [np.nan, np.inf, -1.0, 1e-30] if flat.dtype.kind == "f" else [1, 2, 63, 64, 65]
        )
        at = int(rng.integers(flat.shape[1]))
        flat[row, at if rng.random() < 0.7 else slice(None)] = np.array(
            rng.choice(np.array(choices, object)), dtype=flat.dtype
        )
        changed: Any = pa.FixedShapeTensorArray.from_numpy_ndarray(np.ascontiguousarray(values))
    else:
        items = column.to_pylist()
        items[row] = _other_item(rng, items[row])
        try:
            changed = pa.array(items, field.type)
        except (pa.ArrowException, OverflowError, TypeError, UnicodeEncodeError):
            return files
    return rewritten(files, name, table.set_column(table.schema.get_field_index(field.name), field.name, changed))


def _other_item(rng: Generator, item: Any) -> Any:
    if isinstance(item, str):  # a draw's record
        try:
            return (
                written(change_value(rng, json.loads(item)))
                if rng.random() < 0.8
                else str(rng.choice(["", "{}", "[]", "x", "[" * 3000]))
            )
        except (ValueError, TypeError):
            return "{}"
    if isinstance(item, list):
        action = int(rng.integers(6))
        if action == 0:
            return item[:-1]
        if action == 1:
            return item + item[:1]
        if action == 2:
            return [b"", *item[1:]]
        if action == 3:
            return item[::-1]
        if action == 4:
            return [*item[:-1], item[-1][: len(item[-1]) // 2]]
        return None
    return int(rng.choice([0, 1, 2, 3, 200, 255, 2**31, 2**32 - 1])) if rng.random() < 0.9 else None


def change_columns(rng: Generator, files: Files, corpus: list[Files]) -> Files:
    """A column dropped, doubled, renamed, of another type, or in another place."""
    name, table = shard_of(rng, files)
    if table is None:
        return files
    at = int(rng.integers(table.num_columns))
    field, action = table.schema.field(at), int(rng.integers(6))
    if action == 0:
        table = table.remove_column(at)
    elif action == 1:
        table = table.append_column(field.name, table.column(at))
    elif action == 2:
        table = table.rename_columns([("other" if i == at else one) for i, one in enumerate(table.column_names)])
    elif action == 3:
        table = table.set_column(at, field.name, pa.array([None] * table.num_rows, pa.int32()))
    elif action == 4:
        table = table.set_column(at, field.name, pa.array([1.5] * table.num_rows, pa.float64()))
    else:
        table = table.select(list(reversed(table.column_names)))
    return rewritten(files, name, table)


def change_rows(rng: Generator, files: Files, corpus: list[Files]) -> Files:
    """Rows dropped, doubled or exchanged; other row groups."""
    name, table = shard_of(rng, files)
    if table is None or not table.num_rows:
        return files
    action = int(rng.integers(5))
    if action == 0:
        return rewritten(files, name, table.slice(0, table.num_rows - 1))
    if action == 1:
        return rewritten(files, name, pa.concat_tables([table, table]))
    if action == 2:
        return rewritten(files, name, table.take(list(reversed(range(table.num_rows)))))
    if action == 3:
        return rewritten(files, name, table.slice(0, 0))
    return rewritten(files, name, table, row_group_size=100, compression=str(rng.choice(["none", "snappy", "gzip"])))


def change_footer(rng: Generator, files: Files, corpus: list[Files]) -> Files:
    """An entry of the footer's metadata."""
    name, table = shard_of(rng, files)
    if table is None:
        return files
    metadata = dict(table.schema.metadata or {})
    keys = sorted(metadata) or [b"recipe"]
    key = keys[int(rng.integers(len(keys)))]
    texts = [one for one in HOSTILE if isinstance(one, str) and one.isascii()]
    metadata[key] = texts[int(rng.integers(len(texts)))].encode()[:5000]
    if rng.random() < 0.3:
        del metadata[key]
    return rewritten(files, name, table.replace_schema_metadata(metadata))


def flip_sealed(rng: Generator, files: Files, corpus: list[Files]) -> Files:
    """Bytes flipped anywhere in a shard (pages, dictionaries, Thrift), with the seal and the manifest made right again."""
    from tests.fuzz.byte_mutations import CHANGES

    name = pick(rng, files, lambda one: one.endswith(".parquet") and isinstance(files[one], bytes))
    if not name:
        return files
    changes = ("flip bits", "set bytes", "edge number", "zero block", "insert", "delete")
    changed = CHANGES[changes[int(rng.integers(len(changes)))]](rng, files[name])  # type: ignore[arg-type]
    return listed_again(files | {name: sealed_again(changed)})


def flip_footer(rng: Generator, files: Files, corpus: list[Files]) -> Files:
    """The same within the footer, where lengths and offsets are."""
    name = pick(rng, files, lambda one: one.endswith(".parquet") and isinstance(files[one], bytes))
    data = files.get(name)
    if not isinstance(data, bytes) or len(data) < 12:
        return files
    footer = min(len(data) - 8, int.from_bytes(data[-8:-4], "little"))
    start = len(data) - 8 - footer
    body = bytearray(data[start:-8])
    for at in rng.integers(0, max(1, len(body)), int(rng.integers(1, 4))):
        if body:
            body[at] = int(rng.choice([0, 1, 0x7F, 0x80, 0xFF, int(rng.integers(256))]))
    return listed_again(files | {name: sealed_again(data[:start] + bytes(body) + data[-8:])})


MUTATIONS = {
    "cell": change_cell,
    "cell 2": change_cell,
    "columns": change_columns,
    "rows": change_rows,
    "footer": change_footer,
    "flip sealed": flip_sealed,
    "flip footer": flip_footer,
}
