"""Sessions on the primary, as the owner of the tables, one run at a time; and statements that give way to clients."""

from __future__ import annotations

import getpass
import os
import random
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from wmsctl.clients.connect import Clients
from wmsctl.clients.postgres import Server, rows, severed_after
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed, Refused, Unreachable, Usage
from wmsctl.inventory import Inventory, Partitions
from wmsctl.parallel import gather

T = TypeVar("T")

ADVISORY = 0x776D73_10
"""Lock of whoever changes partitions ("wms", 16); the migrations' is ("wms", 1)."""
LOCK_WAIT_S = 10.0
"""How long a run waits for another one: a backend whose client was killed notices within CHECK_MS."""
CHECK_MS = 1000
LOCK_MS = 50
"""How long a statement waits for a lock that clients would queue behind. They have 100 ms."""
QUIET_LOCK_MS = 30_000
"""The same for a wait that no client queues behind."""
PAUSE_S = (0.05, 0.4)
"""Between two attempts: the clients that queued get their turn."""

SETTINGS = {
    "timezone": "UTC",
    "datestyle": "ISO, YMD",
    "intervalstyle": "postgres",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    # A policy that applied to us would leave rows out of an export: then it fails instead.
    "row_security": "off",
    "lock_timeout": f"{LOCK_MS}ms",
    "idle_in_transaction_session_timeout": "0",
    # An export reads from the first page on, or its rows would come in another order each time.
    "synchronize_seqscans": "off",
    "client_connection_check_interval": f"{CHECK_MS}ms",
}


def declared(inventory: Inventory) -> Partitions:
    """What the inventory says of partitions. Raises Usage when it says nothing."""
    if inventory.partitions is None:
        raise Usage(
            f"the inventory of {inventory.platform} declares no partitions",
            hint="it is of an older stack: bring the platform up again (make up)",
        )
    return inventory.partitions


def primary(clients: Clients, login: Partitions, deadline: Deadline) -> tuple[str, Server]:
    """(member, its server) of the one that takes writes: out of recovery, on the highest timeline.

    Raises Unreachable when there is none, Refused when two say so on the same timeline.
    """
    servers = {
        member.node: clients.postgres(member, login=login.login)
        for member in clients.inventory.postgres.members
    }
    limit = deadline.timeout(5.0, "finding the primary")

    def ask(server: Server) -> Callable[[], int | None]:
        def asked() -> int | None:
            found = server.query(
                "SELECT CASE WHEN NOT pg_is_in_recovery() THEN"
                " ('x' || substr(pg_walfile_name(pg_current_wal_insert_lsn()), 1, 8))::bit(32)::int END",
                timeout=limit,
            )
            return None if found[0][0] is None else int(found[0][0])

        return asked

    outcomes = gather({name: ask(server) for name, server in servers.items()}, deadline.within(limit))
    leading = {name: each.value for name, each in outcomes.items() if each.value is not None}
    if not leading:
        said = "; ".join(f"{name}: {each.trouble or 'a replica'}" for name, each in sorted(outcomes.items()))
        raise Unreachable(f"no member takes writes ({said})", hint="see: wmsctl status")
    highest = max(leading.values())
    names = sorted(name for name, timeline in leading.items() if timeline == highest)
    if len(names) > 1:
        raise Refused(
            f"{' and '.join(names)} both take writes on timeline {highest}", hint="see: wmsctl status"
        )
    return names[0], servers[names[0]]


@contextmanager
def session(server: Server, owner: str, deadline: Deadline, what: str) -> Iterator[Any]:
    """A session as the owner until the deadline; psycopg's errors in it become ours."""
    with _opened(server, deadline, what) as connection:
        _become(connection, owner)
        yield connection


@contextmanager
def alone(server: Server, owner: str, deadline: Deadline, what: str) -> Iterator[Any]:
    """Like `session`, while no other run changes partitions of this database.

    The lock belongs to the session: whatever ends it, the kill of this process too, frees the lock. Raises Refused
    naming the run that holds it.
    """
    with _opened(server, deadline, what) as connection:
        waiting = deadline.within(LOCK_WAIT_S)
        # Before the session becomes the owner: only the login's own sessions are shown to it with their names.
        while not rows(connection, "SELECT pg_try_advisory_lock(%s)", (ADVISORY,))[0][0]:
            if waiting.expired:
                raise Refused(
                    f"another run works on partitions: {_holder(connection)}",
                    hint="wait for it to end, and run again",
                )
            time.sleep(min(0.2, waiting.remaining()))
        _become(connection, owner)
        yield connection


@contextmanager
def _opened(server: Server, deadline: Deadline, what: str) -> Iterator[Any]:
    limit = deadline.timeout(86_400, what)
    name = f"wmsctl {what} ({getpass.getuser()}@{socket.gethostname()} {os.getpid()})"[:63]
    connection = server.open(timeout=min(limit, 5.0), statement_timeout=limit, application=name)
    try:
        with server.translated(), severed_after(connection, limit + 1):
            yield connection
    finally:
        connection.close()


def _become(connection: Any, owner: str) -> None:
    from psycopg import sql

    connection.execute(
        sql.SQL("; ").join(
            [
                sql.SQL("SET ROLE {}").format(sql.Identifier(owner)),
                *(
                    sql.SQL("SET {} = {}").format(sql.Identifier(name), sql.Literal(value))
                    for name, value in SETTINGS.items()
                ),
            ]
        )
    )


def _holder(connection: Any) -> str:
    found = rows(
        connection,
        "SELECT a.application_name, a.pid, date_trunc('second', a.backend_start)::text FROM pg_locks l"
        " JOIN pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = 'advisory' AND l.granted"
        " AND l.classid = 0 AND l.objid = %s AND l.objsubid = 1",
        (ADVISORY,),
    )
    if not found:
        return "it has just ended"
    name, pid, since = found[0]
    return f"{name or 'a session'}, backend {pid}, since {since}"


def patiently(attempt: Callable[[], T], deadline: Deadline, what: str) -> T:
    """`attempt`, again while a lock is not free (or a deadlock was resolved against us), with pauses for the clients.

    It runs a statement or a transaction of its own each time. Raises Failed at the deadline.
    """
    import psycopg

    tries = 0
    while True:
        tries += 1
        try:
            return attempt()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            pause = random.uniform(*PAUSE_S)
            if deadline.remaining() < pause:
                raise Failed(
                    f"{what}: a lock was not free, {tries} times",
                    hint="a long transaction is in the way (pg_stat_activity); run again when it has ended",
                ) from error
            time.sleep(pause)


@contextmanager
def lock_timeout(connection: Any, milliseconds: int) -> Iterator[None]:
    """Another limit for waits during the body."""
    connection.execute(f"SET lock_timeout = {int(milliseconds)}")
    try:
        yield
    finally:
        if not connection.broken and not connection.closed:
            connection.execute(f"SET lock_timeout = {LOCK_MS}")
