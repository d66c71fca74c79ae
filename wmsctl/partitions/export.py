"""Writes a detached partition into the store, in one snapshot: parts of CSV and Parquet, and last a manifest.

Three stages work at the same time, each on the next part: PostgreSQL's COPY, compression and upload, and whatever is
done with a part that is in the store (`proof` reads it back). So the whole takes little longer than its slowest stage.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from wmsctl.clients.objectstore import ObjectStore
from wmsctl.clients.postgres import rows
from wmsctl.errors import Failed
from wmsctl.inventory import Inventory
from wmsctl.partitions import arrow
from wmsctl.partitions import manifest as m
from wmsctl.partitions.database import SETTINGS
from wmsctl.partitions.ddl import named
from wmsctl.partitions.manifest import Column, Manifest, Part
from wmsctl.partitions.observe import SCHEMA
from wmsctl.partitions.periods import Interval
from wmsctl.steps import moment

PART_BYTES = 48 << 20
"""CSV of one part: as much as is held in memory a few times over, and enough for zstd and Parquet to do well."""
ENCODERS = 2
AHEAD = 2
"""Parts that are read before the ones under way are done."""

HASHED = (
    "bigint", "integer", "smallint", "boolean", "text", "date", "uuid", "timestamp with time zone",
    "timestamp without time zone", "bytea",
)  # fmt: skip
"""Types whose own hash tells apart whatever their text tells apart. All others are hashed by their text: 1.0 and 1.00
are equal, and must not be taken for each other here.
"""


@dataclass(frozen=True)
class Source:
    """What is exported, and where to."""

    archive: str
    table: str
    partition: str
    key: str
    interval: Interval
    lower: datetime
    upper: datetime
    folder: str
    """In the store, with its final slash."""
    carried: int | None


def columns_of(connection: Any, name: str) -> tuple[Column, ...]:
    """The stored columns of a table in their order; computed ones are computed again."""
    return tuple(
        Column(name=row[0], type=row[1], nullable=row[2])
        for row in rows(
            connection,
            "SELECT a.attname, format_type(a.atttypid, a.atttypmod), NOT a.attnotnull FROM pg_attribute a"
            " WHERE a.attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))"
            " AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum",
            (SCHEMA, name),
        )
    )


def ddl_of(connection: Any, name: str) -> tuple[str, ...]:
    """Statements that make a table like this one: for people, seven years from now, without its parent."""
    where = "to_regclass(format('%%I.%%I', %s::text, %s::text))"
    given = (SCHEMA, name)
    columns = [
        f"    {row[0]} {row[1]}{row[2]}{row[3]}"
        for row in rows(
            connection,
            "SELECT quote_ident(a.attname), format_type(a.atttypid, a.atttypmod),"
            " CASE WHEN d.adbin IS NULL THEN '' WHEN a.attgenerated = 's'"
            " THEN ' GENERATED ALWAYS AS (' || pg_get_expr(d.adbin, d.adrelid) || ') STORED'"
            " ELSE ' DEFAULT ' || pg_get_expr(d.adbin, d.adrelid) END,"
            " CASE WHEN a.attnotnull THEN ' NOT NULL' ELSE '' END"
            " FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum"
            f" WHERE a.attrelid = {where} AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum",
            given,
        )
    ]
    constraints = [
        f"ALTER TABLE {row[0]} ADD CONSTRAINT {row[1]} {row[2]}"
        for row in rows(
            connection,
            "SELECT conrelid::regclass::text, quote_ident(conname), pg_get_constraintdef(oid) FROM pg_constraint"
            f" WHERE conrelid = {where} ORDER BY contype, conname",
            given,
        )
    ]
    indexes = [
        row[0]
        for row in rows(
            connection,
            f"SELECT pg_get_indexdef(x.indexrelid) FROM pg_index x WHERE x.indrelid = {where}"
            " AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.indexrelid) ORDER BY 1",
            given,
        )
    ]
    made = f"CREATE TABLE {name} (\n" + ",\n".join(columns) + "\n)"
    return (made, *constraints, *indexes)


def row_hash_of(columns: tuple[Column, ...]) -> str:
    """The expression whose sum over all rows stands for their values, in any order."""
    values = ", ".join(
        _quoted(each.name) if each.type in HASHED else f"{_quoted(each.name)}::text" for each in columns
    )
    return f"hash_record_extended(ROW({values}), 0)"


def fingerprint(connection: Any, relation: Any, expression: str) -> tuple[int, str]:
    """(rows, sum of the hashes of the rows) of a table, as the server computes them."""
    from psycopg import sql

    statement = sql.SQL("SELECT count(*), coalesce(sum({}), 0)::text FROM ONLY {}").format(
        sql.SQL(expression),
        relation,
    )
    count, total = connection.execute(statement).fetchone()
    return int(count), str(total)


def copied(
    connection: Any, relation: Any, columns: tuple[Column, ...], part_bytes: int
) -> Iterator[tuple[bytes, int]]:
    """(CSV, rows) of a table, in the order of its pages, cut after whole rows at about `part_bytes`."""
    from psycopg import sql

    statement = sql.SQL("COPY {} ({}) TO STDOUT WITH ({})").format(
        relation, sql.SQL(", ").join(named(each.name) for each in columns), sql.SQL(m.CSV_OPTIONS)
    )
    lines: list[Any] = []
    size = 0
    with connection.cursor().copy(statement) as copy:
        # Each message of the protocol is a row.
        for line in copy:
            lines.append(line)
            size += len(line)
            if size >= part_bytes:
                yield b"".join(lines), len(lines)
                lines, size = [], 0
    if lines:
        yield b"".join(lines), len(lines)


def export(
    connection: Any,
    inventory: Inventory,
    store: ObjectStore,
    source: Source,
    *,
    server: str,
    part_bytes: int,
    written: Callable[[Part], None],
    progress: Callable[[str], None],
) -> tuple[Manifest, str]:
    """Write the archive; returns the manifest and its SHA-256, once it is in the store.

    `written` is called with each part, in order, from another thread, when its files are in the store; an error of it
    ends the export. Whatever an earlier attempt left in the folder is deleted first. Raises Failed, Unreachable.
    """
    store.delete(store.list(source.folder))
    relation = named(SCHEMA, source.partition)
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        columns = columns_of(connection, source.partition)
        if not columns:
            raise Failed(f"there is no table {source.partition}", hint="see: wmsctl partitions status")
        expression = row_hash_of(columns)
        # The first statement that needs it takes the snapshot.
        facts = rows(
            connection,
            "SELECT pg_current_wal_insert_lsn()::text,"
            " ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int,"
            " pg_current_snapshot()::text, (SELECT system_identifier::text FROM pg_control_system()),"
            " current_database(), current_setting('server_version')",
        )[0]
        parts = _write(
            copied(connection, relation, columns, part_bytes),
            columns,
            store,
            source.folder,
            written,
            progress,
        )
        count, total = fingerprint(connection, relation, expression)
        ddl = ddl_of(connection, source.partition)
    if count != sum(part.rows for part in parts):
        raise Failed(
            f"{source.partition} has {count} rows, and {sum(part.rows for part in parts)} were exported"
        )
    made = Manifest(
        format=m.FORMAT,
        archive=source.archive,
        platform=inventory.platform,
        table=source.table,
        partition=source.partition,
        key=source.key,
        interval=source.interval,
        lower=source.lower.isoformat(),
        upper=source.upper.isoformat(),
        columns=columns,
        ddl=ddl,
        rows=count,
        row_hash=total,
        row_hash_of=expression,
        aggregates=m.whole(part.aggregates for part in parts),
        parts=parts,
        csv_options=m.CSV_OPTIONS,
        settings={
            name: SETTINGS[name] for name in ("timezone", "datestyle", "intervalstyle", "bytea_output")
        },
        lsn=facts[0],
        timeline=facts[1],
        snapshot=facts[2],
        system_identifier=facts[3],
        database=facts[4],
        server=server,
        carried=source.carried,
        exported_at=datetime.now(UTC).isoformat(timespec="seconds"),
        versions={"postgresql": facts[5], "wmsctl": _version(), "pyarrow": str(arrow.library().__version__)},
    )
    content = m.encode(made)
    store.put(f"{source.folder}manifest.json", content, kind="application/json")
    return made, m.digest(content)


def _write(
    chunks: Iterator[tuple[bytes, int]],
    columns: tuple[Column, ...],
    store: ObjectStore,
    folder: str,
    written: Callable[[Part], None],
    progress: Callable[[str], None],
) -> tuple[Part, ...]:
    parts: list[Part] = []
    under_way: list[Future[Part]] = []

    def settled(future: Future[Part]) -> None:
        part = future.result()
        parts.append(part)
        progress(
            f"  part {part.number}: {part.rows} rows, {part.csv.bytes + part.parquet.bytes} bytes in the store"
        )

    def handed_on(encoded: Future[Part]) -> Part:
        part = encoded.result()
        written(part)
        moment(f"export:{part.number}")
        return part

    with ThreadPoolExecutor(ENCODERS) as encoders, ThreadPoolExecutor(1) as followers:
        try:
            for number, (raw, count) in enumerate(chunks, 1):
                encoded = encoders.submit(_encode, number, raw, count, columns, store, folder)
                under_way.append(followers.submit(handed_on, encoded))
                while len(under_way) > AHEAD:
                    settled(under_way.pop(0))
            for future in under_way:
                settled(future)
        except BaseException:
            for future in under_way:
                future.cancel()
            raise
    return tuple(parts)


def _encode(
    number: int, raw: bytes, count: int, columns: tuple[Column, ...], store: ObjectStore, folder: str
) -> Part:
    """One part as files in the store."""
    table = arrow.read(raw, columns, count)
    files = []
    for name, content in (
        (f"csv/{number:05d}.csv.zst", arrow.compress(raw)),
        (f"parquet/{number:05d}.parquet", arrow.parquet(table)),
    ):
        store.put(folder + name, content)
        files.append(m.File(name=name, bytes=len(content), sha256=m.digest(content)))
    return Part(
        number=number,
        rows=count,
        raw_bytes=len(raw),
        raw_sha256=m.digest(raw),
        csv=files[0],
        parquet=files[1],
        aggregates=arrow.aggregates(table, columns),
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("wms-platform")
    except PackageNotFoundError:  # run from a checkout
        return "0.1.0+checkout"
