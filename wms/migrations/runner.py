"""Applies migrations: one transaction each, one runner at a time.

The advisory lock belongs to each transaction, not to a session, so the runner also works through a pooler in
transaction mode; who waited for it reads the history again. What must run outside a transaction runs on a second
connection, while the first one's transaction holds the lock and afterwards writes the history. That transaction is
READ COMMITTED and idle, so it has no snapshot that a concurrent build would wait for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import Connection, sql

from wms.migrations.files import Migration, MigrationError, Statement, index_of, pending, statements
from wms.settings import OwnerSettings
from wms.store.conninfo import conninfo

LOCK_KEY = 0x776D73_01
"""Advisory lock of whoever migrates ("wms", 1)."""

ATTEMPTS = 3
"""How often a migration is tried when a lock is not free; in between it lets the others pass."""
PAUSE_S = 0.5
BUILD_PATIENCE = 10
"""A concurrent build waits so many lock timeouts: it waits for long transactions, and nobody waits behind it."""
_BUSY = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.QueryCanceled)

_HISTORY = """
CREATE TABLE IF NOT EXISTS schema_migrations (
    number     integer PRIMARY KEY CHECK (number > 0),
    name       text NOT NULL,
    checksum   text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now(),
    applied_by text NOT NULL DEFAULT session_user
)
"""


@dataclass(frozen=True, slots=True)
class Status:
    """One migration and when it was applied, None if it is pending."""

    number: int
    name: str
    applied_at: datetime | None


def connect(settings: OwnerSettings, application: str) -> Connection[Any]:
    """A connection as the schema's owner, without prepared statements. Raises psycopg.OperationalError."""
    return psycopg.connect(
        conninfo(settings.database, settings.name, application),
        password=settings.database.password,
        prepare_threshold=None,
    )


def up(
    connection: Connection[Any],
    files: Sequence[Migration],
    lock_timeout_ms: int,
    progress: Callable[[str], None],
) -> int:
    """Apply what is pending, in order; returns how many were applied.

    Raises MigrationError when the history does not fit, or when one fails: that one is rolled back, those
    before it stay. It can be run again at any time.
    """
    done, attempt = 0, 1
    while True:
        try:
            if not _next(connection, files, lock_timeout_ms, progress):
                return done
        except _BUSY as error:
            if attempt < ATTEMPTS:
                progress(f"a lock was not free, trying again: {_first_lines(error)}")
                time.sleep(PAUSE_S * attempt)
                attempt += 1
                continue
            raise MigrationError(
                f"a lock was not free within {lock_timeout_ms} ms (another runner, or a long transaction "
                f"on the same table), {ATTEMPTS} times: nothing of this migration was applied, or, of one outside a "
                f"transaction, only its first statements; run it again ({_first_lines(error)})"
            ) from error
        except psycopg.Error as error:
            raise MigrationError(f"rolled back: {_first_lines(error)}") from error
        done, attempt = done + 1, 1


def _next(
    connection: Connection[Any],
    files: Sequence[Migration],
    lock_timeout_ms: int,
    progress: Callable[[str], None],
) -> bool:
    """Apply the first pending migration; False when there is none. Raises MigrationError, psycopg.Error."""
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        connection.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(lock_timeout_ms)))
        # A build on the other connection may take longer than a transaction may be idle.
        connection.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
        connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK_KEY,))
        if not _exists(connection):
            connection.execute(_HISTORY)
        todo = pending(files, _checksums(connection))
        if not todo:
            return False
        migration = todo[0]
        progress(f"applying {migration.number:04d}_{migration.name}")
        if migration.outside:
            with _beside(connection, lock_timeout_ms * BUILD_PATIENCE) as other:
                for statement in statements(migration):
                    _run_alone(other, statement, progress)
        else:
            # Without parameters a file of many statements is one message; % stays what it is.
            connection.execute(migration.sql.encode())
        connection.execute(
            "INSERT INTO schema_migrations (number, name, checksum) VALUES (%s, %s, %s)",
            (migration.number, migration.name, migration.checksum),
        )
        return True


@contextmanager
def _beside(connection: Connection[Any], lock_timeout_ms: int) -> Iterator[Connection[Any]]:
    """A second connection to the same database, in autocommit, with its own limits.

    They are the session's, there being no transaction. A pooler in transaction mode may hand out another session for
    the next statement: then the server's own limits hold, which are stricter, and the statement is tried again.
    """
    info = connection.info
    with psycopg.connect(info.dsn, password=info.password, prepare_threshold=None, autocommit=True) as other:
        other.execute(
            "SELECT set_config('lock_timeout', %s, false), set_config('statement_timeout', '0', false)",
            (str(lock_timeout_ms),),
        )
        try:
            yield other
        finally:
            # A connection that is lost takes its limits with it.
            with suppress(psycopg.OperationalError):
                other.execute("RESET lock_timeout; RESET statement_timeout")


def _run_alone(connection: Connection[Any], statement: Statement, progress: Callable[[str], None]) -> None:
    """Run one statement outside a transaction, or those that it gives; it may have run before, or half of it.

    Raises psycopg.Error.
    """
    if statement.each:
        for (text,) in connection.execute(statement.sql.encode()).fetchall():
            _run_alone(connection, Statement(text), progress)
        return
    index = index_of(statement.sql)
    if index is not None:
        row = connection.execute(
            "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)", (index,)
        ).fetchone()
        if row and row[0]:
            progress(f"{index} is there already")
            return
        if row:
            progress(f"dropping {index}, which an interrupted build has left invalid")
            # The name as written in our own file, quoted there if it needs to be.
            connection.execute(f"DROP INDEX CONCURRENTLY {index}".encode())
    connection.execute(statement.sql.encode())


def status(connection: Connection[Any], files: Sequence[Migration]) -> tuple[Status, ...]:
    """What is applied and what is pending. Raises MigrationError when the history does not fit."""
    with connection.transaction():
        if not _exists(connection):
            applied: dict[int, datetime] = {}
        else:
            pending(files, _checksums(connection))
            rows = connection.execute("SELECT number, applied_at FROM schema_migrations").fetchall()
            applied = dict(rows)
    return tuple(Status(m.number, m.name, applied.get(m.number)) for m in files)


def _exists(connection: Connection[Any]) -> bool:
    row = connection.execute("SELECT to_regclass('schema_migrations') IS NOT NULL").fetchone()
    return bool(row and row[0])


def _checksums(connection: Connection[Any]) -> dict[int, str]:
    return dict(connection.execute("SELECT number, checksum FROM schema_migrations").fetchall())


def _first_lines(error: psycopg.Error) -> str:
    return " ".join(str(error).split("\n")[:2])
