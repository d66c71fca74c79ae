"""Proof that writes work: a row written through a given way in, and read back from the same transaction."""

from __future__ import annotations

import secrets as entropy
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from wmsctl.clients.postgres import severed_after
from wmsctl.deadline import Deadline
from wmsctl.errors import Failed, Unreachable, WmsctlError

WRITE = """
INSERT INTO ops.proof AS p (via, token, operation, at, timeline)
VALUES (%s, %s, %s, clock_timestamp(), ops.timeline())
ON CONFLICT (via) DO UPDATE
SET token = excluded.token, operation = excluded.operation, at = excluded.at, timeline = excluded.timeline
RETURNING p.timeline, pg_current_xact_id()::text
"""
READ = "SELECT token, timeline, xmin::text FROM ops.proof WHERE via = %s"


@dataclass(frozen=True)
class Proof:
    """A write that was committed and read back."""

    via: str
    timeline: int
    transaction: int
    """xid with its epoch."""
    took_ms: float


def write(connection: Any, via: str, operation: str, *, limit: float) -> Proof:
    """Write and read back on an open autocommit connection within `limit` seconds.

    Raises Failed when the commit is not covered by the synchronous standbys or the row read is not the row
    written; driver errors pass (wrap them by Server.translated).
    """
    warnings: list[str] = []

    def notice(diagnostic: Any) -> None:
        # "The transaction has already committed locally, but might not have been replicated": an answer that
        # proves nothing.
        if diagnostic.severity_nonlocalized == "WARNING":
            warnings.append(diagnostic.message_primary or "warning without text")

    token = entropy.token_hex(8)
    started = time.monotonic()
    connection.add_notice_handler(notice)
    try:
        with severed_after(connection, limit):
            written = connection.execute(WRITE, (via, token, operation)).fetchone()
            read = connection.execute(READ, (via,)).fetchone()
    finally:
        connection.remove_notice_handler(notice)
    if warnings:
        raise Failed(f"a write through {via} was not confirmed by the standbys: {warnings[0]}")
    timeline, transaction = int(written[0]), int(written[1])
    if (
        read is None
        or read[0] != token
        or int(read[1]) != timeline
        or int(read[2]) != transaction & 0xFFFFFFFF
    ):
        raise Failed(
            f"a write through {via} was acknowledged and is not what is read back",
            hint="two servers answer behind it: see wmsctl status before anything else",
        )
    return Proof(via, timeline, transaction, round((time.monotonic() - started) * 1000, 1))


def until(
    attempt: Callable[[float], Proof], deadline: Deadline, via: str, *, interval: float = 0.02
) -> Proof:
    """Repeat `attempt` (called with its limit in seconds) until it gives a proof.

    Errors of a failing way (lost, read only, nobody there) are what is waited out. Raises Failed with the
    last one at the deadline.
    """
    while True:
        try:
            return attempt(max(0.05, deadline.remaining()))
        except (Failed, Unreachable) as error:
            trouble: WmsctlError = error
        if deadline.expired:
            raise Failed(f"no write was proven through {via}: {trouble.message}", hint=trouble.hint)
        time.sleep(min(interval, deadline.remaining()))
