"""Two pools of a role, one statement per call, every call inside a deadline.

Connections are in autocommit and every statement is a transaction of its own: with PgBouncer in transaction
mode a call is one round trip and occupies a server for no longer than it runs. Prepared statements are off,
since PgBouncer 1.18 cannot carry them from one server to the next; the functions called keep their plans
instead.
"""

from __future__ import annotations

import asyncio
import logging
import random
import select
from collections.abc import Awaitable, Callable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from time import monotonic
from typing import Any, Literal, TypeVar, cast

import psycopg
from psycopg import AsyncClientCursor, AsyncConnection, OperationalError
from psycopg_pool import AsyncConnectionPool

from wms.metrics import Metrics
from wms.settings import DatabaseSettings, Pools, Settings
from wms.store.conninfo import conninfo
from wms.store.retry import AttemptTimeout, delay_s, not_migrated, reason

Role = Literal["write", "read"]
Row = tuple[Any, ...]
Rows = list[Row]
T = TypeVar("T")
_logger = logging.getLogger("wms.store")

_POOL_MARGIN_S = 0.02
_MARK = "SELECT pg_current_xact_id_if_assigned()::text, pg_current_wal_insert_lsn()::text; "

wanted_lsn: ContextVar[str | None] = ContextVar("wanted_lsn", default=None)
"""What the request at work wants to see at least: the WMS-Commit-LSN that its sender was given (read your own writes).
Whoever keeps copies of rows must not answer from them while it is set."""


heard_lsn: ContextVar[str | None] = ContextVar("heard_lsn", default=None)
"""Up to where the request at work must show what its sender has heard of (the generation of the gateway): rows are read
where that is. A copy in Redis will do, because what a change makes wrong is buried there before anybody hears of it; a
copy of this process will not, which may hear of it later."""


class Unavailable(Exception):
    """The database did not answer in time; the call may be repeated after `retry_after_s` seconds."""

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement and the name it has in metrics."""

    name: str
    sql: str
    marked: bool = False
    """Of a writing one: its commit is to be told from others (Commit.xid, Commit.held_lsn)."""


@dataclass(frozen=True, slots=True)
class Commit:
    """Where a write stands among all writes; LSNs as PostgreSQL writes them."""

    lsn: str
    """Not before the commit: a server that has replayed it shows the change."""
    xid: int = 0
    """The transaction that changed something; 0 when it changed nothing, or the statement is not marked."""
    held_lsn: str = ""
    """Of a marked one, before the commit, with the locks of its rows held: what was committed to those rows up to here
    is in what it read, and what is committed to them by others afterwards comes after its own commit."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Seconds: a call is answered within `deadline_s`, an attempt is given up after `attempt_s`."""

    deadline_s: float
    attempt_s: float


class _Connection(AsyncConnection[Row]):
    """A connection that is closed where psycopg would send a cancel request.

    PgBouncer 1.18 ends with "bad client state" when the sender of a cancel request goes away before the
    server has taken it (pgbouncer issue 801), which is what happens when a server hangs. Closing is enough:
    the pooler drops the server's side with it, and the role's statement_timeout ends what still runs there.
    """

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:
        self.pgconn.finish()


class Database:
    """Reads go to the read pool (replicas), writes to the write pool (the primary).

    `pools` are those of a role; `prefix` is what the names of its pools begin with in metrics.
    """

    def __init__(self, settings: Settings, metrics: Metrics, pools: Pools, prefix: str = "") -> None:
        self._metrics = metrics
        self._names: dict[Role, str] = {"write": f"{prefix}write", "read": f"{prefix}read"}
        self._limits: dict[Role, Limits] = {
            "read": Limits(settings.read_deadline_s, settings.read_attempt_s),
            "write": Limits(settings.write_deadline_s, settings.write_attempt_s),
        }
        self._pools: dict[Role, AsyncConnectionPool[_Connection]] = {
            "write": _pool(
                self._names["write"], settings.instance, pools.database, pools.write_name, pools.write_size
            ),
            "read": _pool(
                self._names["read"], settings.instance, pools.database, pools.read_name, pools.read_size
            ),
        }
        self._returning: set[asyncio.Task[None]] = set()

    async def open(self) -> None:
        """Start connecting, in the background: the service starts without its database."""
        for pool in self._pools.values():
            await pool.open(wait=False)

    async def close(self, timeout_s: float = 2.0) -> None:
        """Close all connections; those still busy after `timeout_s` are dropped."""
        await asyncio.gather(*(pool.close(timeout=timeout_s) for pool in self._pools.values()))

    def stats(self) -> dict[str, dict[str, int]]:
        """Numbers of each pool, for metrics."""
        return {self._names[role]: dict(pool.get_stats()) for role, pool in self._pools.items()}

    async def read(
        self,
        statement: Statement,
        parameters: Sequence[object],
        min_lsn: str | None = None,
        primary: bool = False,
    ) -> Rows:
        """The rows of a statement that changes nothing, from a replica, or of the `primary` as they are now.

        With `min_lsn` (else with `wanted_lsn` or `heard_lsn`) from one that has replayed so far, or else from the
        primary, which has all of it: one round trip more, and within the deadlines of both. Raises Unavailable.
        """
        least = min_lsn or wanted_lsn.get() or heard_lsn.get()
        if least is not None and not primary:
            found = await self._call(
                "read", statement, _unless_behind(statement, parameters, least), final=_whatever
            )
            if found is not None:
                return found
            self._metrics.reads_behind.inc()

        async def run(connection: _Connection) -> Rows:
            return await (await connection.execute(statement.sql, parameters)).fetchall()

        role: Role = "write" if primary or least is not None else "read"
        return await self._call(role, statement, run, final=_whatever)

    async def write(
        self, statement: Statement, parameters: Sequence[object], final: Callable[[Row, int], bool]
    ) -> tuple[Row, Commit]:
        """Run a one-row writing statement on the primary; returns its row and its commit.

        The statement must be safe to repeat (by an idempotency key): when an attempt breaks, nobody knows
        whether it committed, and it is sent again. `final(row, attempt)` says whether a row is the answer or
        the statement is to be sent again; attempts count from 0. Raises Unavailable.
        """
        sql = message(statement.sql, statement.marked)

        async def run(connection: _Connection) -> tuple[Row, Commit]:
            cursor = AsyncClientCursor(connection)
            await cursor.execute(sql, parameters)
            found: list[Row] = []
            more: bool | None = True
            while more:
                row = await cursor.fetchone() if cursor.description else None
                if row is not None:
                    found.append(row)
                more = cursor.nextset()
            if len(found) != (3 if statement.marked else 2):
                raise RuntimeError(f"{statement.name} returned no row")
            xid, held_lsn = found[1] if statement.marked else (None, "")
            return found[0], Commit(str(found[-1][0]), int(xid or 0), held_lsn)

        return await self._call(
            "write", statement, run, final=lambda result, attempt: final(result[0], attempt)
        )

    async def probe(self, role: Role, timeout_s: float) -> int:
        """The number of the last migration, seen through the pool `role`, without any retry.

        Raises Unavailable after `timeout_s`, or when there is no schema.
        """

        async def run(connection: _Connection) -> int:
            row = await (
                await connection.execute("SELECT coalesce(max(number), 0) FROM schema_migrations")
            ).fetchone()
            return int(row[0]) if row else 0

        try:
            return await self._attempt(role, "probe", run, timeout_s)
        except (psycopg.Error, AttemptTimeout) as error:
            why = reason(error)
            if why is not None:
                self._metrics.database_errors.labels(self._names[role], why).inc()
            raise Unavailable(_text(error), 1) from error

    async def _call(
        self,
        role: Role,
        statement: Statement,
        run: Callable[[_Connection], Awaitable[T]],
        final: Callable[[T, int], bool],
    ) -> T:
        limits = self._limits[role]
        deadline = monotonic() + limits.deadline_s
        attempt = 0
        while True:
            try:
                timeout_s = min(limits.attempt_s, deadline - monotonic())
                result = await self._attempt(role, statement.name, run, timeout_s)
                if final(result, attempt):
                    return result
                why, detail = "transient", "an earlier attempt has not ended yet"
            except (psycopg.Error, AttemptTimeout) as error:
                if isinstance(error, psycopg.Error) and not_migrated(error):
                    _logger.error("%s: %s; run: python -m wms.migrations up", statement.name, _text(error))
                    raise Unavailable("the database schema is older than this service", 5) from error
                found = reason(error)
                if found is None:
                    raise
                why, detail = found, _text(error)
            self._metrics.database_errors.labels(self._names[role], why).inc()
            pause = delay_s(attempt, random.random())
            attempt += 1
            if monotonic() + pause >= deadline:
                _logger.warning("%s: given up after %d attempts: %s", statement.name, attempt, detail)
                raise Unavailable("the database did not answer in time", 1)
            await asyncio.sleep(pause)

    async def _attempt(
        self, role: Role, name: str, run: Callable[[_Connection], Awaitable[T]], timeout_s: float
    ) -> T:
        """Run once; an overdue attempt loses its connection, so this returns after `timeout_s` whatever the
        server does.

        Raises AttemptTimeout, psycopg.Error.
        """
        started = monotonic()
        try:
            async with asyncio.timeout(timeout_s):
                return await self._borrow(role, run, timeout_s)
        except TimeoutError:
            raise AttemptTimeout(f"no answer within {timeout_s:.1f} s") from None
        finally:
            self._metrics.statement(name, self._names[role], monotonic() - started)

    async def _borrow(self, role: Role, run: Callable[[_Connection], Awaitable[T]], timeout_s: float) -> T:
        pool = self._pools[role]
        # A little less than the attempt has, so that a lack of connections is told from a slow statement.
        deadline = monotonic() + timeout_s - _POOL_MARGIN_S
        while True:
            connection = await pool.getconn(max(0.001, deadline - monotonic()))
            result = None
            try:
                alive = _alive(connection)
                if alive:
                    result = await run(connection)
            except BaseException:
                # A broken connection is recognised there and replaced, an open transaction rolled back: that
                # may wait for the server, so nobody waits for it, and no cancellation can lose the
                # connection.
                returning = asyncio.create_task(pool.putconn(connection))
                self._returning.add(returning)
                returning.add_done_callback(self._returning.discard)
                raise
            await pool.putconn(connection)
            if alive:
                return cast(T, result)


def message(sql: str, marked: bool = False) -> str:
    """A writing statement as it is sent: in one message of the simple protocol, so one round trip.

    The LSN is asked for after the COMMIT, and is the flushed one: a replica reaches it without waiting for anybody
    else's commit.
    """
    return f"BEGIN; {sql}; {_MARK if marked else ''}COMMIT; SELECT pg_current_wal_flush_lsn()::text"


def _whatever(_result: object, _attempt: int) -> bool:
    """The first answer is the answer."""
    return True


def _unless_behind(
    statement: Statement, parameters: Sequence[object], least: str
) -> Callable[[_Connection], Awaitable[Rows | None]]:
    """Runs a read on a server that has replayed `least`; None from one that has not."""
    # One message of the simple protocol: both statements see the same server, the second one with a later snapshot.
    # A server that is no replica has everything that was committed.
    sql = f"SELECT NOT pg_is_in_recovery() OR pg_last_wal_replay_lsn() >= %s::pg_lsn; {statement.sql}"

    async def run(connection: _Connection) -> Rows | None:
        cursor = AsyncClientCursor(connection)
        await cursor.execute(sql, (least, *parameters))
        row = await cursor.fetchone()
        if row is None or row[0] is not True:
            return None
        cursor.nextset()
        return await cursor.fetchall()

    return run


def _pool(
    name: str, instance: str, login: DatabaseSettings, database: str, size: int
) -> AsyncConnectionPool[_Connection]:
    return AsyncConnectionPool(
        conninfo(login, database, f"wms-{name}/{instance}"),
        connection_class=_Connection,
        kwargs={"password": login.password, "autocommit": True, "prepare_threshold": None},
        name=name,
        min_size=1,
        max_size=size,
        open=False,
        # Connections move between poolers within minutes after one of them was away.
        max_lifetime=300.0,
        max_idle=60.0,
        # Its delays double up to this: short, so that the next request or probe after an outage connects at
        # once.
        reconnect_timeout=1.0,
        num_workers=2,
    )


def _alive(connection: _Connection) -> bool:
    """Whether an idle connection still has its other side: a poll of the socket instead of a round trip.

    Nothing is to be read on an idle connection, except the end of it or a notice.
    """
    poller = select.poll()
    poller.register(connection.pgconn.socket, select.POLLIN)
    if poller.poll(0):
        try:
            connection.pgconn.consume_input()
            connection.pgconn.is_busy()
        except OperationalError:
            # Dead beyond doubt: close it, so that the pool replaces it.
            connection.pgconn.finish()
    return not connection.broken and not connection.closed


def _text(error: BaseException) -> str:
    """The first line of an error, for logs: the following ones may quote a statement."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
