"""PgBouncer's admin console.

The console speaks only the simple query protocol and no transactions, so cursors bind on the client. PAUSE
there blocks until every server connection of the database is free, and stays in force when its client goes
away: whoever pauses has to resume, and an interrupted PAUSE counts as paused.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from wmsctl.clients.postgres import Server, severed_after
from wmsctl.errors import Failed, Unreachable, Usage
from wmsctl.inventory import Inventory, Pooler
from wmsctl.secrets import Secrets

NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,62}\Z")


@dataclass(frozen=True)
class Pool:
    """One row of SHOW POOLS: clients and servers of one (database, user)."""

    database: str
    user: str
    clients_active: int
    clients_waiting: int
    servers_active: int
    servers_idle: int
    servers_used: int
    max_wait_s: float
    """How long the oldest waiting client has waited."""


@dataclass(frozen=True)
class PooledDatabase:
    """One row of SHOW DATABASES."""

    name: str
    host: str
    port: int
    pool_size: int
    current_connections: int
    paused: bool
    disabled: bool


class PgBouncer:
    """The console of one PgBouncer. Each call opens a connection unless made inside `console`."""

    def __init__(self, pooler: Pooler, server: Server) -> None:
        self.pooler = pooler
        self.name = pooler.node
        self._server = server

    @contextmanager
    def console(self, *, timeout: float = 3.0, limit: float = 30.0) -> Iterator[Console]:
        """A console connection during the body, which has `limit` seconds in all. Raises
        Unreachable, Failed.
        """
        console = self.open(timeout=timeout)
        try:
            with console.bounded(limit):
                yield console
        finally:
            console.close()

    def open(self, *, timeout: float = 3.0) -> Console:
        """A console connection for the caller to close; bound each use of it (see Console.bounded)."""
        import psycopg

        connection = self._server.open(timeout=timeout, statement_timeout=0)
        connection.cursor_factory = psycopg.ClientCursor
        return Console(self.name, connection, self._server.translated)

    def pools(self, *, timeout: float = 3.0) -> tuple[Pool, ...]:
        with self.console(timeout=timeout, limit=timeout) as console:
            return console.pools()

    def databases(self, *, timeout: float = 3.0) -> tuple[PooledDatabase, ...]:
        with self.console(timeout=timeout, limit=timeout) as console:
            return console.databases()

    def pause(self, database: str, *, limit: float) -> None:
        """Pause `database`: no new query starts, and this returns when none is left running.

        When clients do not let go within `limit` seconds, or anything else goes wrong, the pause is lifted
        again before the error passes on: Failed when it took too long, Unreachable when the pooler is away.
        """
        started = False
        try:
            with self.console(timeout=limit, limit=limit) as console:
                started = True
                console.pause(database)
        except BaseException as error:
            undone = self._undo_pause(database, error)
            if started and undone and isinstance(error, Unreachable):
                raise Failed(
                    f"PgBouncer on {self.name}: PAUSE {database} took over {limit:.1f} s; it was resumed",
                    hint="a client keeps a transaction open: see pg_stat_activity on the primary",
                ) from error
            raise

    def _undo_pause(self, database: str, error: BaseException) -> bool:
        try:
            self.resume(database)
        except (Failed, Unreachable) as trouble:
            error.add_note(f"{database} on {self.name} may still be paused: {trouble.message}")
            return False
        return True

    def resume(self, database: str, *, timeout: float = 3.0) -> bool:
        """Let `database` go on; False when it was not paused."""
        with self.console(timeout=timeout, limit=timeout) as console:
            return console.resume(database)

    def reconnect(self, database: str, *, timeout: float = 3.0) -> None:
        """Replace the server connections of `database` as they become free."""
        with self.console(timeout=timeout, limit=timeout) as console:
            console.reconnect(database)


class Console:
    """Commands on one open console connection."""

    def __init__(
        self,
        name: str,
        connection: Any,
        translated: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        self.name = name
        self._connection = connection
        self._translated = translated

    @contextmanager
    def bounded(self, limit: float) -> Iterator[None]:
        """The body has `limit` seconds; driver errors in it become Unreachable (lost, or
        too late) or Failed.
        """
        with self._translated(), severed_after(self._connection, limit):
            yield

    def close(self) -> None:
        self._connection.close()

    def show(self, what: str) -> list[dict[str, Any]]:
        """SHOW <what> as dicts by column name."""
        cursor = self._connection.execute(f"SHOW {what}")
        columns = [column.name for column in cursor.description]
        return [dict(zip(columns, row, strict=True)) for row in cursor.fetchall()]

    def pools(self) -> tuple[Pool, ...]:
        """All pools but the console's own."""
        return tuple(parse_pool(row) for row in self.show("POOLS") if row["database"] != "pgbouncer")

    def databases(self) -> tuple[PooledDatabase, ...]:
        return tuple(parse_database(row) for row in self.show("DATABASES") if row["name"] != "pgbouncer")

    def paused(self, database: str) -> bool:
        """Whether `database` is paused. Raises Failed when the pooler has no such database."""
        for row in self.databases():
            if row.name == database:
                return row.paused
        raise Failed(f"PgBouncer on {self.name} has no database {database!r}")

    def pause(self, database: str) -> None:
        """PAUSE, blocking until no query of `database` runs. Prefer PgBouncer.pause, which undoes itself."""
        if not self.paused(database):
            self._command("PAUSE", database)

    def resume(self, database: str) -> bool:
        """RESUME; False when it was not paused."""
        if not self.paused(database):
            return False
        self._command("RESUME", database)
        return True

    def reconnect(self, database: str) -> None:
        self._command("RECONNECT", database)

    def kill(self, database: str) -> None:
        """Drop every client and server connection of `database` at once; it stays killed until RESUME."""
        self._command("KILL", database)

    def wait_close(self, database: str) -> None:
        """Block until the server connections marked by RECONNECT or RELOAD are gone."""
        self._command("WAIT_CLOSE", database)

    def reload(self) -> None:
        self._connection.execute("RELOAD")

    def _command(self, verb: str, database: str) -> None:
        # The console takes no parameters, so the name goes into the text: only a plain identifier may.
        if not NAME.match(database):
            raise Usage(f"{database!r} is no database name")
        self._connection.execute(f"{verb} {database}")


def pgbouncer_client(inventory: Inventory, secrets: Secrets, pooler: Pooler) -> PgBouncer:
    """The console of one pooler, as the admin of the inventory."""
    server = Server(
        f"PgBouncer on {pooler.node}",
        pooler.address,
        pooler.port,
        database="pgbouncer",
        login=inventory.pools.admin,
        secrets=secrets,
        ca=inventory.ca,
        pooled=True,
    )
    return PgBouncer(pooler, server)


def parse_pool(row: dict[str, Any]) -> Pool:
    """A row of SHOW POOLS; maxwait is in whole seconds, maxwait_us the rest."""
    return Pool(
        database=row["database"],
        user=row["user"],
        clients_active=int(row["cl_active"]),
        clients_waiting=int(row["cl_waiting"]),
        servers_active=int(row["sv_active"]),
        servers_idle=int(row["sv_idle"]),
        servers_used=int(row["sv_used"]),
        max_wait_s=int(row["maxwait"]) + int(row.get("maxwait_us", 0)) / 1e6,
    )


def parse_database(row: dict[str, Any]) -> PooledDatabase:
    return PooledDatabase(
        name=row["name"],
        host=row["host"] or "",
        port=int(row["port"] or 0),
        pool_size=int(row["pool_size"]),
        current_connections=int(row["current_connections"]),
        paused=bool(int(row["paused"])),
        disabled=bool(int(row["disabled"])),
    )
