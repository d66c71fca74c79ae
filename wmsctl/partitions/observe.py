"""Reads the state of the declared tables from the primary: a handful of catalogue queries, whatever the number of
partitions.
"""

from __future__ import annotations

from collections import defaultdict
from datetime import UTC, date, datetime
from typing import Any

from wmsctl.clients.postgres import rows
from wmsctl.inventory import PartitionedTable
from wmsctl.partitions.periods import bounds, period_between
from wmsctl.partitions.snapshot import LIVE, Archive, IndexGap, Partition, Snapshot, Table

SCHEMA = "public"
FREEZE = "archived_takes_no_changes"
"""The trigger on a partition that takes no changes."""
KEYS = ("timestamp with time zone", "timestamp without time zone", "date")
"""Types that a table may be partitioned by."""

_TABLES = """
SELECT c.oid, c.relname, p.partstrat, p.partnatts, a.attname, format_type(a.atttypid, NULL),
       d.relname, greatest(s.last_analyze, s.last_autoanalyze)
  FROM pg_class c
  JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %s
  LEFT JOIN pg_partitioned_table p ON p.partrelid = c.oid
  LEFT JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = p.partattrs[0]
  LEFT JOIN pg_class d ON d.oid = p.partdefid
  LEFT JOIN pg_stat_all_tables s ON s.relid = c.oid
 WHERE c.relname = ANY(%s)
"""
_PARTITIONS = """
SELECT i.inhparent, c.relname, i.inhdetachpending, pg_get_expr(c.relpartbound, c.oid), c.relkind = 'r',
       EXISTS (SELECT FROM pg_trigger t WHERE t.tgrelid = c.oid AND t.tgname = %s),
       CASE WHEN c.reltuples >= 0 THEN c.reltuples::bigint END,
       CASE WHEN %s THEN pg_total_relation_size(c.oid) END
  FROM pg_inherits i
  JOIN pg_class c ON c.oid = i.inhrelid
  JOIN pg_partitioned_table p ON p.partrelid = i.inhparent
 WHERE i.inhparent = ANY(%s) AND c.oid <> p.partdefid
"""
# A concurrent build leaves an index that is not attached yet, or an invalid one: both go by the name we gave them.
_GAPS = """
SELECT x.indrelid, c.relname, n.relname, x.indisunique, pg_get_indexdef(x.indexrelid), o.indisvalid
  FROM pg_index x
  JOIN pg_class n ON n.oid = x.indexrelid
  JOIN pg_class t ON t.oid = x.indrelid
  JOIN pg_inherits i ON i.inhparent = x.indrelid AND NOT i.inhdetachpending
  JOIN pg_class c ON c.oid = i.inhrelid AND c.relkind = 'r'
  LEFT JOIN (pg_index o JOIN pg_class w ON w.oid = o.indexrelid) ON o.indrelid = c.oid AND NOT w.relispartition
       AND w.relname = left(c.relname || substr(n.relname, CASE WHEN starts_with(n.relname, t.relname || '_')
                            THEN length(t.relname) + 1 ELSE 1 END), 63)
 WHERE x.indrelid = ANY(%s)
   AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.indexrelid)
   AND NOT EXISTS (SELECT FROM pg_inherits p JOIN pg_index y ON y.indexrelid = p.inhrelid
                    WHERE p.inhparent = x.indexrelid AND y.indrelid = c.oid)
 ORDER BY c.relname, n.relname
"""
_DETACHED = """
SELECT t.relname, c.relname
  FROM pg_class t
  JOIN pg_class c ON c.relnamespace = t.relnamespace AND NOT c.relispartition
       AND starts_with(c.relname, t.relname || '_')
 WHERE t.oid = ANY(%s) AND substr(c.relname, length(t.relname) + 2) ~ '^[0-9]{4}_(w?[0-9]{2}|[0-9]{2}_[0-9]{2})$'
"""
_FOREIGN_KEYS = """
SELECT coalesce(i.inhparent, k.confrelid), k.conrelid::regclass::text || '.' || k.conname
  FROM pg_constraint k
  LEFT JOIN pg_inherits i ON i.inhrelid = k.confrelid AND i.inhparent = ANY(%s)
 WHERE k.contype = 'f' AND k.conparentid = 0 AND (k.confrelid = ANY(%s) OR i.inhrelid IS NOT NULL)
 ORDER BY 2
"""
_ARCHIVES = """
SELECT archive, table_name, partition, lower_bound, upper_bound, state, manifest, manifest_sha256, rows, bytes,
       proven_at, to_regclass(format('%%I.%%I', %s::text, partition)) IS NOT NULL
  FROM ops.partition_archives
 WHERE table_name = ANY(%s)
 ORDER BY lower_bound DESC, started_at DESC
"""


def snapshot(
    connection: Any, declared: tuple[PartitionedTable, ...], *, server: str = "", sizes: bool = False
) -> Snapshot:
    """The declared tables as the server at the other end shows them; the session's time zone has to be UTC.

    `sizes` also asks for the bytes of each partition, which looks at every file of it.
    """
    (now,) = rows(connection, "SELECT clock_timestamp()")[0]
    found = {row[1]: row for row in rows(connection, _TABLES, (SCHEMA, [each.table for each in declared]))}
    oids = [row[0] for row in found.values() if row[2]]
    partitions, gaps, keys, detached = (defaultdict(list) for _ in range(4))
    for row in rows(connection, _PARTITIONS, (FREEZE, sizes, oids)):
        partitions[row[0]].append(row)
    for row in rows(connection, _GAPS, (oids,)):
        gaps[row[0]].append(row)
    for owner, name in rows(connection, _DETACHED, (oids,)):
        detached[owner].append(name)
    for owner, name in rows(connection, _FOREIGN_KEYS, (oids, oids)):
        keys[owner].append(name)
    archives = [_archive(row) for row in rows(connection, _ARCHIVES, (SCHEMA, list(found)))]
    tables = []
    for spec in declared:
        if spec.table not in found:
            tables.append(Table(spec, f"there is no table {SCHEMA}.{spec.table}"))
            continue
        row = found[spec.table]
        tables.append(
            Table(
                spec,
                trouble=_trouble(row),
                key=row[4] or "",
                partitions=_partitions(spec, partitions[row[0]]),
                default=row[6] or "",
                strays=_strays(connection, spec, row[4], row[6]) if row[6] else (),
                detached=tuple(sorted(detached[spec.table])),
                foreign_keys=tuple(keys[row[0]]),
                gaps=tuple(_gap(each, spec.table) for each in gaps[row[0]]),
                analyzed_at=row[7],
                archives=tuple(each for each in archives if each.table == spec.table),
            )
        )
    return Snapshot(now.astimezone(UTC), tuple(tables), server)


def _trouble(row: tuple[Any, ...]) -> str:
    _, name, strategy, columns, key, kind, *_ = row
    if not strategy:
        return f"{name} is not partitioned"
    if strategy != "r" or columns != 1 or key is None:
        return f"{name} is not partitioned by the range of one column"
    if kind not in KEYS:
        return (
            f"{name} is partitioned by {key}, which is of type {kind}; it has to be one of {', '.join(KEYS)}"
        )
    return ""


def _partitions(spec: PartitionedTable, found: list[tuple[Any, ...]]) -> tuple[Partition, ...]:
    made = []
    for _, name, pending, expression, plain, frozen, estimate, size in found:
        try:
            lower, upper = bounds(expression)
        except ValueError:  # of a list, or several columns: the table's own trouble says so
            continue
        made.append(
            Partition(
                name,
                lower,
                upper,
                period_between(lower, upper, spec.interval),
                pending,
                frozen,
                estimate,
                size,
                plain,
            )
        )
    least = datetime.min.replace(tzinfo=UTC)
    return tuple(sorted(made, key=lambda each: (each.lower or least, each.name)))


def _gap(row: tuple[Any, ...], table: str) -> IndexGap:
    _, partition, index, unique, definition, valid = row
    tail = index[len(table) :] if index.startswith(f"{table}_") else index
    return IndexGap(
        partition,
        index,
        (partition + tail)[:63],
        "missing" if valid is None else "unattached" if valid else "invalid",
        unique,
        # CREATE INDEX name ON ONLY schema.table USING method (columns): everything from USING on is the same for
        # a partition. No name of ours holds a space.
        definition[definition.index(" USING ") + 1 :],
    )


def _strays(connection: Any, spec: PartitionedTable, key: str, default: str) -> tuple[tuple[date, int], ...]:
    from psycopg import sql

    statement = sql.SQL(
        "SELECT date_trunc({}, {}::timestamptz AT TIME ZONE 'UTC')::date, count(*) FROM ONLY {} GROUP BY 1 ORDER BY 1"
    ).format(sql.Literal(spec.interval), sql.Identifier(key), sql.Identifier(SCHEMA, default))
    return tuple((day, count) for day, count in connection.execute(statement).fetchall())


def _archive(row: tuple[Any, ...]) -> Archive:
    identifier, table, partition, lower, upper, state, manifest, digest, count, size, proven, present = row
    return Archive(
        identifier, table, partition, lower.astimezone(UTC), upper.astimezone(UTC), state, manifest, digest, count,
        size, proven.astimezone(UTC) if proven else None, present and state in LIVE,
    )  # fmt: skip
