"""The statements that change partitions. Each gives way to clients: a short wait for its lock, then another attempt."""

from __future__ import annotations

from typing import Any

from wmsctl.clients.postgres import rows
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed, Refused
from wmsctl.partitions.database import QUIET_LOCK_MS, lock_timeout, patiently
from wmsctl.partitions.observe import FREEZE, SCHEMA
from wmsctl.partitions.periods import Period, literal
from wmsctl.partitions.snapshot import IndexGap, Table

LIKE = "INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING GENERATED INCLUDING STORAGE INCLUDING COMPRESSION"
"""What a partition takes over from its table beside the columns; indexes come with ATTACH."""


def named(*parts: str) -> Any:
    from psycopg import sql

    return sql.Identifier(*parts)


def range_of(period: Period) -> Any:
    """FROM (…) TO (…) of a period, in moments that no session's time zone moves."""
    from psycopg import sql

    return sql.SQL("FROM ({}) TO ({})").format(
        sql.Literal(literal(period.lower)), sql.Literal(literal(period.upper))
    )


def within(key: str, period: Period) -> Any:
    """The condition that a row belongs to a period."""
    from psycopg import sql

    return sql.SQL("{key} >= {lower} AND {key} < {upper}").format(
        key=named(key), lower=sql.Literal(literal(period.lower)), upper=sql.Literal(literal(period.upper))
    )


def create(connection: Any, table: Table, period: Period, deadline: Deadline) -> int:
    """Make the partition of `period`, with the rows that the default partition, if there is one, has of it.

    ATTACH, unlike CREATE TABLE … PARTITION OF, takes a lock on the table that neither readers nor writers meet. With a
    default partition writers have to wait at the table's door until all rows are home: one that had already been sent
    to the default partition would be refused when it gets there. Returns how many moved.
    """
    from psycopg import sql

    name = period.name(table.name)
    part, parent = named(SCHEMA, name), named(SCHEMA, table.name)

    def attempt() -> int:
        with connection.transaction():
            connection.execute(sql.SQL("CREATE TABLE {} (LIKE {} " + LIKE + ")").format(part, parent))
            moved = 0
            if table.default:
                default = named(SCHEMA, table.default)
                connection.execute(sql.SQL("LOCK TABLE ONLY {} IN SHARE ROW EXCLUSIVE MODE").format(parent))
                connection.execute(sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(default))
                columns = sql.SQL(", ").join(map(named, stored_columns(connection, name)))
                moved = connection.execute(
                    sql.SQL(
                        "WITH home AS (DELETE FROM ONLY {default} WHERE {condition} RETURNING {columns})"
                        " INSERT INTO {part} ({columns}) SELECT {columns} FROM home"
                    ).format(default=default, condition=within(table.key, period), columns=columns, part=part)
                ).rowcount
            connection.execute(
                sql.SQL("ALTER TABLE {} ATTACH PARTITION {} FOR VALUES {}").format(
                    parent, part, range_of(period)
                )
            )
        return moved

    return patiently(attempt, deadline, f"cannot make {name}")


def stored_columns(connection: Any, name: str) -> list[str]:
    """The columns of a table that are stored and not computed, in their order."""
    return [
        row[0]
        for row in rows(
            connection,
            "SELECT a.attname FROM pg_attribute a WHERE a.attrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))"
            " AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '' ORDER BY a.attnum",
            (SCHEMA, name),
        )
    ]


def is_partition(connection: Any, name: str) -> bool | None:
    """Whether the table is attached somewhere (also while its detach is pending); None when there is no such table."""
    found = rows(
        connection,
        "SELECT relispartition FROM pg_class WHERE oid = to_regclass(format('%%I.%%I', %s::text, %s::text))",
        (SCHEMA, name),
    )
    return bool(found[0][0]) if found else None


def finalize(connection: Any, table: str, name: str, deadline: Deadline) -> None:
    """Finish a concurrent detach that was interrupted: only who has begun to read before it is waited for."""
    from psycopg import sql

    statement = sql.SQL("ALTER TABLE {} DETACH PARTITION {} FINALIZE").format(
        named(SCHEMA, table), named(SCHEMA, name)
    )
    # The partition is locked while it waits, but nobody finds the way to it any more.
    with lock_timeout(connection, QUIET_LOCK_MS):
        patiently(lambda: connection.execute(statement), deadline, f"cannot finish the detach of {name}")


def detach(connection: Any, table: str, name: str, deadline: Deadline) -> None:
    """Detach a partition beside the traffic, or finish what an earlier attempt began."""
    import psycopg
    from psycopg import sql

    statement = sql.SQL("ALTER TABLE {} DETACH PARTITION {} CONCURRENTLY").format(
        named(SCHEMA, table), named(SCHEMA, name)
    )
    if not pending(connection, name):
        try:
            # It waits for transactions that use the table, and nobody waits for it.
            with lock_timeout(connection, QUIET_LOCK_MS):
                connection.execute(statement)
            return
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected):
            if not pending(connection, name):
                raise Failed(
                    f"cannot detach {name}: the table was busy for {QUIET_LOCK_MS // 1000} s",
                    hint="a long transaction is in the way (pg_stat_activity); run again when it has ended",
                ) from None
    finalize(connection, table, name, deadline)


def pending(connection: Any, name: str) -> bool:
    """Whether a concurrent detach of the partition was begun and not finished."""
    found = rows(
        connection,
        "SELECT inhdetachpending FROM pg_inherits"
        " WHERE inhrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))",
        (SCHEMA, name),
    )
    return bool(found and found[0][0])


def freeze(connection: Any, name: str, deadline: Deadline) -> None:
    """Have a partition refuse every change from now on; those under way are waited for."""
    from psycopg import sql

    trigger, part = named(FREEZE), named(SCHEMA, name)

    def attempt() -> None:
        with connection.transaction():
            if rows(
                connection,
                "SELECT 1 FROM pg_trigger WHERE tgrelid = to_regclass(format('%%I.%%I', %s::text, %s::text))"
                " AND tgname = %s",
                (SCHEMA, name, FREEZE),
            ):
                return
            connection.execute(
                sql.SQL(
                    "CREATE TRIGGER {} BEFORE INSERT OR UPDATE OR DELETE ON {}"
                    " FOR EACH ROW EXECUTE FUNCTION ops.refuse_change()"
                ).format(trigger, part)
            )

    patiently(attempt, deadline, f"cannot freeze {name}")


def mend_index(connection: Any, gap: IndexGap, deadline: Deadline) -> None:
    """Build a partition's missing index beside the traffic and attach it to the table's."""
    from psycopg import sql

    index = named(SCHEMA, gap.name)
    with lock_timeout(connection, QUIET_LOCK_MS):
        if gap.state == "invalid":
            patiently(
                lambda: connection.execute(sql.SQL("DROP INDEX CONCURRENTLY {}").format(index)),
                deadline,
                f"cannot drop the invalid index {gap.name}",
            )
        if gap.state != "unattached":
            # The definition is PostgreSQL's own text of the table's index.
            build = sql.SQL("CREATE INDEX CONCURRENTLY {} ON {} ").format(
                named(gap.name), named(SCHEMA, gap.partition)
            ) + sql.SQL(gap.definition)
            connection.execute(build)
    attach = sql.SQL("ALTER INDEX {} ATTACH PARTITION {}").format(named(SCHEMA, gap.index), index)
    patiently(lambda: connection.execute(attach), deadline, f"cannot attach the index {gap.name}")


def analyze(connection: Any, table: str) -> None:
    """Gather the statistics of a table and of its partitions; waits only for other maintenance."""
    from psycopg import sql

    with lock_timeout(connection, QUIET_LOCK_MS):
        connection.execute(sql.SQL("ANALYZE {}").format(named(SCHEMA, table)))


def drop(connection: Any, name: str, archive: str, deadline: Deadline) -> None:
    """Drop a detached partition and say so in its archive's record, both or neither.

    Raises Refused when the table is attached, or other objects depend on it.
    """
    from psycopg import errors, sql

    def attempt() -> None:
        with connection.transaction():
            if is_partition(connection, name) is not None:
                connection.execute(
                    sql.SQL("LOCK TABLE ONLY {} IN ACCESS EXCLUSIVE MODE").format(named(SCHEMA, name))
                )
                if is_partition(connection, name):
                    raise Refused(
                        f"{name} is attached and is not dropped", hint="see: wmsctl partitions status"
                    )
                try:
                    connection.execute(sql.SQL("DROP TABLE {}").format(named(SCHEMA, name)))
                except errors.DependentObjectsStillExist as error:
                    raise Refused(f"{name} is not dropped: {error.diag.message_detail}") from error
            connection.execute(
                "UPDATE ops.partition_archives SET state = 'dropped', dropped_at = now()"
                " WHERE archive = %s AND state = 'proven'",
                (archive,),
            )

    patiently(attempt, deadline, f"cannot drop {name}")
