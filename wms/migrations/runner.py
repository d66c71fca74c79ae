"""Applies migrations: one transaction each, one runner at a time.

The advisory lock belongs to each transaction, not to a session, so the runner also works through a pooler in
transaction mode; who waited for it reads the history again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
from psycopg import Connection, sql

from wms.migrations.files import Migration, MigrationError, pending
from wms.settings import OwnerSettings
from wms.store.conninfo import conninfo

LOCK_KEY = 0x776D73_01
"""Advisory lock of whoever migrates ("wms", 1)."""

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
    done = 0
    while True:
        try:
            with connection.transaction():
                connection.execute(
                    sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(lock_timeout_ms))
                )
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (LOCK_KEY,))
                if not _exists(connection):
                    connection.execute(_HISTORY)
                todo = pending(files, _checksums(connection))
                if not todo:
                    return done
                migration = todo[0]
                name = f"{migration.number:04d}_{migration.name}"
                progress(f"applying {name}")
                # Without parameters a file of many statements is one message; % stays what it is.
                connection.execute(migration.sql.encode())
                connection.execute(
                    "INSERT INTO schema_migrations (number, name, checksum) VALUES (%s, %s, %s)",
                    (migration.number, migration.name, migration.checksum),
                )
        except psycopg.errors.LockNotAvailable as error:
            raise MigrationError(
                f"a lock was not free within {lock_timeout_ms} ms (another runner, or a long transaction "
                "on the same table): nothing of this migration was applied; run it again"
            ) from error
        except psycopg.Error as error:
            raise MigrationError(f"rolled back: {_first_lines(error)}") from error
        done += 1


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
