"""Brings a partition back: from the store, byte for byte, or, while its table is still kept, by attaching that.

Everything happens in one transaction: killed anywhere, nothing of it is there, and the archive is what it was.
"""

from __future__ import annotations

import time
from typing import Any

from wmsctl.clients.postgres import rows
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed, Refused
from wmsctl.partitions import ddl, export, proof, records
from wmsctl.partitions import manifest as m
from wmsctl.partitions.archive import Work
from wmsctl.partitions.database import patiently
from wmsctl.partitions.ddl import LIKE, named, range_of, within
from wmsctl.partitions.manifest import Manifest, folder_of
from wmsctl.partitions.observe import SCHEMA
from wmsctl.partitions.plan import Restoring
from wmsctl.steps import moment

BOUNDS = "bounds_while_attaching"
"""The constraint by which PostgreSQL knows, without looking at the rows, that they belong to the partition."""


def apply(work: Work, plan: Restoring, key: str) -> int:
    """Bring the partition back; how many rows it has. Raises Failed, Refused, Unreachable: then it is as before."""
    known = plan.archive
    if plan.source == "table":
        return _attached_again(work, plan, key)
    manifest = proof.load(work.store, known.manifest, known.manifest_sha256)
    folder = folder_of(known.manifest)
    _whole(work, manifest, folder)
    _fits(work.connection, plan, manifest)
    started = time.monotonic()
    with work.connection.transaction():
        with work.step(
            "restore", f"loading {plan.partition} from {folder}", partition=plan.partition
        ) as facts:
            _load(work, plan, manifest, folder, key)
            facts["rows"] = manifest.rows
        work.took("restore", started)
        started = time.monotonic()
        with work.step("compare", f"comparing {plan.partition} with its manifest", partition=plan.partition):
            _same_bytes(work.connection, plan.partition, manifest)
            _same_rows(work.connection, plan.partition, manifest)
        work.took("compare", started)
        with work.step("attach", f"attaching {plan.partition}", partition=plan.partition):
            _attach(work.connection, plan, key, work.deadline)
            records.restored(work.connection, known.id)
    return manifest.rows


def _attached_again(work: Work, plan: Restoring, key: str) -> int:
    known = plan.archive
    name = plan.partition
    with work.connection.transaction():
        if known.manifest:
            with work.step("compare", f"comparing {name} with its archive", partition=name):
                manifest = proof.load(work.store, known.manifest, known.manifest_sha256)
                _same_rows(work.connection, name, manifest)
        with work.step("attach", f"attaching {name}", partition=name) as facts:
            ddl.freeze(work.connection, name, work.deadline)
            _bounded(work.connection, plan, key)
            _attach(work.connection, plan, key, work.deadline)
            records.restored(work.connection, known.id)
            facts["rows"] = known.rows
    return known.rows or 0


def _whole(work: Work, manifest: Manifest, folder: str) -> None:
    """Every file is there in its length, before anything begins; what they hold is looked at as they are read."""
    there = work.store.list(folder)
    wrong = [
        f"{file.name} is missing"
        if folder + file.name not in there
        else f"{file.name} has not the length it had"
        for file in manifest.files
        if there.get(folder + file.name) != file.bytes
    ]
    if wrong:
        raise Failed(
            f"the archive {manifest.archive} is not whole: {'; '.join(wrong)}",
            hint="restore it from a backup",
        )


def _fits(connection: Any, plan: Restoring, manifest: Manifest) -> None:
    """The table today has the columns of the archive. Those that came later stay at their defaults."""
    if manifest.partition != plan.partition or manifest.table != plan.table:
        raise Failed(f"the manifest of {plan.archive.id} is that of {manifest.partition}")
    now = {column.name: column for column in export.columns_of(connection, plan.table)}
    for column in manifest.columns:
        if column.name not in now:
            raise Refused(
                f"{plan.table} has no column {column.name} any more",
                hint="read the archive without it: docs/partitions.md",
            )
        if now[column.name].type != column.type:
            raise Refused(
                f"{plan.table}.{column.name} is of type {now[column.name].type} now, in the archive {column.type}",
                hint="read the archive without it: docs/partitions.md",
            )


def _load(work: Work, plan: Restoring, manifest: Manifest, folder: str, key: str) -> None:
    from psycopg import sql

    connection, part = work.connection, named(SCHEMA, plan.partition)
    connection.execute(
        sql.SQL("CREATE TABLE {} (LIKE {} " + LIKE + ")").format(part, named(SCHEMA, plan.table))
    )
    for each in manifest.parts:
        # FREEZE: no later pass has to write every page again.
        proof.copy_in(connection, part, manifest.columns, proof.raw_of(work.store, folder, each), freeze=True)
        moment(f"restore:{each.number}")
        work.progress(f"  part {each.number} of {len(manifest.parts)}, {each.rows} rows")
    _bounded(connection, plan, key)
    for statement in index_statements(connection, plan.table, plan.partition):
        connection.execute(statement)
    moment("restore:indexes")
    ddl.freeze(connection, plan.partition, work.deadline)


def index_statements(connection: Any, table: str, partition: str) -> list[Any]:
    """What gives a partition the keys and indexes of its table, so that ATTACH finds them there."""
    from psycopg import sql

    where = "to_regclass(format('%%I.%%I', %s::text, %s::text))"
    keys = rows(
        connection,
        f"SELECT pg_get_constraintdef(oid) FROM pg_constraint WHERE conrelid = {where} AND contype IN ('p', 'u')"
        " ORDER BY conname",
        (SCHEMA, table),
    )
    indexes = rows(
        connection,
        f"SELECT x.indisunique, pg_get_indexdef(x.indexrelid) FROM pg_index x WHERE x.indrelid = {where}"
        " AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = x.indexrelid) ORDER BY 2",
        (SCHEMA, table),
    )
    part = named(SCHEMA, partition)
    # The definitions are PostgreSQL's own text of the table's.
    made = [sql.SQL("ALTER TABLE {} ADD ").format(part) + sql.SQL(definition) for (definition,) in keys]
    made += [
        sql.SQL("CREATE UNIQUE INDEX ON {} " if unique else "CREATE INDEX ON {} ").format(part)
        + sql.SQL(definition[definition.index(" USING ") + 1 :])
        for unique, definition in indexes
    ]
    return made


def _bounded(connection: Any, plan: Restoring, key: str) -> None:
    """Prove the bounds of a table that nobody uses yet, unless a concurrent detach left its own proof."""
    from psycopg import sql

    connection.execute(
        sql.SQL("ALTER TABLE {} ADD CONSTRAINT {} CHECK ({} IS NOT NULL AND {})").format(
            named(SCHEMA, plan.partition), named(BOUNDS), named(key), within(key, plan.period)
        )
    )


def _attach(connection: Any, plan: Restoring, key: str, deadline: Deadline) -> None:
    """ATTACH, which asks the constraint and not the rows; then the constraint goes, and the one of a detach."""
    from psycopg import sql

    part = named(SCHEMA, plan.partition)

    def attempt() -> None:
        with connection.transaction():
            connection.execute(
                sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES {}").format(
                    named(SCHEMA, plan.table), part, range_of(plan.period)
                )
            )

    patiently(attempt, deadline, f"cannot attach {plan.partition}")
    # DETACH … CONCURRENTLY leaves the bounds as a constraint under a name of its own choice: it says what ours says.
    found = rows(
        connection,
        "SELECT conname FROM pg_constraint WHERE conrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))"
        " AND contype = 'c' AND (conname = %s OR pg_get_constraintdef(oid) ="
        " (SELECT 'CHECK (' || pg_get_partition_constraintdef(conrelid) || ')'))",
        (SCHEMA, plan.partition, BOUNDS),
    )
    for (name,) in found:
        connection.execute(sql.SQL("ALTER TABLE {} DROP CONSTRAINT {}").format(part, named(name)))


def _same_rows(connection: Any, name: str, manifest: Manifest) -> None:
    found = export.fingerprint(connection, named(SCHEMA, name), manifest.row_hash_of)
    if found != (manifest.rows, manifest.row_hash):
        raise Failed(
            f"{name} has {found[0]} rows with the hash {found[1]},"
            f" its archive {manifest.rows} with {manifest.row_hash}",
            hint="nothing was changed",
        )


def _same_bytes(connection: Any, name: str, manifest: Manifest) -> None:
    """What COPY gives of the table is, byte for byte, what was archived. Raises Failed."""
    from psycopg import sql

    parts = iter(manifest.parts)
    wanted = next(parts, None)
    lines: list[Any] = []
    statement = sql.SQL("COPY {} ({}) TO STDOUT WITH ({})").format(
        named(SCHEMA, name),
        sql.SQL(", ").join(named(each.name) for each in manifest.columns),
        sql.SQL(manifest.csv_options),
    )
    with connection.cursor().copy(statement) as copy:
        for line in copy:
            lines.append(line)
            if wanted is None or len(lines) < wanted.rows:
                continue
            if m.digest(b"".join(lines)) != wanted.raw_sha256:
                raise Failed(f"{name} is not byte for byte what part {wanted.number} of its archive holds")
            lines, wanted = [], next(parts, None)
    if lines or wanted is not None:
        raise Failed(f"{name} does not have as many rows as its archive")
