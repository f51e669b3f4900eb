"""Broken tables and weights: Parquet whose columns are of another kind, safetensors whose header
lies."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

from benchmarks.strangers.broken import corrupted, odd

KINDS = ("int64", "string", "bool", "float64", "null", "binary", "list<string>")


def parquet(rows: list[dict[str, Any]], draw: random.Random) -> bytes:
    """Give rows as a broken Parquet file."""
    import pyarrow as pa

    try:
        table = pa.Table.from_pylist(odd(rows, draw))
    except (pa.ArrowException, TypeError, AttributeError, UnicodeError, OverflowError):
        table = pa.Table.from_pylist(rows)
    return _written(_other(table, draw) if draw.random() < 0.5 else table, draw)


def mutated(path: Path, draw: random.Random) -> bytes:
    """Give a Parquet file's bytes with a column, its rows or its bytes broken."""
    from pyarrow import parquet as files

    return _written(_other(files.read_table(path), draw), draw)


def _other(table: Any, draw: random.Random) -> Any:
    """Drop, rename, empty or retype a column, or take rows away or double them."""
    import pyarrow as pa

    if not table.num_columns:
        return table
    at = draw.randrange(table.num_columns)
    name, n = table.column_names[at], table.num_rows
    way = draw.randrange(7)
    if way == 0:
        return table.drop_columns([name])
    if way == 1:
        return table.slice(0, draw.choice([0, 1, n // 2]))
    if way == 2:
        return pa.concat_tables([table, table])
    if way == 3:
        return table.set_column(at, name, pa.nulls(n, table.schema.field(at).type))
    if way == 4:
        value = draw.choice([None, -1, 10**12, "x", "a" * 300, "=1+1", "../x", True, 0.5, b"x",
                             ["x"], float("nan"), float("inf"), "\x1b[31m"])  # fmt: skip
        return table.set_column(at, name, pa.array([value] * n))
    if way == 5:
        return table.rename_columns(
            [f"{one}x" if one == name else one for one in table.column_names]
        )
    values = table.column(at).to_pylist()
    draw.shuffle(values)
    return table.set_column(at, name, pa.array(values, table.schema.field(at).type))


def _written(table: Any, draw: random.Random) -> bytes:
    from pyarrow import parquet as files

    sink = io.BytesIO()
    files.write_table(table, sink)
    if draw.random() < 0.3:
        return corrupted(sink.getvalue(), draw) or b""
    return sink.getvalue()


def safetensors(data: bytes, draw: random.Random) -> bytes:
    """Give a file of weights whose header or bytes are broken."""
    if draw.random() < 0.3:
        return corrupted(data, draw) or b""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    text = json.dumps(odd(header, draw)).encode("utf-8", "surrogatepass")
    length = draw.choice([len(text)] * 4 + [0, 2**40, 2**63])
    return length.to_bytes(8, "little") + text + data[8 + size :]
