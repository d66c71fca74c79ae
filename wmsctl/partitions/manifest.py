"""What an archive says of itself: enough to make the partition again, and to know that it is the same, without the
database that it came from.

An archive is a folder of the store, `<prefix>/<platform>/<table>/<partition>/<id>/`: `csv/00001.csv.zst` and so on,
the truth (COPY's CSV, zstd), `parquet/00001.parquet`, the same rows for queries, and `manifest.json`, which is
written last: without it there is no archive.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Literal

import msgspec

from wmsctl.errors import Failed

Format = Literal["wms.partition/v1"]
FORMAT: Format = "wms.partition/v1"
CSV_OPTIONS = "FORMAT csv, ENCODING 'UTF8'"
"""Of COPY, both ways. NULL is an empty field, an empty text is "". Any PostgreSQL reads it, and any other program."""


class Frozen(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of all parts: immutable, and an unknown key is an error."""


class Column(Frozen, frozen=True):
    """A column, as PostgreSQL's format_type names its type."""

    name: str
    type: str
    nullable: bool


class Aggregate(Frozen, frozen=True):
    """What all values of a column come to. Texts, so that no reader's numbers are too small for them."""

    column: str
    nulls: int
    min: str | None = None
    max: str | None = None
    sum: str | None = None
    """Of whole numbers only: others have no exact one."""


class File(Frozen, frozen=True):
    """One object of the archive; `name` is relative to the archive's folder."""

    name: str
    bytes: int
    sha256: str


class Part(Frozen, frozen=True):
    """A run of rows, in the order of the table's pages."""

    number: int
    rows: int
    raw_bytes: int
    raw_sha256: str
    """Of the CSV before compression."""
    csv: File
    parquet: File
    aggregates: tuple[Aggregate, ...]


class Manifest(Frozen, frozen=True):
    format: Format
    archive: str
    platform: str
    table: str
    partition: str
    key: str
    """The column that the table is partitioned by."""
    interval: Literal["month", "week", "day"]
    lower: str
    upper: str
    """UTC ISO 8601; the upper bound is excluded."""
    columns: tuple[Column, ...]
    ddl: tuple[str, ...]
    """Statements that make the table, its constraints and its indexes."""
    rows: int
    row_hash: str
    """Sum over all rows of `row_hash_of` as PostgreSQL computes it, in the database that the rows came from."""
    row_hash_of: str
    aggregates: tuple[Aggregate, ...]
    parts: tuple[Part, ...]
    csv_options: str
    settings: dict[str, str]
    """Of the session that wrote the CSV."""
    lsn: str
    timeline: int
    snapshot: str
    system_identifier: str
    database: str
    server: str
    carried: int | None
    """Balances that were carried forward, by the platform's own function; null when it has none."""
    exported_at: str
    versions: dict[str, str]
    """postgresql, wmsctl, pyarrow."""

    @property
    def files(self) -> tuple[File, ...]:
        """Every object but the manifest."""
        return tuple(file for part in self.parts for file in (part.csv, part.parquet))

    @property
    def bytes(self) -> int:
        """In the store, without the manifest."""
        return sum(file.bytes for file in self.files)


def folder_of(manifest_key: str) -> str:
    """The archive's folder, with its final slash."""
    return manifest_key.removesuffix("manifest.json")


def encode(manifest: Manifest) -> bytes:
    """Indented JSON: it is to be read by people, too, seven years from now."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def decode(content: bytes, source: str) -> Manifest:
    """Raises Failed naming `source` and the first wrong value."""
    try:
        return msgspec.json.decode(content, type=Manifest)
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise Failed(f"{source} is no manifest of {FORMAT}: {error}") from error


def digest(content: bytes) -> str:
    return sha256(content).hexdigest()


def whole(parts: Iterable[tuple[Aggregate, ...]]) -> tuple[Aggregate, ...]:
    """The aggregates of all rows from those of the parts. What has a sum is compared as numbers, all else as text:
    times are written so that both orders agree.
    """
    found: dict[str, Aggregate] = {}
    for part in parts:
        for each in part:
            known = found.get(each.column)
            found[each.column] = each if known is None else _joined(known, each)
    return tuple(found.values())


def _joined(one: Aggregate, other: Aggregate) -> Aggregate:
    low = [text for text in (one.min, other.min) if text is not None]
    high = [text for text in (one.max, other.max) if text is not None]
    sums = [int(text) for text in (one.sum, other.sum) if text is not None]
    order = int if sums else None
    return Aggregate(
        column=one.column,
        nulls=one.nulls + other.nulls,
        min=min(low, key=order) if low and order else min(low, default=None),
        max=max(high, key=order) if high and order else max(high, default=None),
        sum=str(sum(sums)) if sums else None,
    )
