"""Rows in COPY's CSV as Arrow tables, Parquet, and what the values of a column come to. The work is Arrow's, outside
Python's lock; pyarrow belongs to the extra `archive` and is imported when it is needed.
"""

from __future__ import annotations

import re
from typing import Any

from wmsctl.errors import Failed, Usage
from wmsctl.partitions.manifest import Aggregate, Column

ZSTD_LEVEL = 3
"""zstd's own default."""
ROW_GROUP = 131_072
"""Rows that a query skips or reads at once."""
TEXT = 120
"""Characters of a text's least and greatest value that a manifest holds."""
_DECIMAL = re.compile(r"numeric\((\d+),(\d+)\)")
WHOLE = ("bigint", "integer", "smallint")


def library() -> Any:
    """pyarrow with what is used of it. Raises Usage saying how to install it."""
    try:
        import pyarrow
        import pyarrow.compute
        import pyarrow.csv
        import pyarrow.parquet
    except ModuleNotFoundError as error:
        raise Usage(
            f"{error.name} is not installed, and archives need it",
            hint='install the extra: pip install "wms-platform[archive]"',
        ) from error
    return pyarrow


def kind(column: Column) -> Any:
    """The Arrow type of a column. What Arrow has no type for stays PostgreSQL's text."""
    pa = library()
    simple = {
        "bigint": pa.int64(), "integer": pa.int32(), "smallint": pa.int16(), "boolean": pa.bool_(),
        "double precision": pa.float64(), "real": pa.float32(), "date": pa.date32(),
        "timestamp with time zone": pa.timestamp("us", "UTC"), "timestamp without time zone": pa.timestamp("us"),
    }  # fmt: skip
    if column.type in simple:
        return simple[column.type]
    if (found := _DECIMAL.fullmatch(column.type)) and int(found[1]) <= 38:
        return pa.decimal128(int(found[1]), int(found[2]))
    return pa.string()


def read(raw: bytes, columns: tuple[Column, ...], rows: int) -> Any:
    """The rows of a CSV part as a pyarrow.Table. Raises Failed when a value does not fit its type."""
    pa = library()
    schema = pa.schema([pa.field(each.name, kind(each), each.nullable) for each in columns])
    try:
        table = pa.csv.read_csv(
            pa.BufferReader(raw),
            read_options=pa.csv.ReadOptions(column_names=schema.names, block_size=8 << 20),
            parse_options=pa.csv.ParseOptions(
                # Only a text can hold a line's end, and then there are more ends than rows.
                newlines_in_values=raw.count(b"\n") != rows,
                ignore_empty_lines=False,
            ),
            convert_options=pa.csv.ConvertOptions(
                column_types=schema,
                null_values=[""],
                strings_can_be_null=True,
                quoted_strings_can_be_null=False,
                true_values=["t"],
                false_values=["f"],
            ),
        )
    except pa.ArrowInvalid as error:
        raise Failed(f"a value cannot be kept in Parquet: {str(error)[:200]}") from error
    if table.num_rows != rows:
        raise Failed(f"{rows} rows of CSV were read as {table.num_rows}")
    return table.cast(schema)


def parquet(table: Any) -> bytes:
    """The table as a Parquet file."""
    pa = library()
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(
        table, sink, compression="zstd", compression_level=ZSTD_LEVEL, row_group_size=ROW_GROUP
    )
    return bytes(sink.getvalue())


def from_parquet(content: bytes) -> Any:
    """A Parquet file as a table. Raises Failed when it is none."""
    pa = library()
    try:
        return pa.parquet.read_table(pa.BufferReader(content))
    except (pa.ArrowInvalid, OSError) as error:
        raise Failed(f"a Parquet file cannot be read: {str(error)[:200]}") from error


def same(one: Any, other: Any) -> bool:
    """Whether two tables hold the same values of the same types, bit for bit: a NaN is one here."""
    pa = library()
    if one.schema != other.schema:
        return False
    for name in one.schema.names:
        a, b = one[name].combine_chunks(), other[name].combine_chunks()
        if pa.types.is_floating(a.type):
            bits = pa.int64() if a.type == pa.float64() else pa.int32()
            a, b = a.view(bits), b.view(bits)
        if not a.equals(b):
            return False
    return True


def compress(raw: bytes) -> bytes:
    """One zstd frame, as the program zstd makes them."""
    pa = library()
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(raw)
    return bytes(sink.getvalue())


def decompress(content: bytes, expected: int) -> bytes:
    """The inverse. Raises Failed when it is damaged, or is not of the expected length."""
    pa = library()
    try:
        with pa.CompressedInputStream(pa.BufferReader(content), "zstd") as stream:
            raw: bytes = stream.read()
    except OSError as error:
        raise Failed(f"a file cannot be decompressed: {str(error)[:200]}") from error
    if len(raw) != expected:
        raise Failed(f"a file has {len(raw)} bytes after decompression instead of {expected}")
    return raw


def aggregates(table: Any, columns: tuple[Column, ...]) -> tuple[Aggregate, ...]:
    """Nulls, least and greatest of every column, and the exact sum of whole numbers."""
    pa = library()
    found = []
    for column in columns:
        values = table[column.name]
        least = greatest = total = None
        if column.type in WHOLE or pa.types.is_temporal(values.type) or pa.types.is_string(values.type):
            both = pa.compute.min_max(values)
            if pa.types.is_temporal(values.type):
                both = {name: both[name].cast(pa.string()) for name in ("min", "max")}
            least, greatest = (
                None if both[n].as_py() is None else str(both[n].as_py()) for n in ("min", "max")
            )
        if column.type in WHOLE and values.null_count < len(values):
            total = str(_sum(values))
        found.append(
            Aggregate(column=column.name, nulls=values.null_count, min=least, max=greatest, sum=total)
        )
    return tuple(found)


def _sum(values: Any) -> int:
    """The sum of 64-bit numbers, which need not fit in 64 bits: of their upper and their lower halves."""
    pa = library()
    wide = values.cast(pa.int64())
    upper = pa.compute.sum(pa.compute.shift_right(wide, 32)).as_py()
    lower = pa.compute.sum(pa.compute.bit_wise_and(wide, 0xFFFFFFFF)).as_py()
    return (int(upper) << 32) + int(lower)
