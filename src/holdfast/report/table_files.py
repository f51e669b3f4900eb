"""Tables as files: CSV for readers, Parquet for programs, each whole or not at all."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from holdfast.disk import write_bytes

_FORMULA = re.compile(r"[=@\t\r]|[+-](?![\d.,\s]*%?$)")
"""How text begins that a spreadsheet computes, signed numbers aside; source: OWASP."""


def cell(text: str) -> str:
    """Give text for a CSV file: what a spreadsheet would compute begins with an apostrophe."""
    return f"'{text}" if _FORMULA.match(text) else text


def write_table(
    rows: Iterable[Mapping[str, Any]],
    columns: Mapping[str, str],
    stem: Path,
    *,
    text: bool = True,
) -> list[Path]:
    """Write rows as `STEM.parquet` and, if `text`, `STEM.csv`, whole or not at all; give the paths.

    `columns` maps each name to str, int, float or bool. The same rows give the same bytes. Text
    that UTF-8 cannot hold is written with backslash escapes.
    """
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {"str": pa.string(), "int": pa.int64(), "float": pa.float64(), "bool": pa.bool_()}
    clean: dict[str, list[Any]] = {name: [] for name in columns}
    for row in rows:
        for name, kind in columns.items():
            clean[name].append(_value(row.get(name), kind))
    schema = pa.schema([(name, kinds[kind]) for name, kind in columns.items()])
    table = pa.table(clean, schema=schema)
    binary = io.BytesIO()
    parquet.write_table(table, binary, compression="zstd")
    paths = [stem.with_name(stem.name + ".parquet")]
    write_bytes(paths[0], binary.getvalue())
    if text:
        lines = io.StringIO(newline="")
        writer = csv.writer(lines, lineterminator="\n")
        writer.writerow(columns)
        for values in zip(*clean.values(), strict=True):
            writer.writerow(["" if v is None else _plain(v) for v in values])
        paths.insert(0, stem.with_name(stem.name + ".csv"))
        write_bytes(paths[0], lines.getvalue().encode())
    return paths


def _value(value: Any, kind: str) -> str | float | None:  # noqa: ANN401  (a cell of any kind)
    if value is None or (kind != "str" and isinstance(value, float) and math.isnan(value)):
        return None
    if kind == "str":
        return str(value).encode("utf-8", "backslashreplace").decode()
    return {"int": int, "float": float, "bool": bool}[kind](value)


def _plain(value: object) -> object:
    """Spell a value for CSV: booleans as true and false, floats as Python's shortest form."""
    if isinstance(value, str):
        return cell(value)
    if isinstance(value, bool):
        return "true" if value else "false"
    return repr(value) if isinstance(value, float) else value
