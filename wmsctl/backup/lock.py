"""One backup, expiry or restore at a time, on whichever host it was started.

The lock is an advisory lock of a session on the primary: it ends with its holder, whatever ends that, and is visible to
everyone. A failover ends it too; so it ends the backup that holds it, which needs that very primary. pgBackRest has a
lock of its own, but only per host.
"""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from wmsctl.clients.postgres import Server, rows
from wmsctl.errors import Refused

ADVISORY = int.from_bytes(b"wmsbckup", "big")


@contextmanager
def alone(primary: Server, what: str) -> Iterator[None]:
    """Hold the lock during the body. Raises Refused saying who holds it, Unreachable without a primary."""
    name = f"wmsctl {what} ({getpass.getuser()}@{socket.gethostname()} {os.getpid()})"[:63]
    connection = primary.open(timeout=3.0, statement_timeout=5.0, application=name)
    try:
        with primary.translated():
            taken = rows(connection, "SELECT pg_try_advisory_lock(%s)", (ADVISORY,))[0][0]
            holder = "" if taken else _holder(connection)
        if not taken:
            raise Refused(
                f"another run has the backups of this platform: {holder}",
                hint="wait for it to end; what dies frees the lock by itself",
            )
        yield
    finally:
        connection.close()


def _holder(connection: object) -> str:
    found = rows(
        connection,
        "SELECT a.application_name, a.pid, date_trunc('second', a.backend_start)::text FROM pg_locks l"
        " JOIN pg_stat_activity a ON a.pid = l.pid WHERE l.locktype = 'advisory' AND l.granted"
        " AND l.classid::bigint << 32 | l.objid::bigint = %s AND l.objsubid = 1",
        (ADVISORY,),
    )
    if not found:
        return "it has just ended"
    name, pid, since = found[0]
    return f"{name or 'a session'}, backend {pid}, since {since}"
