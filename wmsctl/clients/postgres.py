"""PostgreSQL through psycopg: bounded connections, and the few questions that operations ask.

psycopg is imported when the first connection is made: it takes longer to load than most commands take to run.
"""

from __future__ import annotations

import os
import re
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from wmsctl.errors import Failed, Unreachable
from wmsctl.inventory import Inventory, Login, Member
from wmsctl.secrets import Secrets

if TYPE_CHECKING:
    import psycopg

REFUSED_LOGIN = re.compile(
    r"authentication failed|no pg_hba\.conf entry|no password supplied|role .* does not exist"
)
# Failures of the connection itself; every other server error is the statement's own fault.
LOST = ("08", "57P01", "57P02", "57P03")


@dataclass(frozen=True)
class Replication:
    """One row of pg_stat_replication on the primary. Lags in bytes behind the primary's
    current WAL position.
    """

    name: str
    """application_name: under Patroni the member's name."""
    state: str
    sync_state: str
    """async, potential, sync or quorum."""
    sent_lag: int | None
    flush_lag: int | None
    replay_lag: int | None
    replay_lag_ms: int | None = None
    """As the primary measured it last; None when the replica is caught up and idle."""
    flush_lsn: str = ""


@dataclass(frozen=True)
class ServerState:
    """What one server says of itself."""

    in_recovery: bool
    timeline: int | None
    """The timeline being written on a primary; of the received WAL on a replica, None while it does not
    stream.
    """
    lsn: str
    """Primary: current flushed WAL position; replica: last replayed position."""
    received_lsn: str
    """Replica only: last received and flushed position."""
    replay_paused: bool
    read_only: bool
    started: datetime


@dataclass(frozen=True)
class Heartbeat:
    """The heartbeat row as this server shows it: written `at`, read `now` by the server's own clock."""

    at: datetime
    now: datetime
    lsn: str

    @property
    def lag_ms(self) -> int:
        """Age of the row, never negative. On a replica an upper bound of its lag: up to one beat (1000 ms)
        too much; `wmsctl.replication.lag_ms` is exact, by comparing with the primary's row.
        """
        return max(0, round((self.now - self.at).total_seconds() * 1000))


def lsn_bytes(lsn: str) -> int:
    """A WAL position ("16/B374D848") as a byte number. Raises ValueError for anything else."""
    high, slash, low = lsn.partition("/")
    if not slash:
        raise ValueError(f"{lsn!r} is no WAL position")
    return (int(high, 16) << 32) + int(low, 16)


def lsn_text(number: int) -> str:
    """The inverse of lsn_bytes."""
    return f"{number >> 32:X}/{number & 0xFFFFFFFF:X}"


class Server:
    """One address that speaks PostgreSQL (a member, a proxy port or a pooler), and how to log in there."""

    def __init__(
        self,
        what: str,
        address: str,
        port: int,
        *,
        database: str,
        login: Login,
        secrets: Secrets,
        ca: str,
        pooled: bool = False,
    ) -> None:
        self.what = what
        self.address = address
        self.port = port
        self.database = database
        self._login = login
        self._secrets = secrets
        self._ca = ca
        self._pooled = pooled

    def open(
        self, *, timeout: float = 3.0, statement_timeout: float = 5.0, application: str = "wmsctl"
    ) -> Any:
        """An autocommit connection (psycopg.Connection), for the caller to close. Both limits in seconds.

        libpq counts connect_timeout in whole seconds from 2 up, so `timeout` is rounded to that. Through a
        pooler no statement_timeout is set: a SET there would stay on a server connection that other clients
        use next. Raises Unreachable, Failed.
        """
        import psycopg

        options: dict[str, Any] = {
            "host": self.address,
            "port": self.port,
            "dbname": self.database,
            "user": self._login.user,
            "password": self._secrets.of(self._login).reveal(),
            "sslmode": "verify-ca",
            "sslrootcert": self._ca,
            "connect_timeout": max(2, round(timeout)),
            "application_name": application,
            # A peer that vanishes without a word is noticed within this time also while we only read.
            "tcp_user_timeout": int(max(timeout, statement_timeout) * 1000),
            "keepalives_idle": 5,
            "keepalives_interval": 2,
            "keepalives_count": 2,
        }
        if not self._pooled:
            options["options"] = f"-c statement_timeout={int(statement_timeout * 1000)}"
        with self.translated():
            connection = psycopg.connect(autocommit=True, prepare_threshold=None, **options)
        return connection

    @contextmanager
    def connect(
        self,
        *,
        timeout: float = 3.0,
        statement_timeout: float = 5.0,
        limit: float = 30.0,
        application: str = "wmsctl",
    ) -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """An autocommit connection during the body; driver errors in it become Unreachable (lost) or Failed.

        The body has `limit` seconds in all (see `severed_after`), after which its next statement raises
        Unreachable.
        """
        connection = self.open(timeout=timeout, statement_timeout=statement_timeout, application=application)
        try:
            with self.translated(), severed_after(connection, limit):
                yield connection
        finally:
            connection.close()

    def query(
        self, sql: str, parameters: tuple[Any, ...] = (), *, timeout: float = 3.0
    ) -> list[tuple[Any, ...]]:
        """The rows of one statement on a connection of its own."""
        with self.connect(timeout=timeout, statement_timeout=timeout, limit=timeout) as connection:
            return rows(connection, sql, parameters)

    @contextmanager
    def translated(self) -> Iterator[None]:
        """Turn psycopg's errors in the body into Unreachable (the connection was lost) or Failed (all
        others).
        """
        import psycopg

        try:
            yield
        except psycopg.Error as error:
            state = error.sqlstate or ""
            text = _reason(str(error))
            where = f"{self.what} at {self.address}:{self.port}"
            # libpq gives no SQLSTATE for what fails while connecting, only the text.
            if state.startswith("28") or (not state and REFUSED_LOGIN.search(text)):
                raise Failed(
                    f"{where} refuses the login of {self._login.user}: {text}",
                    hint="the secrets file is stale: bring the platform up again (make up)",
                ) from error
            if isinstance(error, psycopg.OperationalError) and (not state or state.startswith(LOST)):
                raise Unreachable(f"{where} does not answer: {text}", hint="see: wmsctl status") from error
            raise Failed(f"{where}: {text}") from error


@contextmanager
def severed_after(connection: Any, seconds: float) -> Iterator[None]:
    """Shut the connection's socket down when the body takes longer than `seconds`.

    statement_timeout is the server's, and a frozen server (SIGSTOP, a stuck disk) keeps none while its kernel
    still acknowledges every packet. Only the client's own clock ends such a wait.
    """

    def sever() -> None:
        # A duplicate of the descriptor: the driver keeps ownership of its own one, and sees the end of the
        # stream.
        with suppress(OSError), socket.socket(fileno=os.dup(connection.fileno())) as duplicate:
            duplicate.shutdown(socket.SHUT_RDWR)

    timer = threading.Timer(seconds, sever)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def rows(connection: Any, sql: str, parameters: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The rows of one statement; an empty list when it returns none."""
    cursor = connection.execute(sql, parameters or None)
    return list(cursor.fetchall()) if cursor.description else []


def server_state(connection: Any) -> ServerState:
    """What the server at the other end says of itself, in one round trip."""
    row = rows(
        connection,
        "SELECT pg_is_in_recovery(),"
        " CASE WHEN pg_is_in_recovery() THEN (SELECT received_tli FROM pg_stat_wal_receiver)"
        " ELSE ('x' || substr(pg_walfile_name(pg_current_wal_lsn()), 1, 8))::bit(32)::int END,"
        " CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()"
        " ELSE pg_current_wal_flush_lsn() END::text,"
        " pg_last_wal_receive_lsn()::text,"
        " CASE WHEN pg_is_in_recovery() THEN pg_is_wal_replay_paused() ELSE false END,"
        " current_setting('transaction_read_only') = 'on',"
        " pg_postmaster_start_time()",
    )[0]
    return ServerState(row[0], row[1], row[2] or "", row[3] or "", row[4], row[5], row[6])


def replication(connection: Any) -> tuple[Replication, ...]:
    """The walsenders of a primary that serve members, by name. Needs pg_monitor, or positions are null."""
    found = rows(
        connection,
        "SELECT application_name, state, sync_state,"
        " pg_wal_lsn_diff(pg_current_wal_lsn(), sent_lsn)::bigint,"
        " pg_wal_lsn_diff(pg_current_wal_lsn(), flush_lsn)::bigint,"
        " pg_wal_lsn_diff(pg_current_wal_lsn(), replay_lsn)::bigint,"
        " (EXTRACT(epoch FROM replay_lag) * 1000)::bigint, flush_lsn::text"
        " FROM pg_stat_replication WHERE application_name <> 'pg_basebackup' ORDER BY application_name",
    )
    return tuple(
        Replication(
            r[0], r[1] or "", r[2] or "", _floor(r[3]), _floor(r[4]), _floor(r[5]), _floor(r[6]), r[7] or ""
        )
        for r in found
    )


def heartbeat(connection: Any) -> Heartbeat | None:
    """The heartbeat that the primary writes each second, as this server shows it; None when there is none."""
    import psycopg

    try:
        found = rows(connection, "SELECT at, clock_timestamp(), lsn::text FROM ops.heartbeat WHERE id = 1")
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        return None
    return Heartbeat(found[0][0], found[0][1], found[0][2] or "") if found else None


def synchronous_standby_names(connection: Any) -> str:
    """The setting in force, such as ANY 2 ("pg-2","pg-3","pg-4")."""
    return str(rows(connection, "SHOW synchronous_standby_names")[0][0])


def set_replay(connection: Any, *, paused: bool) -> None:
    """Pause or resume the replay of a replica."""
    rows(connection, f"SELECT pg_wal_replay_{'pause' if paused else 'resume'}()")


def checkpoint(connection: Any) -> None:
    """Make a checkpoint now. Needs the superuser or pg_checkpoint."""
    connection.execute("CHECKPOINT")


def member_server(
    inventory: Inventory, secrets: Secrets, member: Member, *, login: Login | None = None, database: str = ""
) -> Server:
    """A member's own port; as the operator unless another login is given."""
    return Server(
        f"PostgreSQL on {member.node}",
        member.address,
        member.port,
        database=database or inventory.postgres.database,
        login=login or inventory.postgres.operator,
        secrets=secrets,
        ca=inventory.ca,
    )


def _reason(text: str) -> str:
    """What libpq says, without the address that our own message names and without its advice."""
    text = " ".join(text.split())
    text = re.sub(r"^.*connection to server at \S+, port \d+ failed: ", "", text)
    text = re.sub(r" Is the server running on that host.*$", "", text)
    return text.removeprefix("FATAL: ").strip()[:300]


def _floor(value: Any) -> int | None:
    return None if value is None else max(0, int(value))


def as_settings(connection: Any, *names: str) -> Mapping[str, str]:
    """The values in force of these settings."""
    found = rows(connection, "SELECT name, setting FROM pg_settings WHERE name = ANY(%s)", (list(names),))
    return {row[0]: row[1] for row in found}
