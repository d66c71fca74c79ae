"""When to try a statement again: pure decisions, no clock and no I/O."""

from __future__ import annotations

from typing import Literal

from psycopg import Error, OperationalError, errors
from psycopg_pool import PoolTimeout

Reason = Literal["connection", "pool", "transient", "timeout"]
REASONS: tuple[Reason, ...] = ("connection", "pool", "transient", "timeout")

FIRST_DELAY_S = 0.02
LONGEST_DELAY_S = 0.4

_CONNECTION = (
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.TooManyConnections,
)
# The server answered, and the same statement may well succeed a moment later.
_TRANSIENT = (
    errors.SerializationFailure,
    errors.DeadlockDetected,
    errors.LockNotAvailable,
    # A session that outlived a failover: it talks to the old primary, which is a replica now.
    errors.ReadOnlySqlTransaction,
)


class AttemptTimeout(Exception):
    """An attempt took longer than it was given."""


def reason(error: BaseException) -> Reason | None:
    """Why `error` may pass by itself, or None when trying again is pointless.

    A broken connection leaves the fate of its transaction unknown: whoever repeats a write must bring an
    idempotency key. Statement timeouts and cancellations (57014) are the database's own deadline and count as
    a timeout.
    """
    if isinstance(error, AttemptTimeout | errors.QueryCanceled):
        return "timeout"
    if isinstance(error, _TRANSIENT):
        return "transient"
    # No connection became free in time: all are busy, or none can be made.
    if isinstance(error, PoolTimeout):
        return "pool"
    if isinstance(error, _CONNECTION):
        return "connection"
    # Without a SQLSTATE, an OperationalError is libpq's own: no connection, or lost. PgBouncer reports that
    # it has no server, or waited too long for one, as a protocol violation (08P01); class 08 are connection
    # exceptions.
    if isinstance(error, OperationalError) and (error.sqlstate is None or error.sqlstate.startswith("08")):
        return "connection"
    return None


def not_migrated(error: Error) -> bool:
    """Whether `error` says that the schema lacks something: a migration has not run yet."""
    return isinstance(error, errors.UndefinedFunction | errors.UndefinedTable | errors.UndefinedColumn)


def delay_s(attempt: int, random: float) -> float:
    """Seconds to wait after the failed attempt number `attempt` (from 0): exponential, with full jitter from
    `random` (0 to 1), so that the waiting clients of a failover do not return in step.
    """
    ceiling = min(LONGEST_DELAY_S, FIRST_DELAY_S * 2.0 ** min(attempt, 10))
    return float(ceiling * (0.5 + 0.5 * random))
